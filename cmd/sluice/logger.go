package main

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/sluicemail/sluice/cmd/internal/config"
)

// newLogger returns the server's logger, and what writes the lines that are
// still held.
func newLogger(w io.Writer, c config.Log) (*slog.Logger, func()) {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // checked by the configuration
	options := &slog.HandlerOptions{Level: level}
	held := &heldLines{w: w}
	if c.Format == "json" {
		return slog.New(&promptHandler{slog.NewJSONHandler(held, options), held}), held.flush
	}
	return slog.New(&promptHandler{slog.NewTextHandler(held, options), held}), held.flush
}

// heldLines collects lines and writes them together: a server under load writes
// two lines a message, and a system call for each would stand between a message
// and its 250. A line waits 50 ms at most, and one that is a warning or worse
// does not wait at all.
type heldLines struct {
	w io.Writer

	mu     sync.Mutex
	lines  []byte
	waking bool
}

const (
	heldFor = 50 * time.Millisecond
	maxHeld = 32 << 10
)

// Write holds one line.
func (h *heldLines) Write(line []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, line...)
	switch {
	case len(h.lines) >= maxHeld:
		h.write()
	case !h.waking:
		h.waking = true
		time.AfterFunc(heldFor, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.waking = false
			h.write()
		})
	}
	return len(line), nil
}

func (h *heldLines) flush() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.write()
}

func (h *heldLines) write() {
	if len(h.lines) > 0 {
		_, _ = h.w.Write(h.lines) // a log that can't be written can't be complained about
		h.lines = h.lines[:0]
	}
}

// promptHandler writes warnings at once, with what was held before them, and the
// line for which scripts wait.
type promptHandler struct {
	slog.Handler
	held *heldLines
}

// Handle implements slog.Handler.
func (p *promptHandler) Handle(ctx context.Context, r slog.Record) error {
	err := p.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelWarn || r.Message == readyMessage {
		p.held.flush()
	}
	return err
}

// WithAttrs implements slog.Handler.
func (p *promptHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &promptHandler{p.Handler.WithAttrs(attrs), p.held}
}

// WithGroup implements slog.Handler.
func (p *promptHandler) WithGroup(name string) slog.Handler {
	return &promptHandler{p.Handler.WithGroup(name), p.held}
}
