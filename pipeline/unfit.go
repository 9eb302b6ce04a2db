package pipeline

import (
	"context"

	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
)

// Unfit is content that receive itself does not take: for its octets, for a limit, or for what a login may not write.
type Unfit struct {
	Reply Reply  // what the peer is told
	Why   string // for the trace
	Size  int64  // octets that came, as far as they were read
}

// Refuse keeps the trace of a message whose content is unfit, as of any other that the peer was told no about. No stage
// is asked, and m may be without content; what it has is released. It owns m from then on.
func (p *Pipeline) Refuse(ctx context.Context, m *Message, u Unfit) {
	if m.Content != nil {
		defer m.Discard()
	}
	action := sdk.Reject
	if u.Reply.Temporary() {
		action = sdk.Defer
	}
	p.open(m, u.Size, trace.Event{Action: action.String(), Text: u.Why})
	m.Trace.End(trace.Event{
		At: p.Now(), Stage: StageReceive, Action: "refused", Took: p.Now().Sub(m.Received), Text: u.Reply.Clean().String(),
	})
	p.Queue.Refused(ctx, m)
}

// Refuse is Pipeline.Refuse of the pipeline with which the message began.
func (s *Switch) Refuse(ctx context.Context, m *Message, u Unfit) { s.of(m).Refuse(ctx, m, u) }
