package queue_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/sdk"
)

// site returns what the queue says about a next hop.
func (r *rig) site(key string) queue.Site {
	for _, s := range r.queue.Sites() {
		if s.Key == key {
			return s
		}
	}
	return queue.Site{}
}

// TestSuspendedSite: one attempt says that a server is down; what waits behind is not tried, not counted and not
// written, and all goes when the server is back.
func TestSuspendedSite(t *testing.T) {
	const n = 30
	c := newClock()
	var down atomic.Bool
	var tries atomic.Int32
	down.Store(true)
	r, w := newRemoteRig(t, func(o *queue.Options) {
		o.Now = c.Now
		o.Jitter = func() float64 { return 0 }
	})
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		tries.Add(1)
		if down.Load() {
			return unreachable(p), nil
		}
		return took(p), nil
	}
	for i := range n {
		r.commit(t, fmt.Sprint("m", i), to("a@example.net"))
	}
	eventually(t, "the suspension", func() bool { return r.site("mx.example.net").State == "suspended" })
	for i := range n {
		r.commit(t, fmt.Sprint("late", i), to("a@example.net"))
	}
	time.Sleep(50 * time.Millisecond)
	if tries.Load() != 1 {
		t.Errorf("%d attempts", tries.Load())
	}
	s := r.site("mx.example.net")
	if !strings.Contains(s.Why, "timed out") || s.Next.Sub(c.Now()) != 15*time.Minute || !s.More {
		t.Errorf("%+v", s)
	}
	if in, _ := r.queue.Depth(); in > 2 {
		t.Errorf("%d entries in memory", in)
	}
	late := r.list(t)[n]
	if w := r.waits(t, late.ID); w.For != queue.WaitHop || w.NextHop != "mx.example.net" || !strings.Contains(w.Last, "timed out") ||
		!w.Until.Equal(s.Next) || !w.Since.Equal(late.Recipients[0].Next) {
		t.Errorf("waits: %+v", w)
	}
	for range 3 { // probes: one each
		c.add(3 * time.Hour)
		before := tries.Load()
		eventually(t, "a probe", func() bool { return tries.Load() > before })
		eventually(t, "the suspension", func() bool { return r.site("mx.example.net").State == "suspended" })
		if got := tries.Load(); got != before+1 {
			t.Errorf("%d probes", got-before)
		}
	}
	attempts := 0
	for _, i := range r.list(t) {
		attempts += i.Recipients[0].Attempts
	}
	if attempts != int(tries.Load()) {
		t.Errorf("%d attempts are counted, %d were made", attempts, tries.Load())
	}
	down.Store(false)
	c.add(3 * time.Hour)
	eventually(t, "the end", func() bool { c.add(time.Minute); return len(r.list(t)) == 0 })
	for what, times := range w.counts() {
		if times != 1 {
			t.Errorf("%s: %d times", what, times)
		}
	}
	if len(w.counts()) != 2*n {
		t.Errorf("%d arrived", len(w.counts()))
	}
	if s := r.site("mx.example.net"); s.State != "good" || s.Limit < 10 {
		t.Errorf("%+v", s)
	}
}

// TestWaitingIsNoExcuse: what waits for a server that is down is late after four hours, and given up after five days,
// although it was never tried itself.
func TestWaitingIsNoExcuse(t *testing.T) {
	t.Parallel()
	const n = 20
	c := newClock()
	told := &teller{make(chan string, 1000)}
	r, w := newRemoteRig(t, func(o *queue.Options) { o.Now, o.Notify = c.Now, told })
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) { return unreachable(p), nil }
	for i := range n {
		r.commitFrom(t, sdk.Login, fmt.Sprint("m", i), to("a@example.net"))
	}
	count := func(kind string) (n int) {
		for len(told.told) > 0 {
			if strings.HasPrefix(<-told.told, kind) {
				n++
			}
		}
		return n
	}
	delayed, failed := 0, 0
	for hour := 0; hour < 6*24 && failed < n; hour++ {
		c.add(time.Hour)
		time.Sleep(30 * time.Millisecond)
		for len(told.told) > 0 {
			if one := <-told.told; strings.HasPrefix(one, "2") {
				delayed++
				if hour < 3 || hour > 8 {
					t.Errorf("late after %d hours", hour)
				}
			} else if failed++; hour < 5*24-1 || hour > 5*24+3 {
				t.Errorf("given up after %d hours", hour)
			}
		}
	}
	if delayed != n || failed != n || count("") != 0 {
		t.Errorf("%d were told that it is late, %d that it failed; want %d each", delayed, failed, n)
	}
	eventually(t, "quarantine, since the teller can reach nobody", func() bool {
		for _, i := range r.list(t) {
			if i.Recipients[0].State != "quarantined" {
				return false
			}
		}
		return true
	})
}

