package queue

import (
	"context"
	"fmt"
	"slices"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/storage/kv"
)

// NoticeKind says what a notice tells the sender.
type NoticeKind uint8

// The kinds of notice (RFC 3464 section 2.3.3 Action).
const (
	NoticeFailed  NoticeKind = iota + 1 // the message was not delivered, and never will be
	NoticeDelayed                       // the message is late
)

// Notice is what a sender shall be told about one recipient.
type Notice struct {
	Kind      NoticeKind
	Entry     *Entry
	Recipient *Recipient
	Outcome   pipeline.Outcome
}

// Notifier makes the message that carries a notice: a DSN (RFC 3464) from the
// null sender, routed, ready to be queued. A nil message means that the sender
// can't be told; why then says what was in the way.
type Notifier interface {
	Notice(ctx context.Context, n *Notice) (m *pipeline.Message, why string, err error)
}

// notify adds a notice to b, if the sender is to have one: never a null sender,
// and never against NOTIFY (RFC 3461 section 4.1).
func (q *Queue) notify(ctx context.Context, b *kv.Batch, e *live, r *Recipient, o pipeline.Outcome, kind NoticeKind) (*live, error) {
	if why := q.silent(e, r, kind); why != "" {
		trace.Append(b, e.ID, q.Now().Add(1), q.event(r, "not notified", why))
		return nil, nil
	}
	m, why, err := q.Notify.Notice(ctx, &Notice{kind, &e.Entry, r, o})
	if err != nil {
		return nil, fmt.Errorf("make the notice about %s: %w", e.ID, err)
	}
	if m == nil {
		trace.Append(b, e.ID, q.Now().Add(1), q.event(r, "not notified", why))
		return nil, nil
	}
	generated, err := q.stage(ctx, b, m)
	if err != nil {
		return nil, fmt.Errorf("queue the notice about %s: %w", e.ID, err)
	}
	trace.Append(b, e.ID, q.Now().Add(1), q.event(r, "notified", "the sender is told by "+m.ID.String()))
	return generated, nil
}

func (q *Queue) silent(e *live, r *Recipient, kind NoticeKind) string {
	want := "FAILURE"
	if kind == NoticeDelayed {
		want = "DELAY"
	}
	switch {
	case e.Sender == "":
		return "the sender is the null sender"
	case q.Notify == nil:
		return "notices are off"
	case len(r.Params.Notify) > 0 && !slices.Contains(r.Params.Notify, want):
		return "the sender asked for NOTIFY=" + r.Params.Notify[0]
	}
	return ""
}
