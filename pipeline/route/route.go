// Package route is the stage route: it decides where a message goes for each
// recipient, and answers RCPT by the same table.
//
// Promises: mail of a stranger goes to hosted domains only, and nothing in the
// configuration can change that; an address that leads nowhere is refused at
// RCPT, never bounced; quota is checked at RCPT and again before the commit, so
// after the 250 local delivery does not fail for it (RULES A7, A10).
//
// Router plugins are asked when the table has said where a message would go, and see
// that. Each may refuse, defer, discard, quarantine or junk it per recipient, change
// fields and recipients, and say where it goes instead: to addresses that are looked up
// like the targets of an alias of the recipient. Of several routes the first in the
// configuration's order counts. A route that leads nowhere, to itself or to another
// server refuses the recipient. A plugin that fails stands for its on_failure, here by
// default defer.
//
// Untrusted input: recipient addresses, and the plugins' verdicts, which package
// pipeline checks.
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
	panel  pipeline.Panel
}

// New returns the stage; askers are the router plugins in the configuration's order.
func New(table *Table, quotas Quotas, askers []pipeline.Asker) *Stage {
	return &Stage{table, quotas, pipeline.Panel{
		Stage: pipeline.StageRoute, Phase: sdk.PhaseRoute, Askers: askers, Default: sdk.Defer,
	}}
}

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

// Process gives every recipient that is not refused its hops: those of the table, or
// those that a plugin wants instead.
func (s *Stage) Process(ctx context.Context, m *pipeline.Message) error {
	start := time.Now()
	ways := make([][]account.Account, 0, len(m.Recipients))
	ways, err := s.resolve(ctx, m, ways)
	if err != nil {
		return err
	}
	if len(s.panel.Askers) > 0 {
		if ways, err = s.ask(ctx, m, ways); err != nil {
			return err
		}
	}
	for i, r := range m.Recipients {
		if gone(r) || r.Opinion.Action >= sdk.Quarantine { // it goes into no mailbox
			continue
		}
		if full := s.room(ctx, ways[i], m.Size(r.Version)); !full.OK() {
			r.Take(pipeline.Opinion{Action: sdk.Defer, Reply: full, Stage: s.Name(), Why: "over quota"})
		}
	}
	m.Trace.Add(trace.Event{At: time.Now(), Stage: s.Name(), Action: "routed", Took: time.Since(start), Text: way(m)})
	return nil
}

// gone reports whether nothing is to be done for a recipient.
func gone(r *pipeline.Recipient) bool { return r.Opinion.Action == sdk.Reject || r.Removed != "" }

// resolve looks up the recipients from the len(ways)-th on and appends where they lead.
func (s *Stage) resolve(ctx context.Context, m *pipeline.Message, ways [][]account.Account) ([][]account.Account, error) {
	for _, r := range m.Recipients[len(ways):] {
		if gone(r) {
			ways = append(ways, nil)
			continue
		}
		look := s.table.Resolve
		if r.Added != "" {
			look = func(ctx context.Context, address string) ([]account.Account, error) {
				return s.table.ResolveTargets(ctx, "", []string{address})
			}
		}
		accounts, err := look(ctx, r.Address)
		switch reply := refusal(err, m.Origin); {
		case err != nil && reply.Temporary():
			return nil, fmt.Errorf("resolve %s: %w", r.Address, err)
		case err != nil: // it went away since RCPT
			r.Take(pipeline.Opinion{Action: sdk.Reject, Reply: reply, Stage: s.Name(), Why: err.Error()})
		default:
			r.Hops = hops(r.Hops[:0], accounts)
		}
		ways = append(ways, accounts)
	}
	return ways, nil
}

func hops(list []pipeline.Hop, accounts []account.Account) []pipeline.Hop {
	for _, a := range accounts {
		list = append(list, pipeline.Hop{Kind: pipeline.HopMailbox, Account: a.ID, Address: a.Address})
	}
	return list
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
