package queue

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/storage/kv"
)

// beginTrip lets a part leave in a goroutine of its own. The schedule calls it with its lock held.
func (q *Queue) beginTrip(ctx context.Context) func(*trip) {
	return func(t *trip) {
		q.wg.Add(1)
		go func() {
			defer q.wg.Done()
			sent := q.travel(ctx, t)
			p := t.part
			p.e.mu.Lock()
			l := p.e.left(p)
			p.e.mu.Unlock()
			q.finish(t, &sent, l, q.Jitter())
		}()
	}
}

// parcel is what goes in one transaction: recipients of one part who get the same octets from the same sender.
type parcel struct {
	variant    int
	sender     string
	recipients []*Recipient
}

// travel makes one attempt for each recipient of a part that is due, and returns what the last of them said about
// the next hop.
func (q *Queue) travel(ctx context.Context, t *trip) (sent pipeline.Sent) {
	e := t.part.e
	if err := q.Store.WaitDurable(ctx, e.pos); err != nil {
		q.putOff(ctx, t.part, err)
		return pipeline.Sent{}
	}
	parcels, known := q.pack(ctx, t)
	if len(known) > 0 { // sent before, and not in the store yet
		q.settleRemote(ctx, e, known)
	}
	if t.site == nil {
		return pipeline.Sent{}
	}
	for parcels = q.withhold(ctx, e, parcels); len(parcels) > 0; parcels = parcels[1:] {
		if ctx.Err() != nil || q.isClosed() {
			break // stopping: what is not settled is on disk
		}
		var again *parcel
		sent, again = q.transfer(ctx, t, parcels[0])
		if sent.Pace == pipeline.PaceWait || sent.Pace == pipeline.PaceNever || sent.Pace == pipeline.PaceSlow {
			break // the others wait with all that waits for it
		}
		if again != nil {
			parcels = slices.Insert(parcels, 1, again)
		}
	}
	return sent
}

// putOff lets a part's recipients come again soon after a failure of our own.
func (q *Queue) putOff(ctx context.Context, p *part, err error) {
	if ctx.Err() != nil {
		return
	}
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	for _, r := range p.e.of(p) {
		r.Next = q.Now().Add(soon(r.Attempts + 1)) // in memory; on disk it is still due
	}
	q.Logger.Error("delivery failed", "id", p.e.ID, "stage", pipeline.StageDeliver, "action", "retry", "why", err)
}

// pack groups the recipients that are due. known are those whose end is known already: an earlier settling
// failed, and they must not be sent again.
func (q *Queue) pack(ctx context.Context, t *trip) (parcels []*parcel, known []*result) {
	e := t.part.e
	e.mu.Lock()
	defer e.mu.Unlock()
	now := q.Now()
	for _, r := range e.of(t.part) {
		switch {
		case r.Next.After(now) && r.ended == nil, r.unsure && !q.makeSure(ctx, e, r):
			continue
		case r.ended != nil:
			known = append(known, &result{Recipient: r, outcome: *r.ended})
			continue
		}
		parcels = addTo(parcels, r)
	}
	return parcels, known
}

// mostTogether bounds the recipients of a parcel: as many as every server takes (RFC 5321 section 4.5.3.1.8), so that one
// parcel is one transaction and its outcome is durable before the next (RULES B8).
const mostTogether = 100

func addTo(parcels []*parcel, r *Recipient) []*parcel {
	for _, p := range parcels {
		if p.variant == r.Variant && p.sender == r.Hop.Sender && len(p.recipients) < mostTogether {
			p.recipients = append(p.recipients, r)
			return parcels
		}
	}
	return append(parcels, &parcel{r.Variant, r.Hop.Sender, []*Recipient{r}})
}

// transfer makes the attempt for one parcel, settles it, and lets the connection go on when that is durable
// (RULES B8). again are those whom the server takes in another transaction; there are fewer of them than in p.
func (q *Queue) transfer(ctx context.Context, t *trip, p *parcel) (sent pipeline.Sent, again *parcel) {
	e := t.part.e
	start := q.Now()
	done, err := func() {}, error(nil)
	if t.never != nil {
		sent = pipeline.Sent{Outcomes: make([]pipeline.Outcome, len(p.recipients))}
		for i := range sent.Outcomes {
			sent.Outcomes[i] = *t.never
		}
	} else {
		sent, done, err = q.send(ctx, t, p)
	}
	defer q.letGo(e, done)
	if err == nil && len(sent.Outcomes) != len(p.recipients) {
		err = fmt.Errorf("send %s: %d outcomes for %d recipients", e.ID, len(sent.Outcomes), len(p.recipients))
	}
	if err != nil {
		if ctx.Err() != nil {
			return pipeline.Sent{}, nil // stopping: it is as if nothing had been tried
		}
		q.Logger.Error("delivery failed", "id", e.ID, "stage", pipeline.StageDeliver, "action", "retry", "domain", t.part.hop.domain, "why", err)
		sent = pipeline.Sent{}
	}
	var round []*result
	rest := &parcel{variant: p.variant, sender: p.sender}
	for i, r := range p.recipients {
		if err == nil && sent.Outcomes[i].Again && len(rest.recipients) < len(p.recipients)-1 {
			rest.recipients = append(rest.recipients, r)
			continue
		}
		one := &result{Recipient: r, ours: err != nil, attempted: t.never == nil}
		one.outcome = pipeline.Outcome{Kind: pipeline.Delayed, Text: "a temporary problem here", Start: start}
		if err == nil {
			one.outcome = sent.Outcomes[i]
		}
		if one.outcome.Start.IsZero() {
			one.outcome.Start = start
		}
		if one.outcome.Kind == 0 {
			one.outcome.Kind = pipeline.Delayed
		}
		if ctx.Err() != nil && one.outcome.Kind == pipeline.Delayed {
			continue // cut off by us
		}
		round = append(round, one)
		if q.ObserveRemote != nil && one.attempted {
			q.ObserveRemote(one.outcome.Kind, sent.Pace, q.Now().Sub(start))
		}
	}
	q.settleRemote(context.WithoutCancel(ctx), e, round)
	if len(rest.recipients) > 0 {
		again = rest
	}
	return sent, again
}

