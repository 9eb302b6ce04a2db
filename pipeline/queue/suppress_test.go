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
	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/sdk"
)

// newListRig is newNoticeRig with a list, and other servers that answer as a test says.
func newListRig(t *testing.T, after int) (*rig, *clock, *secretary, *atomic.Value, *atomic.Int32) {
	c := newClock()
	r, w, s := newNoticeRig(t, func(o *queue.Options) {
		o.Now = c.Now
		o.Limits = queue.Limits{Connections: 50, Memory: 5000, SuppressAfter: after, SuppressFor: units.Of(24 * time.Hour)}
		o.Local = func(domain string) bool { return domain == "example.test" }
	})
	var reply atomic.Value
	var asked atomic.Int32
	reply.Store("550 5.1.1 no such user")
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		asked.Add(1)
		text := reply.Load().(string)
		if strings.HasPrefix(text, "2") {
			return took(p), nil
		}
		return all(p, pipeline.Outcome{Kind: pipeline.Failed, Text: text, Reply: text, Status: "5.1.1", Remote: "mx"}, pipeline.PaceSame), nil
	}
	return r, c, s, &reply, &asked
}

// own sends a message of one of our own people to an address of another server.
func (r *rig) own(t *testing.T, change func(*pipeline.Message), address string) {
	t.Helper()
	m := r.send(t, "own", func(m *pipeline.Message) {
		m.Sender, m.Recipients[0].Address = "carol@example.test", address
		if change != nil {
			change(m)
		}
	}, to(address))
	eventually(t, "the end", func() bool { return r.state(t, m.ID) == "gone" || r.state(t, m.ID) == "quarantined" })
}

