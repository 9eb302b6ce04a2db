// Package table is a durable map of small things for shipped plugins, over bbolt:
// what a greylist has seen, what a limiter has counted.
//
// A change is visible at once and on disk within Every; Sync and Close write what is
// left. kill -9 loses at most the last moments, which these plugins can bear: a
// sender waits once more, a count is a little low. The file is never damaged by it
// (bbolt commits copy on write); one that something else damaged is refused by Open (plugins/internal/boltfile). Memory is bounded: the changes that
// are not yet on disk, at most Pending of them, beyond which a change waits for the disk. A disk that takes nothing is told on standard
// output, once, and so is its end; until then everything works from memory, as far as that goes.
//
// One process can have the file open: a plugin that uses a Table has no overlap.
package table

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/sluicemail/sluice/plugins/internal/boltfile"
)

// Every is how long a change may be in memory alone.
const Every = time.Second

// Pending is how many changes may be in memory alone.
const Pending = 10000

// Table is safe for use by many goroutines.
type Table struct {
	db     *bolt.DB
	bucket []byte
	done   chan struct{}
	ended  chan struct{}
	close  sync.Once

	writing sync.Mutex // one flush at a time

	mu      sync.Mutex
	pending map[string][]byte // not on disk yet; nil: removed
	flushed map[string][]byte // on its way there
	failed  error             // of the last flush
}

// Open opens or makes the table name in dir.
func Open(dir, name string) (*Table, error) {
	if dir == "" {
		return nil, errors.New("open state: the plugin has no state directory")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	path := filepath.Join(dir, name+".db")
	db, err := boltfile.Open(path, 5*time.Second)
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	t := &Table{
		db: db, bucket: []byte(name), done: make(chan struct{}), ended: make(chan struct{}),
		pending: make(map[string][]byte),
	}
	if err := t.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("open state: prepare %s: %w", path, err), db.Close())
	}
	go t.flushes()
	return t, nil
}

// prepare makes the bucket. One that is there needs no write, so that a full disk is no reason not to start.
func (t *Table) prepare() error {
	there := false
	err := t.db.View(func(tx *bolt.Tx) error {
		there = tx.Bucket(t.bucket) != nil
		return nil
	})
	if err != nil || there {
		return err
	}
	return t.db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket(t.bucket)
		return err
	})
}

// flushes writes until Close.
func (t *Table) flushes() {
	defer close(t.ended)
	ticker := time.NewTicker(Every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			t.tell(t.Err(), t.Sync()) // an error is kept in failed, and the write tried again
		case <-t.done:
			return
		}
	}
}

// tell says when writing begins to fail, and when it works again.
func (t *Table) tell(before, now error) {
	switch {
	case before == nil && now != nil:
		fmt.Printf("%s: changes stay in memory and would be lost now, at most %d are taken: %v\n", t.db.Path(), Pending, now)
	case before != nil && now == nil:
		fmt.Printf("%s: the changes are on disk again\n", t.db.Path())
	}
}

// Get returns a copy of the value of key, or nil.
func (t *Table) Get(key string) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.get(key)
}

