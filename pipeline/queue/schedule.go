package queue

import (
	"container/heap"
	"sync"
	"time"

	"github.com/sluicemail/sluice/storage"
)

// horizon is how long a part may wait in memory for its time. What is due later is forgotten; its due key brings
// it back.
const horizon = 5 * time.Minute

// schedule says who is next. Its lock is never held while somebody delivers, and is taken after an entry's lock, never
// before it. What it promises about the disk stands in the package comment.
type schedule struct {
	mu      sync.Mutex
	now     func() time.Time
	entries map[storage.ID]*live
	seized  map[storage.ID]bool // in somebody's hand
	hops    map[string]*hop
	local   *hop    // of them: what stays here
	queue   []*part // local ones that are ready; some may have been taken away meanwhile
	waiting byDue
	remote  remote
	memory  memory
	hungry  []*hop    // more of them is on disk than here, and there is room
	lost    bool      // something is neither here nor noted: all is to be read again
	missed  []byte    // the first due key of a hop of which nothing was noted, since too many are known; nil: none
	turned  time.Time // when hops were forgotten so that others have their turn
	lag     bool      // due minutes were not read to their end yet
	looked  time.Time // when somebody looked for what is late

	low      uint32 // minute before which nothing is due, nor will be
	lowLocal uint32 // the same for what stays here
	loaded   uint32 // minutes up to this one are being read, or were

	closed bool
	cond   *sync.Cond
	refill chan struct{} // the loader has something to do
}

func (s *schedule) init(now func() time.Time, window int, limits Limits) {
	s.now = now
	s.entries, s.seized, s.hops = make(map[storage.ID]*live), make(map[storage.ID]bool), make(map[string]*hop)
	s.memory = memory{local: window, most: limits.Memory, hops: maxHops}
	s.remote.init(limits.Connections)
	s.local = s.hop(localHop, "", "")
	s.cond = sync.NewCond(&s.mu)
	s.refill = make(chan struct{}, 1)
}

// mark is the low-water mark for a HOP.
func (s *schedule) mark(hop string) uint32 {
	if hop == localHop {
		return s.lowLocal
	}
	return s.low
}

// divide makes the parts of an entry, the local one first. All are on disk alone at first.
func (s *schedule) divide(e *live) {
	var index map[string]*part
	for _, r := range e.recipients {
		p := index[r.hop]
		if index == nil {
			p = e.part(r.hop)
		}
		if p == nil {
			if len(e.parts) == 0 {
				p = &e.first
				e.parts = append(make([]*part, 0, 1), p)
			} else {
				p = new(part)
				e.parts = append(e.parts, p)
			}
			*p = part{e: e, label: r.hop, hop: s.hopFor(r), due: r.Next, floor: r.at, index: -1}
			if last := len(e.parts) - 1; p.hop == s.local {
				e.parts[0], e.parts[last] = p, e.parts[0]
			}
			if index != nil {
				index[r.hop] = p
			} else if len(e.parts) > 8 {
				index = make(map[string]*part)
				for _, p := range e.parts {
					index[p.label] = p
				}
			}
		}
		p.floor = min(p.floor, r.at)
		if r.Next.Before(p.due) {
			p.due = r.Next
		}
	}
}

// enter takes a part into memory.
func (s *schedule) enter(p *part) {
	p.e.here++
	p.hop.add(p)
	switch {
	case p.due.After(s.now()):
		s.setWaiting(p)
	case p.hop != s.local && p.e.parts[0].hop == s.local && p.e.parts[0].state == ready:
		p.state = behind // its own people first
	default:
		s.setReady(p)
	}
}

func (s *schedule) setWaiting(p *part) {
	p.state = waiting
	heap.Push(&s.waiting, p)
}

func (s *schedule) setReady(p *part) {
	p.state = ready
	if p.hop == s.local {
		s.queue = append(s.queue, p)
		s.cond.Signal()
		return
	}
	p.hop.push(p)
	s.offer(p.hop)
}

// leave takes a part out of memory. Where it goes is the caller's: next is away or over.
func (s *schedule) leave(p *part, next state) {
	switch p.state {
	case waiting:
		heap.Remove(&s.waiting, p.index)
	case ready:
		if p.hop != s.local {
			p.hop.pull(p)
			s.withdrawIdle(p.hop)
		}
	case away, over:
		p.state = next
		return
	}
	p.state = next
	p.e.here--
	p.hop.remove(p)
	s.wantMore(p.hop)
}

