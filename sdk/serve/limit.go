package serve

import (
	"context"
	"sync"
	"time"
)

// limit is the context of a question. Most plugins hand it on or ask for its error, so it has a timer only once somebody
// waits for its end: one for each question would cost the plugin as much as reading the question does.
type limit struct {
	context.Context           // of the stream
	end             time.Time // zero: none

	mu     sync.Mutex
	over   bool
	waited context.Context // made by the first Done
	stop   context.CancelFunc
}

// Deadline implements context.Context.
func (l *limit) Deadline() (time.Time, bool) { return l.end, !l.end.IsZero() }

// Done implements context.Context.
func (l *limit) Done() <-chan struct{} { return l.wait().Done() }

// AfterFunc has package context make children without a goroutine for each.
func (l *limit) AfterFunc(f func()) (stop func() bool) { return context.AfterFunc(l.wait(), f) }

func (l *limit) wait() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waited == nil {
		if l.end.IsZero() {
			l.waited, l.stop = context.WithCancel(l.Context)
		} else {
			l.waited, l.stop = context.WithDeadline(l.Context, l.end)
		}
		if l.over {
			l.stop()
		}
	}
	return l.waited
}

// Err implements context.Context.
func (l *limit) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.waited != nil:
		return l.waited.Err()
	case l.over:
		return context.Canceled
	case !l.end.IsZero() && !time.Now().Before(l.end):
		return context.DeadlineExceeded
	}
	return l.Context.Err()
}

// cancel ends it.
func (l *limit) cancel() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	if l.stop != nil {
		l.stop()
	}
}
