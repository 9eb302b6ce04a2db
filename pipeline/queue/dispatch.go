package queue

import (
	"container/list"
	"errors"
	"math"
	"time"

	"github.com/sluicemail/sluice/pipeline"
)

// remote is the half of the schedule that is about other servers; it is guarded by schedule.mu.
type remote struct {
	sites map[string]*site
	rings [classes]list.List // of *site that can begin something, by class
	begun [classes]int       // what is in flight
	most  int                // at once
	late  bool               // see turn

	asks    []*hop // whose next hop has to be found out
	asking  int
	lateAsk bool // the newest is next

	reviews chan string // keys of sites whose entries shall be reviewed

	settings func(pipeline, domain string) timetable
	carry    func(*trip) // begins a trip; does not block
	find     func(*hop)  // begins to find out a next hop; does not block
}

// maxAsking bounds how many next hops are being found out at once.
const maxAsking = 256

// maxSites bounds how many next hops are remembered that nothing waits for.
const maxSites = 50_000

func (r *remote) init(most int) {
	r.sites, r.most, r.reviews = make(map[string]*site), most, make(chan string, 10_000)
}

// trip is one part on its way to another server.
type trip struct {
	part  *part
	site  *site // nil: nothing is sent, what is known already is written
	class class
	round int
	never *pipeline.Outcome // the site takes nothing: how it ends without an attempt
	key   pipeline.NextHop
}

// offer lets the next hop know that a hop has something ready.
func (s *schedule) offer(h *hop) {
	if h.queued == 0 {
		return
	}
	if st := h.site; st == nil || h.elem == nil && !h.suspended(s.now()) && s.stale(h) {
		s.ask(h)
		return
	} else if h.elem == nil {
		h.elem = st.turns.PushBack(h)
	}
	s.enlist(h.site)
}

// withdrawIdle takes a hop with nothing ready off its site's list.
func (s *schedule) withdrawIdle(h *hop) {
	if h.queued > 0 || h.elem == nil {
		return
	}
	h.site.turns.Remove(h.elem)
	h.elem = nil
}

// enlist puts a site among those of its class that can begin something.
func (s *schedule) enlist(st *site) {
	if st.turns.Len() == 0 || st.inflight >= st.limit(math.MaxInt) {
		return
	}
	ring := &s.remote.rings[st.class(s.now())]
	if st.elem != nil {
		if st.ring == ring || st.ring == &s.remote.rings[recent] && ring == &s.remote.rings[unknown] { // see demote
			return
		}
		st.delist()
	}
	st.ring = ring
	if last := ring.Back(); ring == &s.remote.rings[recent] && last != nil && last.Value.(*site).fresh.After(st.fresh) {
		st.elem = ring.PushFront(st) // next hops are not found out in the order in which something came
		return
	}
	st.elem = ring.PushBack(st)
}

func (st *site) delist() {
	if st.elem != nil {
		st.ring.Remove(st.elem)
		st.elem = nil
	}
}

// dispatch begins whatever can begin.
func (s *schedule) dispatch() {
	if s.closed {
		return
	}
	r := &s.remote
	for len(r.asks) > 0 && r.asking < maxAsking {
		h := r.asks[0] // the newest and the oldest take turns: a fresh message does not wait behind thousands of them
		if r.lateAsk = !r.lateAsk; r.lateAsk {
			h = r.asks[len(r.asks)-1]
			r.asks = r.asks[:len(r.asks)-1]
		} else {
			r.asks = r.asks[1:]
		}
		r.asking++
		r.find(h)
	}
	for {
		t := s.pick()
		if t == nil {
			return
		}
		r.carry(t)
	}
}

// pick returns the next trip, or nil.
func (s *schedule) pick() *trip {
	now := s.now()
	s.remote.demote(now)
	for c := range classes {
		ring := &s.remote.rings[c]
		for ring.Len() > 0 && s.remote.room(c) {
			st := s.remote.turn(c)
			st.delist()
			if st.class(now) != c { // it is not recent any more
				s.enlist(st)
				continue
			}
			if t := s.begin(st, now); t != nil {
				s.enlist(st)
				return t
			}
		}
	}
	return nil
}

// begin takes the next part of a site, or nil if nothing may begin now: then a later event enlists it again.
func (s *schedule) begin(st *site, now time.Time) *trip {
	const looks = 8 // a domain may have limits of its own
	for range min(st.turns.Len(), looks) {
		h := st.turns.Front().Value.(*hop)
		t := s.remote.settings(h.pipeline, h.domain)
		if !st.may(&t, now) {
			st.turns.MoveToBack(h.elem)
			continue
		}
		if s.stale(h) {
			st.turns.Remove(h.elem)
			h.elem = nil
			s.ask(h)
			continue
		}
		p := h.next()
		if h.queued == 0 {
			st.turns.Remove(h.elem)
			h.elem = nil
		} else {
			st.turns.MoveToBack(h.elem)
		}
		if t.rate > 0 {
			st.tokens--
		}
		p.state = busy
		p.e.busy++
		st.inflight++
		st.used = now
		c := st.class(now)
		s.remote.begun[c]++
		return &trip{part: p, site: st, class: c, round: st.round, never: st.never, key: pipeline.NextHop{Key: st.key}}
	}
	return nil
}