// TestSiteThatTakesNothing: null MX fails all that waits.
func TestSiteThatTakesNothing(t *testing.T) {
	var tries atomic.Int32
	hold := make(chan struct{})
	r, w := newRemoteRig(t, nil)
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		tries.Add(1)
		<-hold
		return all(p, pipeline.Outcome{Kind: pipeline.Failed, Text: "example.net takes no mail", Status: "5.1.10"}, pipeline.PaceNever), nil
	}
	for i := range 20 {
		r.commit(t, fmt.Sprint("m", i), to("a@example.net"))
	}
	close(hold)
	eventually(t, "the end", func() bool {
		for _, i := range r.list(t) {
			if i.Recipients[0].State != "quarantined" || i.Recipients[0].Why != "example.net takes no mail" {
				return false
			}
		}
		return true
	})
	if tries.Load() != 1 {
		t.Errorf("%d attempts", tries.Load())
	}
}

// TestSlowSite: 421 halves, a message taken adds.
func TestSlowSite(t *testing.T) {
	t.Parallel()
	var slow atomic.Bool
	r, w := newRemoteRig(t, nil)
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		time.Sleep(2 * time.Millisecond)
		if slow.Load() {
			return all(p, pipeline.Outcome{Kind: pipeline.Delayed, Text: "421 too many"}, pipeline.PaceSlow), nil
		}
		return took(p), nil
	}
	for i := range 100 {
		r.commit(t, fmt.Sprint("m", i), to("a@example.net"))
	}
	r.empty(t)
	if s := r.site("mx.example.net"); s.State != "good" || s.Limit != 20 {
		t.Errorf("%+v", s)
	}
	if most := w.most["mx.example.net"]; most > 20 {
		t.Errorf("%d at once", most)
	}
	slow.Store(true)
	r.commit(t, "slow", to("a@example.net"))
	eventually(t, "a pause", func() bool { s := r.site("mx.example.net"); return s.State == "slow" && s.Limit == 10 })
	slow.Store(false)
	r.commit(t, "fast", to("a@example.net"))
	eventually(t, "the end of the pause", func() bool { return w.counts()["fast to a@example.net"] == 1 })
	if s := r.site("mx.example.net"); s.Limit != 10 {
		t.Errorf("grows too fast: %+v", s)
	}
}

// TestNobodyKnowsTheNextHop: a temporary failure of DNS postpones the domain and nobody else.
func TestNobodyKnowsTheNextHop(t *testing.T) {
	c := newClock()
	r, w := newRemoteRig(t, func(o *queue.Options) { o.Now = c.Now })
	w.set(func() { w.lost["lost.example"] = errors.New("SERVFAIL") })
	r.commit(t, "lost", to("a@lost.example"))
	r.commit(t, "good", to("a@example.net"))
	eventually(t, "delivery of the other", func() bool { return w.counts()["good to a@example.net"] == 1 })
	eventually(t, "a suspension", func() bool {
		s := r.site("domain lost.example")
		return s.State == "suspended" && strings.Contains(s.Why, "SERVFAIL")
	})
	w.set(func() { delete(w.lost, "lost.example") })
	c.add(5 * time.Minute)
	r.empty(t)
	if w.counts()["lost to a@lost.example"] != 1 {
		t.Error(w.counts())
	}
}

