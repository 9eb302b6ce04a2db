package queue

import (
	"container/list"
	"slices"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline"
)

// site is one next hop: what has the same NextHop.Key. It is guarded by schedule.mu.
//
// It begins with one connection. Each message that it takes allows one more, up to the limit; when it has once said
// that it wants less (PaceSlow), half as many and a short pause, and from then on it grows by one for as many messages as
// it has connections. One that can't be reached (PaceWait) is suspended, longer each time, and then tried
// with one connection until it has answered.
type site struct {
	key        string
	allowed    float64 // connections at once
	slowed     bool    // it has said that it wants less
	pauses     int     // of them in a row
	proven     bool    // it has answered since we know it
	failures   int     // in a row
	unresolved bool    // it stands for a domain of which nobody could say where its mail goes
	round      int     // counts suspensions: what was begun before one does not count as another
	inflight   int
	used       time.Time
	fresh      time.Time // when something new came for it

	since time.Time // it is as it is: slow, or not to be reached
	until time.Time // nothing is begun before
	why   string    // it can't be used, or is slow
	last  pipeline.Outcome
	never *pipeline.Outcome // it takes no mail at all: how everything ends until then

	tokens float64 // messages that may leave at once, where the rate is limited
	filled time.Time

	hops  map[*hop]struct{}
	turns list.List     // of *hop with something ready: fairness between domains
	elem  *list.Element // in remote.rings, while something can be begun
	ring  *list.List
}

// The first pause of a site that wants less of us, and the longest.
const firstPause, longestPause = time.Second, time.Minute

func (st *site) suspended(now time.Time) bool {
	return st.failures > 0 && st.never == nil && now.Before(st.until)
}

// limit is how many connections it may have at once; most is the configured limit.
func (st *site) limit(most int) int {
	if !st.proven || st.failures > 0 {
		return 1
	}
	return max(1, min(int(st.allowed), most))
}

// may reports whether a message of this hop may be begun.
func (st *site) may(t *timetable, now time.Time) bool {
	if !t.within(now) || now.Before(st.until) && st.never == nil || st.inflight >= st.limit(t.connections) {
		return false
	}
	return t.rate == 0 || st.fill(t.rate, now) >= 1
}

// fill adds what the rate allows since the last time; two seconds' worth may be taken at once.
func (st *site) fill(rate float64, now time.Time) float64 {
	if st.filled.IsZero() {
		st.tokens = max(1, rate)
	} else if gone := now.Sub(st.filled).Seconds(); gone > 0 {
		st.tokens = min(st.tokens+gone*rate, max(1, 2*rate))
	}
	st.filled = now
	return st.tokens
}

// fine takes note of an answer; taken means that it took a message.
func (st *site) fine(taken bool, most int) {
	if st.failures > 0 || st.never != nil {
		st.failures, st.never, st.until = 0, nil, time.Time{}
	}
	st.proven, st.why = true, ""
	st.allowed = max(st.allowed, 1)
	if !taken {
		return
	}
	st.pauses = 0
	if st.slowed {
		st.allowed += 1 / st.allowed
	} else {
		st.allowed++
	}
	st.allowed = min(st.allowed, float64(most))
}

// slow takes note that it wants less of us.
func (st *site) slow(why string, now time.Time, luck float64) {
	st.proven, st.slowed, st.why = true, true, why
	if now.Before(st.until) {
		return // others have said so already
	}
	if st.pauses == 0 {
		st.since = now
	}
	st.allowed = max(1, st.allowed/2)
	pause := min(firstPause<<min(st.pauses, 10), longestPause)
	st.pauses++
	st.until = now.Add(spread(pause, luck))
}

// fail suspends it.
func (st *site) fail(s *pipeline.Sent, t *timetable, now time.Time, luck float64) {
	if st.failures == 0 {
		st.since = now
	}
	st.failures++
	st.round++
	st.allowed, st.slowed = 1, false
	st.why, st.last = s.Why, pipeline.Outcome{Kind: pipeline.Delayed, Text: s.Why}
	for _, o := range s.Outcomes {
		if o.Kind == pipeline.Delayed {
			st.last = o
		}
	}
	st.until = t.open(now.Add(spread(t.wait(st.failures), luck)))
}

// refuse takes note that it takes no mail at all: all that waits for it ends the same way.
func (st *site) refuse(s *pipeline.Sent, now time.Time) {
	const believed = time.Minute
	for _, o := range s.Outcomes {
		if o.Kind == pipeline.Failed {
			o.Start = time.Time{}
			st.never, st.why, st.until = &o, s.Why, now.Add(believed)
		}
	}
}

// renew takes note that something has come for it.
func (st *site) renew(at time.Time) {
	if !at.After(st.fresh) {
		return
	}
	st.fresh = at
	if st.elem != nil && !st.proven && st.failures == 0 { // the newest is at the back
		st.ring.MoveToBack(st.elem)
	}
}

// Site describes one next hop for `sluice queue sites`.
type Site struct {
	Key      string    `json:"key"`
	State    string    `json:"state"` // new, good, slow, suspended, recovering, refuses
	InFlight int       `json:"in_flight"`
	Limit    int       `json:"limit"`   // connections at once
	Waiting  int       `json:"waiting"` // messages in memory that are due
	More     bool      `json:"more"`    // others are on disk
	Domains  int       `json:"domains"`
	Next     time.Time `json:"next,omitzero"`
	Why      string    `json:"why,omitempty"`
}

func (st *site) state(now time.Time) string {
	switch {
	case st.never != nil:
		return "refuses"
	case st.suspended(now):
		return "suspended"
	case st.failures > 0:
		return "recovering"
	case !st.proven:
		return "new"
	case now.Before(st.until):
		return "slow"
	}
	return "good"
}

// Sites returns the next hops that the queue knows, in order of their keys.
func (q *Queue) Sites() []Site {
	s := &q.schedule
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	all := make([]Site, 0, len(s.remote.sites))
	for _, st := range s.remote.sites {
		one := Site{
			Key: st.key, State: st.state(now), InFlight: st.inflight, Limit: st.limit(max(int(st.allowed), 1)),
			Domains: len(st.hops), Why: st.why,
		}
		if now.Before(st.until) {
			one.Next = st.until
		}
		for h := range st.hops {
			one.Waiting += h.queued
			one.More = one.More || h.from != nowhere
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Site) int { return strings.Compare(a.Key, b.Key) })
	return all
}
