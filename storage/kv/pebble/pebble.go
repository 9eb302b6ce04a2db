// Package pebble is the embedded engine behind storage/kv: an LSM tree on one
// disk (CockroachDB's Pebble), opened by one process.
//
// Promises. Those of package kv. Apply costs no sync; WaitDurable groups
// everybody who waits behind one sync of the log, which, the log being
// sequential, covers every earlier batch. Positions are numbers in the order in
// which Apply returned; they start anew with each Open.
//
// It owns the files of Options.Dir and, when Options.Ballast is set, that file.
//
// Failures. A log or manifest write that failed leaves the tree in a state that
// nobody may build on, and a failed sync must never be tried again (the kernel
// has dropped the dirty pages), so Pebble calls its logger's Fatalf. Engine then
// fails every waiting WaitDurable and calls Options.Fatal, which ends the
// process; without one, the engine logs and exits with status 1. All other
// errors are returned. A call after Close returns kv.ErrClosed.
//
// The format of the files is pinned (formatMajorVersion): it is raised one
// release after the code that can read it, so that a release can be taken back.
package pebble

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	pebbledb "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/storage/kv"
)

// Options says where and how to open an engine. Dir is required.
type Options struct {
	Dir    string
	FS     vfs.FS       // nil: the operating system's
	Logger *slog.Logger // nil: nothing is logged

	MemTableSize uint64 // octets in memory before a flush; 0: 32 MiB
	CacheSize    int64  // octets of uncompressed blocks kept; 0: 32 MiB

	// Boundaries are keys at which no table may straddle: prefixes that are
	// written in ascending order (content, the trace) then move down the tree
	// without being rewritten together with everything else. Ascending.
	Boundaries [][]byte

	// MinFree is the free space below which Admit returns kv.ErrFull; 0: the
	// larger of 1 GiB and four memtables, negative: no check.
	MinFree int64

	// Ballast is a file that is given back when the disk is full at Open, so that
	// there is room to delete something; "" means none. BallastSize 0: 256 MiB.
	Ballast     string
	BallastSize int64

	// Fatal is called once, from any goroutine, when the engine cannot go on. It
	// must not return.
	Fatal func(error)
}

// The defaults of Options.
const (
	DefaultMemTableSize = 32 << 20
	DefaultCacheSize    = 32 << 20
	DefaultMinFree      = 1 << 30
	DefaultBallastSize  = 256 << 20
)

// closeTimeout is how long Close waits for calls and snapshots to end.
const closeTimeout = 35 * time.Second

// Engine is an open store; it implements kv.Engine.
type Engine struct {
	db    *pebbledb.DB
	cache *pebbledb.Cache
	opts  Options
	log   *logger
	gate  gate
	group group
	space space

	open     atomic.Bool // set at the end of Open
	stalled  atomic.Bool
	stalls   atomic.Int64
	stallNs  atomic.Int64
	stallAt  atomic.Int64 // start of the stall that goes on, Unix nanoseconds
	bgErrors atomic.Int64
	bgLogged atomic.Int64 // when the last one was logged, Unix nanoseconds
}

var _ kv.Engine = (*Engine)(nil)

// Open opens the store in o.Dir and creates it if it is not there.
func Open(o Options) (*Engine, error) {
	o.setDefaults()
	e := &Engine{opts: o, log: newLogger(o.Logger, o.Fatal)}
	e.space.init(o.FS, o.Dir, o.MinFree)
	if err := e.openBallast(); err != nil {
		return nil, fmt.Errorf("open store %s: %w", o.Dir, err)
	}
	e.cache = pebbledb.NewCache(o.CacheSize)
	if err := e.openDB(); err != nil {
		e.cache.Unref()
		return nil, fmt.Errorf("open store %s: %w", o.Dir, err)
	}
	e.group.init(e.syncLog, e.log.failed)
	e.open.Store(true)
	return e, nil
}

