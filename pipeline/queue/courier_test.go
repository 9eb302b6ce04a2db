package queue_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/storage"
)

// world is the other servers: a Courier that takes what a test does not refuse.
type world struct {
	mu       sync.Mutex
	keys     map[string]string // of domains; default: "mx." + domain
	lost     map[string]error  // domains whose next hop can't be found out
	answer   func(hop pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error)
	got      []string // "subject to recipient" in order
	inFlight map[string]int
	most     map[string]int // in flight at once, by key
	open     int            // connections that wait for done
	asked    int
}

func newWorld() *world {
	return &world{keys: map[string]string{}, lost: map[string]error{}, inFlight: map[string]int{}, most: map[string]int{}}
}

func (w *world) NextHop(_ context.Context, domain, via string) (pipeline.NextHop, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	switch key := w.keys[domain]; {
	case w.lost[domain] != nil:
		return pipeline.NextHop{}, w.lost[domain]
	case via != "":
		return pipeline.NextHop{Key: via}, nil
	case key != "":
		return pipeline.NextHop{Key: key}, nil
	}
	return pipeline.NextHop{Key: "mx." + domain}, nil
}

func (w *world) Send(ctx context.Context, hop pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, func(), error) {
	w.mu.Lock()
	w.inFlight[hop.Key]++
	w.most[hop.Key] = max(w.most[hop.Key], w.inFlight[hop.Key])
	answer := w.answer
	w.mu.Unlock()
	sent, err := took(p), error(nil)
	if answer != nil {
		sent, err = answer(hop, p)
	}
	var subject string
	if err == nil {
		subject, err = subjectOf(ctx, p)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inFlight[hop.Key]--
	w.open++
	for i, o := range sent.Outcomes {
		if o.Kind == pipeline.Delivered {
			w.got = append(w.got, subject+" to "+p.Recipients[i].Address)
		}
	}
	return sent, func() { w.mu.Lock(); w.open--; w.mu.Unlock() }, err
}

func subjectOf(ctx context.Context, p *pipeline.Parcel) (string, error) {
	c, err := p.Open(ctx)
	if err != nil {
		return "", err
	}
	octets, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
	if err := errors.Join(err, c.Close()); err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(string(octets), "Subject: ")
	subject, _, _ := strings.Cut(rest, "\r\n")
	return subject, nil
}

// all makes the same outcome of each recipient.
func all(p *pipeline.Parcel, o pipeline.Outcome, pace pipeline.Pace) pipeline.Sent {
	s := pipeline.Sent{Pace: pace, Why: o.Text}
	for range p.Recipients {
		s.Outcomes = append(s.Outcomes, o)
	}
	return s
}

func took(p *pipeline.Parcel) pipeline.Sent {
	return all(p, pipeline.Outcome{Kind: pipeline.Delivered, Text: "250 2.0.0 ok", Remote: "mx." + p.Domain, Status: "2.0.0"}, pipeline.PaceFine)
}

func refused(p *pipeline.Parcel) pipeline.Sent {
	return all(p, pipeline.Outcome{Kind: pipeline.Failed, Text: "550 5.1.1 no", Reply: "550 5.1.1 no", Status: "5.1.1"}, pipeline.PaceSame)
}

func unreachable(p *pipeline.Parcel) pipeline.Sent {
	return all(p, pipeline.Outcome{Kind: pipeline.Delayed, Text: "connection timed out", Status: "4.4.1"}, pipeline.PaceWait)
}

func (w *world) received() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.got)
}

// counts returns how often each message went to each recipient.
func (w *world) counts() map[string]int {
	found := map[string]int{}
	for _, g := range w.received() {
		found[g]++
	}
	return found
}

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// newRemoteRig is newRig with the other servers.
func newRemoteRig(t testing.TB, change func(*queue.Options)) (*rig, *world) {
	t.Helper()
	w := newWorld()
	r := newRig(t, func(o *queue.Options) {
		o.Courier = w
		if change != nil {
			change(o)
		}
	})
	return r, w
}

func to(address string) pipeline.Hop {
	return pipeline.Hop{Kind: pipeline.HopRemote, Address: address}
}

// clock is a time that a test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now()} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func (r *rig) empty(t testing.TB) {
	t.Helper()
	eventually(t, "an empty queue", func() bool { return len(r.list(t)) == 0 })
}

