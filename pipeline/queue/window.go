package queue

import (
	"bytes"
	"container/list"
	"time"
)

// hop is a window on the due keys of one HOP: what of it is in memory, and from where on there may be more on disk.
// All of it is guarded by schedule.mu.
type hop struct {
	label, domain, via string
	pipeline           string // of the last entry: whose settings hold

	count  int   // parts in memory
	queued int   // of them, those that are ready to leave
	from   place // due keys from here on may stand on disk alone; nowhere: none
	hungry bool  // among schedule.hungry
	used   time.Time
	fresh  time.Time // when something new came for it
	looked time.Time // when somebody looked whether what waits for it is late

	lanes map[string]*lane // of those that are ready, by sender
	turns list.List        // of *lane: whose turn it is

	site      *site // where it leads, or nil while that is not known
	asked     time.Time
	resolving bool
	elem      *list.Element // in site.turns, while something is ready
}

// lane is what one sender has ready for one hop, first in, first out.
type lane struct {
	sender string
	parts  list.List
	turn   *list.Element
}

// memory bounds what is in memory.
type memory struct {
	local    int // entries that stay here
	most     int // recipients of entries that leave
	total    int // of them there are
	hops     int // that may be known at once
	squeezed time.Time
}

func (s *schedule) hop(label, domain, via string) *hop {
	h := s.hops[label]
	if h == nil {
		h = &hop{label: label, domain: domain, via: via, from: nowhere}
		s.hops[label] = h
	}
	h.used = s.now()
	return h
}

func (s *schedule) hopFor(r *Recipient) *hop {
	if r.hop == localHop {
		return s.local
	}
	if h := s.hops[r.hop]; h != nil {
		return h
	}
	return s.hop(r.hop, domainOf(r.Hop.Address), r.Hop.Via)
}

// home gives a part that was on disk alone the hop that is known now: its own may have been forgotten meanwhile.
func (s *schedule) home(p *part) {
	if h := s.hops[p.label]; h == nil {
		s.hops[p.label] = p.hop
	} else {
		p.hop = h
	}
	p.hop.used = s.now()
}

func (h *hop) add(p *part) {
	h.count++
	h.pipeline = p.e.Pipeline
}

func (h *hop) remove(*part) { h.count-- }

// push puts a part at the end of its sender's lane.
func (h *hop) push(p *part) {
	from := p.e.from()
	l := h.lanes[from]
	if l == nil {
		l = &lane{sender: from}
		if h.lanes == nil {
			h.lanes = make(map[string]*lane, 1)
		}
		h.lanes[from] = l
		l.turn = h.turns.PushBack(l)
	}
	p.lane, p.elem = l, l.parts.PushBack(p)
	h.queued++
}