func (r *rig) suppressions(t *testing.T) (list []string) {
	t.Helper()
	err := r.queue.Suppressions(context.Background(), func(s queue.Suppressed) (bool, error) {
		list = append(list, fmt.Sprintf("%s %s %d %t", s.Address, s.State, s.Answers, s.ByHand))
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func (r *rig) wantList(t *testing.T, want ...string) {
	t.Helper()
	if got := r.suppressions(t); !slices.Equal(got, want) {
		t.Errorf("the list is %q, want %q", got, want)
	}
}

func TestSuppression(t *testing.T) {
	r, c, s, reply, asked := newListRig(t, 2)
	r.own(t, nil, "Gone@There.example")
	r.wantList(t, "gone@there.example watched 1 false")
	r.own(t, nil, "gone@there.example")
	r.wantList(t, "gone@there.example suppressed 2 false")
	if asked.Load() != 2 {
		t.Fatalf("asked %d times", asked.Load())
	}
	r.own(t, nil, "gone@there.EXAMPLE") // nobody is asked any more, and the sender hears why
	if got := s.all(); asked.Load() != 2 || len(got) != 3 || !strings.HasSuffix(got[2], "5.1.1") {
		t.Errorf("asked %d times, told %q", asked.Load(), got)
	}
	on, err := r.queue.Suppressed(context.Background(), "GONE@there.example")
	if err != nil || on == nil || !strings.Contains(on.Words(), "550 5.1.1 no such user") || !strings.Contains(on.Words(), "postmaster") {
		t.Errorf("%+v %v", on, err)
	}
	// Strangers' mail through an alias of ours is not held back; when it arrives, the address is good again.
	reply.Store("250 ok")
	forward := r.send(t, "forward", func(m *pipeline.Message) { m.Origin, m.Recipients[0].Address = sdk.Stranger, "alias@example.test" }, to("gone@there.example"))
	eventually(t, "the forward", func() bool { return r.state(t, forward.ID) == "gone" })
	r.wantList(t)
	// It is forgotten after a while.
	reply.Store("550 5.1.1 no such user")
	r.own(t, nil, "gone@there.example")
	r.own(t, nil, "gone@there.example")
	before := asked.Load()
	c.add(25 * time.Hour)
	r.wantList(t)
	r.own(t, nil, "gone@there.example")
	if asked.Load() != before+1 {
		t.Error("what is over is still obeyed")
	}
	r.wantList(t, "gone@there.example watched 1 false")
}

// TestNotSuppressed: what no address comes on the list by.
func TestNotSuppressed(t *testing.T) {
	r, _, _, reply, asked := newListRig(t, 1)
	for _, text := range []string{"550 5.7.1 spam", "550 no such user", "450 5.1.1 odd", "550 5.1.2 no such host", "552 5.2.2 full", "550-5.1.1"} {
		reply.Store(text)
		r.own(t, nil, "x@there.example")
	}
	reply.Store("550 5.1.1 no such user")
	r.own(t, nil, "Postmaster@there.example")
	r.own(t, nil, "abuse@there.example")
	r.own(t, nil, "lost@example.test") // ours, behind another server
	r.own(t, func(m *pipeline.Message) { m.Origin = sdk.Stranger }, "x@there.example")
	r.own(t, func(m *pipeline.Message) { m.Recipients[0].Address = "alias@example.test" }, "y@there.example")
	r.wantList(t)
	two := r.send(t, "two", func(m *pipeline.Message) {
		m.Recipients[0].Address, m.Recipients[1].Address = "z@there.example", "Z@there.example"
	}, to("z@there.example"), to("z@there.example")) // an answer each, one message
	eventually(t, "the end", func() bool { return r.state(t, two.ID) == "gone" })
	r.wantList(t, "z@there.example suppressed 1 false")
	off, _, _, _, _ := newListRig(t, 0)
	off.own(t, nil, "x@there.example")
	off.own(t, nil, "x@there.example")
	off.wantList(t)
	if asked.Load() < 11 {
		t.Errorf("asked %d times", asked.Load())
	}
}

func TestSuppressionByHand(t *testing.T) {
	r, _, _, reply, asked := newListRig(t, 2)
	ctx := context.Background()
	for _, address := range []string{"postmaster@there.example", "ABUSE@there.example", "x@example.test", "nobody", "@there.example", "a b@there.example", "x@"} {
		if _, err := r.queue.Suppress(ctx, address, "", 0); !errors.Is(err, queue.ErrNotSuppressible) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := r.queue.Suppress(ctx, "x@bücher.example", "has left", 0); err != nil {
		t.Fatal(err)
	}
	r.wantList(t, "x@xn--bcher-kva.example suppressed 0 true")
	r.own(t, nil, "x@xn--bcher-kva.example")
	if asked.Load() != 0 {
		t.Error("it was sent")
	}
	// What is delivered to it does not take off what somebody put there by hand.
	reply.Store("250 ok")
	forward := r.send(t, "forward", func(m *pipeline.Message) { m.Origin, m.Recipients[0].Address = sdk.Stranger, "alias@example.test" }, to("x@xn--bcher-kva.example"))
	eventually(t, "the forward", func() bool { return r.state(t, forward.ID) == "gone" })
	r.wantList(t, "x@xn--bcher-kva.example suppressed 0 true")
	if found, err := r.queue.Lift(ctx, "X@bücher.example"); !found || err != nil {
		t.Errorf("%t %v", found, err)
	}
	if found, err := r.queue.Lift(ctx, "X@bücher.example"); found || err != nil {
		t.Errorf("again: %t %v", found, err)
	}
	r.own(t, nil, "x@xn--bcher-kva.example")
	if asked.Load() != 2 {
		t.Error("it was not sent")
	}
	r.wantList(t)
}

// TestForce: who retries by force takes the address off the list.
func TestForce(t *testing.T) {
	r, w, _ := newNoticeRig(t, func(o *queue.Options) {
		o.Limits = queue.Limits{Connections: 50, Memory: 5000, SuppressAfter: 2, SuppressFor: units.Of(24 * time.Hour)}
	})
	var now atomic.Bool
	busyWorld(w, &now)
	m := r.send(t, "m", func(m *pipeline.Message) { m.Recipients[0].Address = "a@there.example" }, to("a@there.example"))
	r.tried(t, m.ID)
	r.do(t, m.ID, queue.Hold, 1)
	if _, err := r.queue.Suppress(context.Background(), "a@there.example", "", 0); err != nil {
		t.Fatal(err)
	}
	now.Store(true)
	if n, err := r.queue.Perform(context.Background(), m.ID, &queue.Task{Verb: queue.Release, Force: true}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	_, _ = r.queue.Do(context.Background(), m.ID, queue.Retry, nil) // its next hop is suspended
	r.empty(t)
	r.wantList(t)
	if got := w.counts(); got["m to a@there.example"] != 1 {
		t.Errorf("received %v", got)
	}
}
