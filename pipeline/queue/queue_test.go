package queue_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
)

func TestLocalDelivery(t *testing.T) {
	r := newRig(t, nil)
	junk := r.mailbox()
	junk.Junk = true
	good := r.commit(t, "good", r.mailbox())
	r.commit(t, "spam", junk)
	eventually(t, "an empty queue", func() bool { return len(r.list(t)) == 0 })
	if got := fmt.Sprint(r.subjects(t, "INBOX"), r.subjects(t, "Junk")); got != "map[good:1] map[spam:1]" {
		t.Errorf("mailboxes hold %s", got)
	}
	if got := r.actions(t, good.ID); got != "queued delivered" {
		t.Errorf("the trace says %q", got)
	}
	ids, err := trace.Find(context.Background(), r.store.KV(), "GOOD@example.net", 10)
	if err != nil || len(ids) != 1 || ids[0] != good.ID {
		t.Errorf("found by Message-ID: %v %v", ids, err)
	}
	if in, more := r.queue.Depth(); in != 0 || more {
		t.Errorf("%d entries in memory, more: %v", in, more)
	}
}

func TestEveryHopHasItsEnd(t *testing.T) {
	r := newRig(t, nil)
	m := r.commit(t, "mixed",
		pipeline.Hop{Kind: pipeline.HopQuarantine, Why: "infected"}, r.mailbox(), pipeline.Hop{Kind: pipeline.HopDiscard, Why: "policy"})
	eventually(t, "delivery", func() bool { return r.subjects(t, "INBOX")["mixed"] == 1 })
	items := r.list(t)
	if len(items) != 1 || len(items[0].Recipients) != 1 || items[0].Recipients[0].State != "quarantined" {
		t.Fatalf("the queue holds %+v", items)
	}
	if got := r.actions(t, m.ID); got != "queued quarantined discarded delivered" {
		t.Errorf("the trace says %q", got)
	}
	gone := r.commit(t, "gone", pipeline.Hop{Kind: pipeline.HopDiscard})
	if got := r.actions(t, gone.ID); got != "discarded" {
		t.Errorf("the trace of a discarded message says %q", got)
	}
	if _, err := queue.Show(context.Background(), r.store.KV(), gone.ID); !errors.Is(err, queue.ErrNotFound) {
		t.Errorf("a discarded message is in the queue: %v", err)
	}
}

func TestAccountThatWentAway(t *testing.T) {
	r := newRig(t, nil)
	hop := r.mailbox()
	hop.Account[9] ^= 1
	r.commit(t, "late", hop)
	eventually(t, "quarantine", func() bool {
		items := r.list(t)
		return len(items) == 1 && items[0].Recipients[0].State == "quarantined"
	})
}

func TestOurOwnFailureIsTriedAgainSoon(t *testing.T) {
	t.Parallel()
	var tries atomic.Int32
	r := newRig(t, func(o *queue.Options) {
		o.Deliver = &stubborn{next: o.Deliver, fail: func(*pipeline.Attempt) (pipeline.Outcome, error) {
			switch tries.Add(1) {
			case 1:
				return pipeline.Outcome{}, errors.New("disk trouble")
			case 2:
				panic("a bug")
			}
			return pipeline.Outcome{}, nil
		}}
	})
	m := r.commit(t, "again", r.mailbox())
	eventually(t, "delivery", func() bool { return r.subjects(t, "INBOX")["again"] == 1 })
	if got := r.actions(t, m.ID); got != "queued delayed delayed delivered" {
		t.Errorf("the trace says %q", got)
	}
}

// teller notes the notices; it sends none.
type teller struct{ told chan string }

func (t *teller) Notice(_ context.Context, n *queue.Notice) (*pipeline.Message, string, error) {
	var words []string
	for _, a := range n.About {
		words = append(words, fmt.Sprintf("%d %s %s", a.Kind, a.Recipient.Address, a.Outcome.Text))
	}
	t.told <- strings.Join(words, ", ")
	return nil, "noted", nil
}

func TestTimetable(t *testing.T) {
	var now atomic.Int64
	start := time.Unix(1_800_000_000, 0)
	clock := func() time.Time { return start.Add(time.Duration(now.Load())) }
	told := &teller{make(chan string, 10)}
	r := newRig(t, func(o *queue.Options) {
		o.Now, o.Notify = clock, told
		o.Jitter = func() float64 { return 0 }
		o.Deliver = &stubborn{next: o.Deliver, fail: func(*pipeline.Attempt) (pipeline.Outcome, error) {
			return pipeline.Outcome{Kind: pipeline.Delayed, Text: "not now", Start: clock()}, nil
		}}
	})
	m, err := message(r.store, "slow", r.mailbox())
	if err != nil {
		t.Fatal(err)
	}
	m.Received, m.Origin = start, sdk.Login
	if err := r.queue.Commit(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	var waits []time.Duration
	for attempt := 1; ; attempt++ {
		eventually(t, fmt.Sprintf("attempt %d", attempt), func() bool {
			items := r.list(t)
			return len(items) == 0 || items[0].Recipients[0].State == "quarantined" || items[0].Recipients[0].Attempts == attempt
		})
		items := r.list(t)
		if len(items) == 0 || items[0].Recipients[0].State == "quarantined" {
			break
		}
		next := items[0].Recipients[0].Next
		waits = append(waits, next.Sub(clock()))
		now.Store(int64(next.Sub(start)))
	}
	if got := fmt.Sprint(waits[:7]); got != "[15m0s 22m30s 33m45s 50m37.5s 1h15m56.25s 1h53m54.375s 2h0m0s]" {
		t.Errorf("waits: %s", got)
	}
	if total := time.Duration(now.Load()); total < 5*24*time.Hour || total > 5*24*time.Hour+2*time.Hour {
		t.Errorf("given up after %s", total)
	}
	close(told.told)
	var notices []string
	for n := range told.told {
		notices = append(notices, n)
	}
	if got := strings.Join(notices, "; "); got != "2 r0@example.test not now; 1 r0@example.test not now" {
		t.Errorf("the sender was told: %s", got)
	}
}

func TestMemoryIsBoundedByTheWindow(t *testing.T) {
	const window, n = 20, 500
	hold := make(chan struct{})
	r := newRig(t, func(o *queue.Options) {
		o.Window = window
		next := o.Deliver
		o.Deliver = &stubborn{next: next, fail: func(*pipeline.Attempt) (pipeline.Outcome, error) {
			<-hold
			return pipeline.Outcome{}, nil
		}}
	})
	for i := range n {
		r.commit(t, fmt.Sprint("m", i), r.mailbox())
		if in, _ := r.queue.Depth(); in > window {
			t.Fatalf("%d entries in memory, window %d", in, window)
		}
	}
	if got := len(r.list(t)); got != n {
		t.Fatalf("%d entries on disk, expected %d", got, n)
	}
	close(hold)
	eventually(t, "an empty queue", func() bool { return len(r.list(t)) == 0 })
	found := r.subjects(t, "INBOX")
	for i := range n {
		if found[fmt.Sprint("m", i)] != 1 {
			t.Errorf("message %d is there %d times", i, found[fmt.Sprint("m", i)])
		}
	}
}

func BenchmarkCommitAndDeliver(b *testing.B) {
	r := newRig(b, nil)
	b.ResetTimer()
	for i := range b.N {
		r.commit(b, fmt.Sprint(i), r.mailbox())
	}
	eventually(b, "an empty queue", func() bool { in, more := r.queue.Depth(); return in == 0 && !more })
}
