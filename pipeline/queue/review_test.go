package queue_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/sdk"
)

// TestOneReportForAllForwards: an alias with two members behind one next hop is one recipient: one report of success,
// although both end in one round.
func TestOneReportForAllForwards(t *testing.T) {
	t.Parallel()
	r, w, s := newNoticeRig(t, nil)
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		sent := took(p)
		for i := range sent.Outcomes {
			sent.Outcomes[i].Relayed = true
		}
		return sent, nil
	}
	r.send(t, "alias", func(m *pipeline.Message) {
		m.Recipients[0].Hops = []pipeline.Hop{to("a@old.example"), to("b@old.example")}
		m.Recipients[0].Params.Notify = []string{"SUCCESS"}
	}, to("a@old.example"))
	r.empty(t)
	if got := s.all(); len(got) != 1 || got[0] != "bob@example.net: 4 r0@example.test 2.0.0" {
		t.Errorf("told: %q", got)
	}
}

// TestHoursThatEnd: a backlog waits when the hours of its destination are over.
func TestHoursThatEnd(t *testing.T) {
	t.Parallel()
	c := newClock()
	now := c.Now()
	c.add(time.Date(now.Year(), now.Month(), now.Day()+1, 3, 0, 0, 0, time.Local).Sub(now))
	r, w := newRemoteRig(t, func(o *queue.Options) {
		o.Now = c.Now
		o.Destination = func(string, string) queue.Destination {
			return queue.Destination{Connections: 1, Windows: []string{"02:00-04:00"}}
		}
	})
	var n atomic.Int32
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		if n.Add(1) == 2 {
			c.add(2 * time.Hour) // it is 5 o'clock
		}
		return took(p), nil
	}
	for i := range 5 {
		r.commit(t, fmt.Sprint("m", i), to("a@example.net"))
	}
	eventually(t, "the hours' end", func() bool { return n.Load() == 2 && len(r.list(t)) == 3 })
	time.Sleep(100 * time.Millisecond)
	if got := n.Load(); got != 2 {
		t.Errorf("%d were sent, three of them too late", got)
	}
	c.add(22 * time.Hour)
	r.empty(t)
}

// TestSlowIsHeard: recipients of one message in several parcels are not pressed on a server that wants less.
func TestSlowIsHeard(t *testing.T) {
	t.Parallel()
	c := newClock()
	r, w := newRemoteRig(t, func(o *queue.Options) { o.Now = c.Now })
	var n atomic.Int32
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		if n.Add(1) == 1 {
			return all(p, pipeline.Outcome{Kind: pipeline.Delayed, Text: "421 4.7.0 too much"}, pipeline.PaceSlow), nil
		}
		return took(p), nil
	}
	var hops []pipeline.Hop
	for i := range 300 {
		hops = append(hops, to(fmt.Sprintf("u%d@example.net", i)))
	}
	r.commit(t, "big", hops...)
	eventually(t, "an answer", func() bool { l := r.queue.Sites(); return len(l) == 1 && l[0].State == "slow" })
	time.Sleep(50 * time.Millisecond)
	if got := n.Load(); got != 1 {
		t.Errorf("%d transactions with a server that said 421", got)
	}
	c.add(2 * time.Second)
	eventually(t, "the others", func() bool { return n.Load() == 3 })
	c.add(30 * time.Minute)
	r.empty(t)
	if got := len(w.received()); got != 300 {
		t.Errorf("%d arrived", got)
	}
}

// angry makes no notice.
type angry struct{ panics bool }

func (a angry) Notice(context.Context, *queue.Notice) (*pipeline.Message, string, error) {
	if a.panics {
		panic("angry")
	}
	return nil, "", errors.New("the original is damaged")
}

// TestNoticeThatCannotBeMade: it holds up those alone about whom it would be, and ends no process.
func TestNoticeThatCannotBeMade(t *testing.T) {
	t.Parallel()
	for _, panics := range []bool{false, true} {
		r, w := newRemoteRig(t, func(o *queue.Options) { o.Notify = angry{panics} })
		w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
			s := took(p)
			s.Outcomes[0] = pipeline.Outcome{Kind: pipeline.Failed, Text: "550 no"}
			return s, nil
		}
		m := r.send(t, "m", func(*pipeline.Message) {}, to("bad@example.net"), to("good@example.net"))
		eventually(t, "one that is settled", func() bool {
			l := r.list(t)
			return len(l) == 1 && len(l[0].Recipients) == 1 && l[0].Recipients[0].Address == "r0@example.test"
		})
		if got := r.actions(t, m.ID); !strings.Contains(got, "delivered") {
			t.Errorf("the trace says %q", got)
		}
		if got := w.received(); !slices.Equal(got, []string{"m to good@example.net"}) {
			t.Errorf("received %q", got)
		}
	}
}

// picky makes no notice about one recipient.
type picky struct {
	told chan string
	not  string
}

func (p *picky) Notice(_ context.Context, n *queue.Notice) (*pipeline.Message, string, error) {
	for _, a := range n.About {
		if a.Recipient.Hop.Address == p.not {
			return nil, "", errors.New("the original is damaged")
		}
		p.told <- a.Recipient.Hop.Address
	}
	return nil, "nobody is told", nil
}

// TestReviewGoesOn: behind one about whom no notice can be made the others are told that they are late, be their next hop down or
// their rate small.
func TestReviewGoesOn(t *testing.T) {
	t.Parallel()
	for _, dead := range []bool{true, false} {
		c := newClock()
		p := &picky{make(chan string, 1000), "bad@example.net"}
		r, w := newRemoteRig(t, func(o *queue.Options) {
			o.Now, o.Notify = c.Now, p
			if !dead {
				o.Destination = func(string, string) queue.Destination { return queue.Destination{Rate: "1/d"} }
			}
		})
		if dead {
			w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) { return unreachable(p), nil }
		}
		now := func(m *pipeline.Message) { m.Origin, m.Received = sdk.Login, c.Now() }
		r.send(t, "first", now, to("first@example.net"))
		eventually(t, "an attempt", func() bool {
			return r.site("mx.example.net").State == map[bool]string{true: "suspended", false: "good"}[dead]
		})
		r.send(t, "bad", now, to("bad@example.net"))
		r.send(t, "good", now, to("good@example.net"))
		eventually(t, "the notice about the one behind", func() bool {
			c.add(10 * time.Minute)
			for len(p.told) > 0 {
				if <-p.told == "good@example.net" {
					return true
				}
			}
			time.Sleep(20 * time.Millisecond)
			return false
		})
	}
}
