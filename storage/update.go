package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sluicemail/sluice/storage/kv"
)

// maxBatch is the largest batch of one update; the limit of kv is 16 MiB.
const maxBatch = 15 << 20

// Tx changes one account. It is valid during the function given to Store.Update and on its goroutine.
type Tx struct {
	s     *Store
	ctx   context.Context
	e     *entry
	id    AccountID
	now   time.Time
	base  *accountState
	batch kv.Batch
	arena []byte // keys and values of batch
	seq   ModSeq // the sequence of every change in this update; 0: none yet

	dirty    []*dirtyBox
	nums     numbers
	numsNew  bool
	names    map[string]MailboxID // a copy, if names changed
	subs     []string
	subsNew  bool
	purge    bool // a mailbox was deleted
	taught   bool // a lesson was written
	threads  []threadOf
	overlay  map[string][]byte // what batch sets (nil: deletes), as far as ops were looked at
	overlaid int
}

// dirtyBox is a mailbox that an update changes.
type dirtyBox struct {
	box
	delta
	static bool // Name, Use or Keywords changed
	fresh  bool // made in this update
	gone   bool
}

var txPool = sync.Pool{New: func() any { return &Tx{arena: make([]byte, 0, 4<<10)} }}

// Update runs fn under the account's lock and applies what it did as one atomic batch. It returns the batch's position,
// or the account's last one if fn changed nothing. When fn returns an error, nothing is changed, and that error comes back with
// the position of what fn saw: who tells a client what was wrong waits for it (RULES B1).
// fn must not wait for anything outside the store. A failure of the engine after fn leaves open whether the change took
// place; the next Update or View shows it.
func (s *Store) Update(ctx context.Context, account AccountID, fn func(*Tx) error) (kv.Pos, error) {
	return s.update(ctx, account, nil, fn)
}

// update is Update; with a first state the account is being made.
func (s *Store) update(ctx context.Context, account AccountID, first *accountState, fn func(*Tx) error) (kv.Pos, error) {
	e := s.cache.acquire(account)
	defer s.cache.release(e)
	if err := e.take(ctx); err != nil {
		return 0, fmt.Errorf("lock account %s: %w", account, err)
	}
	defer e.give()
	state := first
	if state == nil {
		var err error
		if state, err = s.state(ctx, e); err != nil {
			return 0, err
		}
	}
	tx := txPool.Get().(*Tx)
	defer tx.free()
	tx.s, tx.ctx, tx.e, tx.id, tx.base, tx.nums, tx.now = s, ctx, e, account, state, state.nums, s.clock()
	if err := fn(tx); err != nil {
		return e.position(), err
	}
	return tx.commit(e)
}

// free gives the memory of tx back, unless it grew large.
func (tx *Tx) free() {
	if cap(tx.arena) > 256<<10 || tx.batch.Len() > 1024 {
		return
	}
	tx.batch.Reset()
	*tx = Tx{batch: tx.batch, arena: tx.arena[:0], dirty: tx.dirty[:0], threads: tx.threads[:0]}
	clear(tx.dirty[:cap(tx.dirty)])
	txPool.Put(tx)
}

