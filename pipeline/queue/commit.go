package queue

import (
	"context"
	"fmt"

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
	var b kv.Batch
	e, err := q.stage(ctx, &b, m)
	if err != nil {
		q.withdraw(m)
		return fmt.Errorf("commit %s: %w", m.ID, err)
	}
	inMemory := len(e.recipients) > 0 && q.claim(e)
	pos, err := q.Store.KV().Apply(ctx, &b)
	if err != nil {
		q.withdraw(m)
	} else {
		err = q.Store.WaitDurable(context.WithoutCancel(ctx), pos)
		m.Content.Discard()
	}
	switch {
	case err != nil && inMemory:
		q.release(e)
	case inMemory:
		q.push(e)
	}
	if err != nil {
		return fmt.Errorf("commit %s: %w", m.ID, err)
	}
	return nil
}

// withdraw removes what was made durable for a batch that was not applied.
func (q *Queue) withdraw(m *pipeline.Message) {
	if err := m.Content.Withdraw(); err != nil {
		q.Logger.Warn("content file left behind", "id", m.ID, "stage", pipeline.StageQueue, "action", "none", "why", err)
	}
}

// Refused keeps the trace of a message that was refused (pipeline.Committer).
func (q *Queue) Refused(ctx context.Context, m *pipeline.Message) {
	var b kv.Batch
	trace.Put(&b, m.ID, m.Trace)
	if _, err := q.Store.KV().Apply(ctx, &b); err != nil {
		q.Logger.Warn("trace not kept", "id", m.ID, "stage", pipeline.StageQueue, "action", "none", "why", err)
	}
}

// stage adds everything about a new message to b.
func (q *Queue) stage(ctx context.Context, b *kv.Batch, m *pipeline.Message) (*live, error) {
	if !keeps(m) { // everybody discards it: the trace is all that stays
		q.traceDiscards(b, m)
		m.Content.Discard()
		return &live{Entry: Entry{ID: m.ID}}, nil
	}
	versions, of := m.Versions()
	variants := make([]blob.Variant, len(versions))
	for i, v := range versions {
		variants[i] = v.Variant(m.Arrived())
	}
	prepared, err := q.Store.Prepare(ctx, m.Content, variants)
	if err != nil {
		return nil, err
	}
	now := q.Now()
	e := &live{index: -1, floor: minuteOf(now)}
	e.Entry = Entry{
		ID: m.ID, Origin: m.Origin, Pipeline: m.Pipeline, Received: m.Received, Sender: m.Sender,
		Params: m.Params, Size: m.Content.Size(),
	}
	for i := range variants {
		e.infos = append(e.infos, prepared.Info(i))
	}
	e.Content = e.infos[0].ID
	q.stageRecipients(b, m, e, of)
	trace.Put(b, m.ID, m.Trace)
	prepared.Put(b, useOf(m.ID))
	b.Set(entryKey(m.ID), e.Entry.append(make([]byte, 0, 128+len(e.Sender))))
	return e, nil
}

// keeps reports whether anything of the message outlives the commit.
func keeps(m *pipeline.Message) bool {
	for _, r := range m.Recipients {
		for _, hop := range r.Hops {
			if hop.Kind != pipeline.HopDiscard {
				return true
			}
		}
	}
	return false
}

func (q *Queue) traceDiscards(b *kv.Batch, m *pipeline.Message) {
	for _, r := range m.Recipients {
		for _, hop := range r.Hops {
			m.Trace.Add(q.event(&Recipient{Address: r.Address}, "discarded", hop.Why))
		}
	}
	trace.Put(b, m.ID, m.Trace)
}

// stageRecipients adds the recipients' states to b, and to e those that have
// work to do.
func (q *Queue) stageRecipients(b *kv.Batch, m *pipeline.Message, e *live, of []int) {
	number := uint32(0)
	for i, r := range m.Recipients {
		for _, hop := range r.Hops {
			rec := &Recipient{
				Number: number, Address: r.Address, Params: r.Params, Hop: hop, Variant: of[i],
			}
			number++
			switch hop.Kind {
			case pipeline.HopDiscard:
				m.Trace.Add(q.event(rec, "discarded", hop.Why))
				continue
			case pipeline.HopQuarantine:
				m.Trace.Add(q.event(rec, "quarantined", hop.Why))
				b.Set(quarantineKey(e.ID, rec.Number), nil)
				e.rest++
			default:
				rec.Next = q.Now()
				b.Set(dueKey(minuteOf(rec.Next), localHop, e.ID, rec.Number), nil)
				e.recipients = append(e.recipients, rec)
			}
			b.Set(recipientKey(e.ID, rec.Number), rec.append(make([]byte, 0, 64+len(rec.Address)+len(hop.Address))))
		}
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