// renew takes note of a message that has just come.
func (h *hop) renew(now time.Time) {
	h.fresh = later(h.fresh, now)
	if h.site != nil {
		h.site.renew(h.fresh)
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// pull takes a part out of its lane.
func (h *hop) pull(p *part) {
	l := p.lane
	l.parts.Remove(p.elem)
	p.lane, p.elem = nil, nil
	h.queued--
	if l.parts.Len() == 0 {
		h.turns.Remove(l.turn)
		delete(h.lanes, l.sender)
	}
}

// next takes the first part of the sender whose turn it is (fairness between senders).
func (h *hop) next() *part {
	l := h.turns.Front().Value.(*lane)
	p := l.parts.Front().Value.(*part)
	h.turns.MoveToBack(l.turn)
	h.pull(p)
	return p
}

// suspended reports whether nothing is tried over this hop at the moment.
func (h *hop) suspended(now time.Time) bool { return h.site != nil && h.site.suspended(now) }

// place is where the first due key of a part may stand.
func (p *part) place() place { return place{p.floor, p.e.ID} }

// leaveOut takes note that a part is on disk alone, and due.
func (s *schedule) leaveOut(p *part) { s.note(p.hop, p.place()) }

// note takes note that a hop has something on disk alone from a place on.
func (s *schedule) note(h *hop, at place) {
	if len(s.hops) > s.memory.hops && h.count == 0 && !h.resolving && h != s.local {
		s.dropHop(h)
		s.miss(placeKey(h.label, at))
		return
	}
	h.from = earlier(h.from, at)
	if h.count == 0 { // nobody will be done and ask for it
		s.setHungry(h)
	}
}

// wantMore asks the loader to read on for a hop if there is more on disk and room for it.
func (s *schedule) wantMore(h *hop) {
	if s.setHungry(h) {
		s.signal()
	}
}

// setHungry lets the loader look at a hop at its next round.
func (s *schedule) setHungry(h *hop) bool {
	if h.hungry || h.from == nowhere || h.count > s.share(h)/2 || h.suspended(s.now()) {
		return false
	}
	h.hungry = true
	s.hungry = append(s.hungry, h)
	return true
}

// share is how many parts of a hop may be in memory. While there is plenty of room it is a lot, so that a backlog is read
// in large pieces; then all have the same.
func (s *schedule) share(h *hop) int {
	const least = 8
	switch {
	case h == s.local:
		return s.memory.local
	case h.site != nil && h.site.failures > 0:
		return least // until it has taken something
	case s.memory.total < s.memory.most/2:
		return max(s.memory.most/4, least)
	}
	return max(s.memory.most/2/len(s.hops), least)
}

// roomFor reports whether a part may come into memory now. What was left out before has precedence, but a destination
// or a sender with nothing in memory is admitted at once: neither dead destinations nor a backlog keep fresh mail
// of others out.
func (s *schedule) roomFor(p *part) bool {
	h, m := p.hop, &s.memory
	inTurn := p.place().before(h.from)
	switch {
	case h == s.local:
		return inTurn && h.count < m.local
	case h.suspended(s.now()):
		return false
	case h.count == 0:
		if m.total >= m.most {
			s.squeeze()
		}
		return m.total < 2*m.most
	case inTurn && h.count < s.share(h) && m.total < m.most:
		return true
	}
	return h.lanes[p.e.from()] == nil && h.count < 2*s.share(h) && m.total < m.most*3/2
}

// crowded reports whether what only waits should wait on disk.
func (s *schedule) crowded(h *hop) bool {
	return h != s.local && (s.memory.total >= s.memory.most || h.suspended(s.now()))
}

// squeeze cuts every hop down to its share, from the back of the longest lanes. It is a walk over all hops, so it is not
// done more often than ten times a second.
func (s *schedule) squeeze() {
	now := s.now()
	if now.Sub(s.memory.squeezed).Abs() < 100*time.Millisecond {
		return
	}
	s.memory.squeezed = now
	for _, h := range s.hops {
		if h != s.local {
			s.cut(h, s.share(h))
		}
	}
}

// cut leaves at most so many parts of a hop ready; the others are on disk.
func (s *schedule) cut(h *hop, most int) {
	for h.queued > most {
		longest := h.turns.Back().Value.(*lane)
		if h.turns.Len() > 1 {
			for _, l := range h.lanes {
				if l.parts.Len() > longest.parts.Len() {
					longest = l
				}
			}
		}
		for n := max((longest.parts.Len()+1)/2, 1); n > 0 && h.queued > most; n-- {
			p := longest.parts.Back().Value.(*part)
			s.leave(p, away)
			s.leaveOut(p)
			s.forgetIdle(p.e)
		}
	}
}

// maxHops is how many hops may be known at once. If there are more of which something is on disk, they take turns: now and again
// those that are suspended are forgotten, and the loader goes on where it found that there were too many, and at the end
// from the low-water mark. Otherwise a hundred thousand dead domains would hold up a living one behind them until they are given up.
const maxHops = 100_000

// turnEvery is how often, at most. A turn reads an entry of each hop and asks where it leads.
const turnEvery = 5 * time.Minute

// miss takes note that nothing is noted of a hop with something on disk.
func (s *schedule) miss(key []byte) {
	s.lost = true
	if s.missed == nil || bytes.Compare(key, s.missed) < 0 {
		s.missed = key
	}
}

// again returns from where on due keys have to be read again, or nil for not now.
func (s *schedule) again() []byte {
	now := s.now()
	switch {
	case !s.lost:
		return nil
	case len(s.hops) <= s.memory.hops/2:
		s.lost, s.missed = false, nil
		return dueBound(s.low)
	case now.Sub(s.turned).Abs() < turnEvery:
		return nil
	}
	s.turned = now
	for _, h := range s.hops {
		if h != s.local && h.count == 0 && !h.resolving && h.suspended(now) {
			s.dropHop(h)
		}
	}
	from := s.missed
	s.missed = nil
	if from == nil { // all of it: nobody is left out but those for whom there is no room again
		s.lost = false
		return dueBound(s.low)
	}
	return from // those who were forgotten have their turn after it
}

// dropHop forgets a hop of which nothing is in memory.
func (s *schedule) dropHop(h *hop) {
	if h.site != nil {
		delete(h.site.hops, h)
		h.site = nil
	}
	delete(s.hops, h.label)
}

// oldHop is how long a hop without anything to do is remembered.
const oldHop = time.Minute

// forgetHops forgets hops and next hops that nobody has used for a while.
func (s *schedule) forgetHops() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for _, h := range s.hops {
		if h == s.local || h.count > 0 || h.from != nowhere || h.resolving || now.Sub(h.used).Abs() < oldHop {
			continue
		}
		s.dropHop(h)
	}
	s.remote.forget(now)
}