// forgetIdle forgets an entry with nothing in memory to do.
func (s *schedule) forgetIdle(e *live) {
	if e.here > 0 || e.committing || s.entries[e.ID] != e {
		return
	}
	delete(s.entries, e.ID)
	s.memory.total -= e.weight
	e.weight = 0
	for _, p := range e.parts {
		p.hop.used = s.now()
	}
}

// weigh counts an entry whose mail leaves.
func (s *schedule) weigh(e *live) {
	if len(e.parts) > 1 || len(e.parts) == 1 && e.parts[0].hop != s.local {
		e.weight = len(e.recipients)
		s.memory.total += e.weight
	}
}

// pop waits for a local part; nil means that the queue stops.
func (s *schedule) pop() *part {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.closed {
		if len(s.queue) == 0 {
			s.queue = nil
			s.cond.Wait()
			continue
		}
		p := s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		if p.state == ready { // else somebody has seized it
			p.state = busy
			p.e.busy++
			return p
		}
	}
	return nil
}

// left is what is left of a part when somebody was at it.
type left struct {
	any   bool
	due   time.Time
	floor uint32
	known bool // it went, and only we know: it has to stay in memory
}

// rest ends that somebody is at a part.
func (s *schedule) rest(p *part, l left) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.putDown(p, l)
	s.dispatch()
}

func (s *schedule) putDown(p *part, l left) {
	e, now := p.e, s.now()
	e.busy--
	if p.hop == s.local {
		s.followLocal(e)
	}
	p.due, p.floor, p.known = l.due, l.floor, l.known
	switch {
	case !l.any:
		s.leave(p, over)
	case l.known:
		s.setWaiting(p)
	case p.floor > s.loaded && (p.due.Sub(now) > horizon || s.crowded(p.hop)): // its due key will be read; else only we know
		s.leave(p, away)
	case p.hop.suspended(now):
		s.leave(p, away)
		s.leaveOut(p)
	case p.due.After(now):
		s.setWaiting(p)
	default:
		s.setReady(p)
	}
	s.forgetIdle(e)
}

// followLocal lets those go who have waited until the entry's own people had their attempt.
func (s *schedule) followLocal(e *live) {
	for _, p := range e.parts {
		if p.state == behind {
			s.setReady(p)
		}
	}
}

// wake moves what is due to those that are ready, and ends pauses. It also asks for more again, in
// case the reading failed the last time and nobody else would.
func (s *schedule) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for len(s.waiting) > 0 && !s.waiting[0].due.After(now) {
		p := s.waiting[0]
		if p.known && !s.closed { // nobody else is needed for it
			heap.Pop(&s.waiting)
			p.state = busy
			p.e.busy++
			s.remote.carry(&trip{part: p})
			continue
		}
		if p.hop.suspended(now) && !p.known {
			s.leave(p, away)
			s.leaveOut(p)
			s.forgetIdle(p.e)
			continue
		}
		heap.Pop(&s.waiting)
		s.setReady(p)
	}
	s.resume(now)
	if len(s.hungry) > 0 || s.lost {
		s.signal()
	}
	s.dispatch()
}

// seize takes an entry out of the workers' reach; false means that one is at it,
// or will be soon.
func (s *schedule) seize(id storage.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, here := s.entries[id]
	if s.seized[id] || here && (e.busy > 0 || e.committing) {
		return false
	}
	if here {
		for _, p := range e.parts {
			if p.known { // what is on disk says that it has yet to go
				return false
			}
		}
		for _, p := range e.parts {
			s.leave(p, over)
		}
		s.forgetIdle(e)
	}
	s.seized[id] = true
	return true
}

// giveBack ends seize. e is the entry as it is on disk now, nil if there is nothing
// to do for it; unread means that it could not be read and has to be found again. If urgent, its next hops are tried
// although they were suspended.
func (s *schedule) giveBack(id storage.ID, e *live, unread, urgent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.seized, id)
	if unread {
		s.lost = true
		s.signal()
	}
	if e == nil || len(e.recipients) == 0 {
		return
	}
	s.entries[id] = e
	s.divide(e)
	s.weigh(e)
	for _, p := range e.parts {
		if urgent && p.hop.site != nil {
			s.urge(p.hop.site)
		}
		if s.roomFor(p) || urgent && s.memory.total < 2*s.memory.most {
			s.enter(p)
		} else {
			s.leaveOut(p)
		}
	}
	s.forgetIdle(e)
	s.dispatch()
}

func (s *schedule) depth() (here int, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	more = s.lag || s.lost
	for _, h := range s.hops {
		more = more || h.from != nowhere
	}
	return len(s.entries), more
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

// signal wakes the loader.
func (s *schedule) signal() {
	select {
	case s.refill <- struct{}{}:
	default:
	}
}