// commit encodes what is left to encode, applies the batch and publishes the new state.
func (tx *Tx) commit(e *entry) (kv.Pos, error) {
	if err := tx.encode(); err != nil {
		return 0, err
	}
	if tx.batch.Len() == 0 {
		return e.position(), nil
	}
	if tx.batch.Size() > maxBatch {
		return 0, fmt.Errorf("update account %s: %w", tx.id, ErrTooLarge)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	pos, err := tx.s.engine.Apply(tx.ctx, &tx.batch)
	if err != nil {
		e.state = nil // read again what took place
		for _, l := range e.loads {
			l.over = true
		}
		return 0, fmt.Errorf("update account %s: %w", tx.id, err)
	}
	e.pos = pos
	e.state = tx.publish(e)
	e.threads.add(tx.threads)
	if len(e.watchers) > 0 && !e.pending {
		e.pending = true
		tx.s.tail.tell(e)
	}
	if tx.purge {
		tx.s.kickPurger()
	}
	if tx.taught {
		tx.s.lessons.Load().kick()
	}
	return pos, nil
}

// encode adds the records of changed mailboxes and of the account to the batch.
func (tx *Tx) encode() error {
	for _, d := range tx.dirty {
		if d.gone {
			continue
		}
		if d.static || d.fresh {
			tx.set(func(k []byte) []byte { return appendBoxKey(k, tx.id, kindBox, d.ID) }, d.appendStatic)
		}
		if len(d.removed) > 0 {
			slices.Sort(d.removed)
			if err := tx.logExpunge(d); err != nil {
				return err
			}
		}
		if d.seq != 0 {
			d.HighestModSeq = d.seq
			tx.set(func(k []byte) []byte { return appendBoxKey(k, tx.id, kindState, d.ID) }, d.appendState)
		}
	}
	if tx.numsNew {
		tx.set(func(k []byte) []byte { return appendAccountKey(k, tx.id, kindNumbers) }, tx.nums.appendTo)
	}
	return nil
}

// publish makes the next version of the account's state. e.mu is held.
func (tx *Tx) publish(e *entry) *accountState {
	cur := e.state // newer than tx.base only by UIDs that a session loaded
	if cur == nil {
		cur = tx.base
	}
	next := *cur
	next.nums = tx.nums
	next.seq = max(next.seq, tx.seq)
	if tx.names != nil {
		next.names = tx.names
	}
	if tx.subsNew {
		next.subs = tx.subs
	}
	if len(tx.dirty) > 0 {
		next.boxes = slices.Clone(cur.boxes)
	}
	for _, d := range tx.dirty {
		at, have := slices.BinarySearchFunc(next.boxes, d.ID, boxOrder)
		if have {
			old := next.boxes[at]
			next.used -= old.Size
			next.count -= int64(old.Exists)
			next.cost -= old.cost()
		}
		if d.gone {
			if have {
				next.boxes = slices.Delete(next.boxes, at, at+1)
			}
			continue
		}
		b := new(box)
		*b = d.box
		if have {
			old := next.boxes[at]
			b.loaded, b.uids, b.recent, b.recentFrom = old.loaded, old.uids, old.recent, old.recentFrom
			b.apply(&d.delta)
			next.boxes[at] = b
		} else {
			b.loaded, b.recentFrom = true, d.seq // a new mailbox starts known and empty
			b.apply(&d.delta)
			next.boxes = slices.Insert(next.boxes, at, b)
		}
		if l := e.loads[d.ID]; l != nil {
			l.add(&d.delta)
		}
		next.used += b.Size
		next.count += int64(b.Exists)
		next.cost += b.cost()
	}
	return &next
}

func boxOrder(b *box, id MailboxID) int {
	switch {
	case b.ID < id:
		return -1
	case b.ID > id:
		return 1
	}
	return 0
}

// add keeps a delta for a session that is reading the mailbox.
func (l *load) add(d *delta) {
	if len(l.deltas) >= maxLoadDeltas {
		l.over = true
		return
	}
	l.deltas = append(l.deltas, delta{
		seq: d.seq, added: slices.Clone(d.added), removed: slices.Clone(d.removed), changed: slices.Clone(d.changed),
	})
}

// Account returns the account that is changed.
func (tx *Tx) Account() AccountID { return tx.id }

// Now returns the moment that this update takes for its dates.
func (tx *Tx) Now() time.Time { return tx.now }

// Batch returns the batch that will be applied, so that the caller can add keys of its own to the atomic change. Slices
// given to it must stay as they are until Update returned.
func (tx *Tx) Batch() *kv.Batch { return &tx.batch }

// set adds a key and a value, both built in the arena.
func (tx *Tx) set(key, value func([]byte) []byte) {
	k := tx.build(key)
	tx.batch.Set(k, tx.build(value))
}

// build appends to the arena and returns what was appended. When the arena grows, earlier results stay in the old one.
func (tx *Tx) build(f func([]byte) []byte) []byte {
	start := len(tx.arena)
	tx.arena = f(tx.arena)
	return tx.arena[start:len(tx.arena):len(tx.arena)]
}

// get reads a key as this update sees it; value is nil when there is none. It must not be changed.
func (tx *Tx) get(key []byte) ([]byte, error) {
	if tx.batch.Len() > 0 {
		tx.look()
		if v, ok := tx.overlay[string(key)]; ok {
			return v, nil
		}
	}
	v, err := tx.s.engine.Get(tx.ctx, key)
	if errors.Is(err, kv.ErrNotFound) {
		return nil, nil
	}
	return v, err
}

// look brings the overlay up to date with the batch.
func (tx *Tx) look() {
	if tx.overlay == nil {
		tx.overlay = make(map[string][]byte)
	}
	for _, op := range tx.batch.Ops()[tx.overlaid:] {
		switch op.Kind {
		case kv.OpSet:
			tx.overlay[string(op.Key)] = op.Value
		case kv.OpDelete:
			tx.overlay[string(op.Key)] = nil
		}
	}
	tx.overlaid = tx.batch.Len()
}

// box returns the mailbox for changing, or ErrNoMailbox.
func (tx *Tx) box(id MailboxID) (*dirtyBox, error) {
	for _, d := range tx.dirty {
		if d.ID == id {
			if d.gone {
				return nil, ErrNoMailbox
			}
			return d, nil
		}
	}
	b := tx.base.find(id)
	if b == nil {
		return nil, fmt.Errorf("mailbox %d: %w", id, ErrNoMailbox)
	}
	d := &dirtyBox{box: *b}
	d.loaded, d.uids, d.recent = false, nil, nil // shared state changes when this is published
	tx.dirty = append(tx.dirty, d)
	return d, nil
}

// peek returns the mailbox for reading, or nil.
func (tx *Tx) peek(id MailboxID) *box {
	for _, d := range tx.dirty {
		if d.ID == id {
			if d.gone {
				return nil
			}
			return &d.box
		}
	}
	return tx.base.find(id)
}

// touch gives the change in d this update's modification sequence.
func (tx *Tx) touch(d *dirtyBox) ModSeq {
	if tx.seq == 0 {
		tx.seq = tx.base.seq + 1
	}
	d.seq = tx.seq
	return tx.seq
}
