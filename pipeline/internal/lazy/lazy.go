// Package lazy has contexts with a deadline whose timer is made when somebody waits for their end, and not
// before. A question to a plugin has a deadline for the message and one for the plugin, and whoever waits for its answer has a timer of
// his own: three contexts of package context would cost a tenth of what the question does.
//
// A Context must be stopped after what it was made for, and so must those that are made from it, before it.
package lazy

import (
	"context"
	"sync"
	"time"
)

// Context is a context with a deadline. It is also cancelled with its parent, never by Stop.
type Context struct {
	context.Context // which is never a *Context
	end             time.Time

	mu      sync.Mutex
	waited  context.Context // made by the first Done
	release context.CancelFunc
}

// WithDeadline returns a context that ends with parent, and at `end` at the latest.
func WithDeadline(parent context.Context, end time.Time) *Context {
	if earlier, ok := parent.Deadline(); ok && earlier.Before(end) {
		end = earlier
	}
	return &Context{Context: base(parent), end: end}
}

// WithTimeout returns WithDeadline(parent, now + timeout).
func WithTimeout(parent context.Context, timeout time.Duration) *Context {
	return WithDeadline(parent, time.Now().Add(timeout))
}

func base(ctx context.Context) context.Context {
	if c, ok := ctx.(*Context); ok {
		return c.Context
	}
	return ctx
}

// Withdrawn returns the channel that is closed when ctx ends for another reason than the deadline
// of a Context: for who has a timer for that.
func Withdrawn(ctx context.Context) <-chan struct{} { return base(ctx).Done() }

// Deadline implements context.Context.
func (c *Context) Deadline() (time.Time, bool) { return c.end, true }

// Done implements context.Context. The first call makes the timer.
func (c *Context) Done() <-chan struct{} { return c.wait().Done() }

// AfterFunc has package context make children without a goroutine for each.
func (c *Context) AfterFunc(f func()) (stop func() bool) { return context.AfterFunc(c.wait(), f) }

func (c *Context) wait() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waited == nil {
		c.waited, c.release = context.WithDeadline(c.Context, c.end)
	}
	return c.waited
}

// Err implements context.Context.
func (c *Context) Err() error {
	c.mu.Lock()
	waited := c.waited
	c.mu.Unlock()
	if waited != nil {
		return waited.Err()
	}
	select {
	case <-c.Context.Done():
		return c.Context.Err()
	default:
	}
	if !time.Now().Before(c.end) {
		return context.DeadlineExceeded
	}
	return nil
}

// Stop releases the timer, if there is one.
func (c *Context) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.release != nil {
		c.release()
	}
}
