package main

import (
	"bytes"
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
	held := &heldLog{w: w}
	var format slog.Handler = slog.NewTextHandler(&held.lines, options)
	if c.Format == "json" {
		format = slog.NewJSONHandler(&held.lines, options)
	}
	return slog.New(&heldHandler{format, held}), held.flush
}

// heldLog collects records, and formats and writes them together: a server under
// load logs twice for each message, and neither the formatting nor a system call
// shall stand between a message and its 250. A record waits 50 ms at most, and
// one that is a warning or worse does not wait at all.
type heldLog struct {
	w io.Writer

	mu      sync.Mutex
	records []heldRecord
	lines   bytes.Buffer // what the formats write to, under mu
	waking  bool
}

type heldRecord struct {
	format slog.Handler
	record slog.Record
}

const (
	heldFor = 50 * time.Millisecond
	maxHeld = 256
)

func (h *heldLog) add(format slog.Handler, r slog.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.records = append(h.records, heldRecord{format, r.Clone()})
	switch {
	case len(h.records) >= maxHeld, r.Level >= slog.LevelWarn, r.Message == readyMessage:
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
}

func (h *heldLog) flush() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.write()
}

// write formats what is held and writes it. A log that can't be written can't be
// complained about.
func (h *heldLog) write() {
	if len(h.records) == 0 {
		return
	}
	for _, r := range h.records {
		_ = r.format.Handle(context.Background(), r.record)
	}
	_, _ = h.w.Write(h.lines.Bytes())
	h.lines.Reset()
	clear(h.records)
	h.records = h.records[:0]
}

// heldHandler is a slog.Handler whose records are held.
type heldHandler struct {
	format slog.Handler
	held   *heldLog
}

// Enabled implements slog.Handler.
func (h *heldHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.format.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *heldHandler) Handle(_ context.Context, r slog.Record) error {
	h.held.add(h.format, r)
	return nil
}

// WithAttrs implements slog.Handler.
func (h *heldHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &heldHandler{h.format.WithAttrs(attrs), h.held}
}

// WithGroup implements slog.Handler.
func (h *heldHandler) WithGroup(name string) slog.Handler {
	return &heldHandler{h.format.WithGroup(name), h.held}
}