// TestRateAndConnections of a destination hold for its next hop.
func TestRateAndConnections(t *testing.T) {
	t.Parallel()
	c := newClock()
	r, w := newRemoteRig(t, func(o *queue.Options) {
		o.Now = c.Now
		o.Destination = func(_, domain string) queue.Destination {
			if domain == "slow.example" {
				return queue.Destination{Rate: "60/m", Connections: 2}
			}
			return queue.Destination{}
		}
	})
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		time.Sleep(2 * time.Millisecond)
		return took(p), nil
	}
	for i := range 20 {
		r.commit(t, fmt.Sprint("m", i), to("a@slow.example"), to("a@fast.example"))
	}
	arrived := func(domain string) (n int) {
		for what := range w.counts() {
			if strings.HasSuffix(what, domain) {
				n++
			}
		}
		return n
	}
	eventually(t, "the fast ones", func() bool { return arrived("fast.example") == 20 })
	time.Sleep(50 * time.Millisecond)
	if n := arrived("slow.example"); n < 1 || n > 2 {
		t.Errorf("%d messages at once", n)
	}
	for second := 1; second <= 20; second++ {
		c.add(time.Second)
		eventually(t, "the message of this second", func() bool { return arrived("slow.example") >= min(20, second) })
		if n := arrived("slow.example"); n > second+2 {
			t.Errorf("%d messages in %d seconds", n, second)
		}
	}
	r.empty(t)
	if w.most["mx.slow.example"] > 2 {
		t.Errorf("%d connections", w.most["mx.slow.example"])
	}
}

// TestDeadDestinationsStarveNobody: each of many dead destinations holds its connection for long.
func TestDeadDestinationsStarveNobody(t *testing.T) {
	r, w := newRemoteRig(t, func(o *queue.Options) { o.Limits.Connections = 16 })
	hold := make(chan struct{})
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		if strings.HasPrefix(p.Domain, "dead") {
			select {
			case <-hold:
			case <-time.After(50 * time.Millisecond):
			}
			return unreachable(p), nil
		}
		return took(p), nil
	}
	for i := range 400 {
		r.commit(t, "dead", to(fmt.Sprintf("a@dead%d.example", i)))
	}
	for i := range 20 { // to new destinations, and to one that is known
		begin := time.Now()
		r.commit(t, "live", to(fmt.Sprintf("a@live%d.example", i%5)))
		eventually(t, "delivery", func() bool { return len(w.received()) == i+1 })
		if took := time.Since(begin); took > 400*time.Millisecond {
			t.Errorf("message %d took %s", i, took)
		}
	}
	close(hold)
}

// TestFairness: one sender with a thousand messages does not delay another's one, nor one domain of a next hop the others.
func TestFairness(t *testing.T) {
	r, w := newRemoteRig(t, func(o *queue.Options) {
		o.Config = func(string) queue.Config {
			c := queue.DefaultConfig()
			c.Connections = 1
			return c
		}
	})
	w.set(func() { w.keys["other.example"], w.keys["example.net"] = "mx", "mx" })
	hold := make(chan struct{})
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		<-hold
		return took(p), nil
	}
	send := func(sender, subject, address string) {
		m, err := message(r.store, subject, to(address))
		if err != nil {
			t.Fatal(err)
		}
		m.Sender = sender
		if err := r.queue.Commit(context.Background(), m); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		send("hog@example.test", fmt.Sprint("hog", i), "a@example.net")
	}
	send("meek@example.test", "meek", "a@example.net")
	send("hog@example.test", "elsewhere", "a@other.example")
	eventually(t, "the next hop of both", func() bool { return r.site("mx").Domains == 2 })
	close(hold)
	r.empty(t)
	place := map[string]int{}
	for i, what := range w.received() {
		subject, _, _ := strings.Cut(what, " ")
		place[subject] = i
	}
	if place["meek"] > 4 || place["elsewhere"] > 4 {
		t.Errorf("meek was number %d, elsewhere number %d", place["meek"], place["elsewhere"])
	}
	last := -1
	for i := range 100 {
		if place[fmt.Sprint("hog", i)] < last {
			t.Errorf("hog%d is out of order", i)
		}
		last = place[fmt.Sprint("hog", i)]
	}
}

// TestRetryByHandEndsASuspension.
func TestRetryByHandEndsASuspension(t *testing.T) {
	var up atomic.Bool
	r, w := newRemoteRig(t, nil)
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		if up.Load() {
			return took(p), nil
		}
		return unreachable(p), nil
	}
	first := r.commit(t, "first", to("a@example.net"))
	eventually(t, "the suspension", func() bool { return r.site("mx.example.net").State == "suspended" })
	r.commit(t, "second", to("a@example.net"))
	up.Store(true)
	r.do(t, first.ID, queue.Retry, 1)
	r.empty(t)
	if got := w.counts(); !maps.Equal(got, map[string]int{"first to a@example.net": 1, "second to a@example.net": 1}) {
		t.Error(got)
	}
}
