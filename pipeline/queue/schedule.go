package queue

import (
	"container/heap"
	"sync"
	"time"

	"github.com/sluicemail/sluice/storage"
)

// live is an entry in memory. Its fields belong to the worker that has it; the
// schedule's lock guards only what the schedule keeps about it.
type live struct {
	Entry
	infos      []storage.ContentInfo // by variant; zero ID: not read yet
	recipients []*Recipient          // not settled yet, held ones left out
	rest       int                   // recipients of the entry that are neither here nor settled: held, quarantined

	// Guarded by schedule.mu.
	due   time.Time
	index int    // in the heap, or -1
	floor uint32 // the first minute in which one of its due keys may stand
}

// schedule says who is next. It holds at most a window of entries; while there
// are more on disk, over is true and the ticker reads them when there is room.
type schedule struct {
	mu      sync.Mutex
	ready   []*live // first in, first out
	waiting byDue
	entries map[storage.ID]*live
	window  int
	over    bool // entries that are due may stand on disk only
	missed  bool // one of them came since load began a pass over the disk
	closed  bool
	cond    *sync.Cond
	refill  chan struct{} // room for more
}

func (s *schedule) init(window int) {
	s.entries = make(map[storage.ID]*live)
	s.window = window
	s.cond = sync.NewCond(&s.mu)
	s.refill = make(chan struct{}, 1)
}

// claim makes room for a new entry before it is committed, so that tidy does not
// pass its minute. It reports false if the window is full: then the entry will
// be read from disk later.
func (s *schedule) claim(e *live) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.entries) >= s.window {
		s.over, s.missed = true, true
		return false
	}
	e.index = -1
	s.entries[e.ID] = e
	return true
}

// release forgets an entry.
func (s *schedule) release(e *live) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(e)
}

func (s *schedule) forget(e *live) {
	delete(s.entries, e.ID)
	s.wantMore()
}

// wantMore asks the ticker to read on if there is more on disk and room for it.
func (s *schedule) wantMore() {
	if s.over && len(s.entries) <= s.window/2 {
		select {
		case s.refill <- struct{}{}:
		default:
		}
	}
}

// beginPass is called before load reads from the low-water mark.
func (s *schedule) beginPass() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missed = false
}

// endPass is called when load has seen all that is due: if nothing was left out
// meanwhile, everything is in memory.
func (s *schedule) endPass() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = s.missed
	s.wantMore()
}

// push hands an entry to the next free worker.
func (s *schedule) push(e *live) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = append(s.ready, e)
	s.cond.Signal()
}

// pop waits for an entry; nil means that the queue stops.
func (s *schedule) pop() *live {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.ready) == 0 && !s.closed {
		s.cond.Wait()
	}
	if s.closed {
		return nil
	}
	e := s.ready[0]
	s.ready[0] = nil
	s.ready = s.ready[1:]
	if len(s.ready) == 0 {
		s.ready = nil
	}
	return e
}

// keep lets an entry wait until due. What is due much later is forgotten; its
// due key brings it back.
func (s *schedule) keep(e *live, due, now time.Time) {
	const horizon = 5 * time.Minute
	s.mu.Lock()
	defer s.mu.Unlock()
	if due.Sub(now) > horizon {
		s.forget(e)
		return
	}
	e.due = due
	heap.Push(&s.waiting, e)
}

// wake moves what is due to the ready list.
func (s *schedule) wake(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.waiting) > 0 && !s.waiting[0].due.After(now) {
		s.ready = append(s.ready, heap.Pop(&s.waiting).(*live))
		s.cond.Signal()
	}
}

// hurry takes an entry out of the waiting ones and makes it ready.
func (s *schedule) hurry(id storage.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.entries[id]; ok && e.index >= 0 {
		heap.Remove(&s.waiting, e.index)
		s.ready = append(s.ready, e)
		s.cond.Signal()
	}
}

// floor returns the first minute in which an entry in memory may have a due key,
// or limit; ok is false while entries on disk may be due before that.
func (s *schedule) floor(limit uint32) (minute uint32, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	minute = limit
	for _, e := range s.entries {
		minute = min(minute, e.floor)
	}
	return minute, !s.over
}

func (s *schedule) depth() (int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.entries), s.over
}

func (s *schedule) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.cond.Broadcast()
}

// byDue is a heap of waiting entries.
type byDue []*live

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, k int) bool { return h[i].due.Before(h[k].due) }

func (h byDue) Swap(i, k int) {
	h[i], h[k] = h[k], h[i]
	h[i].index, h[k].index = i, k
}

// Push and Pop are for container/heap.
func (h *byDue) Push(x any) {
	e := x.(*live)
	e.index = len(*h)
	*h = append(*h, e)
}

func (h *byDue) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.index = -1
	return e
}
