package resolver

import (
	"hash/maphash"
	"sync"
	"time"
)

// key is one question.
type key struct {
	name  string // normalized
	qtype uint16
}

// flight is a look-up under way; answer may be read once done is closed.
type flight struct {
	done   chan struct{}
	answer *answer
}

// cache is a map in shards, each with its own lock, its own bounds and its own order of use. A lock is held for a map
// access and a few pointers, never for the network.
type cache struct {
	seed   maphash.Seed
	shards [shardCount]shard
}

const shardCount = 16 // a power of two

// shard is one of the cache's parts. Entries form a ring through root, most recently used first.
type shard struct {
	mu         sync.Mutex
	entries    map[key]*entry
	flights    map[key]*flight
	root       entry
	bytes      int64
	maxEntries int
	maxBytes   int64

	hits, misses, evicted uint64
	_                     [64]byte // no two shards' locks on one cache line
}

type entry struct {
	prev, next *entry
	key        key
	answer     *answer
	expires    time.Time
	size       int64
}

func (c *cache) init(maxEntries int, maxBytes int64) {
	c.seed = maphash.MakeSeed()
	for i := range c.shards {
		s := &c.shards[i]
		s.entries = make(map[key]*entry)
		s.flights = make(map[key]*flight)
		s.root.prev, s.root.next = &s.root, &s.root
		s.maxEntries = maxEntries / shardCount
		if maxEntries > 0 && s.maxEntries == 0 {
			s.maxEntries = 1
		}
		s.maxBytes = maxBytes / shardCount
	}
}

func (c *cache) shard(k key) *shard {
	return &c.shards[(maphash.String(c.seed, k.name)+uint64(k.qtype))%shardCount]
}

// get returns the answer, or the flight to wait for; leader says that the flight is the caller's to land, with put.
func (c *cache) get(k key, now time.Time) (a *answer, f *flight, leader bool) {
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[k]; e != nil {
		if now.Before(e.expires) {
			s.hits++
			if s.root.next != e {
				s.unlink(e)
				s.linkFirst(e)
			}
			return e.answer, nil, false
		}
		s.drop(e)
	}
	s.misses++
	if f = s.flights[k]; f != nil {
		return nil, f, false
	}
	f = &flight{done: make(chan struct{})}
	s.flights[k] = f
	return nil, f, true
}

// put lands the flight with its answer and remembers the answer for its time.
func (c *cache) put(k key, f *flight, a *answer, now time.Time) {
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	f.answer = a
	close(f.done)
	delete(s.flights, k)
	size := a.size() + int64(len(k.name)) + 160
	if a.ttl <= 0 || size > s.maxBytes || s.maxEntries == 0 {
		return
	}
	if old := s.entries[k]; old != nil {
		s.drop(old)
	}
	for len(s.entries) >= s.maxEntries || s.bytes+size > s.maxBytes {
		s.drop(s.root.prev)
		s.evicted++
	}
	e := &entry{key: k, answer: a, expires: now.Add(a.ttl), size: size}
	s.entries[k] = e
	s.bytes += size
	s.linkFirst(e)
}

func (s *shard) drop(e *entry) {
	s.unlink(e)
	delete(s.entries, e.key)
	s.bytes -= e.size
}

func (s *shard) unlink(e *entry) { e.prev.next, e.next.prev = e.next, e.prev }

func (s *shard) linkFirst(e *entry) {
	e.prev, e.next = &s.root, s.root.next
	e.prev.next, e.next.prev = e, e
}

func (c *cache) stats() (sum Stats) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		sum.Hits += s.hits
		sum.Misses += s.misses
		sum.Evicted += s.evicted
		sum.Entries += int64(len(s.entries))
		sum.Bytes += s.bytes
		s.mu.Unlock()
	}
	return sum
}
