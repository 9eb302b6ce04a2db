package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
)

// Verb is what an administrator does to an entry by hand.
type Verb string

// The verbs, and whom among the entry's recipients they concern.
const (
	Hold    Verb = "hold"    // queued ones: not tried until released
	Release Verb = "release" // held ones: tried again from now on
	Retry   Verb = "retry"   // queued ones: tried now
	Remove  Verb = "remove"  // queued and held ones: forgotten, nobody is told
	Bounce  Verb = "bounce"  // queued and held ones: they fail now, and the sender is told
	Reroute Verb = "reroute" // queued and held ones whose mail leaves: by another next hop from now on

	ReleaseQuarantined Verb = "release from quarantine" // quarantined ones: delivered
	RemoveQuarantined  Verb = "remove from quarantine"  // quarantined ones: forgotten, nobody is told
)

// ErrBusy is returned for an entry that is being tried for longer than one waits.
var ErrBusy = errors.New("it is being delivered right now")

// ErrNothing is returned for an entry without a recipient that the verb concerns.
var ErrNothing = errors.New("no recipient in that state")

// Route says where a recipient's mail goes now, or why nowhere.
type Route func(ctx context.Context, address string) ([]pipeline.Hop, error)

// Task is what is done by hand.
type Task struct {
	Verb  Verb
	Route Route  // for ReleaseQuarantined, unless there is RouteOf
	Via   string // for Reroute: as Hop.Via; "" asks the configuration
	Text  string // for Bounce: what the sender is told
	Force bool   // for Retry and Release: the suppression list forgets the addresses

	RouteOf func(storage.ID) Route // Route for one entry

	meant func(*Entry, *Recipient) bool // nil: all of those that the verb concerns
}

// concerns reports whether something is done to a recipient.
func (t *Task) concerns(e *Entry, r *Recipient) bool {
	state, ok := r.state(), false
	switch t.Verb {
	case Hold, Retry, bringForward:
		ok = state == stateQueued
	case Release:
		ok = state == stateHeld
	case Remove, Bounce:
		ok = state == stateQueued || state == stateHeld
	case Reroute:
		ok = r.Hop.Kind == pipeline.HopRemote
	case ReleaseQuarantined, RemoveQuarantined:
		ok = state == stateQuarantined
	}
	return ok && (t.meant == nil || t.meant(e, r))
}

// Do does verb to an entry and returns how many recipients that concerned; it is
// durable then. It may be called while the queue works, and on a queue that was
// not started: for the time that it takes the entry belongs to the caller, not to
// a worker. route is for ReleaseQuarantined alone.
func (q *Queue) Do(ctx context.Context, id storage.ID, verb Verb, route Route) (int, error) {
	return q.Perform(ctx, id, &Task{Verb: verb, Route: route})
}

// Perform is Do for any task.
func (q *Queue) Perform(ctx context.Context, id storage.ID, t *Task) (int, error) {
	const patience = 10 * time.Second
	if err := q.ready(ctx); err != nil {
		return 0, err
	}
	if err := q.seize(ctx, id, patience); err != nil {
		return 0, fmt.Errorf("%s %s: %w", t.Verb, id, err)
	}
	h, pos, err := q.byHand(ctx, id, t)
	q.giveBack(ctx, id, t.Verb == Retry || t.Verb == Reroute)
	if err == nil {
		err = q.Store.WaitDurable(ctx, pos)
	}
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", t.Verb, id, err)
	}
	q.logHand(id, t, h)
	return h.done, nil
}

func (q *Queue) logHand(id storage.ID, t *Task, h *hand) {
	q.Logger.Info("by hand", "id", id, "stage", pipeline.StageQueue, "action", string(t.Verb), "recipients", h.done, "why", "asked to")
}

// ready makes a queue that was not started fit for work by hand: nobody has read the marks.
func (q *Queue) ready(ctx context.Context) error {
	if q.stop != nil {
		return nil
	}
	low, local, err := q.lows(ctx)
	if err == nil {
		q.setLow(low, local)
	}
	return err
}

