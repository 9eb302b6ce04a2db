package queue_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
)

func mustID(t *testing.T, s string) storage.ID {
	t.Helper()
	id, err := storage.ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// atThree is a clock at three in the night.
func atThree() *clock {
	c := newClock()
	now := c.Now()
	c.add(time.Date(now.Year(), now.Month(), now.Day()+1, 3, 0, 0, 0, time.Local).Sub(now))
	return c
}

// TestWhatItWaitsFor: of each recipient it is said what it waits for, since when, until when, and what was said last.
func TestWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	c := atThree()
	hold := make(chan struct{})
	r, w := newRemoteRig(t, func(o *queue.Options) {
		o.Now = c.Now
		o.Jitter = func() float64 { return 0 }
		o.Destination = func(_, domain string) queue.Destination {
			switch domain {
			case "hours.example":
				return queue.Destination{Windows: []string{"05:00-06:00"}}
			case "rate.example":
				return queue.Destination{Rate: "1/h"}
			case "narrow.example":
				return queue.Destination{Connections: 1}
			}
			return queue.Destination{}
		}
	})
	w.set(func() { w.lost["lost.example"] = fmt.Errorf("SERVFAIL") })
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		later := pipeline.Outcome{Kind: pipeline.Delayed, Text: "451 4.7.1 later"}
		switch p.Domain {
		case "dead.example":
			return unreachable(p), nil
		case "later.example":
			return all(p, later, pipeline.PaceSame), nil
		case "pause.example":
			return all(p, later, pipeline.PaceSlow), nil
		case "narrow.example":
			<-hold
		}
		return took(p), nil
	}
	defer close(hold)
	begin := c.Now()
	send := func(domain string) string {
		return r.send(t, domain, func(m *pipeline.Message) { m.Received = c.Now() }, to("a@"+domain)).ID.String()
	}
	first := map[string]string{}
	for _, domain := range []string{"dead.example", "rate.example", "narrow.example", "lost.example", "pause.example", "later.example", "hours.example"} {
		first[domain] = send(domain)
	}
	is := func(id, what string) queue.Wait {
		t.Helper()
		eventually(t, what, func() bool {
			for _, i := range r.list(t) {
				if i.ID == id {
					return r.waits(t, id).For == what
				}
			}
			return false
		})
		return r.waits(t, id)
	}
	eventually(t, "the one that may go", func() bool { return w.counts()["rate.example to a@rate.example"] == 1 })
	is(first["narrow.example"], queue.WaitEnd)
	is(first["dead.example"], queue.WaitHop)
	is(first["lost.example"], queue.WaitHop)
	is(first["later.example"], queue.WaitRetry)
	eventually(t, "the pause", func() bool { return r.site("mx.pause.example").State == "slow" })
	c.add(100 * time.Millisecond)
	for _, want := range []struct {
		id, word, last string
		since, until   time.Time
	}{
		{first["dead.example"], queue.WaitHop, "connection timed out", begin, begin.Add(15 * time.Minute)}, // which was tried
		{send("dead.example"), queue.WaitHop, "connection timed out", c.Now(), begin.Add(15 * time.Minute)},
		{first["later.example"], queue.WaitRetry, "451 4.7.1 later", begin, begin.Add(15 * time.Minute)},
		{first["hours.example"], queue.WaitHours, "", begin, begin.Add(2 * time.Hour)},
		{send("rate.example"), queue.WaitRate, "", c.Now(), time.Time{}},
		{send("narrow.example"), queue.WaitConnection, "", c.Now(), time.Time{}},
		{first["lost.example"], queue.WaitHop, "it could not be found out where its mail goes: SERVFAIL", begin, begin.Add(time.Minute)},
	} {
		w := is(want.id, want.word)
		if w.Last != want.last || !w.Until.Equal(want.until) || w.Since.Sub(want.since).Abs() > time.Second || w.Why == "" {
			t.Errorf("%+v, want %+v", w, want)
		}
	}
	if w := is(send("pause.example"), queue.WaitPause); w.Until.Sub(begin) != time.Second || w.Last != "451 4.7.1 later" {
		t.Errorf("%+v", w)
	}
	held := send("hours.example")
	r.do(t, mustID(t, held), queue.Hold, 1)
	if w := is(held, queue.WaitRelease); !strings.Contains(w.Why, "held") {
		t.Errorf("%+v", w)
	}
}

