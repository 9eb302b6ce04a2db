package queue_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
)

// many does an order and holds that it says of each message what it counts.
func (r *rig) many(t testing.TB, o queue.Order, messages, recipients int) queue.Tally {
	t.Helper()
	steps := 0
	o.Each = func(s queue.Step) error {
		if s.Err == nil {
			steps++
		}
		return nil
	}
	tally, err := r.queue.Many(context.Background(), &o)
	if err != nil || tally.Messages != messages || tally.Recipients != recipients || steps != messages || tally.Busy+tally.Failed > 0 {
		t.Errorf("%s: %+v in %d steps, %v; want %d messages, %d recipients", o.Verb, tally, steps, err, messages, recipients)
	}
	return tally
}

func (r *rig) find(t testing.TB, f queue.Filter) (ids []string) {
	t.Helper()
	err := r.queue.Find(context.Background(), &f, func(i queue.Item) (bool, error) {
		for _, to := range i.Recipients {
			ids = append(ids, i.ID+" "+to.Address+" "+to.State)
		}
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// busyWorld is one in which nobody can be reached, until now is set.
func busyWorld(w *world, now *atomic.Bool) {
	w.set(func() {
		w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
			if now.Load() {
				return took(p), nil
			}
			return unreachable(p), nil
		}
	})
}

func (r *rig) tried(t testing.TB, ids ...storage.ID) {
	t.Helper()
	eventually(t, "the first attempts", func() bool {
		for _, id := range ids {
			item, err := queue.Show(context.Background(), r.store.KV(), id)
			if err != nil {
				return false
			}
			for _, to := range item.Recipients {
				if to.Attempts == 0 {
					return false
				}
			}
		}
		return true
	})
}

// TestManyByFilter: a filter takes some recipients of a message and leaves the others.
func TestManyByFilter(t *testing.T) {
	var now atomic.Bool
	r, w := newRemoteRig(t, nil)
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		if now.Load() {
			return took(p), nil
		}
		return all(p, pipeline.Outcome{Kind: pipeline.Delayed, Text: "450 4.2.1 busy"}, pipeline.PaceSame), nil
	}
	one := r.commit(t, "one", to("a@one.example"), to("b@two.example"))
	two := r.commit(t, "two", to("c@two.example"))
	r.tried(t, one.ID, two.ID)
	if got := r.find(t, queue.Filter{Domain: "two.example"}); !slices.Equal(got, []string{one.ID.String() + " r1@example.test queued", two.ID.String() + " r0@example.test queued"}) {
		t.Errorf("found %q", got)
	}
	order := queue.Order{Task: queue.Task{Verb: queue.Hold}, Filter: queue.Filter{Domain: "two.example"}}
	dry := order
	dry.DryRun = true
	r.many(t, dry, 2, 2)
	if got := r.find(t, queue.Filter{State: "held"}); len(got) != 0 {
		t.Errorf("a dry run has held %q", got)
	}
	r.many(t, order, 2, 2)
	r.many(t, order, 0, 0)
	if got := r.state(t, one.ID) + ", " + r.state(t, two.ID); got != "queued held, held" {
		t.Errorf("%s", got)
	}
	sum, err := r.queue.Summarize(context.Background(), &queue.Filter{})
	if err != nil || sum.Messages != 2 || sum.Recipients != 3 || sum.States["held"] != 2 || sum.States["queued"] != 1 ||
		sum.NextHops["mx.two.example"]+sum.NextHops["two.example"] != 2 || sum.Reasons["450 4.2.1 busy"] != 3 || sum.Oldest.IsZero() {
		t.Errorf("%+v %v", sum, err)
	}
	now.Store(true)
	r.many(t, queue.Order{Task: queue.Task{Verb: queue.Release}, Filter: queue.Filter{NextHop: "mx.two.example"}}, 2, 2)
	r.do(t, one.ID, queue.Retry, 1)
	r.empty(t)
	if got := w.counts(); len(got) != 3 {
		t.Errorf("received %v", got)
	}
}

// TestRetryEndsASuspension: once for each next hop, not for each message.
func TestRetryEndsASuspension(t *testing.T) {
	var now atomic.Bool
	r, w := newRemoteRig(t, nil)
	busyWorld(w, &now)
	first := r.commit(t, "m", to("a@dead.example"))
	r.tried(t, first.ID)
	for range 30 {
		r.commit(t, "m", to("a@dead.example"))
	}
	if sites := r.queue.Sites(); len(sites) != 1 || sites[0].State != "suspended" || sites[0].Next.IsZero() {
		t.Fatalf("%+v", sites)
	}
	attempts := func() (n int) {
		for _, item := range r.list(t) {
			n += item.Recipients[0].Attempts
		}
		return n
	}
	r.many(t, queue.Order{Task: queue.Task{Verb: queue.Retry}, Filter: queue.Filter{NextHop: "mx.dead.*"}}, 31, 31)
	eventually(t, "a second attempt", func() bool { return attempts() == 2 })
	time.Sleep(50 * time.Millisecond)
	if n := attempts(); n != 2 {
		t.Errorf("%d attempts with a server that is down", n)
	}
	now.Store(true)
	if _, err := r.queue.Many(context.Background(), &queue.Order{Task: queue.Task{Verb: queue.Retry}}); err != nil { // some may be gone by now
		t.Error(err)
	}
	r.empty(t)
}

func TestBounceByHand(t *testing.T) {
	var now atomic.Bool
	r, w, s := newNoticeRig(t, nil)
	busyWorld(w, &now)
	login := func(m *pipeline.Message) { m.Origin, m.Sender = sdk.Login, "carol@example.test" }
	own := r.send(t, "own", login, to("a@dead.example"), to("b@dead.example"))
	never := r.send(t, "never", func(m *pipeline.Message) { login(m); m.Recipients[0].Params.Notify = []string{"NEVER"} }, to("a@dead.example"))
	null := r.send(t, "null", func(m *pipeline.Message) { login(m); m.Sender = "" }, to("a@dead.example"))
	stranger := r.send(t, "stranger", func(m *pipeline.Message) { m.Origin, m.Auth = sdk.Stranger, nil }, to("a@dead.example"))
	held := r.send(t, "held", login, to("a@dead.example"))
	eventually(t, "a suspension", func() bool { s := r.queue.Sites(); return len(s) == 1 && s[0].State == "suspended" })
	r.do(t, held.ID, queue.Hold, 1)
	r.many(t, queue.Order{Task: queue.Task{Verb: queue.Bounce, Text: "closed"}, Filter: queue.Filter{To: "a@dead.*"}}, 5, 5)
	for id, want := range map[storage.ID]string{
		own.ID: "queued", never.ID: "gone", null.ID: "gone", stranger.ID: "quarantined", held.ID: "gone",
	} {
		if got := r.state(t, id); got != want {
			t.Errorf("%s is %s, want %s", id, got, want)
		}
	}
	want := []string{"carol@example.test: 1 r0@example.test 5.0.0", "carol@example.test: 1 r0@example.test 5.0.0"}
	if got := s.all(); !slices.Equal(got, want) {
		t.Errorf("told: %q", got)
	}
	if got := r.actions(t, held.ID); !strings.HasSuffix(got, "held bounce failed notified") {
		t.Errorf("the trace says %q", got)
	}
	now.Store(true)
	r.do(t, own.ID, queue.Retry, 1)
	eventually(t, "the other recipient", func() bool { return w.counts()["own to b@dead.example"] == 1 })
	eventually(t, "two notices", func() bool { return r.subjects(t, "INBOX")["notice"] == 2 })
}

func TestReroute(t *testing.T) {
	r, w := newRemoteRig(t, nil)
	w.answer = func(hop pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		if hop.Key == "smtp://there.example:26" {
			return took(p), nil
		}
		return unreachable(p), nil
	}
	a, b := r.commit(t, "a", to("a@dead.example"), r.mailbox()), r.commit(t, "b", to("b@dead.example"))
	eventually(t, "a suspension", func() bool { s := r.queue.Sites(); return len(s) == 1 && s[0].State == "suspended" })
	eventually(t, "the local part", func() bool { return r.state(t, a.ID) == "queued" })
	r.do(t, b.ID, queue.Hold, 1)
	by := queue.Order{Task: queue.Task{Verb: queue.Reroute, Via: "smtp://there.example:26"}, Filter: queue.Filter{Domain: "dead.example"}}
	r.many(t, by, 2, 2)
	eventually(t, "what was queued", func() bool { return r.state(t, a.ID) == "gone" })
	if got := r.state(t, b.ID); got != "held" {
		t.Errorf("what was held is %s", got)
	}
	if item, err := queue.Show(context.Background(), r.store.KV(), b.ID); err != nil || item.Recipients[0].Hop != "remote b@dead.example via smtp://there.example:26" {
		t.Errorf("%+v %v", item, err)
	}
	r.do(t, b.ID, queue.Release, 1)
	r.empty(t)
	if got := w.counts(); len(got) != 2 || got["a to a@dead.example"] != 1 || got["b to b@dead.example"] != 1 {
		t.Errorf("received %v", got)
	}
	if got := r.actions(t, a.ID); !strings.Contains(got, "rerouted") {
		t.Errorf("the trace says %q", got)
	}
}

// TestManyBusy: what is being delivered all the time is counted, and what is done soon is waited for.
func TestManyBusy(t *testing.T) {
	r, w := newRemoteRig(t, nil)
	stuck, soon := make(chan struct{}), make(chan struct{})
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		if p.Domain == "stuck.example" {
			<-stuck
		} else {
			<-soon
		}
		return unreachable(p), nil
	}
	r.commit(t, "m", to("a@stuck.example"))
	r.commit(t, "m", to("a@soon.example"))
	eventually(t, "two attempts", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.inFlight) == 2 })
	time.AfterFunc(100*time.Millisecond, func() { close(soon) })
	var problems []error
	tally, err := r.queue.Many(context.Background(), &queue.Order{
		Task: queue.Task{Verb: queue.Remove},
		Each: func(s queue.Step) error {
			if s.Err != nil {
				problems = append(problems, s.Err)
			}
			return nil
		},
	})
	if err != nil || tally.Messages != 1 || tally.Busy != 1 || len(problems) != 1 || !errors.Is(problems[0], queue.ErrBusy) {
		t.Errorf("%+v %v %v", tally, err, problems)
	}
	close(stuck)
}

