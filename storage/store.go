package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/storage/account"
	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/codec"
	"github.com/sluicemail/sluice/storage/id"
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/kv/pebble"
)

// formatVersion is the version of everything in FORMAT.md; a store of a newer one is refused.
const formatVersion = 1

// Options says how to open a store. Dir is required.
type Options struct {
	Dir    string           // data_dir: the engine is in Dir/store, content files are in Dir/blob
	FS     vfs.FS           // nil: the operating system's
	Engine kv.Engine        // nil: Pebble in Dir/store, which Close closes
	Budget *blob.Budget     // memory shared by all messages on their way in; nil: no bound
	Config Config           // the zero value: DefaultConfig
	Login  account.Config   // the zero value: account.DefaultConfig
	Cost   account.Cost     // of new passwords; the zero value: RULES B7 (tests take less)
	Logger *slog.Logger     // nil: nothing is logged
	Clock  func() time.Time // nil: time.Now
	Pebble pebble.Options   // for Engine nil: everything but Dir, FS and Logger is passed on

	// CollectAfter is how long content stays after its last use went; 0: ten minutes.
	CollectAfter time.Duration
}

// Store is an open store. Its methods may be called from any goroutine.
type Store struct {
	o       Options
	engine  kv.Engine
	own     bool // Close closes engine
	blobs   *blob.Store
	log     *slog.Logger
	clock   func() time.Time
	ids     id.Source
	cache   *cache
	dir     *account.Directory
	tail    tail
	content contents
	purges  chan struct{} // holds a token when the purger has work
	system  chan struct{} // the lock of the owner "system"; holds one token
	lessons atomic.Pointer[lessons]

	stop context.CancelFunc // of the workers
	work sync.WaitGroup
}

// Open opens the store in o.Dir and makes it when there is none. It starts three workers (tail syncer, collector,
// remover of deleted mailboxes) that Close ends. A store of a newer format is refused.
func Open(ctx context.Context, o Options) (*Store, error) {
	o.setDefaults()
	if err := o.Config.Validate(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{o: o, engine: o.Engine, log: o.Logger, clock: o.Clock}
	s.system, s.purges = make(chan struct{}, 1), make(chan struct{}, 1)
	s.system <- struct{}{}
	s.cache = newCache(o.Config.CacheAccounts, int64(o.Config.CacheSize))
	s.content.init()
	if s.engine == nil {
		p := o.Pebble
		p.Dir, p.FS, p.Logger = o.FS.PathJoin(o.Dir, "store"), o.FS, o.Logger
		if p.Boundaries == nil {
			p.Boundaries = boundaries()
		}
		engine, err := pebble.Open(p)
		if err != nil {
			return nil, err
		}
		s.engine, s.own = engine, true
	}
	if err := s.open(ctx); err != nil {
		if s.own {
			err = errors.Join(err, s.engine.Close())
		}
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

func (o *Options) setDefaults() {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Config == (Config{}) {
		o.Config = DefaultConfig()
	}
	if o.CollectAfter == 0 {
		o.CollectAfter = 10 * time.Minute
	}
}

func (s *Store) open(ctx context.Context) (err error) {
	if err := s.checkFormat(ctx); err != nil {
		return err
	}
	s.blobs, err = blob.Open(s.o.FS, s.o.FS.PathJoin(s.o.Dir, "blob"), s.o.Budget, int64(s.o.Config.InlineLimit), s.log)
	if err != nil {
		return err
	}
	s.dir, err = account.New(account.Options{
		Engine: s.engine, Lock: s.lockAccount, Config: s.o.Login, Cost: s.o.Cost, Logger: s.log, Clock: s.clock,
	})
	if err != nil {
		return err
	}
	work, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.work.Go(func() { s.runTail(work) })
	s.work.Go(func() { s.runCollector(work) })
	s.work.Go(func() { s.runPurger(work) })
	return nil
}

// boundaries are where the engine should divide its tables: bodies are written in ascending order and large, so they should
// move down without being rewritten together with the small records that change.
func boundaries() [][]byte {
	return [][]byte{
		{ownerContent[0]}, append([]byte(ownerContent), contentBody), append([]byte(ownerContent), contentBody+1),
		prefixEnd([]byte(ownerContent)),
	}
}

// checkFormat refuses a newer store and marks a new one.
func (s *Store) checkFormat(ctx context.Context) error {
	v, err := s.engine.Get(ctx, []byte(keyFormat))
	if errors.Is(err, kv.ErrNotFound) {
		var b kv.Batch
		b.Set([]byte(keyFormat), binary.AppendUvarint(nil, formatVersion))
		pos, err := s.engine.Apply(ctx, &b)
		if err == nil {
			err = s.engine.WaitDurable(ctx, pos)
		}
		return err
	}
	if err != nil {
		return err
	}
	have, n := binary.Uvarint(v)
	if n <= 0 || have == 0 {
		return fmt.Errorf("read the format version: %w", codec.ErrDamaged)
	}
	if have > formatVersion {
		return fmt.Errorf("the store in %s has format %d, and this release of sluice reads up to format %d: use a newer release",
			s.o.Dir, have, formatVersion)
	}
	return nil
}

// Close ends the workers, makes everything durable, and closes the engine if Open opened it. No other call may be running.
func (s *Store) Close(ctx context.Context) error {
	s.stop()
	s.work.Wait()
	err := s.engine.WaitDurable(ctx, s.engine.Tail())
	if s.own {
		err = errors.Join(err, s.engine.Close())
	}
	if err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// KV returns the engine, for rooms that keep keys of their own (the queue). What they apply need not be told to anybody:
// the tail syncer asks the engine.
func (s *Store) KV() kv.Engine { return s.engine }

// Blobs returns the content files: it makes the spools for Prepare.
func (s *Store) Blobs() *blob.Store { return s.blobs }

// Accounts returns the directory of accounts.
func (s *Store) Accounts() *account.Directory { return s.dir }

// NewID returns an ID that is larger than every one that this Store returned before.
func (s *Store) NewID() ID { return s.ids.New(s.clock()) }

// Admit says whether new mail should be taken now: nil, kv.ErrFull or kv.ErrBusy. Deletions need not ask.
func (s *Store) Admit() error { return s.engine.Admit() }

// WaitDurable returns nil when everything up to pos is on stable storage.
func (s *Store) WaitDurable(ctx context.Context, pos kv.Pos) error {
	return s.engine.WaitDurable(ctx, pos)
}

// lockAccount is how storage/account holds an account's lock.
func (s *Store) lockAccount(ctx context.Context, id AccountID) (unlock func(), err error) {
	e := s.cache.acquire(id)
	if err := e.take(ctx); err != nil {
		s.cache.release(e)
		return nil, fmt.Errorf("lock account %s: %w", id, err)
	}
	return func() {
		e.mu.Lock()
		e.state = nil // its quota may have changed
		e.mu.Unlock()
		e.give()
		s.cache.release(e)
	}, nil
}

// lockSystem holds the lock of the owner "system": the making and removing of accounts.
func (s *Store) lockSystem(ctx context.Context) (unlock func(), err error) {
	select {
	case <-s.system:
		return func() { s.system <- struct{}{} }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("lock the directory of accounts: %w", ctx.Err())
	}
}
