package queue

import (
	"context"
	"fmt"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/kv"
)

// Commit takes responsibility for a message (pipeline.Committer): one synced
// batch with content, envelope, recipients and trace. On an error nothing was
// committed, but for one case: if the sync's result is not known, the message
// may be there after a restart although the peer heard 451; at worst the peer
// sends it again.
func (q *Queue) Commit(ctx context.Context, m *pipeline.Message) error {
	ctx = context.WithoutCancel(ctx) // from here on it is done or fails, whoever has gone
	var b kv.Batch
	n, err := q.stage(ctx, &b, m)
	if err != nil {
		return fmt.Errorf("commit %s: %w", m.ID, err)
	}
	pos, err := q.Store.KV().Apply(ctx, &b)
	if err == nil {
		err = q.Store.WaitDurable(ctx, pos)
	}
	m.Discard() // its file stays: an engine that reports a failure may have the batch all the same
	q.admitNew(n, pos, err)
	if err != nil {
		return fmt.Errorf("commit %s: %w", m.ID, err)
	}
	q.tellCommitted(m)
	return nil
}

// staged is a new entry whose batch is being made and applied.
type staged struct {
	*live
	work bool // there is something to do for it
}

// admitNew ends what stage has begun: err says whether the entry is there, from pos on.
func (q *Queue) admitNew(n staged, pos kv.Pos, err error) {
	switch {
	case !n.work:
	case err != nil:
		q.release(n.live)
	default:
		q.launch(n.live, pos)
	}
}

// withdraw removes what was made durable for a batch that was not applied.
func (q *Queue) withdraw(m *pipeline.Message) {
	if err := m.Withdraw(); err != nil {
		q.Logger.Warn("content file left behind", "id", m.ID, "stage", pipeline.StageQueue, "action", "none", "why", err)
	}
}

// Refused keeps the trace of a message that was refused (pipeline.Committer).
func (q *Queue) Refused(ctx context.Context, m *pipeline.Message) {
	defer q.tellRefused(m)
	var b kv.Batch
	trace.Put(&b, m.ID, m.Trace)
	if _, err := q.Store.KV().Apply(ctx, &b); err != nil {
		q.Logger.Warn("trace not kept", "id", m.ID, "stage", pipeline.StageQueue, "action", "none", "why", err)
	}
}

// stage adds everything about a new message to b. After an error nothing is left
// of it, nor of its content; otherwise the caller ends with admitNew.
func (q *Queue) stage(ctx context.Context, b *kv.Batch, m *pipeline.Message) (staged, error) {
	kept, work := count(m)
	if kept == 0 { // everybody discards it: the trace is all that stays
		q.traceDiscards(b, m)
		m.Discard()
		return staged{}, nil
	}
	versions, of := m.Versions()
	variants := make([]blob.Variant, len(versions))
	for i, v := range versions {
		variants[i] = v.Variant(m.Arrived())
	}
	prepared, err := q.Store.Prepare(ctx, m.Content, variants)
	if err != nil {
		q.withdraw(m)
		return staged{}, err
	}
	n := staged{live: &live{}, work: work > 0}
	n.Entry = Entry{
		ID: m.ID, Origin: m.Origin, Pipeline: m.Pipeline, Received: m.Received, Sender: m.Sender,
		Params: m.Params, Size: m.Content.Size(), Verified: m.Auth != nil && m.Auth.SenderVerified,
	}
	if m.Peer != nil {
		n.Login = m.Peer.Login
	}
	for i := range variants {
		n.infos = append(n.infos, prepared.Info(i))
	}
	n.Content = n.infos[0].ID
	now := q.Now()
	recipients := q.recipients(m, n.live, of, now)
	if n.work {
		q.claim(n.live)
		m.Trace.End(trace.Event{
			At: now, Stage: pipeline.StageQueue, Action: "queued", Took: now.Sub(m.Received), Text: fmt.Sprintf("%d to deliver", work),
		})
	}
	q.stageRecipients(b, m, n.live, recipients)
	trace.Put(b, m.ID, m.Trace)
	prepared.Put(b, useOf(m.ID))
	b.Set(entryKey(m.ID), n.Entry.append(make([]byte, 0, 128+len(n.Sender))))
	return n, nil
}