// seize takes an entry away from the workers, waiting for one that is at it.
func (q *Queue) seize(ctx context.Context, id storage.ID, patience time.Duration) error {
	const look = 20 * time.Millisecond
	for end := time.Now().Add(patience); ; {
		if q.schedule.seize(id) {
			return nil
		}
		if time.Now().After(end) {
			return ErrBusy
		}
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// giveBack lets the workers have what is on disk now; urgent is for who wants it tried now.
func (q *Queue) giveBack(ctx context.Context, id storage.ID, urgent bool) {
	if q.stop == nil { // not started: nobody works, and another process will read it
		q.schedule.giveBack(id, nil, false, false)
		return
	}
	e, err := q.readLive(context.WithoutCancel(ctx), id)
	if err != nil {
		q.Logger.Error("queue entry not read back", "id", id, "stage", pipeline.StageQueue, "action", "retry", "why", err)
	}
	q.schedule.giveBack(id, e, err != nil, urgent)
}

// byHand changes an entry on disk.
func (q *Queue) byHand(ctx context.Context, id storage.ID, t *Task) (*hand, kv.Pos, error) {
	if t.Verb == Bounce {
		return q.bounce(ctx, id, t)
	}
	entry, recipients, err := readEntry(ctx, q.Store.KV(), id)
	if errors.Is(err, kv.ErrNotFound) {
		return nil, 0, ErrNotFound
	}
	if err != nil {
		return nil, 0, err
	}
	h := &hand{q: q, entry: &entry, task: t, now: q.Now(), left: len(recipients)}
	for i := range recipients {
		h.free = max(h.free, recipients[i].Number+1)
	}
	for i := range recipients {
		if err := h.do(ctx, &recipients[i]); err != nil {
			return nil, 0, err
		}
	}
	if h.done == 0 {
		return nil, 0, ErrNothing
	}
	if h.left == 0 {
		h.b.Delete(entryKey(id))
		q.Store.DropRef(&h.b, entry.Content, useOf(id))
	}
	trace.Append(&h.b, id, h.now, h.events...)
	if t.Force {
		q.suppression.mu.Lock()
		defer q.suppression.mu.Unlock()
	}
	pos, err := q.Store.KV().Apply(ctx, &h.b)
	if err == nil {
		q.tellByHand(h)
	}
	return h, pos, err
}

// hand is one Do on its way.
type hand struct {
	q      *Queue
	b      kv.Batch
	entry  *Entry
	task   *Task
	now    time.Time
	free   uint32 // the first number that no recipient has
	left   int    // recipients that will be there
	done   int
	events []trace.Event
	about  []Recipient // whom that concerned
}

func (h *hand) do(ctx context.Context, r *Recipient) error {
	if !h.task.concerns(h.entry, r) {
		return nil
	}
	if hop := hopOf(&r.Hop); hop != localHop && r.state() == stateQueued {
		h.b.Delete(dueKey(h.q.dueMinute(hop, r.Next), hop, h.entry.ID, r.Number))
	}
	switch h.task.Verb {
	case Hold:
		r.Next = time.Time{}
		h.set(r)
		h.say(r, "held")
	case Retry, Release:
		if h.task.Force {
			h.b.Delete(suppressKey(r.Hop.Address))
		}
		if h.task.Verb == Release {
			r.Since = h.now
		}
		h.due(r)
		h.say(r, string(h.task.Verb))
	case bringForward:
		was := r.Next
		h.due(r)
		h.say(r, "brought forward")
		h.events[len(h.events)-1].Text = was.UTC().Format(time.RFC3339) + ": " + tooFar
	case Reroute:
		h.reroute(r)
	case Remove:
		h.remove(r)
	case RemoveQuarantined:
		h.b.Delete(quarantineKey(h.entry.ID, r.Number))
		h.remove(r)
	case ReleaseQuarantined:
		route := h.task.Route
		if h.task.RouteOf != nil {
			route = h.task.RouteOf(h.entry.ID)
		}
		return h.release(ctx, r, route)
	}
	return nil
}

// release sends a quarantined copy to where the recipient's mail goes now, or, if it was one for another server, there
// alone: the recipient's other copies have gone their ways.
func (h *hand) release(ctx context.Context, r *Recipient, route Route) error {
	if r.Hop.Address != "" && r.Hop.Account == (storage.AccountID{}) {
		to := pipeline.Hop{Kind: pipeline.HopRemote, Address: r.Hop.Address, Via: r.Hop.Via, Sender: r.Hop.Sender}
		route = func(context.Context, string) ([]pipeline.Hop, error) { return []pipeline.Hop{to}, nil }
	}
	hops, err := route(ctx, r.Address)
	if err == nil && len(hops) == 0 {
		err = errors.New("it leads nowhere")
	}
	if err != nil {
		return fmt.Errorf("find the mailbox of %s: %w", r.Address, err)
	}
	h.b.Delete(quarantineKey(h.entry.ID, r.Number))
	h.say(r, "released")
	for i, hop := range hops {
		one := *r
		one.Hop, one.Attempts, one.Last, one.Warned, one.Since = hop, 0, "", false, h.now
		if i > 0 {
			one.Number = h.free
			h.free++
			h.left++
		}
		h.due(&one)
	}
	return nil
}

func (h *hand) due(r *Recipient) {
	r.Next = h.now
	h.set(r)
	hop := hopOf(&r.Hop)
	h.b.Set(dueKey(h.q.dueMinute(hop, h.now), hop, h.entry.ID, r.Number), r.note())
}

func (h *hand) set(r *Recipient) { h.b.Set(recipientKey(h.entry.ID, r.Number), r.append(nil)) }

func (h *hand) remove(r *Recipient) {
	h.b.Delete(recipientKey(h.entry.ID, r.Number))
	h.left--
	h.say(r, "removed")
}

func (h *hand) say(r *Recipient, action string) {
	h.done++
	h.about = append(h.about, *r)
	h.events = append(h.events, trace.Event{
		At: h.now, Stage: pipeline.StageQueue, Recipient: r.Address, Action: action, Text: "by hand",
	})
}
