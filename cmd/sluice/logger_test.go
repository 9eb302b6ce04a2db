package main

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/cmd/internal/config"
)

// counted notes what is written and how often.
type counted struct {
	mu     sync.Mutex
	text   strings.Builder
	writes int
}

func (c *counted) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes++
	return c.text.Write(p)
}

func (c *counted) now() (string, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String(), c.writes
}

func TestLinesAreHeldButNotForLong(t *testing.T) {
	var w counted
	logger, flush := newLogger(&w, config.Log{Level: "info", Format: "text"})
	for range 10 {
		logger.With("stage", "queue").Info("message")
	}
	if _, n := w.now(); n != 0 {
		t.Errorf("%d writes at once", n)
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if _, n := w.now(); n > 0 {
			break
		}
	}
	if text, n := w.now(); n != 1 || strings.Count(text, "msg=message stage=queue") != 10 {
		t.Errorf("%d writes: %s", n, text)
	}
	logger.Info("before")
	logger.Warn("trouble")
	if text, _ := w.now(); !strings.Contains(text, "before") || !strings.HasSuffix(text, "msg=trouble\n") {
		t.Errorf("a warning waits, or comes before its time: %s", text)
	}
	logger.Info("last")
	flush()
	if text, _ := w.now(); !strings.HasSuffix(text, "msg=last\n") {
		t.Errorf("not flushed: %s", text)
	}
	for range 1000 {
		logger.Info(strings.Repeat("x", 100))
	}
	if text, _ := w.now(); len(text) < 60_000 {
		t.Errorf("%d octets of 100,000 are written: too much is held", len(text))
	}
}
