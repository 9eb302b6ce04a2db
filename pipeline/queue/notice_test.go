package queue_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/sdk"
)

// secretary makes each notice a message to alice, and notes what it says.
type secretary struct {
	r    *rig
	mu   sync.Mutex
	told []string
}

func (s *secretary) Notice(_ context.Context, n *queue.Notice) (*pipeline.Message, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := n.To + ":"
	for _, a := range n.About {
		text += fmt.Sprintf(" %d %s %s", a.Kind, a.Recipient.Address, a.Outcome.Status)
	}
	s.told = append(s.told, text)
	m, err := message(s.r.store, "notice", s.r.mailbox())
	m.Origin, m.Sender = sdk.Generated, ""
	return m, "", err
}

func (s *secretary) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(slices.Values(s.told))
}

func newNoticeRig(t *testing.T, change func(*queue.Options)) (*rig, *world, *secretary) {
	s := &secretary{}
	r, w := newRemoteRig(t, func(o *queue.Options) {
		o.Notify = s
		if change != nil {
			change(o)
		}
	})
	s.r = r
	return r, w, s
}

// send commits a message that change has changed.
func (r *rig) send(t *testing.T, subject string, change func(*pipeline.Message), hops ...pipeline.Hop) *pipeline.Message {
	t.Helper()
	m, err := message(r.store, subject, hops...)
	if err != nil {
		t.Fatal(err)
	}
	m.Origin = sdk.Login
	change(m)
	if err := r.queue.Commit(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestReportsOfSuccess (RFC 3461 section 4.1): only who asks is told, and not twice.
func TestReportsOfSuccess(t *testing.T) {
	r, w, s := newNoticeRig(t, nil)
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		sent := took(p)
		for i := range sent.Outcomes {
			sent.Outcomes[i].Relayed = p.Domain == "old.example"
		}
		return sent, nil
	}
	want := func(notify ...string) func(m *pipeline.Message) {
		return func(m *pipeline.Message) {
			for _, r := range m.Recipients {
				r.Params.Notify = notify
			}
		}
	}
	hops := []pipeline.Hop{r.mailbox(), to("a@old.example"), to("b@old.example"), to("c@new.example")}
	m := r.send(t, "asked", want("SUCCESS", "FAILURE"), hops...)
	r.send(t, "silent", want(), hops...)
	r.send(t, "failures", want("FAILURE"), hops...)
	r.send(t, "never", want("NEVER"), hops...)
	r.send(t, "null", func(m *pipeline.Message) { want("SUCCESS")(m); m.Sender = "" }, hops...)
	r.send(t, "stranger", func(m *pipeline.Message) { want("SUCCESS")(m); m.Origin = sdk.Stranger }, hops...)
	r.empty(t)
	want1 := []string{
		"bob@example.net: 3 r0@example.test 2.0.0",
		"bob@example.net: 4 r1@example.test 2.0.0 4 r2@example.test 2.0.0",
	}
	if got := s.all(); !slices.Equal(got, want1) {
		t.Errorf("told: %q", got)
	}
	if got := r.subjects(t, "INBOX"); got["notice"] != 2 || got["asked"] != 1 {
		t.Errorf("INBOX: %v", got)
	}
	if got := r.actions(t, m.ID); strings.Count(got, "delivered") != 4 || strings.Count(got, "notified") != 2 {
		t.Errorf("the trace says %q", got)
	}
}

// TestOneReportForAllHops: an alias with two members is one recipient.
func TestOneReportForAllHops(t *testing.T) {
	r, _, s := newNoticeRig(t, nil)
	r.send(t, "alias", func(m *pipeline.Message) {
		m.Recipients = m.Recipients[:1]
		m.Recipients[0].Hops = []pipeline.Hop{r.mailbox(), {Kind: pipeline.HopMailbox, Account: r.alice, Address: "alice@example.test", Junk: true}}
		m.Recipients[0].Params.Notify = []string{"SUCCESS"}
	}, r.mailbox())
	r.empty(t)
	if got := s.all(); len(got) != 1 {
		t.Errorf("told: %q", got)
	}
}

// TestForwardsOfStrangers (RULES A7, DRILLS E2.2): who is verified is told; of others the copy is kept, and the alias's owner is told
// once a day.
func TestForwardsOfStrangers(t *testing.T) {
	c := newClock()
	r, w, s := newNoticeRig(t, func(o *queue.Options) {
		o.Now = c.Now
		o.Owner = func(alias string) string { return "owner-of-" + alias }
	})
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) { return refused(p), nil }
	forward := func(origin sdk.Origin, verified bool) *pipeline.Message {
		return r.send(t, "forward", func(m *pipeline.Message) {
			m.Origin, m.Auth = origin, &pipeline.Auth{SenderVerified: verified}
		}, to("elsewhere@example.net"))
	}
	ended := func(m *pipeline.Message, state string) {
		t.Helper()
		eventually(t, state, func() bool { return r.state(t, m.ID) == state })
	}
	ended(forward(sdk.Stranger, true), "gone")
	ended(forward(sdk.Login, false), "gone")
	first := forward(sdk.Stranger, false)
	ended(first, "quarantined")
	ended(forward(sdk.Stranger, false), "quarantined")
	ended(forward(sdk.LMTP, false), "quarantined")
	want := []string{
		"bob@example.net: 1 r0@example.test 5.1.1", "bob@example.net: 1 r0@example.test 5.1.1",
		"owner-of-r0@example.test: 5 r0@example.test 5.1.1",
	}
	if got := s.all(); !slices.Equal(got, want) {
		t.Errorf("told: %q", got)
	}
	if got := r.actions(t, first.ID); !strings.Contains(got, "not notified quarantined") || !strings.HasSuffix(got, "owner told") {
		t.Errorf("the trace says %q", got)
	}
	c.add(25 * time.Hour)
	ended(r.send(t, "relayed", func(m *pipeline.Message) { // no forward: there is no owner
		m.Origin, m.Received, m.Recipients[0].Address = sdk.Stranger, c.Now(), "r0@example.net"
	}, to("r0@example.net")), "quarantined")
	for _, as := range []string{"R0@b\u00fccher.example", "r0@B\u00dcCHER.example", "r0@xn--bcher-kva.EXAMPLE"} { // the same address (RFC 5890)
		ended(r.send(t, "relayed", func(m *pipeline.Message) {
			m.Origin, m.Received, m.Recipients[0].Address = sdk.Stranger, c.Now(), as
		}, to("r0@xn--bcher-kva.example")), "quarantined")
	}
	ended(r.send(t, "tomorrow", func(m *pipeline.Message) { m.Origin, m.Received = sdk.Stranger, c.Now() }, to("elsewhere@example.net")), "quarantined")
	if got := s.all(); len(got) != 4 || got[3] != want[2] {
		t.Errorf("told: %q", got)
	}
}
