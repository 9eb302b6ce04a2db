package queue

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/storage"
)

// Wait says what a recipient's mail waits for.
type Wait struct {
	For     string    `json:"for"`                // one of the words below
	Why     string    `json:"why"`                // a sentence for the administrator
	NextHop string    `json:"next_hop,omitempty"` // a key of Sites, where that is what it waits for
	Since   time.Time `json:"since,omitzero"`
	Until   time.Time `json:"until,omitzero"` // zero: nobody knows
	Last    string    `json:"last,omitempty"` // what was said at the last attempt, of this mail or another for the same next hop
}

// What mail waits for.
const (
	WaitRelease    = "release"    // somebody's hand: it is held, or in quarantine
	WaitRetry      = "retry"      // its own next attempt
	WaitHop        = "next hop"   // a server that can't be reached
	WaitPause      = "pause"      // a server that wants less of us
	WaitHours      = "hours"      // the hours of its destination
	WaitRate       = "rate"       // the rate of its destination
	WaitConnection = "connection" // a connection: all that its next hop may have are in use
	WaitAddress    = "address"    // the answer where its mail goes
	WaitTurn       = "turn"       // others that are before it
	WaitEnd        = "end"        // nothing: it is on its way right now
	WaitServer     = "server"     // a server that runs
)

// Show returns one entry with what each of its recipients waits for, or ErrNotFound. On a queue that was not started it says what
// the store says.
func (q *Queue) Show(ctx context.Context, id storage.ID) (Item, error) {
	item, err := Show(ctx, q.Store.KV(), id)
	if err != nil {
		return item, err
	}
	entry, recipients, err := readEntry(ctx, q.Store.KV(), id)
	if err != nil || len(recipients) != len(item.Recipients) { // unreadable, as the item says, or just changed
		return item, nil
	}
	story, _ := trace.Get(ctx, q.Store.KV(), id)
	for i := range recipients {
		w := q.waits(&entry, &recipients[i])
		w.from(story, &entry, &recipients[i])
		item.Recipients[i].Waits = &w
	}
	return item, nil
}

// waits says what a recipient waits for. Since and Last are those of the next hop, where that is it.
func (q *Queue) waits(e *Entry, r *Recipient) Wait {
	now := q.Now()
	switch {
	case r.state() == stateQuarantined:
		return Wait{For: WaitRelease, Why: "it is in quarantine until somebody releases or removes it"}
	case r.state() == stateHeld:
		return Wait{For: WaitRelease, Why: "it is held until somebody releases or removes it"}
	}
	label := hopOf(&r.Hop)
	t := q.timetable(e.Pipeline, r.domain())
	if !q.Started() {
		if r.Next.After(now) {
			return Wait{For: WaitRetry, Why: "its next attempt", Until: t.open(r.Next)}
		}
		return Wait{For: WaitServer, Why: "the server does not run"}
	}
	s := &q.schedule
	s.mu.Lock()
	defer s.mu.Unlock()
	var p *part
	if live := s.entries[e.ID]; live != nil {
		p = live.part(label)
	}
	if label != localHop && s.hops[label] == nil && (!t.within(now) || r.Next.After(now)) {
		return t.waits(r.Next, now) // nobody has to know the hop before
	}
	return s.waitOf(label, p, r.Next)
}

// waits is what mail waits for that is not due, or not in its hours.
func (t *timetable) waits(due, now time.Time) Wait {
	until := t.open(later(due, now))
	if !t.within(now) || !t.within(later(due, now)) {
		return Wait{For: WaitHours, Why: "the hours in which its destination may be tried", Until: until}
	}
	return Wait{For: WaitRetry, Why: "its next attempt", Until: until}
}

// waitOf says what a part waits for that is due then; p is nil for one that is on disk alone. The lock is held.
func (s *schedule) waitOf(label string, p *part, due time.Time) Wait {
	now := s.now()
	h := s.hops[label]
	switch {
	case p != nil && p.state == busy:
		return Wait{For: WaitEnd, Why: "it is being delivered"}
	case h == s.local && due.After(now):
		return Wait{For: WaitRetry, Why: "its next attempt", Until: due}
	case h == nil || h == s.local:
		return Wait{For: WaitTurn, Why: "others are before it"}
	}
	t := s.remote.settings(h.pipeline, h.domain)
	st := h.site
	switch {
	case st != nil && st.suspended(now):
		return Wait{For: WaitHop, Why: "its next hop can't be reached", NextHop: st.key, Since: st.sinceFor(due, now), Until: later(st.until, due), Last: st.said()}
	case due.After(now), !t.within(now):
		return t.waits(due, now)
	case st == nil || h.resolving:
		return Wait{For: WaitAddress, Why: "it is being found out where its mail goes"}
	}
	return st.holds(&t, due, now)
}

// holds says why a site does not take what is due.
func (st *site) holds(t *timetable, due, now time.Time) Wait {
	w := Wait{NextHop: st.key, Since: due}
	switch limit := st.limit(t.connections); {
	case now.Before(st.until) && st.never == nil:
		w.For, w.Why, w.Since, w.Until, w.Last = WaitPause, "its next hop wants less of us", st.sinceFor(due, now), st.until, st.why
	case st.failures > 0:
		w.For, w.Why, w.Since, w.Last = WaitHop, "its next hop could not be reached, and is being tried again with one message at a time", st.sinceFor(due, now), st.said()
	case t.rate > 0 && st.fill(t.rate, now) < 1:
		w.For, w.Why = WaitRate, fmt.Sprintf("no more than %s leave for its next hop", perTime(t.rate))
	case st.inflight >= limit:
		w.For, w.Why = WaitConnection, fmt.Sprintf("all %d connections that its next hop may have are in use", limit)
	default:
		w.For, w.Why = WaitTurn, "others are before it"
	}
	return w
}

// perTime writes a rate in the unit in which it is a whole number.
func perTime(perSecond float64) string {
	for _, unit := range []struct {
		name    string
		seconds float64
	}{{"second", 1}, {"minute", 60}, {"hour", 3600}} {
		if n := perSecond * unit.seconds; n >= 1 && math.Abs(n-math.Round(n)) < 1e-6 {
			return fmt.Sprintf("%.0f messages a %s", n, unit.name)
		}
	}
	return fmt.Sprintf("%.0f messages a day", perSecond*86400)
}

// sinceFor is since when something waits for a site as it is: since it was due, if it came to that later.
func (st *site) sinceFor(due, now time.Time) time.Time {
	if due.After(now) {
		return st.since
	}
	return later(st.since, due)
}

// said is what was said at the last attempt that failed.
func (st *site) said() string {
	if st.last.Text != "" {
		return st.last.Text
	}
	return st.why
}

// from fills in what the store knows: since when it is so, and what the last attempt of this very mail has heard.
func (w *Wait) from(story *trace.Story, e *Entry, r *Recipient) {
	if w.Last == "" {
		w.Last = r.Last
	}
	if !w.Since.IsZero() {
		return
	}
	w.Since = e.Received
	if story == nil {
		return
	}
	for _, event := range story.Events {
		mine := event.Recipient == r.Address && (event.Stage == pipeline.StageDeliver || event.Stage == pipeline.StageQueue)
		switch event.Action {
		case "notified", "not notified", "waits":
			continue // it has not moved
		}
		if mine && event.At.After(w.Since) {
			w.Since = event.At
		}
	}
}
