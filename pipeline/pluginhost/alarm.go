package pluginhost

import (
	"context"
	"sync/atomic"
	"time"
)

// alarm is the one timer of a lane. It rings at the deadline of the question; while the question is being sent it
// also resets the stream, because a plugin that does not read makes the sender wait. It is used again and again,
// because a context with a timer of its own for each question costs a good part of what the question does.
type alarm struct {
	rang    chan struct{} // has room for one
	timer   *time.Timer
	set     bool
	sending atomic.Bool
	reset   context.CancelFunc // of the stream; not to be changed while set
	instead func() bool        // called in place of telling rang, which it prevents by true; or nil; likewise
}

// arm sets the alarm to the deadline of ctx, if there is one.
func (a *alarm) arm(ctx context.Context, reset context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return
	}
	a.set, a.reset = true, reset
	if a.timer == nil {
		a.timer = time.AfterFunc(time.Until(deadline), a.ring)
	} else {
		a.timer.Reset(time.Until(deadline))
	}
}

func (a *alarm) ring() {
	if a.sending.CompareAndSwap(true, false) {
		a.reset()
	}
	if a.instead != nil && a.instead() {
		return
	}
	a.rang <- struct{}{}
}

// sent ends the time in which the alarm resets the stream. It reports whether it has not.
func (a *alarm) sent() bool { return a.sending.CompareAndSwap(true, false) }

// disarm stops the alarm. If that was too late, it waits for what the alarm does: the stream is its owner's alone afterwards.
func (a *alarm) disarm() {
	if a.set && !a.timer.Stop() {
		<-a.rang
	}
	a.set = false
}
