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
	traced     time.Time             // of the last event that was added to its trace

	// Guarded by schedule.mu.
	due   time.Time
	index int    // in the heap, or -1
	floor uint32 // the first minute in which one of its due keys may stand; fixed
}

// schedule says who is next. It holds at most a window of entries; while there
// are more on disk, over is true and the ticker reads them when there is room.
type schedule struct {
	mu      sync.Mutex
	ready   []*live // first in, first out
	waiting byDue
	entries map[storage.ID]*live
	seized  map[storage.ID]bool // in somebody's hand
	window  int
	over    bool   // entries that are due may stand on disk only
	missed  bool   // one of them came since load began a pass over the disk
	outside int    // entries without a place here that are being committed
	low     uint32 // minute before which nothing is due, nor will be
	loaded  uint32 // due keys up to and including this minute were read
	closed  bool
	cond    *sync.Cond
	refill  chan struct{} // room for more
}

func (s *schedule) init(window int) {
	s.entries, s.seized = make(map[storage.ID]*live), make(map[storage.ID]bool)
	s.window = window
	s.cond = sync.NewCond(&s.mu)
	s.refill = make(chan struct{}, 1)
}

// claim makes room for a new entry before its due keys are written, and says the
// first minute in which they may stand, so that tidy does not pass it. If the
// window is full the entry will be read from disk later; then the caller says
// with outsideDone when it is there, or never will be.
func (s *schedule) claim(e *live, now time.Time) (inMemory bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.index, e.floor = -1, max(minuteOf(now), s.low)
	if len(s.entries) >= s.window {
		s.over, s.missed = true, true
		s.outside++
		return false
	}
	s.entries[e.ID] = e
	return true
}

// outsideDone ends the commit of an entry without a place here. A pass over the
// disk that began before may not have seen it.
func (s *schedule) outsideDone() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over, s.missed = true, true
	s.outside--
	s.wantMore()
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
	s.over = s.missed || s.outside > 0
	if s.missed { // outsideDone asks for the others
		s.wantMore()
	}
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
	if due.Sub(now) > horizon && minuteOf(due) > s.loaded { // the clock may have been set back
		s.forget(e)
		return
	}
	e.due = due
	heap.Push(&s.waiting, e)
}

// wake moves what is due to the ready list. It also asks for more again, in case
// the reading failed the last time and nobody else would.
func (s *schedule) wake(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.waiting) > 0 && !s.waiting[0].due.After(now) {
		s.ready = append(s.ready, heap.Pop(&s.waiting).(*live))
		s.cond.Signal()
	}
	s.wantMore()
}

// seize takes an entry out of the workers' reach; false means that one is at it,
// or will be soon.
func (s *schedule) seize(id storage.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, here := s.entries[id]
	if s.seized[id] || here && e.index < 0 {
		return false
	}
	if here {
		heap.Remove(&s.waiting, e.index)
		delete(s.entries, id)
	}
	s.seized[id] = true
	return true
}

// giveBack ends seize. e is the entry as it is on disk now, nil if there is nothing
// to do for it; unread means that it could not be read and has to be found again.
func (s *schedule) giveBack(id storage.ID, e *live, unread bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.seized, id)
	full := len(s.entries) >= s.window
	switch {
	case unread, full && e != nil && len(e.recipients) > 0:
		s.over, s.missed = true, true
	case e != nil && len(e.recipients) > 0:
		s.entries[id] = e
		s.ready = append(s.ready, e)
		s.cond.Signal()
	}
	s.wantMore()
}

// pass moves the low-water mark to the first minute in which an entry in memory
// may have a due key, or to limit, and returns it. Entries that are claimed from
// now on have no due key before it.
func (s *schedule) pass(limit uint32) (low uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || len(s.seized) > 0 { // entries on disk may be due before
		return s.low
	}
	minute := limit
	for _, e := range s.entries {
		minute = min(minute, e.floor)
	}
	if minute <= s.loaded {
		s.low = max(s.low, minute)
	}
	return s.low
}

// dueMinute is where a due key for t has to stand.
func (s *schedule) dueMinute(t time.Time) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(minuteOf(t), s.low)
}

// setLoaded notes up to which minute due keys were read, and returns what was
// noted before.
func (s *schedule) setLoaded(minute uint32) (before uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, s.loaded = s.loaded, minute
	return before
}

func (s *schedule) setLow(minute uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.low = minute
}

func (s *schedule) marks() (low, loaded uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.low, s.loaded
}

func (s *schedule) depth() (int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.entries), s.over
}

func (s *schedule) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
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