// TestTwentyThousandByHand: hold, resume after an interruption, release, beside a queue that goes on delivering. Nothing is
// delivered twice or forgotten, and memory does not grow with the queue.
func TestTwentyThousandByHand(t *testing.T) {
	if testing.Short() {
		t.Skip("20,000 entries take a while")
	}
	n, window := 20_000, 2000
	if slowed {
		n, window = 2000, 1000
	}
	var now atomic.Bool
	r, w := newRemoteRig(t, func(o *queue.Options) { o.Limits = queue.Limits{Connections: 50, Memory: window} })
	busyWorld(w, &now)
	r.fill(t, n)
	base := heap()
	var most atomic.Uint64
	var pages atomic.Int32
	watch := func(queue.Tally) error {
		if pages.Add(1)%16 != 0 {
			return nil
		}
		if h := heap(); h > most.Load() {
			most.Store(h)
		}
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	count := 0
	hold := queue.Order{Task: queue.Task{Verb: queue.Hold}, Filter: queue.Filter{From: "bob@*"}, Each: func(queue.Step) error {
		if count++; count == n/2 {
			cancel()
		}
		return nil
	}}
	part, err := r.queue.Many(ctx, &hold)
	if !errors.Is(err, context.Canceled) || part.Messages < n/2 || part.Messages > n/2+1000 {
		t.Fatalf("%+v %v", part, err)
	}
	hold.After, hold.Each, hold.Progress = part.Last, nil, watch
	rest, err := r.queue.Many(context.Background(), &hold)
	if err != nil || part.Messages+rest.Messages+rest.Busy < n-100 {
		t.Fatalf("%+v, %+v %v", part, rest, err)
	}
	now.Store(true)
	var hands sync.WaitGroup
	for _, f := range []queue.Filter{{To: "r0@*"}, {Domain: "d*"}, {State: "held"}} { // three at once
		hands.Go(func() {
			o := queue.Order{Task: queue.Task{Verb: queue.Release}, Filter: f, Progress: watch}
			if tally, err := r.queue.Many(context.Background(), &o); err != nil || tally.Failed > 0 {
				t.Errorf("%+v %v", tally, err)
			}
		})
	}
	hands.Wait()
	if _, err := r.queue.Many(context.Background(), &queue.Order{Task: queue.Task{Verb: queue.Retry}}); err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(2 * time.Minute); len(r.find(t, queue.Filter{})) > 0; time.Sleep(300 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d are left; %+v", len(r.find(t, queue.Filter{})), r.queue.Sites()[:1])
		}
	}
	for what, times := range w.counts() {
		if times != 1 {
			t.Fatalf("%s: %d times", what, times)
		}
	}
	if got := len(w.counts()); got != n {
		t.Errorf("%d messages arrived, want %d", got, n)
	}
	t.Logf("heap %d MB before, at most %d MB", base>>20, most.Load()>>20)
	if grown := int64(most.Load()) - int64(base); grown > 48<<20 {
		t.Errorf("the heap grew by %d MB", grown>>20)
	}
}

// fill commits messages to 200 domains from many goroutines: one sync is for all of them.
func (r *rig) fill(t *testing.T, n int) {
	t.Helper()
	var all sync.WaitGroup
	for k := range 20 {
		all.Go(func() {
			for i := k; i < n; i += 20 {
				m, err := message(r.store, fmt.Sprint("m", i), to(fmt.Sprintf("u%d@d%d.example", i, i%200)))
				if err == nil {
					err = r.queue.Commit(context.Background(), m)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
