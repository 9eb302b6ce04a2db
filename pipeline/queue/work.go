package queue

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/trace"
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

// process makes an attempt for each recipient of the entry that is due, and lets
// the entry wait for the others.
func (q *Queue) process(ctx context.Context, e *live) {
	now := q.Now()
	for i := 0; i < len(e.recipients); {
		if ctx.Err() != nil {
			return // stopping: what is not settled is on disk
		}
		r := e.recipients[i]
		if r.Next.After(now) {
			i++
			continue
		}
		if q.attempt(ctx, e, r) {
			e.recipients = append(e.recipients[:i:i], e.recipients[i+1:]...)
			continue
		}
		i++
	}
	if len(e.recipients) == 0 {
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

// attempt tries one recipient once and reports whether it is out of the workers'
// hands.
func (q *Queue) attempt(ctx context.Context, e *live, r *Recipient) (done bool) {
	r.Attempts++
	outcome, settled, err := q.deliver(ctx, e, r)
	if err != nil {
		q.Logger.Error("delivery failed", "id", e.ID, "stage", pipeline.StageDeliver, "action", "retry", "to", r.Address, "why", err)
		outcome.Kind, outcome.Text = pipeline.Delayed, "a temporary problem here"
	}
	if settled {
		q.Logger.Info("delivered", "id", e.ID, "stage", pipeline.StageDeliver, "action", outcome.Kind.String(), "to", r.Address, "why", outcome.Text)
		return true
	}
	done, err = q.settle(ctx, e, r, outcome, err != nil)
	if err != nil {
		q.Logger.Error("settling failed", "id", e.ID, "stage", pipeline.StageQueue, "action", "retry", "to", r.Address, "why", err)
		r.Next = q.Now().Add(q.soon(r.Attempts)) // in memory; on disk it is still due
		return false
	}
	return done
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
	trace.Append(b, e.ID, q.Now(), q.outcomeEvent(r, o))
}

func (q *Queue) outcomeEvent(r *Recipient, o pipeline.Outcome) trace.Event {
	now := q.Now()
	return trace.Event{
		At: now, Stage: pipeline.StageDeliver, Recipient: r.Address,
		Action: o.Kind.String(), Text: o.Text, Took: now.Sub(o.Start),
	}
}

// settle writes an outcome that the deliverer did not write itself. ours says
// that the delay is our own failure: then the next attempt comes soon.
func (q *Queue) settle(ctx context.Context, e *live, r *Recipient, o pipeline.Outcome, ours bool) (done bool, err error) {
	var b kv.Batch
	config := q.Config(e.Pipeline)
	now := q.Now()
	age := now.Sub(e.Received)
	var generated *live
	switch {
	case o.Kind == pipeline.Gone:
		q.quarantine(&b, e, r, o)
		done = true
	case o.Kind == pipeline.Delayed && age < config.GiveUpAfter.Std():
		wait := q.soon(r.Attempts)
		if !ours {
			wait = q.jitter(config.wait(r.Attempts))
		}
		if config.WarnAfter > 0 && age >= config.WarnAfter.Std() && !r.Warned {
			r.Warned = true
			if generated, err = q.notify(ctx, &b, e, r, o, NoticeDelayed); err != nil {
				return false, err
			}
		}
		q.postpone(&b, e, r, o, now.Add(wait))
	default: // delivered by a deliverer that leaves the settling to us, failed, or given up
		if o.Kind != pipeline.Delivered {
			o.Kind = pipeline.Failed
			if generated, err = q.notify(ctx, &b, e, r, o, NoticeFailed); err != nil {
				return false, err
			}
		}
		last := q.isLast(e)
		q.finish(&b, e, r, o, last)
		if last {
			q.Store.DropRef(&b, e.Content, useOf(e.ID))
		}
		done = true
	}
	pos, err := q.apply(ctx, &b, generated)
	if err != nil {
		return false, err
	}
	q.Logger.Info("attempt", "id", e.ID, "stage", pipeline.StageDeliver, "action", o.Kind.String(), "to", r.Address, "why", o.Text)
	return done, q.Store.WaitDurable(ctx, pos)
}

// apply applies a batch that may hold a new entry, and schedules that entry.
func (q *Queue) apply(ctx context.Context, b *kv.Batch, generated *live) (kv.Pos, error) {
	inMemory := generated != nil && len(generated.recipients) > 0 && q.claim(generated)
	pos, err := q.Store.KV().Apply(ctx, b)
	switch {
	case err != nil && inMemory:
		q.release(generated)
	case inMemory:
		q.push(generated)
	}
	return pos, err
}

// postpone adds to b that a recipient is due again later.
func (q *Queue) postpone(b *kv.Batch, e *live, r *Recipient, o pipeline.Outcome, next time.Time) {
	r.Next, r.Last = next, o.Text
	b.Set(recipientKey(e.ID, r.Number), r.append(nil))
	b.Set(dueKey(minuteOf(next), localHop, e.ID, r.Number), nil)
	trace.Append(b, e.ID, q.Now(), q.outcomeEvent(r, o))
}

// quarantine adds to b that a recipient's copy waits for the postmaster.
func (q *Queue) quarantine(b *kv.Batch, e *live, r *Recipient, o pipeline.Outcome) {
	r.Hop.Kind, r.Hop.Why, r.Next = pipeline.HopQuarantine, o.Text, time.Time{}
	b.Set(recipientKey(e.ID, r.Number), r.append(nil))
	b.Set(quarantineKey(e.ID, r.Number), nil)
	trace.Append(b, e.ID, q.Now(), q.event(r, "quarantined", o.Text))
	e.rest++
}

// jitter spreads a wait within 10 percent (RULES D1).
func (q *Queue) jitter(d time.Duration) time.Duration {
	return d + time.Duration(q.Jitter()*0.1*float64(d))
}

// soon is the wait after a failure of our own store.
func (q *Queue) soon(attempts int) time.Duration {
	const first, most = time.Second, 5 * time.Minute
	d := first << min(attempts-1, 20)
	return q.jitter(min(max(d, first), most))
}
