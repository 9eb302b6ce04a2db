package queue_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
)

// TestTheClockWasAhead: what was put off by a clock that was ten days ahead does not wait for ten days, whether the clock is set
// back under a running server or before a start. What is put off as it should be stays.
func TestTheClockWasAhead(t *testing.T) {
	t.Parallel()
	const ahead = 10 * 24 * time.Hour
	for _, restart := range []bool{false, true} {
		c := newClock()
		var sick atomic.Bool
		sick.Store(true)
		now := func(m *pipeline.Message) { m.Received = c.Now() }
		set := func(o *queue.Options) { o.Now = func() time.Time { c.add(time.Microsecond); return c.Now() } }
		r, w := newRemoteRig(t, set)
		w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
			switch {
			case p.Domain == "later.example":
				return all(p, pipeline.Outcome{Kind: pipeline.Delayed, Text: "451 later"}, pipeline.PaceSame), nil
			case !sick.Load():
				return took(p), nil
			case p.Domain == "dead.example":
				return unreachable(p), nil
			}
			return all(p, pipeline.Outcome{Kind: pipeline.Delayed, Text: "451 later"}, pipeline.PaceSame), nil
		}
		c.add(ahead)
		one := r.send(t, "one", now, to("a@example.net"), to("b@dead.example"))
		two := r.send(t, "two", now, to("c@dead.example"))
		eventually(t, "an attempt of each", func() bool {
			return r.waits(t, one.ID.String()).For == queue.WaitRetry && r.waits(t, two.ID.String()).For == queue.WaitHop
		})
		if restart {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := r.queue.Stop(ctx); err != nil {
				t.Fatal(err)
			}
		}
		sick.Store(false)
		c.add(-ahead)
		if restart {
			o := options(r.store)
			o.Courier = w
			set(&o)
			r.queue = queue.New(o)
			if err := r.queue.Start(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		later := r.send(t, "later", now, to("d@later.example"))
		eventually(t, "delivery", func() bool { c.add(time.Second); return len(w.received()) == 3 })
		got := w.received()
		slices.Sort(got)
		if !slices.Equal(got, []string{"one to a@example.net", "one to b@dead.example", "two to c@dead.example"}) {
			t.Errorf("restart %v: %q", restart, got)
		}
		if got := r.actions(t, one.ID); strings.Count(got, "brought forward") == 0 {
			t.Errorf("restart %v: the trace says %q", restart, got)
		}
		eventually(t, "an attempt", func() bool { return r.waits(t, later.ID.String()).For == queue.WaitRetry })
		if got := r.actions(t, later.ID); strings.Contains(got, "brought forward") {
			t.Errorf("restart %v: the trace says %q", restart, got)
		}
	}
}

// TestHoursAreNotTooFar: mail that waits for tomorrow's hours is not brought forward.
func TestHoursAreNotTooFar(t *testing.T) {
	t.Parallel()
	c := atThree()
	r, _ := newRemoteRig(t, func(o *queue.Options) {
		o.Now = c.Now
		o.Config = func(string) queue.Config { c := queue.DefaultConfig(); c.WarnAfter = 0; return c }
		o.Destination = func(string, string) queue.Destination { return queue.Destination{Windows: []string{"01:00-02:00"}} }
	})
	m := r.commit(t, "m", to("a@example.net"))
	next := r.list(t)[0].Recipients[0].Next
	for range 3 {
		c.add(61 * time.Minute)
		time.Sleep(50 * time.Millisecond)
	}
	if got := r.actions(t, m.ID); got != "queued" || !r.list(t)[0].Recipients[0].Next.Equal(next) {
		t.Errorf("the trace says %q", got)
	}
}