// letGo tells the courier that its connection may go on.
func (q *Queue) letGo(e *live, done func()) {
	defer func() {
		if v := recover(); v != nil {
			q.Logger.Error("courier failed", "id", e.ID, "stage", pipeline.StageDeliver, "action", "none", "why", fmt.Sprintf("panic: %v\n%s", v, debug.Stack()))
		}
	}()
	done()
}

// send asks the courier. A panic there ends the attempt, not the process.
func (q *Queue) send(ctx context.Context, t *trip, p *parcel) (sent pipeline.Sent, done func(), err error) {
	defer func() {
		if v := recover(); v != nil {
			sent, done, err = pipeline.Sent{}, func() {}, fmt.Errorf("send %s: panic: %v\n%s", t.part.e.ID, v, debug.Stack())
		}
		if done == nil {
			done = func() {}
		}
	}()
	made, err := q.parcel(ctx, t, p)
	if err != nil {
		return pipeline.Sent{}, nil, err
	}
	return q.Courier.Send(ctx, t.key, made)
}

// parcel makes of p what the courier takes.
func (q *Queue) parcel(ctx context.Context, t *trip, p *parcel) (*pipeline.Parcel, error) {
	e := t.part.e
	e.mu.Lock()
	info, err := q.info(ctx, e, p.variant)
	e.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("read the content of %s: %w", e.ID, err)
	}
	sender := e.Sender
	if p.sender != "" {
		sender = p.sender
	}
	made := &pipeline.Parcel{
		ID: e.ID, Pipeline: e.Pipeline, Received: e.Received, Domain: t.part.hop.domain, Via: t.part.hop.via,
		Sender: sender, Params: e.Params, Size: info.Size,
		Recipients: make([]pipeline.ParcelRecipient, len(p.recipients)),
		Open: func(ctx context.Context) (pipeline.Octets, error) {
			c, err := q.Store.OpenContent(ctx, e.Content, p.variant, nil)
			if err != nil {
				return nil, fmt.Errorf("open the content of %s: %w", e.ID, err)
			}
			return c, nil
		},
	}
	for i, r := range p.recipients {
		made.Recipients[i] = pipeline.ParcelRecipient{Address: r.Hop.Address, Params: r.Params, Attempts: r.Attempts + 1}
	}
	return made, nil
}

// settleRemote settles what another server has answered, and returns when that is durable. What could not be
// written is kept in memory, and is written when the part comes again: nobody gets a message twice because our disk
// was in trouble for a moment.
func (q *Queue) settleRemote(ctx context.Context, e *live, round []*result) {
	if len(round) == 0 {
		return
	}
	e.mu.Lock()
	for _, r := range round {
		if r.attempted {
			r.Attempts++
		}
	}
	pos, err := q.settle(ctx, e, round)
	if err != nil {
		for _, r := range round {
			if !r.settled && !r.ours && r.outcome.Kind != pipeline.Delayed {
				o := r.outcome
				r.ended = &o
			}
		}
	}
	e.mu.Unlock()
	if err == nil || pos != 0 {
		q.untilDurable(ctx, e, pos)
	}
}

// untilDurable waits for a batch. While the engine cannot say, it is asked again: the connection waits as long.
func (q *Queue) untilDurable(ctx context.Context, e *live, pos kv.Pos) {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := q.Store.WaitDurable(ctx, pos)
		if err == nil {
			return
		}
		q.Logger.Error("settling is not durable yet", "id", e.ID, "stage", pipeline.StageQueue, "action", "retry", "why", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		if q.isClosed() {
			return
		}
	}
}

// beginFind finds out a next hop in a goroutine of its own.
func (q *Queue) beginFind(ctx context.Context) func(*hop) {
	return func(h *hop) {
		q.wg.Add(1)
		go func() {
			defer q.wg.Done()
			next, err := q.nextHop(ctx, h)
			if ctx.Err() == nil {
				if err != nil { // nobody's attempt, so no trace has it
					q.Logger.Warn("next hop not found", "domain", h.domain, "stage", pipeline.StageQueue, "action", "retry", "why", err)
				}
				q.found(h, next, err, q.Jitter())
			}
		}()
	}
}

func (q *Queue) nextHop(ctx context.Context, h *hop) (next pipeline.NextHop, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("find the next hop for %s: panic: %v\n%s", h.label, v, debug.Stack())
		}
	}()
	const patience = 30 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if q.Courier == nil {
		return next, errNoCourier
	}
	return q.Courier.NextHop(ctx, h.domain, h.via)
}
