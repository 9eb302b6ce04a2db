package queue_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
)

// hearer keeps what it is told.
type hearer struct {
	mu       sync.Mutex
	deaf     bool
	told     []string
	envelope []sdk.Envelope
	counted  map[sdk.EventKind]int
}

func (h *hearer) Wants(sdk.EventKind) bool { return !h.deaf }

func (h *hearer) Tell(e sdk.Envelope, what sdk.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = append(h.told, fmt.Sprintf("%s %s %s %q", what.Kind, what.Recipient, what.Account, what.Text))
	h.envelope = append(h.envelope, e)
}

func (h *hearer) observe(kind sdk.EventKind) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counted[kind]++
}

func (h *hearer) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	told := h.told
	h.told = nil
	slices.Sort(told)
	return told
}

func hearing(t *testing.T, h *hearer, more func(*queue.Options)) *rig {
	h.counted = make(map[sdk.EventKind]int)
	return newRig(t, func(o *queue.Options) {
		o.Events, o.Observe = h, h.observe
		if more != nil {
			more(o)
		}
	})
}

// TestEvents: every end of a recipient is told once, with what the queue knows.
func TestEvents(t *testing.T) {
	h := &hearer{}
	late := true
	r := hearing(t, h, func(o *queue.Options) {
		o.Deliver = &stubborn{next: o.Deliver, fail: func(a *pipeline.Attempt) (pipeline.Outcome, error) {
			if a.Recipient == "r1@example.test" && late {
				late = false
				return pipeline.Outcome{Kind: pipeline.Delayed, Text: "451 not now"}, nil
			}
			return pipeline.Outcome{}, nil
		}}
		o.Config = func(string) queue.Config {
			c := queue.DefaultConfig()
			c.Retry = 1 << 26 // 67 ms
			return c
		}
	})
	want := func(list ...string) {
		t.Helper()
		var got []string
		eventually(t, fmt.Sprint(list), func() bool { got = append(got, h.take()...); return len(got) >= len(list) })
		slices.Sort(got)
		slices.Sort(list)
		if !slices.Equal(got, list) {
			t.Errorf("told %q\nwant %q", got, list)
		}
	}
	m := r.commit(t, "all", r.mailbox(), r.mailbox(),
		pipeline.Hop{Kind: pipeline.HopQuarantine, Why: "odd"}, pipeline.Hop{Kind: pipeline.HopDiscard, Why: "void"})
	delivered := func(n, uid int) string {
		return fmt.Sprintf(`delivered r%d@example.test alice@example.test "alice@example.test, INBOX, UID %d"`, n, uid)
	}
	want(`quarantined r2@example.test  "odd"`, `discarded r3@example.test  "void"`, delivered(0, 1),
		`deferred r1@example.test alice@example.test "451 not now"`,
		delivered(1, 2))
	e := h.envelope[len(h.envelope)-1]
	if e.ID != m.ID.String() || e.Sender != "bob@example.net" || len(e.Recipients) != 1 || e.Pipeline != "inbound" || e.Origin != sdk.Stranger {
		t.Errorf("%+v", e)
	}

	r.commitFrom(t, sdk.Login, "bounced", bounce)
	want(`bounced r0@example.test  "550 5.7.1 no"`)

	route := func(context.Context, string) ([]pipeline.Hop, error) { return []pipeline.Hop{r.mailbox()}, nil }
	if _, err := r.queue.Do(t.Context(), m.ID, queue.ReleaseQuarantined, route); err != nil {
		t.Fatal(err)
	}
	want(`released r2@example.test  "by hand"`, delivered(2, 3))

	m = r.commit(t, "away", pipeline.Hop{Kind: pipeline.HopQuarantine, Why: "odd"})
	if _, err := r.queue.Do(t.Context(), m.ID, queue.RemoveQuarantined, nil); err != nil {
		t.Fatal(err)
	}
	want(`quarantined r0@example.test  "odd"`, `discarded r0@example.test  "by hand"`)

	each, err := message(r.store, "each", r.mailbox(), pipeline.Hop{}) // LMTP: a reply for each
	if err != nil {
		t.Fatal(err)
	}
	each.Recipients[1].Hops = nil
	each.Recipients[1].Take(pipeline.Opinion{Action: sdk.Reject, Reply: pipeline.ReplyRefused})
	if err := r.queue.Commit(t.Context(), each); err != nil {
		t.Fatal(err)
	}
	want(delivered(0, 4), fmt.Sprintf("refused r1@example.test  %q", pipeline.ReplyRefused.String()))

	refused, err := message(r.store, "refused", r.mailbox())
	if err != nil {
		t.Fatal(err)
	}
	refused.Trace.End(trace.Event{Action: "refused", Text: "550 5.7.1 no"})
	refused.Content.Discard()
	r.queue.Refused(t.Context(), refused)
	want(`refused   "550 5.7.1 no"`)
	if h.counted[sdk.EventDelivered] != 4 || h.counted[sdk.EventRefused] != 2 || h.counted[sdk.EventQuarantined] != 2 {
		t.Errorf("counted %v", h.counted)
	}
}

// TestEventsNobodyWants: who does not want to know is not told.
func TestEventsNobodyWants(t *testing.T) {
	h := &hearer{deaf: true}
	r := hearing(t, h, nil)
	r.commit(t, "all", r.mailbox(), pipeline.Hop{Kind: pipeline.HopQuarantine, Why: "odd"})
	eventually(t, "delivery", func() bool { return r.subjects(t, "INBOX")["all"] == 1 })
	if got := h.take(); len(got) > 0 {
		t.Errorf("told %q", got)
	}
}

// TestNoEventWithoutTheChange: what was not applied is not told.
func TestNoEventWithoutTheChange(t *testing.T) {
	h := &hearer{}
	r := hearing(t, h, nil)
	if _, err := r.queue.Do(t.Context(), storage.ID{9}, queue.Remove, nil); err == nil {
		t.Error("removed what is not there")
	}
	time.Sleep(20 * time.Millisecond)
	if got := h.take(); len(got) > 0 {
		t.Errorf("told %q", got)
	}
}
