package queue_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/storage"
)

// later is a deliverer that says "not now" until a test lets it.
func later(o *queue.Options, now *atomic.Bool) {
	o.Deliver = &stubborn{next: o.Deliver, fail: func(*pipeline.Attempt) (pipeline.Outcome, error) {
		if now.Load() {
			return pipeline.Outcome{}, nil
		}
		return pipeline.Outcome{Kind: pipeline.Delayed, Text: "not now"}, nil
	}}
}

func (r *rig) do(t testing.TB, id storage.ID, verb queue.Verb, want int) {
	t.Helper()
	n, err := r.queue.Do(context.Background(), id, verb, func(_ context.Context, address string) ([]pipeline.Hop, error) {
		if address == "r0@example.test" {
			return []pipeline.Hop{r.mailbox()}, nil
		}
		return nil, errors.New("no such mailbox")
	})
	if err != nil || n != want {
		t.Errorf("%s: %d recipients, %v; want %d", verb, n, err, want)
	}
}

func (r *rig) state(t testing.TB, id storage.ID) string {
	t.Helper()
	item, err := queue.Show(context.Background(), r.store.KV(), id)
	if errors.Is(err, queue.ErrNotFound) {
		return "gone"
	}
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, r := range item.Recipients {
		text += r.State + " "
	}
	if text == "" { // it went while it was read
		return "gone"
	}
	return text[:len(text)-1]
}

func TestHoldReleaseRetryRemove(t *testing.T) {
	var now atomic.Bool
	r := newRig(t, func(o *queue.Options) { later(o, &now) })
	m := r.commit(t, "slow", r.mailbox())
	eventually(t, "the first attempt", func() bool {
		item, err := queue.Show(context.Background(), r.store.KV(), m.ID)
		return err == nil && item.Recipients[0].Attempts == 1
	})
	r.do(t, m.ID, queue.Hold, 1)
	if got := r.state(t, m.ID); got != "held" {
		t.Errorf("held: %s", got)
	}
	now.Store(true)
	time.Sleep(50 * time.Millisecond)
	if len(r.subjects(t, "INBOX")) != 0 {
		t.Error("a held message was delivered")
	}
	if _, err := r.queue.Do(context.Background(), m.ID, queue.Retry, nil); !errors.Is(err, queue.ErrNothing) {
		t.Errorf("retry of a held message: %v", err)
	}
	r.do(t, m.ID, queue.Release, 1)
	eventually(t, "delivery", func() bool { return r.subjects(t, "INBOX")["slow"] == 1 })

	now.Store(false)
	m = r.commit(t, "again", r.mailbox())
	eventually(t, "the first attempt", func() bool {
		item, err := queue.Show(context.Background(), r.store.KV(), m.ID)
		return err == nil && item.Recipients[0].Attempts == 1
	})
	now.Store(true)
	r.do(t, m.ID, queue.Retry, 1)
	eventually(t, "delivery", func() bool { return r.subjects(t, "INBOX")["again"] == 1 })

	now.Store(false)
	m = r.commit(t, "never", r.mailbox())
	eventually(t, "the first attempt", func() bool {
		item, err := queue.Show(context.Background(), r.store.KV(), m.ID)
		return err == nil && item.Recipients[0].Attempts == 1
	})
	r.do(t, m.ID, queue.Remove, 1)
	if got := r.state(t, m.ID); got != "gone" {
		t.Errorf("removed: %s", got)
	}
	if got := r.actions(t, m.ID); got != "queued delayed removed" {
		t.Errorf("the trace says %q", got)
	}
	if _, err := r.queue.Do(context.Background(), m.ID, queue.Remove, nil); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	if in, _ := r.queue.Depth(); in != 0 {
		t.Errorf("%d entries in memory", in)
	}
}

