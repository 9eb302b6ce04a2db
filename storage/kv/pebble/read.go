package pebble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	pebbledb "github.com/cockroachdb/pebble/v2"

	"github.com/sluicemail/sluice/storage/kv"
)

// ctxEvery is how many keys a scan visits between two looks at its context.
const ctxEvery = 64

// Get implements kv.Reader.
func (e *Engine) Get(ctx context.Context, key []byte) ([]byte, error) {
	if err := e.gate.enter(); err != nil {
		return nil, fmt.Errorf("get %.64q: %w", key, err)
	}
	defer e.gate.leave()
	return get(ctx, e.db, key)
}

// Scan implements kv.Reader.
func (e *Engine) Scan(ctx context.Context, lower, upper []byte, reverse bool, visit func(key, value []byte) (bool, error)) error {
	if err := e.gate.enter(); err != nil {
		return fmt.Errorf("scan from %.64q: %w", lower, err)
	}
	defer e.gate.leave()
	return scan(ctx, e.db, lower, upper, reverse, visit)
}

// Snapshot implements kv.Engine.
func (e *Engine) Snapshot(ctx context.Context) (kv.Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	if err := e.gate.enter(); err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	return &snapshot{snap: e.db.NewSnapshot(), gate: &e.gate}, nil
}

// snapshot implements kv.Snapshot. It holds the gate until it is closed.
type snapshot struct {
	snap   *pebbledb.Snapshot
	gate   *gate
	closed atomic.Bool
}

func (s *snapshot) Get(ctx context.Context, key []byte) ([]byte, error) {
	if s.closed.Load() {
		return nil, fmt.Errorf("get %.64q: snapshot: %w", key, kv.ErrClosed)
	}
	return get(ctx, s.snap, key)
}

func (s *snapshot) Scan(ctx context.Context, lower, upper []byte, reverse bool, visit func(key, value []byte) (bool, error)) error {
	if s.closed.Load() {
		return fmt.Errorf("scan from %.64q: snapshot: %w", lower, kv.ErrClosed)
	}
	return scan(ctx, s.snap, lower, upper, reverse, visit)
}

// Close may be called again; the later calls do nothing.
func (s *snapshot) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	defer s.gate.leave()
	if err := s.snap.Close(); err != nil {
		return fmt.Errorf("close snapshot: %w", err)
	}
	return nil
}

func get(ctx context.Context, r pebbledb.Reader, key []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("get %.64q: %w", key, err)
	}
	v, closer, err := r.Get(key)
	if errors.Is(err, pebbledb.ErrNotFound) {
		return nil, kv.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("get %.64q: %w", key, err)
	}
	v = bytes.Clone(v)
	if v == nil {
		v = []byte{}
	}
	if err := closer.Close(); err != nil {
		return nil, fmt.Errorf("get %.64q: %w", key, err)
	}
	return v, nil
}

func scan(ctx context.Context, r pebbledb.Reader, lower, upper []byte, reverse bool, visit func(key, value []byte) (bool, error)) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("scan from %.64q: %w", lower, err)
	}
	var o pebbledb.IterOptions
	if len(lower) > 0 { // an empty bound is none; Pebble's checks under the race detector trip over it
		o.LowerBound = lower
	}
	if len(upper) > 0 {
		o.UpperBound = upper
	}
	it, err := r.NewIterWithContext(ctx, &o)
	if err != nil {
		return fmt.Errorf("scan from %.64q: %w", lower, err)
	}
	verr := walk(ctx, it, reverse, visit)
	if err := it.Close(); err != nil { // also what stopped the iteration early
		return fmt.Errorf("scan from %.64q: %w", lower, err)
	}
	return verr
}

// walk returns visit's error as it is.
func walk(ctx context.Context, it *pebbledb.Iterator, reverse bool, visit func(key, value []byte) (bool, error)) error {
	first, step := it.First, it.Next
	if reverse {
		first, step = it.Last, it.Prev
	}
	n := 0
	for ok := first(); ok; ok = step() {
		if n++; n%ctxEvery == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		more, err := visit(it.Key(), v)
		if err != nil || !more {
			return err
		}
	}
	return nil
}
