package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
)

// result is how an attempt ended whose end is not in the store yet.
type result struct {
	*Recipient // as it is in the store
	outcome    pipeline.Outcome
	ours       bool      // a delay is our own failure: the next attempt comes soon
	attempted  bool      // by another server; it counts as an attempt
	parked     time.Time // if not zero: nothing was tried, its next hop is suspended until then
	still      bool      // nothing was tried, and it waits as before; its sender is told that it is late

	fate    fate
	next    time.Time  // for postponed
	at      uint32     // the minute of its new due key
	tell    NoticeKind // what the sender has to be told, or 0
	warned  bool
	settled bool // it is in the store
	events  []trace.Event
	now     time.Time
}

// fate is what becomes of a recipient.
type fate uint8

const (
	finished    fate = iota + 1 // its record goes
	postponed                   // it is tried again
	quarantined                 // its copy waits for the postmaster
)

// settle writes the results of one round in one batch: the recipients, their
// traces, the notice to the sender, and the clean-up if they were the last (RULES
// B8). If that fails, all is as it was and the round comes again soon; if it is the notice that fails, those of whom nobody is told are
// settled. The entry is locked; the caller waits until the batch is durable, after an error too if there is one.
func (q *Queue) settle(ctx context.Context, e *live, round []*result) (kv.Pos, error) {
	luck := q.Jitter() // one for all, so that a message's recipients stay together
	now := q.Now()
	for _, r := range round {
		q.decide(e, r, round, now, luck)
	}
	pos, err := q.settleAll(ctx, e, round)
	if errors.Is(err, errNotice) { // those of whom nobody is told do not wait for that
		quiet := slices.DeleteFunc(slices.Clone(round), func(r *result) bool { return r.tell != 0 })
		if len(quiet) > 0 {
			pos, _ = q.settleAll(ctx, e, quiet)
		}
	}
	if err != nil {
		for _, r := range round {
			if r.settled {
				continue
			}
			r.Next, r.unsure = now.Add(spread(soon(r.Attempts), luck)), true // in memory; on disk it is still due
		}
		q.Logger.Error("settling failed", "id", e.ID, "stage", pipeline.StageQueue, "action", "retry", "why", err)
		return pos, err
	}
	return pos, nil
}

func (q *Queue) settleAll(ctx context.Context, e *live, round []*result) (kv.Pos, error) {
	pos, err := q.apply(ctx, e, round)
	if err != nil {
		return 0, err
	}
	q.obey(e, round)
	q.tellRound(&e.Entry, round)
	return pos, nil
}

// errNotice is wrapped by failures to make a notice.
var errNotice = errors.New("a notice can't be made")

func (q *Queue) apply(ctx context.Context, e *live, round []*result) (kv.Pos, error) {
	var b kv.Batch
	notices, err := q.notify(ctx, &b, e, round)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNotice, err)
	}
	learned, err := q.learn(ctx, &b, e, round)
	defer learned()
	if err != nil {
		q.Logger.Error("suppression list not kept", "id", e.ID, "stage", pipeline.StageQueue, "action", "none", "why", err)
	}
	q.write(&b, e, round)
	pos, err := q.Store.KV().Apply(ctx, &b)
	for _, n := range notices {
		q.admitNotice(n, e.ID, pos, err)
	}
	return pos, err
}

// admitNotice ends what notify has begun.
func (q *Queue) admitNotice(n *generated, about storage.ID, pos kv.Pos, err error) {
	n.message.Content.Discard()
	switch {
	case err != nil && n.work:
		q.doubt(n.live)
		return
	case err == nil:
		q.Logger.Info("notice", "id", n.message.ID, "stage", pipeline.StageQueue, "action", "queued",
			"to", n.message.Recipients[0].Address, "why", "about "+about.String())
	}
	q.admitNew(n.staged, pos, err)
}