func TestRemoteDelivery(t *testing.T) {
	r, w := newRemoteRig(t, nil)
	m := r.commit(t, "one", to("a@example.net"), to("b@Example.NET"), to("c@example.org"), r.mailbox())
	r.empty(t)
	want := map[string]int{"one to a@example.net": 1, "one to b@Example.NET": 1, "one to c@example.org": 1}
	if got := w.counts(); !maps.Equal(got, want) {
		t.Errorf("received: %v", got)
	}
	if r.subjects(t, "INBOX")["one"] != 1 {
		t.Error("not in the mailbox")
	}
	if got := r.actions(t, m.ID); got != "queued delivered delivered delivered delivered" {
		t.Errorf("the trace says %q", got)
	}
	eventually(t, "connections that go on", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.open == 0 })
	eventually(t, "an empty memory", func() bool { in, more := r.queue.Depth(); return in == 0 && !more })
}

// TestLocalFirst: an entry's own people have it before it leaves.
func TestLocalFirst(t *testing.T) {
	var r *rig
	r, w := newRemoteRig(t, nil)
	seen := make(chan int, 1)
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		found, _ := subjects(r.store, r.alice, "INBOX")
		seen <- found["both"]
		return took(p), nil
	}
	r.commit(t, "both", to("a@example.net"), r.mailbox())
	if <-seen != 1 {
		t.Error("it left before")
	}
	r.empty(t)
}

// TestParcels: recipients share a transaction if domain, octets and sender are the same.
func TestParcels(t *testing.T) {
	r, w := newRemoteRig(t, nil)
	var parcels []string
	w.answer = func(hop pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		parcels = append(parcels, fmt.Sprintf("%s %s %s %d", hop.Key, p.Domain, p.Sender, len(p.Recipients)))
		return took(p), nil
	}
	srs := to("c@example.net")
	srs.Sender = "srs0@example.test"
	via := to("d@example.net")
	via.Via = "smtp://relay.example:2525"
	r.commit(t, "p", to("a@example.net"), to("b@example.net"), srs, via, to("e@münchen.example"))
	r.empty(t)
	slices.Sort(parcels)
	want := []string{
		"mx.example.net example.net bob@example.net 2", "mx.example.net example.net srs0@example.test 1",
		"mx.xn--mnchen-3ya.example xn--mnchen-3ya.example bob@example.net 1", "smtp://relay.example:2525 example.net bob@example.net 1",
	}
	if !slices.Equal(parcels, want) {
		t.Errorf("%q", parcels)
	}
}

// TestEachRecipientItsOwnEnd: one transaction, three ends; the delayed one comes again.
func TestEachRecipientItsOwnEnd(t *testing.T) {
	c := newClock()
	r, w := newRemoteRig(t, func(o *queue.Options) { o.Now = c.Now })
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		s := took(p)
		for i, to := range p.Recipients {
			switch {
			case to.Address == "b@example.net":
				s.Outcomes[i] = pipeline.Outcome{Kind: pipeline.Failed, Text: "550 no"}
			case to.Address == "c@example.net" && to.Attempts == 1:
				s.Outcomes[i] = pipeline.Outcome{Kind: pipeline.Delayed, Text: "450 later"}
			}
		}
		return s, nil
	}
	m := r.commit(t, "three", to("a@example.net"), to("b@example.net"), to("c@example.net"))
	eventually(t, "the first round", func() bool { return r.state(t, m.ID) == "queued" && r.list(t)[0].Recipients[0].Attempts == 1 })
	if got := r.list(t)[0].Recipients[0]; got.Last != "450 later" || got.Attempts != 1 {
		t.Errorf("%+v", got)
	}
	c.add(20 * time.Minute)
	eventually(t, "the second round", func() bool { return r.state(t, m.ID) == "gone" })
	if got := w.counts(); !maps.Equal(got, map[string]int{"three to a@example.net": 1, "three to c@example.net": 1}) {
		t.Errorf("received: %v", got)
	}
}

// TestDoneComesAfterTheSync (RULES B8): the connection goes on when the outcome is on disk.
func TestDoneComesAfterTheSync(t *testing.T) {
	r, w := newRemoteRig(t, nil)
	m := r.commit(t, "one", to("a@example.net"))
	eventually(t, "done", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.got) == 1 && w.open == 0 })
	if got := r.state(t, m.ID); got != "gone" {
		t.Errorf("the entry is %s", got)
	}
}

// waits returns what the first recipient of an entry waits for.
func (r *rig) waits(t testing.TB, id string) queue.Wait {
	t.Helper()
	parsed, err := storage.ParseID(id)
	if err != nil {
		t.Fatal(err)
	}
	item, err := r.queue.Show(context.Background(), parsed)
	if err != nil {
		t.Fatal(err)
	}
	return *item.Recipients[0].Waits
}
