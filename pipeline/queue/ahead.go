package queue

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/storage"
)

// A clock may have been ahead when an attempt was put off: then the next one is days away when the clock is right again. So at the
// start, when the clock is seen to go back, and every hour, what is due later than it can have been decided is due now.

const (
	aheadEvery = time.Hour
	aheadAgain = time.Minute // after somebody was busy
	setBack    = time.Minute // a clock that goes back by more was ahead
)

// tooFar is why something is brought forward.
const tooFar = "its next attempt was farther away than any is put off: the clock was ahead when it was written, or retry_max was longer"

// bringForward is what is done to what waits for too long.
const bringForward Verb = "bring forward"

// farthest is how far away a next attempt can be that was decided now, with some room.
func (t *timetable) farthest() time.Duration {
	d := t.retryMax + t.retryMax/8 + time.Minute
	if len(t.windows) > 0 {
		const day = 25 * time.Hour // the longest
		d += day
	}
	return d
}

// watch is what is known of the clock.
type watch struct {
	clock   time.Time // when somebody looked at it last
	forward time.Time // when somebody looked for what is too far away
}

// watchClock sees whether the clock went back, and says whether somebody has to look for what is too far away.
func (q *Queue) watchClock() (look bool) {
	now := q.Now().Round(0) // the clock on the wall is what is written
	w := &q.watch
	if back := w.clock.Sub(now); !w.clock.IsZero() && back > setBack {
		q.Logger.Warn("the clock went back", "stage", pipeline.StageQueue, "action", "look", "why", back.String())
		w.forward = time.Time{}
	}
	w.clock = now
	if !w.forward.IsZero() && now.Sub(w.forward) < aheadEvery {
		return false
	}
	w.forward = now
	q.schedule.endPauses(now)
	return true
}

// endPauses ends what was decided by a clock that was ahead.
func (s *schedule) endPauses(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.remote.sites {
		for h := range st.hops {
			t := s.remote.settings(h.pipeline, h.domain)
			if st.until.Sub(now) > t.farthest() {
				st.until = now // it is tried, and put off by the clock as it is
			}
			break
		}
		st.fresh, st.used = earlierTime(st.fresh, now), earlierTime(st.used, now)
	}
	for _, h := range s.hops {
		h.fresh, h.used = earlierTime(h.fresh, now), earlierTime(h.used, now)
	}
	for _, p := range s.waiting {
		if p.known && p.due.Sub(now) > horizon { // nobody has to be asked for it, and nobody else may have it
			p.due = now
		}
	}
	s.waiting.init()
}

func earlierTime(a, b time.Time) time.Time {
	if a.After(b) {
		return b
	}
	return a
}

// lookAhead lets what is too far away be due now.
func (q *Queue) lookAhead(ctx context.Context) error {
	least := timetable{retryMax: DefaultConfig().RetryMax.Std()}
	from := dueBound(minuteOf(q.Now().Add(least.farthest())))
	to := append([]byte(duePrefix[:len(duePrefix)-1]), '/'+1)
	task := Task{Verb: bringForward}
	task.meant = func(e *Entry, r *Recipient) bool {
		t := q.timetable(e.Pipeline, r.domain())
		return r.Next.Sub(q.Now()) > t.farthest()
	}
	brought := 0
	for {
		keys, err := q.keys(ctx, from, to, pageEntries)
		if err != nil || len(keys) == 0 {
			if brought > 0 {
				q.Logger.Warn("brought forward", "stage", pipeline.StageQueue, "action", "retry", "messages", brought, "why", tooFar)
			}
			return err
		}
		var last storage.ID
		for _, found := range keys {
			if _, p, _, ok := parseDue(found.key); ok && p.id != last {
				last = p.id
				n, err := q.forward(ctx, p.id, &task)
				if err != nil {
					return err
				}
				brought += n
			}
		}
		from = append(bytes.Clone(keys[len(keys)-1].key), 0)
	}
}

// forward does it to one entry, and returns 1 if there was something to do. Who is busy is looked at again in a minute.
func (q *Queue) forward(ctx context.Context, id storage.ID, t *Task) (int, error) {
	entry, recipients, err := readEntry(ctx, q.Store.KV(), id)
	if err != nil { // gone, or damaged; the store's failures show elsewhere
		return 0, ctx.Err()
	}
	meant := false
	for i := range recipients {
		meant = meant || t.concerns(&entry, &recipients[i])
	}
	if !meant {
		return 0, ctx.Err()
	}
	if !q.schedule.seize(id) {
		q.watch.forward = q.Now().Round(0).Add(aheadAgain - aheadEvery)
		return 0, ctx.Err()
	}
	_, _, err = q.byHand(ctx, id, t)
	q.giveBack(ctx, id, false)
	switch {
	case err == nil:
		return 1, nil
	case errors.Is(err, ErrNothing), errors.Is(err, ErrNotFound):
		return 0, nil
	}
	return 0, err
}
