package kvtest

import (
	"context"
	"fmt"
	"time"

	"github.com/sluicemail/sluice/storage/kv"
)

// Wrapped is an engine with a hook around every call that may fail, those on its
// snapshots included.
type Wrapped struct {
	kv.Engine
	before func(ctx context.Context) error // an error takes the call's place
	after  func() error                    // an error takes the place of success
	count  *counter
}

// Slow returns an engine whose every call takes d longer, as over a network.
func Slow(e kv.Engine, d time.Duration) *Wrapped {
	return &Wrapped{Engine: e, count: &counter{}, after: func() error { return nil }, before: func(ctx context.Context) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
}

// Fail returns an engine whose n-th call (from 1) fails with err and does nothing;
// n 0 only counts.
func Fail(e kv.Engine, n int64, err error) *Wrapped {
	c := &counter{fail: n, err: err}
	return &Wrapped{
		Engine: e, count: c,
		before: func(context.Context) error { return c.next() },
		after:  func() error { return nil },
	}
}

// FailAfter is Fail with a call that is done and then fails all the same, as when
// the answer of a server is lost: whoever applied a batch does not know whether it
// was.
func FailAfter(e kv.Engine, n int64, err error) *Wrapped {
	c := &counter{fail: n, err: err}
	return &Wrapped{
		Engine: e, count: c,
		before: func(context.Context) error { return nil },
		after:  c.next,
	}
}

// Calls returns how many calls were counted by Fail or FailAfter.
func (w *Wrapped) Calls() int64 { return w.count.calls.Load() }

func (w *Wrapped) around(ctx context.Context, name string, call func() error) error {
	err := w.before(ctx)
	if err == nil {
		if err = call(); err != nil {
			return err
		}
		err = w.after()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Apply implements kv.Engine.
func (w *Wrapped) Apply(ctx context.Context, b *kv.Batch) (p kv.Pos, err error) {
	err = w.around(ctx, "apply batch", func() (err error) { p, err = w.Engine.Apply(ctx, b); return err })
	if err != nil {
		p = 0
	}
	return p, err
}

// WaitDurable implements kv.Engine.
func (w *Wrapped) WaitDurable(ctx context.Context, p kv.Pos) error {
	return w.around(ctx, "wait until durable", func() error { return w.Engine.WaitDurable(ctx, p) })
}

// Get implements kv.Reader.
func (w *Wrapped) Get(ctx context.Context, key []byte) ([]byte, error) {
	return w.get(ctx, w.Engine, key)
}

func (w *Wrapped) get(ctx context.Context, r kv.Reader, key []byte) (v []byte, err error) {
	err = w.around(ctx, "get", func() (err error) { v, err = r.Get(ctx, key); return err })
	if err != nil {
		v = nil
	}
	return v, err
}

// Scan implements kv.Reader.
func (w *Wrapped) Scan(ctx context.Context, lower, upper []byte, reverse bool, visit func(key, value []byte) (bool, error)) error {
	return w.around(ctx, "scan", func() error { return w.Engine.Scan(ctx, lower, upper, reverse, visit) })
}

// Checkpoint implements kv.Engine.
func (w *Wrapped) Checkpoint(ctx context.Context, dir string) error {
	return w.around(ctx, "checkpoint", func() error { return w.Engine.Checkpoint(ctx, dir) })
}

// Snapshot implements kv.Engine.
func (w *Wrapped) Snapshot(ctx context.Context) (s kv.Snapshot, err error) {
	err = w.around(ctx, "snapshot", func() (err error) { s, err = w.Engine.Snapshot(ctx); return err })
	if err != nil {
		if s != nil {
			_ = s.Close()
		}
		return nil, err
	}
	return &wrappedSnapshot{s, w}, nil
}

type wrappedSnapshot struct {
	kv.Snapshot
	w *Wrapped
}

func (s *wrappedSnapshot) Get(ctx context.Context, key []byte) ([]byte, error) {
	return s.w.get(ctx, s.Snapshot, key)
}

func (s *wrappedSnapshot) Scan(ctx context.Context, lower, upper []byte, reverse bool, visit func(key, value []byte) (bool, error)) error {
	return s.w.around(ctx, "scan", func() error { return s.Snapshot.Scan(ctx, lower, upper, reverse, visit) })
}