func (e *Engine) openDB() (err error) {
	defer e.log.panicIsFatal()
	e.db, err = pebbledb.Open(e.opts.Dir, e.pebbleOptions())
	return err
}

func (o *Options) setDefaults() {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MemTableSize == 0 {
		o.MemTableSize = DefaultMemTableSize
	}
	if o.CacheSize == 0 {
		o.CacheSize = DefaultCacheSize
	}
	if o.MinFree == 0 {
		o.MinFree = max(DefaultMinFree, 4*int64(o.MemTableSize))
	}
	if o.BallastSize == 0 {
		o.BallastSize = DefaultBallastSize
	}
}

// Apply implements kv.Engine.
func (e *Engine) Apply(ctx context.Context, b *kv.Batch) (kv.Pos, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("apply batch: %w", err)
	}
	if err := e.gate.enter(); err != nil {
		return 0, fmt.Errorf("apply batch: %w", err)
	}
	defer e.gate.leave()
	if b.Len() == 0 {
		return e.Tail(), nil
	}
	if err := checkLimits(b); err != nil {
		return 0, fmt.Errorf("apply batch: %w", err)
	}
	pb := e.db.NewBatchWithSize(b.Size() + batchSlack)
	if err := convert(pb, b); err != nil {
		return 0, errors.Join(fmt.Errorf("apply batch: %w", err), pb.Close())
	}
	pos, err := e.commit(pb)
	if err != nil {
		// Nothing of the batch was applied; it is not reused, for Pebble may still hold it.
		return 0, fmt.Errorf("apply batch: %w", err)
	}
	if err := pb.Close(); err != nil {
		return 0, fmt.Errorf("apply batch: %w", err)
	}
	return pos, nil
}

func (e *Engine) commit(pb *pebbledb.Batch) (kv.Pos, error) {
	defer e.log.panicIsFatal()
	e.group.begin()
	err := e.db.Apply(pb, pebbledb.NoSync)
	return e.group.end(), err
}

// WaitDurable implements kv.Engine.
func (e *Engine) WaitDurable(ctx context.Context, p kv.Pos) error {
	if e.group.isDurable(p) {
		return nil
	}
	if err := e.gate.enter(); err != nil {
		return fmt.Errorf("wait until durable: %w", err)
	}
	defer e.gate.leave()
	if err := e.group.wait(ctx, p); err != nil {
		return fmt.Errorf("wait until durable: %w", err)
	}
	return nil
}

// Tail implements kv.Engine.
func (e *Engine) Tail() kv.Pos { return e.group.tail() }

// syncLog returns when everything that is in the log is on the disk. Its record
// carries no data and no sequence number.
func (e *Engine) syncLog() error {
	defer e.log.panicIsFatal()
	return e.db.LogData(nil, pebbledb.Sync)
}

// Checkpoint implements kv.Engine. The log is synced first, and the files are
// links where the file system has them.
func (e *Engine) Checkpoint(ctx context.Context, dir string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if err := e.gate.enter(); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	defer e.gate.leave()
	defer e.log.panicIsFatal()
	if err := e.db.Checkpoint(dir, pebbledb.WithFlushedWAL()); err != nil {
		return fmt.Errorf("checkpoint into %s: %w", dir, err)
	}
	return nil
}

// Close waits for running calls and open snapshots, for a bounded time, syncs
// the log and closes the store. If it cannot wait any longer it returns an error
// and leaves the files as they are; they open again like after a crash.
func (e *Engine) Close() error {
	if err := e.gate.close(closeTimeout); err != nil {
		if errors.Is(err, kv.ErrClosed) {
			return nil
		}
		return fmt.Errorf("close store %s: %w", e.opts.Dir, err)
	}
	defer e.log.panicIsFatal()
	err := e.db.Close()
	e.cache.Unref()
	if err != nil {
		return fmt.Errorf("close store %s: %w", e.opts.Dir, err)
	}
	return nil
}