// count returns how many hops of the message outlive the commit, and for how many
// of those there is something to do.
func count(m *pipeline.Message) (kept, work int) {
	for _, r := range m.Recipients {
		for _, hop := range r.Hops {
			if hop.Kind != pipeline.HopDiscard {
				kept++
			}
			if hop.Kind != pipeline.HopDiscard && hop.Kind != pipeline.HopQuarantine {
				work++
			}
		}
	}
	return kept, work
}

func (q *Queue) traceDiscards(b *kv.Batch, m *pipeline.Message) {
	for _, r := range m.Recipients {
		for _, hop := range r.Hops {
			m.Trace.End(q.event(&Recipient{Address: r.Address}, "discarded", hop.Why))
		}
	}
	trace.Put(b, m.ID, m.Trace)
}

// recipients makes the recipients of a new entry, and adds those that have work to do to it.
func (q *Queue) recipients(m *pipeline.Message, e *live, of []int, now time.Time) []*Recipient {
	var all []*Recipient
	number := uint32(0)
	for i, r := range m.Recipients {
		params, instead := insteadOf(r)
		for _, hop := range r.Hops {
			rec := &Recipient{
				Number: number, Address: r.Address, Params: params, Hop: hop, Variant: of[i], Added: r.Added, Instead: instead,
			}
			number++
			all = append(all, rec)
			switch hop.Kind {
			case pipeline.HopDiscard:
			case pipeline.HopQuarantine:
				e.rest++
			case pipeline.HopRemote:
				t := q.timetable(m.Pipeline, domainOf(hop.Address))
				rec.Next = t.turn(now, m.Received, false)
				e.addRecipient(rec)
			default:
				rec.Next = now
				e.addRecipient(rec)
			}
		}
	}
	return all
}

// insteadOf returns the parameters of a recipient, and the addresses in whose place a plugin has added it: then it is told about
// under those, and as their RCPT wanted. One of several stands for how.
func insteadOf(r *pipeline.Recipient) (pipeline.RecipientParams, []string) {
	const most = 100 // a value is bounded (RULES B2)
	if r.Added == "" {
		return r.Params, nil
	}
	named := r.Instead()
	if len(named) == 0 {
		return r.Params, nil
	}
	var instead []string
	for _, one := range named[:min(len(named), most)] {
		instead = append(instead, one.Address)
	}
	return named[0].Params, instead
}

// stageRecipients adds the recipients' states to b.
func (q *Queue) stageRecipients(b *kv.Batch, m *pipeline.Message, e *live, recipients []*Recipient) {
	for _, r := range recipients {
		switch r.Hop.Kind {
		case pipeline.HopDiscard:
			m.Trace.End(q.event(r, "discarded", r.Hop.Why))
			continue
		case pipeline.HopQuarantine:
			m.Trace.End(q.event(r, "quarantined", r.Hop.Why))
			b.Set(quarantineKey(e.ID, r.Number), nil)
		default:
			b.Set(dueKey(r.at, r.hop, e.ID, r.Number), r.note())
		}
		b.Set(recipientKey(e.ID, r.Number), r.append(make([]byte, 0, 64+len(r.Address)+len(r.Hop.Address))))
	}
}

func (q *Queue) event(r *Recipient, action, text string) trace.Event {
	return trace.Event{At: q.Now(), Stage: pipeline.StageQueue, Recipient: r.Address, Action: action, Text: text}
}

// info returns what a mailbox needs to know of a variant.
func (q *Queue) info(ctx context.Context, e *live, variant int) (storage.ContentInfo, error) {
	for len(e.infos) <= variant {
		e.infos = append(e.infos, storage.ContentInfo{})
	}
	if e.infos[variant].ID != (storage.ContentID{}) {
		return e.infos[variant], nil
	}
	info, err := q.Store.ContentInfo(ctx, e.Content, variant)
	if err == nil {
		e.infos[variant] = info
	}
	return info, err
}