// decide says what becomes of a recipient, and what its sender has to be told.
func (q *Queue) decide(e *live, r *result, round []*result, now time.Time, luck float64) {
	t := q.timetable(e.Pipeline, r.domain())
	r.now = now
	age := r.now.Sub(e.began(r.Recipient))
	switch o := &r.outcome; {
	case r.still:
		r.fate, r.next, r.at = postponed, r.Next, r.Recipient.at
		r.tell, r.warned = NoticeDelayed, true
		r.say("waits", o.Text)
		return
	case o.Kind == pipeline.Gone:
		r.fate = quarantined
		r.say("quarantined", o.Text)
		return
	case o.Kind == pipeline.Delayed && age < t.giveUpAfter:
		r.fate = postponed
		wait := soon(r.Attempts)
		if !r.ours {
			wait = t.wait(r.Attempts)
		}
		if t.warnAfter > 0 && age >= t.warnAfter && !r.Warned {
			r.tell, r.warned = NoticeDelayed, true
		}
		r.next = t.turn(now.Add(spread(wait, luck)), e.began(r.Recipient), r.Warned || r.warned)
		if r.parked.After(r.now) {
			r.next = r.parked
		}
		r.at = max(minuteOf(r.next), r.Recipient.at)
	case o.Kind == pipeline.Delivered:
		r.fate = finished
		r.tell = successOf(e, r.Recipient, o, round)
	default: // failed, or given up
		r.fate, r.tell, o.Kind = finished, NoticeFailed, pipeline.Failed
	}
	r.events = append(r.events, q.outcomeEvent(r.Recipient, r.outcome))
}

// domain is the recipient's domain if its mail leaves, else "".
func (r *Recipient) domain() string {
	if r.Hop.Kind != pipeline.HopRemote {
		return ""
	}
	return domainOf(r.Hop.Address)
}

// say adds an event to the recipient's trace.
func (r *result) say(action, text string) {
	r.events = append(r.events, trace.Event{
		At: r.now, Stage: pipeline.StageQueue, Recipient: r.Address, Action: action, Text: text,
	})
}

// untold keeps the copy of a recipient whose sender can't be told that it failed.
func (r *result) untold(why string) {
	r.say("not notified", why)
	if r.fate == finished && r.tell == NoticeFailed {
		r.fate = quarantined
		r.say("quarantined", r.outcome.Text)
	}
}

// write adds to b what the round has decided.
func (q *Queue) write(b *kv.Batch, e *live, round []*result) {
	left := len(e.recipients) + e.rest
	var events []trace.Event
	for _, r := range round {
		events = append(events, r.events...)
		if r.hop != localHop {
			b.Delete(dueKey(r.Recipient.at, r.hop, e.ID, r.Number))
		}
		switch r.fate {
		case finished:
			left--
			b.Delete(recipientKey(e.ID, r.Number))
		case quarantined:
			b.Set(quarantineKey(e.ID, r.Number), nil)
			fallthrough
		case postponed:
			after := r.after()
			b.Set(recipientKey(e.ID, r.Number), after.append(nil))
			if r.fate == postponed {
				b.Set(dueKey(r.at, r.hop, e.ID, r.Number), after.note())
			}
		}
	}
	q.trace(b, e, events...)
	if left == 0 {
		b.Delete(entryKey(e.ID))
		q.Store.DropRef(b, e.Content, useOf(e.ID))
	}
}

// after returns the recipient as it shall be.
func (r *result) after() Recipient {
	after := *r.Recipient
	switch r.fate {
	case postponed:
		after.Next, after.at, after.Warned = r.next, r.at, r.Warned || r.warned
		if !r.still {
			after.Last = r.outcome.Text
		}
	case quarantined:
		after.Hop.Kind, after.Hop.Why, after.Next = pipeline.HopQuarantine, r.outcome.Text, time.Time{}
	}
	return after
}

// obey does in memory what the store has.
func (q *Queue) obey(e *live, round []*result) {
	for _, r := range round {
		r.settled = true
		event := "attempt"
		if r.still {
			event = "late"
		}
		q.Logger.Info(event, "id", e.ID, "stage", pipeline.StageDeliver, "action", r.action(), "to", r.Address, "why", r.outcome.Text)
		switch r.fate {
		case postponed:
			*r.Recipient = r.after()
		case quarantined:
			e.rest++
			e.drop(r.Recipient)
		case finished:
			e.drop(r.Recipient)
		}
	}
}

// action is the word for the log.
func (r *result) action() string {
	if r.fate == quarantined {
		return "quarantined"
	}
	return r.outcome.Kind.String()
}
