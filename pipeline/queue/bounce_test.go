package queue_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/sdk"
)

// TestNoBounceOfABounce (DRILLS E2.3): mail with the null sender that fails is told to nobody, whoever handed it in, and its end is in
// the trace.
func TestNoBounceOfABounce(t *testing.T) {
	r, w, s := newNoticeRig(t, nil)
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) { return refused(p), nil }
	for _, origin := range []sdk.Origin{sdk.Stranger, sdk.Trusted, sdk.Login, sdk.LMTP, sdk.Generated} {
		for _, notify := range [][]string{nil, {"FAILURE", "DELAY", "SUCCESS"}} {
			m := r.send(t, "bounce", func(m *pipeline.Message) {
				m.Origin, m.Sender, m.Auth = origin, "", &pipeline.Auth{SenderVerified: true}
				m.Recipients[0].Params.Notify = notify
			}, to("gone@example.net"))
			eventually(t, "its end", func() bool { return r.state(t, m.ID) == "gone" })
			if got := r.actions(t, m.ID); !strings.Contains(got, "failed") || !strings.Contains(got, "not notified") {
				t.Errorf("%s: the trace says %q", origin, got)
			}
		}
	}
	if got := s.all(); len(got) != 0 {
		t.Errorf("told: %q", got)
	}
}

// TestBounceThatBounces (DRILLS E2.3): where the notice itself cannot be delivered there is one notice and no more, however often that
// happens: postmaster gets none of them either.
func TestBounceThatBounces(t *testing.T) {
	away := &abroad{}
	r, w := newRemoteRig(t, func(o *queue.Options) { o.Notify = away })
	away.r = r
	var attempts atomic.Int64
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		attempts.Add(1)
		return refused(p), nil
	}
	const messages = 5
	for range messages {
		r.send(t, "never", func(*pipeline.Message) {}, to("gone@example.net"))
	}
	r.empty(t)
	if got := away.told.Load(); got != messages {
		t.Errorf("%d notices about %d messages", got, messages)
	}
	if got := attempts.Load(); got != 2*messages {
		t.Errorf("%d attempts, want one for each message and one for each notice", got)
	}
	if got := r.subjects(t, "INBOX"); len(got) != 0 {
		t.Errorf("somebody here was told: %v", got)
	}
}

// abroad sends each notice to another server.
type abroad struct {
	r    *rig
	told atomic.Int64
}

func (a *abroad) Notice(_ context.Context, n *queue.Notice) (*pipeline.Message, string, error) {
	a.told.Add(1)
	m, err := message(a.r.store, "notice", to(n.To))
	m.Origin, m.Sender = sdk.Generated, ""
	return m, "", err
}