// finish ends a trip: the part is put down, and what the attempt says about the next hop holds for those behind.
func (s *schedule) finish(t *trip, sent *pipeline.Sent, l left, luck float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, h, now := t.site, t.part.hop, s.now()
	if st == nil {
		s.putDown(t.part, l)
		s.dispatch()
		return
	}
	st.inflight--
	s.remote.begun[t.class]--
	tt := s.remote.settings(h.pipeline, h.domain)
	before := st.class(now)
	switch sent.Pace {
	case pipeline.PaceFine:
		st.fine(true, tt.connections)
	case pipeline.PaceSame:
		if t.never == nil && len(sent.Outcomes) > 0 {
			st.fine(false, tt.connections)
		}
	case pipeline.PaceSlow:
		st.slow(sent.Why, now, luck)
	case pipeline.PaceWait:
		if t.round == st.round { // else another one has said so
			st.fail(sent, &tt, now, luck)
			s.suspend(st)
		}
	case pipeline.PaceNever:
		if t.never == nil {
			st.refuse(sent, now)
		}
	}
	if st.class(now) != before {
		st.delist()
	}
	if before == failing && st.failures == 0 {
		s.feed(st)
	}
	s.putDown(t.part, l)
	s.enlist(st)
	s.dispatch()
}

// suspend leaves all that waits for a site on disk, where the loader passes over it without looking at it.
func (s *schedule) suspend(st *site) {
	for h := range st.hops {
		s.cut(h, 0)
	}
	s.remote.suspended(st)
}

// resume lets sites go on whose pause is over.
func (s *schedule) resume(now time.Time) {
	for _, st := range s.remote.sites {
		if !st.until.IsZero() && !now.Before(st.until) {
			st.until, st.never = time.Time{}, nil
			if st.failures > 0 {
				s.feed(st)
			}
		}
		s.enlist(st) // the rate may allow another message
	}
}

// urge ends the suspension of a site, because somebody wants it tried now.
func (s *schedule) urge(st *site) {
	if st.failures > 0 {
		st.until = time.Time{}
		s.feed(st)
		s.enlist(st)
	}
}

// feed asks for what was left on disk for a site.
func (s *schedule) feed(st *site) {
	for h := range st.hops {
		s.wantMore(h)
	}
}

// ask finds out where a hop leads.
func (s *schedule) ask(h *hop) {
	if h.resolving {
		return
	}
	h.resolving = true
	s.remote.asks = append(s.remote.asks, h)
}

// fresh is how long the answer to where a hop leads is believed.
const fresh = 5 * time.Minute

// stale reports whether it has to be found out again where a hop leads.
func (s *schedule) stale(h *hop) bool {
	gone := s.now().Sub(h.asked)
	return gone.Abs() > fresh || h.site.failures > 0 && (h.site.unresolved || gone > time.Minute)
}

// errNoHop is for a Courier that names no next hop.
var errNoHop = errors.New("no next hop was named")

// found ends ask. An error is temporary: then the hop waits as one does whose servers can't be reached.
func (s *schedule) found(h *hop, to pipeline.NextHop, err error, luck float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.remote.asking--
	h.resolving, h.asked, h.used = false, now, now
	if err == nil && to.Key == "" {
		err = errNoHop
	}
	key := to.Key
	if err != nil {
		key = "domain " + h.label[1:]
	}
	st := s.remote.site(key, now)
	s.attach(h, st)
	if err != nil && !st.suspended(now) {
		t := s.remote.settings(h.pipeline, h.domain)
		const first = time.Minute
		t.retry, t.retryMax = min(t.retry, first), max(t.retryMax, first)
		why := "it could not be found out where its mail goes: " + err.Error()
		st.unresolved = true
		st.fail(&pipeline.Sent{Why: why, Outcomes: []pipeline.Outcome{{Kind: pipeline.Delayed, Text: why, Status: "4.4.3"}}}, &t, now, luck)
		s.suspend(st)
	}
	if h.suspended(now) {
		s.cut(h, 0)
	}
	s.offer(h)
	s.wantMore(h)
	s.dispatch()
}

func (s *schedule) attach(h *hop, st *site) {
	if h.site == st {
		return
	}
	if h.elem != nil {
		h.site.turns.Remove(h.elem)
		h.elem = nil
	}
	if h.site != nil {
		delete(h.site.hops, h)
	}
	h.site = st
	st.renew(h.fresh)
	if st.hops == nil {
		st.hops = make(map[*hop]struct{}, 1)
	}
	st.hops[h] = struct{}{}
}

func (r *remote) site(key string, now time.Time) *site {
	st := r.sites[key]
	if st == nil {
		st = &site{key: key}
		r.sites[key] = st
	}
	st.used = now
	return st
}

// forget forgets sites without hops: good ones after an hour, failing ones when their
// suspension is long over, all when there are too many.
func (r *remote) forget(now time.Time) {
	for key, st := range r.sites {
		idle := now.Sub(st.used)
		if len(st.hops) > 0 || st.inflight > 0 || now.Before(st.until.Add(3*time.Hour)) && len(r.sites) < maxSites {
			continue
		}
		if idle > time.Hour || len(r.sites) > maxSites {
			st.delist()
			delete(r.sites, key)
		}
	}
}
