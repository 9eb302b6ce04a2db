package kvtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sluicemail/sluice/storage/kv"
)

// Memory is an engine in memory, for tests that need no disk, and the model that
// other engines are held against. It is simple, not fast: a snapshot copies all.
type Memory struct {
	mu     sync.RWMutex
	data   map[string][]byte
	pos    kv.Pos
	closed bool
}

var _ kv.Engine = (*Memory)(nil)

// NewMemory returns an empty engine.
func NewMemory() *Memory { return &Memory{data: map[string][]byte{}} }

func (m *Memory) check(ctx context.Context) error {
	if m.closed {
		return kv.ErrClosed
	}
	return ctx.Err()
}

// Apply implements kv.Engine.
func (m *Memory) Apply(ctx context.Context, b *kv.Batch) (kv.Pos, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(ctx); err != nil {
		return 0, fmt.Errorf("apply batch: %w", err)
	}
	for _, op := range b.Ops() {
		if len(op.Key) > 1<<10 || len(op.Value) > 1<<20 || b.Size() > 16<<20 {
			return 0, errors.New("apply batch: over the limits of package kv")
		}
	}
	for _, op := range b.Ops() {
		switch op.Kind {
		case kv.OpSet:
			m.data[string(op.Key)] = append([]byte{}, op.Value...)
		case kv.OpDelete:
			delete(m.data, string(op.Key))
		case kv.OpDeleteRange:
			maps.DeleteFunc(m.data, func(k string, _ []byte) bool {
				return k >= string(op.Key) && k < string(op.Value)
			})
		}
	}
	m.pos++
	return m.pos, nil
}

// WaitDurable implements kv.Engine; nothing here is durable, and nobody waits.
func (m *Memory) WaitDurable(context.Context, kv.Pos) error { return nil }

// Tail implements kv.Engine.
func (m *Memory) Tail() kv.Pos {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.pos
}

// Admit implements kv.Engine.
func (m *Memory) Admit() error { return nil }

// Get implements kv.Reader.
func (m *Memory) Get(ctx context.Context, key []byte) ([]byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.check(ctx); err != nil {
		return nil, fmt.Errorf("get %.64q: %w", key, err)
	}
	v, ok := m.data[string(key)]
	if !ok {
		return nil, kv.ErrNotFound
	}
	return append([]byte{}, v...), nil
}

// Scan implements kv.Reader. The visits see the store as it was at the start.
func (m *Memory) Scan(ctx context.Context, lower, upper []byte, reverse bool, visit func(key, value []byte) (bool, error)) error {
	type pair struct{ k, v []byte }
	var pairs []pair
	m.mu.RLock()
	err := m.check(ctx)
	for k, v := range m.data {
		if k >= string(lower) && (len(upper) == 0 || k < string(upper)) {
			pairs = append(pairs, pair{[]byte(k), v})
		}
	}
	m.mu.RUnlock()
	if err != nil {
		return fmt.Errorf("scan from %.64q: %w", lower, err)
	}
	slices.SortFunc(pairs, func(a, b pair) int { return bytes.Compare(a.k, b.k) })
	if reverse {
		slices.Reverse(pairs)
	}
	for _, p := range pairs {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("scan from %.64q: %w", lower, err)
		}
		if more, err := visit(p.k, append([]byte{}, p.v...)); err != nil || !more {
			return err
		}
	}
	return nil
}

// Snapshot implements kv.Engine.
func (m *Memory) Snapshot(ctx context.Context) (kv.Snapshot, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.check(ctx); err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	return &Memory{data: maps.Clone(m.data), pos: m.pos}, nil
}

// Checkpoint implements kv.Engine.
func (m *Memory) Checkpoint(ctx context.Context, _ string) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.check(ctx); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return errors.New("checkpoint: an engine in memory has none")
}

// Metrics implements kv.Engine.
func (m *Memory) Metrics() map[string]float64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return map[string]float64{"keys": float64(len(m.data))}
}

// Close implements kv.Engine; what was in it is lost.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

// counter counts calls and says which fails.
type counter struct {
	calls atomic.Int64
	fail  int64
	err   error
}

func (c *counter) next() error {
	if c.calls.Add(1) == c.fail {
		return c.err
	}
	return nil
}
