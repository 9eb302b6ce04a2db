package queue

import (
	"context"
	"errors"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/storage"
)

// What waits for a suspended site is not touched: it stays on disk under its due keys. But senders are to be told
// that it is late, and in the end that it failed. So each time a site is suspended again its entries are reviewed. An
// entry's age stands in its ID, and the note of its due key says whether its sender was told; so keys and notes alone say which
// entries can't need a word, and a review of a hundred thousand is a scan of a few megabytes.

// suspended asks for a review of a site.
func (r *remote) suspended(st *site) {
	select {
	case r.reviews <- st.key:
	default: // at the next suspension
	}
}

// review looks through what waits for suspended sites until ctx ends.
func (q *Queue) review(ctx context.Context) {
	defer q.wg.Done()
	look := time.NewTicker(q.Tick)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			var err error
			if q.watchClock() {
				err = q.lookAhead(ctx)
			}
			if err = errors.Join(err, q.reviewLate(ctx)); err != nil && ctx.Err() == nil {
				q.Logger.Error("review failed", "stage", pipeline.StageQueue, "action", "retry", "why", err)
			}
		case key := <-q.remote.reviews:
			for _, h := range q.suspendedHops(key) {
				if err := q.reviewHop(ctx, h); err != nil && ctx.Err() == nil {
					q.Logger.Error("review failed", "stage", pipeline.StageQueue, "action", "retry", "domain", h.domain, "why", err)
				}
			}
		}
	}
}

// parked is a hop whose site is suspended.
type parked struct {
	*hop
	from     place
	until    time.Time
	last     pipeline.Outcome
	pipeline string // of hop then: it changes under schedule.mu
}

func (q *Queue) suspendedHops(key string) (list []parked) {
	s := &q.schedule
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.remote.sites[key]
	if st == nil || !st.suspended(s.now()) {
		return nil
	}
	for h := range st.hops {
		if h.from != nowhere {
			list = append(list, parked{h, h.from, st.until, st.last, h.pipeline})
		}
	}
	return list
}

// reviewHop tells the senders of those messages of a hop that are late or have to be given up.
func (q *Queue) reviewHop(ctx context.Context, h parked) error {
	now := q.Now()
	var last storage.ID
	at := h.from
	t := q.timetable(h.pipeline, h.domain)
	var patience failures
	return q.walkHop(ctx, h.label, h.from, minuteOf(now), func(p place, n note) (bool, error) {
		age := now.Sub(n.began(p.id))
		warn := t.warnAfter > 0 && age >= t.warnAfter && !n.warned
		if p.id == last || !warn && age < t.giveUpAfter {
			return true, ctx.Err()
		}
		last = p.id
		return true, patience.bear(ctx, q.reviewEntry(ctx, h, p)) // those behind one whose notice can't be made are told
	}, &at)
}

// reviewEntry settles those recipients of an entry that are late or have to be given up, without an attempt.
func (q *Queue) reviewEntry(ctx context.Context, h parked, at place) error {
	p, err := q.borrow(ctx, h.label, at)
	if p == nil || err != nil {
		return err
	}
	e, now := p.e, q.Now()
	e.mu.Lock()
	var round []*result
	for _, r := range e.of(p) {
		t := q.timetable(e.Pipeline, r.domain())
		age := now.Sub(e.began(r))
		if r.Next.After(now) || r.unsure && !q.makeSure(ctx, e, r) ||
			age < t.giveUpAfter && (r.Warned || t.warnAfter <= 0 || age < t.warnAfter) {
			continue
		}
		o := h.last
		o.Kind, o.Start = pipeline.Delayed, now
		round = append(round, &result{Recipient: r, outcome: o, parked: h.until})
	}
	if len(round) > 0 {
		_, err = q.settle(ctx, e, round) // the notices wait until that is durable
	}
	l := e.left(p)
	e.mu.Unlock()
	q.rest(p, l)
	return err
}

// borrow takes the part of an entry that a due key names off the schedule, for a moment; nil if somebody is at it.
func (q *Queue) borrow(ctx context.Context, label string, at place) (*part, error) {
	s := &q.schedule
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[at.id]
	h := s.hops[label]
	switch {
	case s.seized[at.id] || s.closed:
		return nil, nil
	case h == nil || !h.suspended(s.now()): // it is tried soon; or nobody knows any more that it is suspended, and it would stay in memory
		return nil, nil
	case e == nil:
		var err error
		if e, err = q.readLive(ctx, at.id); e == nil || err != nil || len(e.recipients) == 0 {
			return nil, err
		}
		s.divide(e)
		s.weigh(e)
		s.entries[at.id] = e
		defer s.forgetIdle(e)
	}
	p := e.part(label)
	if p == nil || p.state != away {
		return nil, nil
	}
	s.home(p)
	p.state = busy
	e.here++
	e.busy++
	p.hop.add(p)
	return p, nil
}