// TestLateForALimit: mail that waits for a rate or for hours is late after four hours as any other; its sender is told once, why, and
// it keeps its turn.
func TestLateForALimit(t *testing.T) {
	t.Parallel()
	for name, d := range map[string]queue.Destination{
		"rate":  {Rate: "2/d"},
		"hours": {Windows: []string{"00:00-01:00"}}, // it is three
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := atThree()
			told := make(chan string, 1000)
			r, w := newRemoteRig(t, func(o *queue.Options) {
				o.Now, o.Notify = c.Now, &reasoner{told}
				o.Destination = func(string, string) queue.Destination { return d }
			})
			const n = 4
			for i := range n {
				r.send(t, fmt.Sprint("m", i), func(m *pipeline.Message) { m.Origin, m.Received = sdk.Login, c.Now() }, to("a@example.net"))
			}
			waiting := n
			if name == "rate" { // one may go at once
				eventually(t, "the first", func() bool { return len(w.received()) == 1 })
				waiting--
			}
			for range 3 {
				c.add(time.Hour)
				time.Sleep(60 * time.Millisecond)
			}
			if len(told) != 0 {
				t.Errorf("%q after three hours", <-told)
			}
			c.add(90 * time.Minute)
			eventually(t, "the notices", func() bool { c.add(time.Second); return len(told) == waiting })
			word := map[string]string{"rate": "limited rate", "hours": "certain hours"}[name]
			for range waiting {
				if text := <-told; !strings.HasPrefix(text, "2 a ") || !strings.Contains(text, word) {
					t.Errorf("told %q", text)
				}
			}
			for range 19 * 2 {
				c.add(time.Hour)
				time.Sleep(30 * time.Millisecond)
			}
			for range 72 {
				c.add(time.Hour)
			}
			eventually(t, "the end", func() bool { c.add(time.Hour); return len(w.received()) == n })
			if got := w.received(); len(told) != 0 || got[0] != "m0 to a@example.net" {
				t.Errorf("%d were told again; they came as %q", len(told), got)
			}
		})
	}
}

// reasoner notes what is told, and tells nobody.
type reasoner struct{ told chan string }

func (r *reasoner) Notice(_ context.Context, n *queue.Notice) (*pipeline.Message, string, error) {
	for _, a := range n.About {
		local, _, _ := strings.Cut(a.Recipient.Hop.Address, "@")
		r.told <- fmt.Sprintf("%d %s %s: %s", a.Kind, local, a.Outcome.Status, a.Outcome.Text)
	}
	return nil, "nobody is told", nil
}

// TestReleasedHasATimeOfItsOwn: what is released from quarantine after give_up_after is tried for as long as new mail, and its
// sender is told after four hours and after five days, both from the release on.
func TestReleasedHasATimeOfItsOwn(t *testing.T) {
	t.Parallel()
	c := newClock()
	told := make(chan string, 1000)
	r, w := newRemoteRig(t, func(o *queue.Options) { o.Now, o.Notify = c.Now, &reasoner{told} })
	var dead atomic.Bool
	var tries atomic.Int32
	dead.Store(true)
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		tries.Add(1)
		if dead.Load() {
			return all(p, pipeline.Outcome{Kind: pipeline.Delayed, Text: "451 later"}, pipeline.PaceSame), nil
		}
		return unreachable(p), nil
	}
	kept := pipeline.Hop{Kind: pipeline.HopQuarantine, Address: "a@example.net", Why: "score 7"}
	a := r.send(t, "a", func(m *pipeline.Message) { m.Origin = sdk.Login }, kept)
	c.add(30 * 24 * time.Hour)
	r.do(t, a.ID, queue.ReleaseQuarantined, 1)
	eventually(t, "an attempt", func() bool { return tries.Load() == 1 })
	begin := c.Now()
	late, failed := time.Duration(0), time.Duration(0)
	for hour := 0; hour < 6*24 && failed == 0; hour++ {
		c.add(time.Hour)
		if hour == 10 {
			dead.Store(false) // from now on it is the site that waits
		}
		time.Sleep(30 * time.Millisecond)
		for len(told) > 0 {
			if one := <-told; strings.HasPrefix(one, "2") {
				late = c.Now().Sub(begin)
			} else {
				failed = c.Now().Sub(begin)
			}
		}
	}
	if late < 4*time.Hour || late > 7*time.Hour || failed < 5*24*time.Hour || failed > 5*24*time.Hour+4*time.Hour {
		t.Errorf("late after %s, failed after %s, %d attempts", late, failed, tries.Load())
	}
	if n := tries.Load(); n < 20 {
		t.Errorf("%d attempts", n)
	}
}

// TestReleasedBehindADeadHop: nothing of it is tried, but the review knows that its time began with the release.
func TestReleasedBehindADeadHop(t *testing.T) {
	t.Parallel()
	c := newClock()
	told := make(chan string, 1000)
	r, w := newRemoteRig(t, func(o *queue.Options) { o.Now, o.Notify = c.Now, &reasoner{told} })
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) { return unreachable(p), nil }
	kept := pipeline.Hop{Kind: pipeline.HopQuarantine, Address: "a@example.net", Why: "score 7"}
	a := r.send(t, "a", func(m *pipeline.Message) { m.Origin = sdk.Login }, kept)
	c.add(24 * time.Hour)
	r.send(t, "probe", func(m *pipeline.Message) { m.Origin, m.Sender, m.Received = sdk.Login, "", c.Now() }, to("z@example.net"))
	eventually(t, "the suspension", func() bool { return r.site("mx.example.net").State == "suspended" })
	begin := c.Now()
	r.do(t, a.ID, queue.ReleaseQuarantined, 1)
	var late, failed time.Duration
	for hour := 0; hour < 6*24 && failed == 0; hour++ {
		c.add(time.Hour)
		time.Sleep(30 * time.Millisecond)
		for len(told) > 0 {
			if one := <-told; strings.HasPrefix(one, "2") {
				late = c.Now().Sub(begin)
			} else {
				failed = c.Now().Sub(begin)
			}
		}
	}
	if late < 4*time.Hour || late > 7*time.Hour || failed < 5*24*time.Hour || failed > 5*24*time.Hour+4*time.Hour {
		t.Errorf("late after %s, failed after %s", late, failed)
	}
}
