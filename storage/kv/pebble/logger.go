package pebble

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
)

var errFailed = errors.New("the store failed and the process is about to end")

// FatalError is what Options.Fatal receives: the log or the manifest could not be
// written, or the tree is not what it should be.
type FatalError struct{ Msg string }

func (e *FatalError) Error() string { return "store failed: " + e.Msg }

// logger passes Pebble's lines to slog, and its last one to Options.Fatal.
type logger struct {
	slog   *slog.Logger
	fatal  func(error)
	once   sync.Once
	failed chan struct{}
}

func newLogger(l *slog.Logger, fatal func(error)) *logger {
	return &logger{slog: l, fatal: fatal, failed: make(chan struct{})}
}

// Infof logs at level debug: flushes and compactions are metrics, not events.
func (l *logger) Infof(format string, args ...any) {
	if l.slog.Enabled(context.Background(), slog.LevelDebug) {
		l.slog.Debug("store: " + fmt.Sprintf(format, args...))
	}
}

func (l *logger) Errorf(format string, args ...any) {
	l.slog.Error("store: " + fmt.Sprintf(format, args...))
}

// Fatalf ends the process. Pebble relies on it not returning: what it holds in
// memory and what is on the disk are no longer the same, and a sync that failed
// must not be tried again.
func (l *logger) Fatalf(format string, args ...any) {
	err := &FatalError{Msg: fmt.Sprintf(format, args...)}
	l.once.Do(func() { close(l.failed) })
	if l.fatal != nil {
		l.fatal(err)
		panic(err) // Options.Fatal returned although it must not
	}
	l.slog.Error("store: cannot go on, ending the process", "err", err)
	os.Exit(1)
}

// panicIsFatal is deferred around calls that write. Pebble panics with its locks
// held when a log cannot be written or begun; a caller that recovers, as a session
// does, would leave everybody else waiting for ever.
func (l *logger) panicIsFatal() {
	r := recover()
	if r == nil {
		return
	}
	if err, ok := r.(error); ok && l.isFailed() {
		panic(err) // Fatalf was here already
	}
	l.Fatalf("panic: %v\n%s", r, debug.Stack())
}

func (l *logger) isFailed() bool {
	select {
	case <-l.failed:
		return true
	default:
		return false
	}
}
