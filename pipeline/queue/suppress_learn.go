package queue

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/storage/kv"
)

// withhold takes those recipients out of the parcels who are on the suppression list, and lets them fail.
func (q *Queue) withhold(ctx context.Context, e *live, parcels []*parcel) []*parcel {
	if n, err := q.suppressedNumber(ctx); n == 0 || err != nil {
		return parcels // it is no harm to ask the server once more
	}
	var round []*result
	kept := parcels[:0]
	for _, p := range parcels {
		rest := p.recipients[:0]
		for _, r := range p.recipients {
			s, err := q.Suppressed(ctx, r.Hop.Address)
			if err != nil || s == nil || !obeysList(&e.Entry, r) {
				rest = append(rest, r)
				continue
			}
			round = append(round, &result{Recipient: r, outcome: pipeline.Outcome{
				Kind: pipeline.Failed, Status: "5.1.1", Start: q.Now(), Text: s.Words(),
			}})
		}
		if p.recipients = rest; len(rest) > 0 {
			kept = append(kept, p)
		}
	}
	q.settleRemote(ctx, e, round)
	return kept
}

// Words tell a sender why nothing is sent to an address, and who can change that.
func (s *Suppressed) Words() string {
	text := "nothing is sent to this address any more since " + s.Since.UTC().Format(time.DateOnly)
	if s.Reason != "" {
		text += " (" + s.Reason + ")"
	}
	return text + "; the postmaster can take it off the suppression list"
}

// learn adds to b what a round says about addresses: that there is no such user, or that a message has reached one of the
// list. done has to be called when b was applied, or not.
func (q *Queue) learn(ctx context.Context, b *kv.Batch, e *live, round []*result) (done func(), err error) {
	l := &q.suppression
	locked := false
	done = func() {
		if locked {
			l.mu.Unlock()
		}
	}
	if q.Limits.SuppressAfter <= 0 {
		return done, nil
	}
	number, err := q.suppressedNumber(ctx)
	if err != nil {
		return done, err
	}
	for _, r := range round {
		bad := r.attempted && obeysList(&e.Entry, r.Recipient) && unknownUser(&r.outcome)
		good := r.attempted && number > 0 && r.outcome.Kind == pipeline.Delivered
		if !bad && !good || bad && q.exempt(r.Hop.Address) != "" {
			continue
		}
		if !locked {
			l.mu.Lock()
			locked = true
		}
		s, err := q.readSuppressed(ctx, r.Hop.Address)
		switch {
		case err != nil:
			return done, err
		case bad:
			q.answered(b, e, r, s)
		case s != nil && !s.ByHand:
			b.Delete(suppressKey(r.Hop.Address))
			r.say("off the suppression list", "a message has reached "+r.Hop.Address)
		}
	}
	return done, nil
}

// answered counts that a server knows no such user. The list is locked.
func (q *Queue) answered(b *kv.Batch, e *live, r *result, s *Suppressed) {
	l := &q.suppression
	if s == nil {
		if l.number >= maxSuppressed {
			return // until some are forgotten
		}
		l.number++
		s = &Suppressed{State: StateWatched, Since: r.now}
	}
	if s.ByHand || s.last == e.ID {
		return
	}
	s.last, s.Reason = e.ID, clipWhy(r.outcome.Reply)
	s.Answers++
	s.Until = r.now.Add(q.Limits.SuppressFor.Std())
	if s.Answers >= q.Limits.SuppressAfter && s.State != StateSuppressed {
		s.State, s.Since = StateSuppressed, r.now
		r.say("suppressed", fmt.Sprintf("%d messages were answered so; until %s", s.Answers, s.Until.UTC().Format(time.DateOnly)))
	}
	b.Set(suppressKey(r.Hop.Address), s.append(nil))
}

// unknownUser reports whether a server has said, in so many words, that there is no such user: a 5yz reply with the code of
// a bad address (RFC 3463 section 3.2, X.1.1 and X.1.6; RFC 7505 section 4.2, X.1.10). A reply without such a code may be
// about anything, mostly about us.
func unknownUser(o *pipeline.Outcome) bool {
	fields := strings.Fields(o.Reply)
	if o.Kind != pipeline.Failed || len(fields) < 2 || len(fields[0]) != 3 || fields[0][0] != '5' {
		return false
	}
	switch fields[1] {
	case "5.1.1", "5.1.6", "5.1.10":
		return true
	}
	return false
}

// forgetSuppressed removes what is over, and counts the others.
func (q *Queue) forgetSuppressed(ctx context.Context) error {
	l := &q.suppression
	l.mu.Lock()
	defer l.mu.Unlock()
	var b kv.Batch
	n, now := 0, q.Now()
	err := q.Store.KV().Scan(ctx, []byte(suppressPrefix), suppressEnd(), false, func(key, value []byte) (bool, error) {
		if s, err := decodeSuppressed(key, value); err == nil && s.over(now) && b.Len() < 10_000 {
			b.Delete(append([]byte(nil), key...))
		} else {
			n++
		}
		return true, ctx.Err()
	})
	if err == nil {
		_, err = q.Store.KV().Apply(ctx, &b)
	}
	if err != nil {
		return fmt.Errorf("tidy the suppression list: %w", err)
	}
	l.known, l.number = true, n
	return nil
}
