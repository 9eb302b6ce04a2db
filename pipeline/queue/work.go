package queue

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/kv"
)

// work takes local parts that are ready until the queue stops.
func (q *Queue) work(ctx context.Context) {
	defer q.wg.Done()
	for {
		p := q.pop()
		if p == nil {
			return
		}
		p.e.mu.Lock()
		q.process(ctx, p)
		l := p.e.left(p)
		p.e.mu.Unlock()
		q.rest(p, l)
	}
}

// process makes an attempt for each recipient of a local part that is due, and settles
// the round. The entry is locked. Each pointer is one of e.recipients until its end is in the store.
func (q *Queue) process(ctx context.Context, p *part) {
	e, now := p.e, q.Now()
	var round []*result
	for _, r := range e.of(p) {
		if q.isClosed() || ctx.Err() != nil {
			break // stopping: what is not settled is on disk
		}
		if r.Next.After(now) || r.unsure && !q.makeSure(ctx, e, r) {
			continue
		}
		got := q.attempt(ctx, e, r)
		switch {
		case got == nil:
			e.drop(r)
		case got.ours && !q.makeSure(ctx, e, r): // its end may be in the store although we heard of a failure
		case got.outcome.Kind == pipeline.Delivered: // by now, not after the others' time-outs (RULES B8)
			q.settleNow(ctx, e, []*result{got})
		default:
			round = append(round, got)
		}
	}
	if len(round) > 0 {
		q.settleNow(ctx, e, round)
	}
}

// settleNow is settle, until it is durable.
func (q *Queue) settleNow(ctx context.Context, e *live, round []*result) {
	pos, err := q.settle(ctx, e, round)
	if err == nil {
		err = q.Store.WaitDurable(ctx, pos)
	}
	if err != nil && ctx.Err() == nil {
		q.Logger.Error("settling is not durable", "id", e.ID, "stage", pipeline.StageQueue, "action", "none", "why", err)
	}
}

// makeSure asks the store whether a recipient still waits, after a batch about it
// has failed: an engine whose answer was lost may have applied it. A recipient
// that is gone is dropped; one about whom the store can't tell is left for later.
func (q *Queue) makeSure(ctx context.Context, e *live, r *Recipient) (waits bool) {
	_, err := q.Store.KV().Get(ctx, recipientKey(e.ID, r.Number))
	switch {
	case err == nil:
		r.unsure = false
		return true
	case errors.Is(err, kv.ErrNotFound):
		e.drop(r)
		q.Logger.Info("settled before", "id", e.ID, "stage", pipeline.StageQueue, "action", "none", "to", r.Address,
			"why", "the store has it although it reported a failure")
		q.closeEntry(ctx, e)
		return false
	}
	r.unsure, r.Next = true, q.Now().Add(soon(r.Attempts))
	return false
}

// closeEntry removes an entry whose last recipient was settled by a batch of which nobody knew: those who were settled
// meanwhile left the entry to it.
func (q *Queue) closeEntry(ctx context.Context, e *live) {
	if len(e.recipients) > 0 || e.rest > 0 {
		return
	}
	_, err := q.Store.KV().Get(ctx, entryKey(e.ID))
	if err == nil {
		var b kv.Batch
		b.Delete(entryKey(e.ID))
		q.Store.DropRef(&b, e.Content, useOf(e.ID))
		_, err = q.Store.KV().Apply(ctx, &b)
	}
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		q.Logger.Error("entry without recipients left behind", "id", e.ID, "stage", pipeline.StageQueue, "action", "none", "why", err)
	}
}

// attempt tries one recipient once; nil means that its end is in the store.
func (q *Queue) attempt(ctx context.Context, e *live, r *Recipient) *result {
	r.Attempts++
	outcome, settled, err := q.deliver(ctx, e, r)
	if err != nil {
		q.Logger.Error("delivery failed", "id", e.ID, "stage", pipeline.StageDeliver, "action", "retry", "to", r.Address, "why", err)
		outcome.Kind, outcome.Text, settled = pipeline.Delayed, "a temporary problem here", false
	}
	if settled {
		q.Logger.Info("delivered", "id", e.ID, "stage", pipeline.StageDeliver, "action", outcome.Kind.String(), "to", r.Address, "why", outcome.Text)
		q.tell(sdk.EventDelivered, &e.Entry, r, outcome.Text)
		return nil
	}
	return &result{Recipient: r, outcome: outcome, ours: err != nil}
}

// deliver takes the message over the recipient's hop. A panic there ends the
// attempt, not the process.
func (q *Queue) deliver(ctx context.Context, e *live, r *Recipient) (o pipeline.Outcome, settled bool, err error) {
	var success *generated
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("deliver %s to %s: panic: %v\n%s", e.ID, r.Address, p, debug.Stack())
			settled = false
		}
		q.endSuccess(success, e, settled && err == nil)
	}()
	o.Start = q.Now()
	if r.Hop.Kind == pipeline.HopBounce {
		return pipeline.Outcome{Kind: pipeline.Failed, Text: r.Hop.Why, Start: o.Start}, false, nil
	}
	info, err := q.info(ctx, e, r.Variant)
	if err != nil {
		return o, false, fmt.Errorf("read the content of %s: %w", e.ID, err)
	}
	a := &pipeline.Attempt{
		ID: e.ID, Sender: e.Sender, Recipient: r.Address, Hop: r.Hop, Content: info,
		Received: e.Received, Number: r.Attempts,
	}
	last := e.isLast()
	if last {
		a.Use = useOf(e.ID)
	}
	if success, err = q.success(ctx, e, r); err != nil {
		return o, false, err
	}
	a.Settle = func(b *kv.Batch, o pipeline.Outcome) {
		q.end(b, e, r, o, last)
		success.addTo(b)
	}
	return q.Deliver.Deliver(ctx, a)
}

// end adds to b that a recipient is settled; with the last one the entry goes.
// The use of the content is the caller's to drop.
func (q *Queue) end(b *kv.Batch, e *live, r *Recipient, o pipeline.Outcome, last bool) {
	b.Delete(recipientKey(e.ID, r.Number))
	if last {
		b.Delete(entryKey(e.ID))
	}
	q.trace(b, e, q.outcomeEvent(r, o))
}

// trace adds events to the trace of an entry, each time under a key of their own
// although clocks may stand still.
func (q *Queue) trace(b *kv.Batch, e *live, events ...trace.Event) {
	at := q.Now()
	if !at.After(e.traced) {
		at = e.traced.Add(1)
	}
	e.traced = at
	trace.Append(b, e.ID, at, events...)
}

func (q *Queue) outcomeEvent(r *Recipient, o pipeline.Outcome) trace.Event {
	now := q.Now()
	text := o.Text
	if o.TLS != "" {
		text += " (" + o.TLS + ")"
	}
	return trace.Event{
		At: now, Stage: pipeline.StageDeliver, Recipient: r.Address,
		Action: o.Kind.String(), Text: text, Took: now.Sub(o.Start),
	}
}
