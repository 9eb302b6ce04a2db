package queue

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/storage/codec"
)

// What is due may wait all the same: for the hours of its destination, a rate, a server that wants less, a free connection.
// It is late then as any other (RFC 3461 section 4.1 speaks of the message, not of a reason), and its sender is told. Nothing else
// changes for it: it keeps its place and its turn, however long that takes, and is not given up untried.

const (
	overdue   = 5 * time.Minute  // due for so long, and still here: somebody looks whether it is late
	lookEvery = 10 * time.Minute // at one hop
	lookPause = time.Minute      // between two rounds
	roundTime = time.Second      // a round takes at most, of a real clock; the others are first in the next
)

// stuck is a hop with something overdue.
type stuck struct {
	*hop
	from     place // the first of it
	looked   time.Time
	pipeline string
}

// reviewLate tells the senders of what is due and late that it is. Suspended hops have reviews of their own.
func (q *Queue) reviewLate(ctx context.Context) error {
	end := time.Now().Add(roundTime)
	var patience failures
	for _, h := range q.stuckHops() {
		if err := q.reviewStuck(ctx, h, end, &patience); err != nil {
			return err
		}
		if time.Now().After(end) {
			break
		}
	}
	return nil
}

// reviewStuck does it for one hop. If there is no time left it goes on in the next round.
func (q *Queue) reviewStuck(ctx context.Context, h stuck, end time.Time, patience *failures) error {
	t := q.timetable(h.pipeline, h.domain)
	now, at := q.Now(), h.from
	var last place
	cut := false
	err := q.walkHop(ctx, h.label, h.from, minuteOf(now), func(p place, n note) (bool, error) {
		if cut = time.Now().After(end); cut || t.warnAfter <= 0 {
			return false, ctx.Err()
		}
		if n.warned || now.Sub(n.began(p.id)) < t.warnAfter || p == last {
			return true, ctx.Err()
		}
		last = p
		return true, patience.bear(ctx, q.tellLate(ctx, h.label, p))
	}, &at)
	if cut {
		now = now.Add(-lookEvery)
	}
	q.mu.Lock()
	h.hop.looked = now
	q.mu.Unlock()
	return err
}

// failures counts entries for which a review failed.
type failures int

// bear lets the others go on when one fails, and ends a review that only fails.
func (f *failures) bear(ctx context.Context, err error) error {
	const most = 10
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	if *f++; *f > most {
		return err
	}
	return nil
}

// stuckHops returns the hops to look at, those first that have waited longest for it; none if it is too early.
func (q *Queue) stuckHops() (list []stuck) {
	s := &q.schedule
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if now.Sub(s.looked).Abs() < lookPause {
		return nil
	}
	s.looked = now
	before := minuteOf(now.Add(-overdue))
	for _, h := range s.hops {
		if h == s.local || h.suspended(now) || h.queued == 0 && h.from == nowhere || now.Sub(h.looked).Abs() < lookEvery {
			continue
		}
		from := h.from
		for _, l := range h.lanes {
			for e := l.parts.Front(); e != nil; e = e.Next() {
				from = earlier(from, e.Value.(*part).place())
			}
		}
		if from.minute < before {
			list = append(list, stuck{h, from, h.looked, h.pipeline})
		}
	}
	slices.SortFunc(list, func(a, b stuck) int { return a.looked.Compare(b.looked) })
	return list
}

// tellLate tells the sender of an entry that those recipients are late whom a due key names. The part stays where it is: its
// place in a line is not touched. While that is done the entry is busy, so nobody seizes or forgets it; an attempt that
// begins meanwhile waits for the entry's lock.
func (q *Queue) tellLate(ctx context.Context, label string, at place) error {
	e, p, w, err := q.pin(ctx, label, at)
	if e == nil || err != nil {
		return err
	}
	defer q.unpin(e)
	e.mu.Lock()
	defer e.mu.Unlock()
	if !q.idle(p) {
		return nil // it tells by itself
	}
	now := q.Now()
	var round []*result
	for _, r := range e.of(p) {
		t := q.timetable(e.Pipeline, r.domain())
		if r.Warned || r.ended != nil || r.Next.After(now) || t.warnAfter <= 0 || now.Sub(e.began(r)) < t.warnAfter || r.unsure && !q.makeSure(ctx, e, r) {
			continue
		}
		one := &result{Recipient: r, outcome: w.outcome(r.domain()), still: true}
		q.decide(e, one, nil, now, 0)
		round = append(round, one)
	}
	if len(round) == 0 {
		return nil
	}
	if _, err = q.settleAll(ctx, e, round); err != nil { // the notice waits until that is durable
		q.Logger.Error("settling failed", "id", e.ID, "stage", pipeline.StageQueue, "action", "retry", "why", err)
	}
	return err
}

// pin keeps an entry in memory for a moment, wherever its part is; nil if somebody is at it.
func (q *Queue) pin(ctx context.Context, label string, at place) (*live, *part, Wait, error) {
	s := &q.schedule
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[at.id]
	switch {
	case s.seized[at.id] || s.closed || e != nil && e.committing:
		return nil, nil, Wait{}, nil
	case e == nil:
		var err error
		e, err = q.readLive(ctx, at.id)
		if errors.Is(err, codec.ErrDamaged) { // the loader has told of it
			return nil, nil, Wait{}, nil
		}
		if e == nil || err != nil || len(e.recipients) == 0 {
			return nil, nil, Wait{}, err
		}
		s.divide(e)
		s.weigh(e)
		s.entries[at.id] = e
		defer s.forgetIdle(e)
	}
	p := e.part(label)
	if p == nil || p.state == busy || p.state == over || p.known {
		return nil, nil, Wait{}, nil
	}
	e.busy++
	e.here++
	return e, p, s.waitOf(label, p, p.due), nil
}

func (q *Queue) unpin(e *live) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.busy--
	e.here--
	q.forgetIdle(e)
}

// idle reports whether nobody is at a part.
func (q *Queue) idle(p *part) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return p.state != busy && p.state != over
}

// outcome is what a sender is told who waits so. Names of servers and settings are not his.
func (w *Wait) outcome(domain string) pipeline.Outcome {
	o := pipeline.Outcome{Kind: pipeline.Delayed, Status: "4.4.5"} // RFC 3463 section 3.5: mail system congestion
	switch w.For {
	case WaitHours:
		o.Status = "4.4.0"
		o.Text = "Mail for " + domain + " is sent at certain hours only. It will be sent from " + w.Until.Format("2 Jan 2006 15:04 -0700") + " on."
	case WaitRate:
		o.Text = "Mail for " + domain + " is sent at a limited rate, and there is more than that. It has its turn, and is sent then."
	case WaitPause:
		o.Text = "The other server wants less mail from us at the moment: " + w.Last
	case WaitHop:
		o.Status, o.Text = "4.4.1", "The other server could not be reached: "+w.Last
	default:
		o.Text = "There is much mail for " + domain + " or from this server at the moment. It has its turn, and is sent then."
	}
	return o
}
