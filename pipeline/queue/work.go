package queue

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/kv"
)

// work takes entries that are ready until the queue stops.
func (q *Queue) work(ctx context.Context) {
	defer q.wg.Done()
	for {
		e := q.pop()
		if e == nil {
			return
		}
		q.process(ctx, e)
	}
}

// process makes an attempt for each recipient of the entry that is due, settles
// the round, and lets the entry wait for the others. Each pointer is one of
// e.recipients until its end is in the store.
func (q *Queue) process(ctx context.Context, e *live) {
	now := q.Now()
	var round []*result
	for _, r := range slices.Clone(e.recipients) {
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
			q.settle(ctx, e, []*result{got})
		default:
			round = append(round, got)
		}
	}
	if len(round) > 0 {
		q.settle(ctx, e, round)
	}
	if len(e.recipients) == 0 || q.isClosed() {
		q.release(e)
		return
	}
	next := e.recipients[0].Next
	for _, r := range e.recipients[1:] {
		if r.Next.Before(next) {
			next = r.Next
		}
	}
	q.keep(e, next, now)
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
		return false
	}
	r.unsure, r.Next = true, q.Now().Add(soon(r.Attempts))
	return false
}

// drop takes a recipient out of the workers' hands.
func (e *live) drop(r *Recipient) {
	e.recipients = slices.DeleteFunc(e.recipients, func(have *Recipient) bool { return have == r })
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
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("deliver %s to %s: panic: %v\n%s", e.ID, r.Address, p, debug.Stack())
			settled = false
		}
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
	last := q.isLast(e)
	if last {
		a.Use = useOf(e.ID)
	}
	a.Settle = func(b *kv.Batch, o pipeline.Outcome) { q.finish(b, e, r, o, last) }
	return q.Deliver.Deliver(ctx, a)
}

// isLast reports whether the recipient that is being tried is the only one left.
func (q *Queue) isLast(e *live) bool { return len(e.recipients) == 1 && e.rest == 0 }

// finish adds to b that a recipient is settled; with the last one the entry goes.
// The use of the content is the caller's to drop.
func (q *Queue) finish(b *kv.Batch, e *live, r *Recipient, o pipeline.Outcome, last bool) {
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
	return trace.Event{
		At: now, Stage: pipeline.StageDeliver, Recipient: r.Address,
		Action: o.Kind.String(), Text: o.Text, Took: now.Sub(o.Start),
	}
}

// spread moves a wait within 10 percent (RULES D1); luck is in [-1, 1).
func spread(d time.Duration, luck float64) time.Duration {
	return d + time.Duration(luck*0.1*float64(d))
}

// soon is the wait after a failure of our own store.
func soon(attempts int) time.Duration {
	const first, most = time.Second, 5 * time.Minute
	d := first << min(attempts-1, 20)
	return min(max(d, first), most)
}
