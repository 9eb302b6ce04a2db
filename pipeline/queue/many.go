package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
)

// Order is a task for many entries. What it does to one entry is one batch; what it says of an entry is durable.
type Order struct {
	Task
	Filter Filter
	IDs    []storage.ID // these alone, in this order; empty: whatever the filter lets through
	After  storage.ID   // entries behind this one: how an order that was interrupted goes on
	DryRun bool         // only count

	Each     func(Step) error  // called for each entry that is meant; may be nil
	Progress func(Tally) error // called now and again; may be nil
}

// Step is what became of one entry.
type Step struct {
	ID         storage.ID
	Recipients int
	Err        error // ErrBusy: somebody was at it for too long
}

// Tally counts the steps of an order.
type Tally struct {
	Messages   int        // done
	Recipients int        // of them, those that it concerned
	Busy       int        // messages that were being delivered all the time
	Failed     int        // messages to which it could not be done
	Last       storage.ID // everything up to it is done or counted above
}

// An entry that is being delivered is left for the end; so many may be, and all of them together are waited for that long.
const (
	maxLater     = 10_000
	laterTime    = 10 * time.Second
	laterOneTime = time.Second
)

// Many does what an order says, page by page, beside a working queue or on one that was not started. Its memory is bounded
// however many entries there are. After an error or the end of ctx the Tally says how far it came.
func (q *Queue) Many(ctx context.Context, o *Order) (Tally, error) {
	m := &many{q: q, order: o, urged: make(map[string]struct{})}
	if err := q.ready(ctx); err != nil {
		return m.Tally, err
	}
	sieve := o.Filter.sieve(q.Now(), q.places(ctx, o.Filter.NextHop != ""))
	m.task = o.Task
	m.task.meant = func(e *Entry, r *Recipient) bool { return sieve.entry(e) && sieve.recipient(r) }
	err := m.all(ctx)
	if err == nil {
		err = m.comeBack(ctx)
	}
	if err == nil && o.Progress != nil {
		err = o.Progress(m.tally())
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", o.Verb, err)
	}
	if m.Messages > 0 && !o.DryRun {
		q.Logger.Info("by hand", "stage", pipeline.StageQueue, "action", string(o.Verb), "messages", m.Messages, "recipients", m.Recipients,
			"busy", m.Busy, "failed", m.Failed, "why", "asked to")
	}
	return m.tally(), err
}

// tally counts those too that were left for the end.
func (m *many) tally() Tally {
	t := m.Tally
	t.Busy += len(m.later)
	return t
}

// many is an order on its way.
type many struct {
	Tally
	q     *Queue
	order *Order
	task  Task
	later []storage.ID        // they were busy
	urged map[string]struct{} // HOPs whose next hop was told once to go on; again would be a way around its suspension
	steps []Step              // of this page
	pos   kv.Pos              // of its last batch
}

func (m *many) all(ctx context.Context) error {
	if len(m.order.IDs) > 0 {
		for _, id := range m.order.IDs {
			if err := m.one(ctx, id); err != nil {
				return err
			}
			if err := m.flush(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	return m.q.everyPage(ctx, m.order.After, &m.order.Filter, func(list []*stored) (bool, error) {
		for _, one := range list {
			if err := m.stored(ctx, one); err != nil {
				return false, errors.Join(err, m.flush(context.WithoutCancel(ctx)))
			}
			m.Last = one.ID
		}
		return true, m.flush(ctx)
	})
}

// stored does it to an entry that was just read, unless there is nothing to do.
func (m *many) stored(ctx context.Context, one *stored) error {
	n := 0
	for i := range one.recipients {
		if m.task.concerns(&one.Entry, &one.recipients[i]) {
			n++
		}
	}
	switch {
	case one.problem != nil:
		m.end(one.ID, 0, one.problem)
	case n == 0:
	case m.order.DryRun:
		m.end(one.ID, n, nil)
	default:
		return m.one(ctx, one.ID)
	}
	return ctx.Err()
}

// one does it to an entry, or leaves it for later.
func (m *many) one(ctx context.Context, id storage.ID) error {
	if m.order.DryRun {
		return m.dry(ctx, id)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case m.q.schedule.seize(id):
		return m.work(ctx, id)
	case len(m.later) < maxLater:
		m.later = append(m.later, id)
	default:
		m.end(id, 0, ErrBusy)
	}
	return nil
}

// dry counts an entry that was named.
func (m *many) dry(ctx context.Context, id storage.ID) error {
	entry, recipients, err := readEntry(ctx, m.q.Store.KV(), id)
	if errors.Is(err, kv.ErrNotFound) {
		err = ErrNotFound
	}
	n := 0
	for i := range recipients {
		if m.task.concerns(&entry, &recipients[i]) {
			n++
		}
	}
	if err == nil && n == 0 {
		err = ErrNothing
	}
	m.end(id, n, err)
	return ctx.Err()
}

// work does it to an entry that was seized.
func (m *many) work(ctx context.Context, id storage.ID) error {
	h, pos, err := m.q.byHand(ctx, id, &m.task)
	m.q.giveBack(ctx, id, err == nil && m.urgent(h))
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		m.pos = max(m.pos, pos)
		m.end(id, h.done, nil)
	case len(m.order.IDs) == 0 && (errors.Is(err, ErrNothing) || errors.Is(err, ErrNotFound)): // others were quicker
	default:
		m.end(id, 0, err)
	}
	return nil
}

// urgent reports whether the next hops of an entry shall be tried now although they are suspended: once for each.
func (m *many) urgent(h *hand) bool {
	const most = 100_000
	if m.task.Verb != Retry && m.task.Verb != Reroute {
		return false
	}
	fresh := false
	for i := range h.about {
		label := hopOf(&h.about[i].Hop)
		if _, done := m.urged[label]; !done && label != localHop && len(m.urged) < most {
			m.urged[label] = struct{}{}
			fresh = true
		}
	}
	return fresh
}

func (m *many) end(id storage.ID, recipients int, err error) {
	m.steps = append(m.steps, Step{id, recipients, err})
}

// flush counts the steps of a page when they are durable.
func (m *many) flush(ctx context.Context) error {
	if err := m.q.Store.WaitDurable(ctx, m.pos); err != nil {
		return err
	}
	for _, s := range m.steps {
		switch {
		case s.Err == nil:
			m.Messages++
			m.Recipients += s.Recipients
		case errors.Is(s.Err, ErrBusy):
			m.Busy++
		default:
			m.Failed++
		}
		if m.order.Each != nil {
			if err := m.order.Each(s); err != nil {
				return err
			}
		}
	}
	m.steps = m.steps[:0]
	if m.order.Progress != nil {
		return m.order.Progress(m.tally())
	}
	return nil
}

// comeBack tries again what was busy.
func (m *many) comeBack(ctx context.Context) error {
	end := time.Now().Add(laterTime)
	for i := 0; len(m.later) > 0; i++ {
		id := m.later[0]
		err := m.q.seize(ctx, id, max(min(time.Until(end), laterOneTime), 0))
		switch {
		case errors.Is(err, ErrBusy):
			m.end(id, 0, err)
		case err != nil:
			return err
		default:
			if err := m.work(ctx, id); err != nil {
				return err
			}
		}
		m.later = m.later[1:]
		if i%pageEntries == pageEntries-1 {
			if err := m.flush(ctx); err != nil {
				return err
			}
		}
	}
	return m.flush(ctx)
}

// Started reports whether the queue works, so that it knows next hops.
func (q *Queue) Started() bool { return q.stop != nil }