func TestQuarantineByHand(t *testing.T) {
	r := newRig(t, nil)
	jail := pipeline.Hop{Kind: pipeline.HopQuarantine, Why: "score 7"}
	good := r.commit(t, "good", jail)
	bad := r.commit(t, "bad", jail)
	homeless := r.commit(t, "homeless", pipeline.Hop{Kind: pipeline.HopDiscard}, jail)
	listed := func() (ids []string) {
		err := queue.Quarantined(context.Background(), r.store.KV(), func(i queue.Item) (bool, error) {
			ids = append(ids, i.ID)
			if len(i.Recipients) != 1 || i.Recipients[0].Why != "score 7" {
				t.Errorf("%+v", i)
			}
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	if got := fmt.Sprint(listed()); got != fmt.Sprint([]string{good.ID.String(), bad.ID.String(), homeless.ID.String()}) {
		t.Errorf("quarantine holds %s", got)
	}
	r.do(t, good.ID, queue.ReleaseQuarantined, 1)
	eventually(t, "delivery", func() bool { return r.subjects(t, "INBOX")["good"] == 1 })
	eventually(t, "the end", func() bool { return r.state(t, good.ID) == "gone" })
	if got := r.actions(t, good.ID); got != "quarantined released delivered" {
		t.Errorf("the trace says %q", got)
	}
	r.do(t, bad.ID, queue.RemoveQuarantined, 1)
	if got := r.state(t, bad.ID); got != "gone" {
		t.Errorf("removed: %s", got)
	}
	if _, err := r.queue.Do(context.Background(), homeless.ID, queue.ReleaseQuarantined, func(context.Context, string) ([]pipeline.Hop, error) {
		return nil, errors.New("no such mailbox")
	}); err == nil {
		t.Error("released to nowhere")
	}
	if got := fmt.Sprint(listed()); got != fmt.Sprint([]string{homeless.ID.String()}) {
		t.Errorf("quarantine holds %s", got)
	}
}

// TestReleaseToManyMailboxes: an alias may lead to others by now.
func TestReleaseToManyMailboxes(t *testing.T) {
	r := newRig(t, nil)
	bob, err := r.store.CreateAccount(context.Background(), "bob@example.test", "correct horse", storage.AccountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := r.commit(t, "two", pipeline.Hop{Kind: pipeline.HopQuarantine})
	_, err = r.queue.Do(context.Background(), m.ID, queue.ReleaseQuarantined, func(context.Context, string) ([]pipeline.Hop, error) {
		return []pipeline.Hop{r.mailbox(), {Kind: pipeline.HopMailbox, Account: bob.ID, Address: "bob@example.test"}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end", func() bool { return r.state(t, m.ID) == "gone" })
	theirs, err := subjects(r.store, bob.ID, "INBOX")
	if err != nil || theirs["two"] != 1 || r.subjects(t, "INBOX")["two"] != 1 {
		t.Errorf("bob has %v, %v", theirs, err)
	}
}

// TestReleaseOfAForward: a copy that was kept because it would have left goes where it was to go, and nobody gets another.
func TestReleaseOfAForward(t *testing.T) {
	r, w := newRemoteRig(t, nil)
	var sender atomic.Value
	w.set(func() {
		w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
			sender.Store(p.Sender + " via " + p.Via)
			return took(p), nil
		}
	})
	m := r.commit(t, "junk", pipeline.Hop{
		Kind: pipeline.HopQuarantine, Address: "x@there.test", Sender: "SRS0=x@here.test", Via: "smtp://there.test:26", Why: "junk does not leave",
	})
	_, err := r.queue.Do(context.Background(), m.ID, queue.ReleaseQuarantined, func(context.Context, string) ([]pipeline.Hop, error) {
		return []pipeline.Hop{r.mailbox(), to("x@there.test")}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r.empty(t)
	if got := w.counts(); len(got) != 1 || got["junk to x@there.test"] != 1 || sender.Load() != "SRS0=x@here.test via smtp://there.test:26" {
		t.Errorf("%v from %v", got, sender.Load())
	}
	if got := r.subjects(t, "INBOX"); len(got) != 0 {
		t.Errorf("the mailbox has %v", got)
	}
}

// TestHandsBesideWorkers: whatever administrators do while the queue works, each message is delivered exactly once.
func TestHandsBesideWorkers(t *testing.T) {
	var now atomic.Bool
	r := newRig(t, func(o *queue.Options) {
		later(o, &now)
		o.Window = 5
		o.Config = func(string) queue.Config {
			c := queue.DefaultConfig()
			c.Retry, c.RetryMax = c.Retry/1000/60, c.RetryMax/1000/60 // 15 ms
			return c
		}
	})
	var ids []storage.ID
	for i := range 20 {
		ids = append(ids, r.commit(t, fmt.Sprint("m", i), r.mailbox()).ID)
	}
	var hands sync.WaitGroup
	for _, verb := range []queue.Verb{queue.Hold, queue.Release, queue.Retry} {
		hands.Go(func() {
			for range 5 {
				for _, id := range ids {
					_, err := r.queue.Do(context.Background(), id, verb, nil)
					if err != nil && !errors.Is(err, queue.ErrNothing) && !errors.Is(err, queue.ErrBusy) {
						t.Error(err)
					}
				}
			}
		})
	}
	hands.Wait()
	now.Store(true)
	for _, id := range ids {
		_, err := r.queue.Do(context.Background(), id, queue.Release, nil)
		if err != nil && !errors.Is(err, queue.ErrNothing) && !errors.Is(err, queue.ErrNotFound) {
			t.Error(err)
		}
	}
	eventually(t, "an empty queue", func() bool { return len(r.list(t)) == 0 })
	found := r.subjects(t, "INBOX")
	for i := range ids {
		if found[fmt.Sprint("m", i)] != 1 {
			t.Errorf("message %d is there %d times", i, found[fmt.Sprint("m", i)])
		}
	}
}

// TestHandsOnAQueueThatIsNotStarted: the command line without a server.
func TestHandsOnAQueueThatIsNotStarted(t *testing.T) {
	r := newRig(t, nil)
	if err := r.queue.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	m := r.commit(t, "late", r.mailbox())
	offline := queue.New(queue.Options{Store: r.store, Logger: quiet})
	if n, err := offline.Do(context.Background(), m.ID, queue.Hold, nil); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if got := r.state(t, m.ID); got != "held" {
		t.Errorf("%s", got)
	}
	if n, err := offline.Do(context.Background(), m.ID, queue.Release, nil); n != 1 || err != nil {
		// It is ready in a queue without workers: another command is another process.
		offline = queue.New(queue.Options{Store: r.store, Logger: quiet})
		if n, err := offline.Do(context.Background(), m.ID, queue.Release, nil); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	next := queue.New(options(r.store))
	if err := next.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer next.Stop(context.Background())
	eventually(t, "delivery", func() bool { return r.subjects(t, "INBOX")["late"] == 1 })
}
