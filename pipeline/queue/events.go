package queue

import (
	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
)

// Events hears what becomes of recipients. Its methods are called from any
// goroutine and return at once. What Tell is about was applied before the call, but
// may not be durable yet: who passes it on waits for that (RULES B1).
type Events interface {
	Wants(kind sdk.EventKind) bool
	Tell(envelope sdk.Envelope, event sdk.Event)
}

// tell counts what happened to a recipient and tells whoever wants to know.
func (q *Queue) tell(kind sdk.EventKind, e *Entry, r *Recipient, text string) {
	if q.Observe != nil {
		q.Observe(kind)
	}
	if q.Events == nil || !q.Events.Wants(kind) {
		return
	}
	event := sdk.Event{Kind: kind, At: q.Now(), Recipient: r.Address, Text: text}
	if r.Hop.Kind == pipeline.HopMailbox {
		event.Account = r.Hop.Address
	}
	q.Events.Tell(e.envelope(r), event)
}

// envelope is what the queue still knows of a message, with one recipient.
func (e *Entry) envelope(r *Recipient) sdk.Envelope {
	to := sdk.Recipient{Address: r.Address, Notify: r.Params.Notify, ORcpt: r.Params.ORcpt}
	if r.Hop.Kind == pipeline.HopMailbox {
		to.Accounts = []string{r.Hop.Address}
	}
	return sdk.Envelope{
		ID: e.ID.String(), Origin: e.Origin, Pipeline: e.Pipeline, Received: e.Received, Sender: e.Sender,
		Size: e.Params.Size, Body: e.Params.Body, SMTPUTF8: e.Params.SMTPUTF8, EnvID: e.Params.EnvID, Ret: e.Params.Ret,
		Recipients: []sdk.Recipient{to},
	}
}

// tellRound tells of the results of a round that is in the store.
func (q *Queue) tellRound(e *Entry, round []*result) {
	for _, r := range round {
		kind := sdk.EventDelivered
		switch {
		case r.fate == postponed && (r.still || !r.parked.IsZero()):
			continue // nothing was tried
		case r.fate == postponed:
			kind = sdk.EventDeferred
		case r.fate == quarantined:
			kind = sdk.EventQuarantined
		case r.outcome.Kind != pipeline.Delivered:
			kind = sdk.EventBounced
		}
		q.tell(kind, e, r.Recipient, r.outcome.Text)
	}
}

// tellCommitted tells of those recipients of a new message whose end came with the
// commit. They get the envelope as it arrived.
func (q *Queue) tellCommitted(m *pipeline.Message) {
	for _, r := range m.Recipients {
		if len(r.Hops) == 0 && r.Opinion.Action >= sdk.Defer { // LMTP: a reply of its own
			q.tellOf(sdk.EventRefused, m, r.Address, r.Opinion.Reply.String())
		}
		for _, hop := range r.Hops {
			switch hop.Kind {
			case pipeline.HopQuarantine:
				q.tellOf(sdk.EventQuarantined, m, r.Address, hop.Why)
			case pipeline.HopDiscard:
				q.tellOf(sdk.EventDiscarded, m, r.Address, hop.Why)
			}
		}
	}
}

// tellRefused tells that the peer was told no. It was never ours, so nothing of it
// has to be durable.
func (q *Queue) tellRefused(m *pipeline.Message) {
	text := ""
	if events := m.Trace.Events(); len(events) > 0 {
		text = events[len(events)-1].Text
	}
	q.tellOf(sdk.EventRefused, m, "", text)
}

func (q *Queue) tellOf(kind sdk.EventKind, m *pipeline.Message, recipient, text string) {
	if q.Observe != nil {
		q.Observe(kind)
	}
	if q.Events != nil && q.Events.Wants(kind) {
		q.Events.Tell(m.Envelope(), sdk.Event{Kind: kind, At: q.Now(), Recipient: recipient, Text: text})
	}
}

// tellByHand tells of what an administrator has done.
func (q *Queue) tellByHand(h *hand) {
	for i := range h.about {
		switch r := &h.about[i]; h.task.Verb {
		case ReleaseQuarantined:
			q.tell(sdk.EventReleased, h.entry, r, "by hand")
		case Remove, RemoveQuarantined:
			q.tell(sdk.EventDiscarded, h.entry, r, "by hand")
		}
	}
}
