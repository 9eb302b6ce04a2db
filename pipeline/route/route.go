// Package route is the stage route: it decides where a message goes for each
// recipient, and answers RCPT by the same table.
//
// Promises: mail of a stranger goes to hosted domains only, and nothing in the
// configuration can change that; an address that leads nowhere is refused at
// RCPT, never bounced; quota is checked at RCPT and again before the commit, so
// after the 250 local delivery does not fail for it (RULES A7, A10).
//
// Untrusted input: recipient addresses.
package route

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/account"
)

// Quotas says how much of its storage an account uses.
type Quotas interface {
	Quota(ctx context.Context, id storage.AccountID) (storage.Quota, error)
}

// Stage is the stage route.
type Stage struct {
	table  *Table
	quotas Quotas
}

// New returns the stage.
func New(table *Table, quotas Quotas) *Stage { return &Stage{table, quotas} }

// Name returns "route".
func (s *Stage) Name() string { return pipeline.StageRoute }

// Recipient answers RCPT and fills in the accounts that the address leads to.
func (s *Stage) Recipient(ctx context.Context, m *pipeline.Message, r *pipeline.Recipient) pipeline.Reply {
	accounts, err := s.table.Resolve(ctx, r.Address)
	if err != nil {
		return refusal(err, m.Origin)
	}
	r.Accounts = addresses(accounts)
	return s.room(ctx, accounts, m.Params.Size)
}

// Target is Recipient for an address that a plugin adds: the administrator put it there,
// as with an alias, whoever the peer is.
func (s *Stage) Target(ctx context.Context, m *pipeline.Message, r *pipeline.Recipient) pipeline.Reply {
	accounts, err := s.table.ResolveTargets(ctx, "", []string{r.Address})
	if err != nil {
		return refusal(err, m.Origin)
	}
	r.Accounts = addresses(accounts)
	return s.room(ctx, accounts, m.Content.Size())
}

func addresses(accounts []account.Account) []string {
	list := make([]string, len(accounts))
	for i, a := range accounts {
		list[i] = a.Address
	}
	return list
}

func refusal(err error, origin sdk.Origin) pipeline.Reply {
	switch {
	case errors.Is(err, ErrNotHosted) && (origin == sdk.Login || origin == sdk.Trusted):
		return pipeline.ReplyNoRemote
	case errors.Is(err, ErrNotHosted):
		return pipeline.ReplyNoRelay
	case errors.Is(err, ErrNoMailbox):
		return pipeline.ReplyNoMailbox
	case errors.Is(err, ErrLoop), errors.Is(err, ErrTooMany):
		return pipeline.ReplyAliasLoop
	case errors.Is(err, ErrRemote):
		return pipeline.ReplyNoRemote
	case errors.Is(err, ErrBadAddress):
		return pipeline.ReplyBadAddress
	}
	return pipeline.ReplyTryLater
}

// room reports with a reply when one of the accounts has no room for size more
// octets (at least one).
func (s *Stage) room(ctx context.Context, accounts []account.Account, size int64) pipeline.Reply {
	for _, a := range accounts {
		if a.Quota <= 0 {
			continue
		}
		q, err := s.quotas.Quota(ctx, a.ID)
		if err != nil {
			return pipeline.ReplyTryLater
		}
		if q.Limit > 0 && q.Used+max(size, 1) > q.Limit {
			return pipeline.ReplyMailboxFull
		}
	}
	return pipeline.Reply{}
}

// Process gives every recipient that is not refused its hops.
func (s *Stage) Process(ctx context.Context, m *pipeline.Message) error {
	start := time.Now()
	for _, r := range m.Recipients {
		if r.Opinion.Action == sdk.Reject {
			continue
		}
		accounts, err := s.table.Resolve(ctx, r.Address)
		switch reply := refusal(err, m.Origin); {
		case err != nil && reply.Temporary():
			return fmt.Errorf("resolve %s: %w", r.Address, err)
		case err != nil: // it went away since RCPT
			r.Take(pipeline.Opinion{Action: sdk.Reject, Reply: reply, Stage: s.Name(), Why: err.Error()})
			continue
		}
		if r.Opinion.Action < sdk.Quarantine { // it goes into mailboxes
			if full := s.room(ctx, accounts, m.Content.Size()); !full.OK() {
				r.Take(pipeline.Opinion{Action: sdk.Defer, Reply: full, Stage: s.Name(), Why: "over quota"})
			}
		}
		r.Hops = r.Hops[:0]
		for _, a := range accounts {
			r.Hops = append(r.Hops, pipeline.Hop{Kind: pipeline.HopMailbox, Account: a.ID, Address: a.Address})
		}
	}
	m.Trace.Add(trace.Event{At: time.Now(), Stage: s.Name(), Action: "routed", Took: time.Since(start), Text: way(m)})
	return nil
}

// way tells where the first recipients go.
func way(m *pipeline.Message) string {
	const shown = 5
	text := ""
	for i, r := range m.Recipients {
		if i == shown {
			return text + fmt.Sprintf("; %d more", len(m.Recipients)-shown)
		}
		if i > 0 {
			text += "; "
		}
		text += r.Address + " -> "
		for k, h := range r.Hops {
			if k == shown {
				text += fmt.Sprintf(" and %d more", len(r.Hops)-shown)
				break
			}
			if k > 0 {
				text += ", "
			}
			text += h.Kind.String() + " " + h.Address
		}
	}
	return text
}
