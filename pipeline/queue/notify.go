package queue

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/kv"
)

// NoticeKind says what a notice tells the sender.
type NoticeKind uint8

// The kinds of notice (RFC 3464 section 2.3.3 Action).
const (
	NoticeFailed  NoticeKind = iota + 1 // the message was not delivered, and never will be
	NoticeDelayed                       // the message is late
)

// Notice is what a sender shall be told about a message after one round of
// attempts: one notice, however many recipients it is about (RULES A8).
type Notice struct {
	Entry *Entry
	About []About
}

// About is what a notice says about one recipient.
type About struct {
	Kind      NoticeKind
	Recipient *Recipient
	Outcome   pipeline.Outcome
}

// Notifier makes the message that carries a notice: a DSN (RFC 3464) from the
// null sender, routed, ready to be queued. A nil message means that the sender
// can't be told; why then says what was in the way.
type Notifier interface {
	Notice(ctx context.Context, n *Notice) (m *pipeline.Message, why string, err error)
}

// notify adds to b the notice that a round calls for. Who can't or must not be
// told of a failure loses nothing: the copy goes to postmaster's quarantine, unless
// the sender wants it so or is the null sender (RULES A7).
func (q *Queue) notify(ctx context.Context, b *kv.Batch, e *live, round []*result) (*notice, error) {
	n := &Notice{Entry: &e.Entry}
	var told []*result
	for _, r := range round {
		if r.tell == 0 {
			continue
		}
		if why := q.unwanted(e, r); why != "" {
			r.say("not notified", why)
			continue
		}
		if why := unverified(e.Origin); why != "" {
			r.untold(why)
			continue
		}
		told = append(told, r)
		n.About = append(n.About, About{r.tell, r.Recipient, r.outcome})
	}
	if len(told) == 0 {
		return nil, nil
	}
	m, why, err := q.Notify.Notice(ctx, n)
	if err != nil {
		return nil, fmt.Errorf("make the notice about %s: %w", e.ID, err)
	}
	if m == nil {
		for _, r := range told {
			r.untold(why)
		}
		return nil, nil
	}
	generated, err := q.stage(ctx, b, m)
	if err != nil {
		return nil, fmt.Errorf("queue the notice about %s: %w", e.ID, err)
	}
	for _, r := range told {
		r.say("notified", "the sender is told by "+m.ID.String())
	}
	return &notice{generated, m}, nil
}

// notice is a generated message on its way into the queue.
type notice struct {
	staged
	message *pipeline.Message
}

// unwanted says why there is no notice and need not be one.
func (q *Queue) unwanted(e *live, r *result) string {
	want := "FAILURE"
	if r.tell == NoticeDelayed {
		want = "DELAY"
	}
	switch {
	case e.Sender == "":
		return "the sender is the null sender"
	case q.Notify == nil:
		return "notices are off"
	case len(r.Params.Notify) > 0 && !slices.Contains(r.Params.Notify, want):
		return "the sender asked for NOTIFY=" + strings.Join(r.Params.Notify, ",")
	}
	return ""
}

// unverified says why the sender of such a message must not be told: anybody can
// write any sender.
func unverified(origin sdk.Origin) string {
	if origin == sdk.Stranger || origin == sdk.LMTP {
		return "nobody has verified the sender"
	}
	return ""
}
