package queue

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
)

// endedByHand is what a sender is told whose message was bounced without words.
const endedByHand = "the postmaster has ended the attempts to deliver it"

// bounce lets recipients fail now, by the same rules as if a server had said so: senders are told where they may be,
// and what nobody may be told of goes to quarantine (RULES A7).
func (q *Queue) bounce(ctx context.Context, id storage.ID, t *Task) (*hand, kv.Pos, error) {
	entry, recipients, err := readEntry(ctx, q.Store.KV(), id)
	if errors.Is(err, kv.ErrNotFound) {
		return nil, 0, ErrNotFound
	}
	if err != nil {
		return nil, 0, err
	}
	e := &live{Entry: entry, pos: q.Store.KV().Tail()}
	h := &hand{entry: &e.Entry, now: q.Now()}
	var round []*result
	for i := range recipients {
		r := &recipients[i]
		if !t.concerns(&entry, r) {
			e.rest++
			continue
		}
		e.addRecipient(r)
		r.at = q.dueMinute(r.hop, r.Next)
		h.about = append(h.about, *r)
		one := &result{Recipient: r, outcome: pipeline.Outcome{Kind: pipeline.Failed, Text: t.Text, Status: "5.0.0", Start: h.now}}
		if t.Text == "" {
			one.outcome.Text = endedByHand
		}
		if r.Last != "" {
			one.outcome.Text += "; the last attempt: " + r.Last
		}
		one.events = []trace.Event{{
			At: h.now, Stage: pipeline.StageQueue, Recipient: r.Address, Action: string(Bounce), Text: "by hand",
		}}
		round = append(round, one)
	}
	if len(round) == 0 {
		return nil, 0, ErrNothing
	}
	if q.Notify == nil {
		return nil, 0, errors.New("nobody here can write to senders")
	}
	h.done = len(round)
	pos, err := q.settle(ctx, e, round)
	if err != nil {
		return nil, 0, fmt.Errorf("tell the sender: %w", err)
	}
	return h, pos, nil
}

// reroute gives a recipient whose mail leaves another next hop, and lets it be tried there now; held ones stay held.
func (h *hand) reroute(r *Recipient) {
	r.Hop.Via = h.task.Via
	to := h.task.Via
	if to == "" {
		to = "where the configuration says"
	}
	if r.Next.IsZero() {
		h.set(r)
	} else {
		h.due(r)
	}
	h.say(r, "rerouted")
	h.events[len(h.events)-1].Text = "by hand: " + to
}
