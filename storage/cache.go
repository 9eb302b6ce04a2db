package storage

import (
	"container/list"
	"context"
	"sync"

	"github.com/sluicemail/sluice/storage/kv"
)

// entry is one account in memory: its lock, its last position, and its state while that is cached.
type entry struct {
	id   AccountID
	lock chan struct{} // holds one token while the account is free

	threads threadMemory // guarded by lock

	// Guarded by cache.mu.
	refs    int           // running operations
	watches int           // sessions that watch: the entry stays, its state may go
	elem    *list.Element // in cache.lru while no one uses the entry
	cost    int64         // what cache.cost holds for it

	mu       sync.Mutex
	state    *accountState // nil: not read yet
	pos      kv.Pos        // what state shows is durable when this is
	loads    map[MailboxID]*load
	watchers map[*Watch]struct{}
	pending  bool // watchers have to be told
}

// load is a session's reading of a mailbox's UIDs; updates that happen meanwhile are kept for it.
type load struct {
	deltas []delta
	over   bool // too many updates: the result is not shared
}

const maxLoadDeltas = 4096

// cache holds accounts, least recently used first out, within a number and a cost.
type cache struct {
	maxAccounts int
	maxCost     int64

	mu      sync.Mutex
	entries map[AccountID]*entry
	lru     *list.List // of idle entries, most recently used first
	cost    int64
}

func newCache(accounts int, cost int64) *cache {
	return &cache{maxAccounts: accounts, maxCost: cost, entries: map[AccountID]*entry{}, lru: list.New()}
}

// acquire returns the account's entry and keeps it in memory until release.
func (c *cache) acquire(id AccountID) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[id]
	if e == nil {
		e = &entry{id: id, lock: make(chan struct{}, 1)}
		e.lock <- struct{}{}
		c.entries[id] = e
	}
	if e.elem != nil {
		c.lru.Remove(e.elem)
		e.elem = nil
	}
	e.refs++
	return e
}

// release gives the entry back and drops what is over the limits.
func (c *cache) release(e *entry) {
	e.mu.Lock()
	cost := int64(1800) // the entry and its threadMemory
	if e.state != nil {
		cost = e.state.cost
	}
	e.mu.Unlock()

	c.mu.Lock()
	defer c.mu.Unlock()
	c.cost += cost - e.cost
	e.cost = cost
	if e.refs--; e.refs > 0 {
		return
	}
	e.elem = c.lru.PushFront(e)
	c.shrink()
}

// shrink drops idle accounts until the rest fits. A watched account keeps its entry and loses its state.
func (c *cache) shrink() {
	for c.lru.Len() > 0 && (c.lru.Len() > c.maxAccounts || c.cost > c.maxCost) {
		old := c.lru.Remove(c.lru.Back()).(*entry)
		old.elem = nil
		c.cost -= old.cost
		old.cost = 0
		if old.watches == 0 {
			delete(c.entries, old.id)
			continue
		}
		old.mu.Lock()
		old.state = nil
		old.mu.Unlock()
	}
}

// watch counts sessions that watch; without any, an entry that was dropped already goes.
func (c *cache) watch(e *entry, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.watches += n
	if e.refs == 0 && e.watches == 0 && e.elem == nil && c.entries[e.id] == e {
		delete(c.entries, e.id)
	}
}

// position is that of what the account's state shows.
func (e *entry) position() kv.Pos {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pos
}

// take gets the account's lock.
func (e *entry) take(ctx context.Context) error {
	select {
	case <-e.lock:
		return nil
	default:
	}
	select {
	case <-e.lock:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *entry) give() { e.lock <- struct{}{} }
