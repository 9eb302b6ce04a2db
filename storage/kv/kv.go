// Package kv is the seam between Sluice's storage and the engine that keeps it:
// an ordered map from byte strings to byte strings with atomic batches, range
// scans and snapshots. Nothing outside storage/kv knows which engine is used.
//
// Promises that every engine keeps (storage/kv/kvtest checks them):
//
//   - A batch is applied whole or not at all, also across a crash.
//   - Apply makes a batch visible to later reads of this process and returns its
//     position; it may not survive a crash until WaitDurable of that position
//     (or of a later one) has returned nil.
//   - After a crash what survives is a prefix of the applied batches, in order.
//
// Limits that callers keep: a key 1 KiB, a value 1 MiB, a batch 16 MiB, a
// snapshot or iterator open for 30 s. Every call may fail, and every call takes
// a context. There is no conflict detection: whoever changes keys of an owner
// holds that owner's lock (package storage).
package kv

import (
	"context"
	"errors"
)

// Pos is a position in the order of applied batches; it grows by use and starts
// anew with each process. The zero Pos is always durable.
type Pos uint64

// Errors that callers tell apart with errors.Is.
var (
	ErrNotFound = errors.New("key not found")
	ErrClosed   = errors.New("store is closed")
	ErrFull     = errors.New("not enough free space on the disk")
	ErrBusy     = errors.New("store is catching up with earlier writes")
)

// Engine is an open store. All methods may be called from any goroutine.
type Engine interface {
	Reader

	// Apply applies b atomically. b must not be changed until Apply returns and may
	// be reused afterwards.
	Apply(ctx context.Context, b *Batch) (Pos, error)

	// WaitDurable returns nil when everything up to p is on stable storage. An
	// error means that this is not known; a later call for the same p may succeed.
	WaitDurable(ctx context.Context, p Pos) error

	// Tail returns a position that covers every batch whose changes a read that
	// ended before the call can have seen, also those whose Apply has not returned
	// yet. Waiting for it therefore makes everything durable that was read. It
	// never blocks.
	Tail() Pos

	// Admit says whether new mail should be taken now: nil, ErrFull below the
	// configured free space, or ErrBusy while writes are stalled. It is cheap and
	// never blocks; Apply does not ask it, so that deletions always work.
	Admit() error

	// Snapshot returns a view that later batches do not change.
	Snapshot(ctx context.Context) (Snapshot, error)

	// Checkpoint writes a consistent copy of the store, durable, into the directory
	// dir, which must not exist.
	Checkpoint(ctx context.Context, dir string) error

	// Metrics describes the engine for operators, in stable names.
	Metrics() map[string]float64

	Close() error
}

// Reader reads a store or a snapshot.
type Reader interface {
	// Get returns a copy of the value of key, or ErrNotFound.
	Get(ctx context.Context, key []byte) ([]byte, error)

	// Scan visits the keys in [lower, upper) in ascending order, or descending if
	// reverse, until visit returns false or an error. key and value are valid only
	// during the visit. An empty upper means no bound.
	Scan(ctx context.Context, lower, upper []byte, reverse bool, visit func(key, value []byte) (more bool, err error)) error
}

// Snapshot is a Reader that must be closed.
type Snapshot interface {
	Reader
	Close() error
}