func (t *Table) get(key string) (value []byte, err error) {
	if v, ok := t.pending[key]; ok {
		return v, nil
	}
	if v, ok := t.flushed[key]; ok {
		return v, nil
	}
	err = t.db.View(func(tx *bolt.Tx) error {
		if v := tx.Bucket(t.bucket).Get([]byte(key)); v != nil {
			value = append([]byte{}, v...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	return value, nil
}

// Update lets change replace the value of key; nil is no value, before and after. No
// other change of the table happens meanwhile; change must not use the table. When the disk
// takes nothing, changes beyond Pending fail, at once after the first.
func (t *Table) Update(key string, change func(old []byte) []byte) error {
	if err := t.room(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old, err := t.get(key)
	if err != nil {
		return err
	}
	value := change(old)
	if (value == nil) != (old == nil) || !bytes.Equal(value, old) {
		t.pending[key] = value
	}
	return nil
}

// room waits for the disk when too much is in memory alone. Only one of those that wait writes, and
// while the disk fails nobody but the clock tries again.
func (t *Table) room() error {
	t.mu.Lock()
	full, failed := len(t.pending) >= Pending, t.failed
	t.mu.Unlock()
	if !full {
		return nil
	}
	if failed != nil {
		return failed
	}
	return t.flush(Pending)
}

// Each shows what is on disk and in memory, in the order of the keys, until visit
// returns false. It reads in steps, so that nobody waits for it: what changes meanwhile is seen or is
// not. visit may use the table.
func (t *Table) Each(visit func(key string, value []byte) bool) error {
	if err := t.Sync(); err != nil {
		return err
	}
	for at, more := []byte{}, true; more; {
		var step []pair
		var err error
		if step, at, err = t.step(at); err != nil {
			return err
		}
		for _, p := range step {
			if !visit(p.key, p.value) {
				return nil
			}
		}
		more = at != nil
	}
	return nil
}

// pair is an entry on disk.
type pair struct {
	key   string
	value []byte
}

// stepSize is how many entries are read or removed in one transaction. A long one would keep bbolt
// from growing its file, and that would stop everybody.
const stepSize = 2000

// step returns copies of the entries from a key on, and the key to go on from, nil at the end.
func (t *Table) step(from []byte) (step []pair, next []byte, err error) {
	err = t.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(t.bucket).Cursor()
		for k, v := c.Seek(from); k != nil; k, v = c.Next() {
			if len(step) == stepSize {
				next = bytes.Clone(k)
				return nil
			}
			step = append(step, pair{string(k), bytes.Clone(v)})
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read state: %w", err)
	}
	return step, next, nil
}

// ErrStopped ends a sweep early.
var ErrStopped = errors.New("sweep the state: stopped")

// Sweep removes what expired reports, and returns how many are left. The store stays usable
// meanwhile; what changes during the sweep is looked at again before it goes. stop ends it early;
// it may be nil.
func (t *Table) Sweep(stop <-chan struct{}, expired func(value []byte) bool) (left int, err error) {
	if err := t.Sync(); err != nil {
		return 0, err
	}
	for at := []byte{}; at != nil; {
		select {
		case <-stop:
			return left, ErrStopped
		default:
		}
		var step []pair
		if step, at, err = t.step(at); err != nil {
			return left, err
		}
		for _, p := range step {
			if !expired(p.value) {
				left++
				continue
			}
			err := t.Update(p.key, func(old []byte) []byte {
				if old != nil && !expired(old) {
					return old
				}
				return nil
			})
			if err != nil {
				return left, err
			}
		}
	}
	return left, t.Sync()
}

// Sync writes what is in memory alone.
func (t *Table) Sync() error { return t.flush(1) }

// flush writes what is in memory alone if that is at least so many changes.
func (t *Table) flush(least int) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	t.mu.Lock()
	if len(t.pending) < least {
		t.mu.Unlock()
		return nil
	}
	t.flushed, t.pending = t.pending, make(map[string][]byte)
	t.mu.Unlock()
	err := t.db.Update(t.write)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil { // what came since is newer
		for k, v := range t.flushed {
			if _, newer := t.pending[k]; !newer {
				t.pending[k] = v
			}
		}
		err = fmt.Errorf("write state: %w", err)
	}
	t.flushed, t.failed = nil, err
	return err
}

// write puts what is flushed, which nobody changes meanwhile, into a transaction.
func (t *Table) write(tx *bolt.Tx) error {
	b := tx.Bucket(t.bucket)
	for k, v := range t.flushed {
		var err error
		if v == nil {
			err = b.Delete([]byte(k))
		} else {
			err = b.Put([]byte(k), v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Err returns why the last write failed, or nil.
func (t *Table) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

// Close writes what is left and closes the file.
func (t *Table) Close() error {
	var err error
	t.close.Do(func() {
		close(t.done)
		<-t.ended
		err = errors.Join(t.Sync(), t.db.Close())
	})
	return err
}
