// Package route is the stage route: it decides where a message goes for each
// recipient, and answers RCPT by the same table.
//
// Promises: mail of a stranger goes to hosted domains only, to others where the administrator wrote an alias, a catch-all or
// accept = "relay" that leads there, and nothing in the configuration can change that (RULES D2); an address that leads
// nowhere is refused at RCPT, never bounced; quota is checked at RCPT and again before the commit, so after the 250 local
// delivery does not fail for it (RULES A7, A10).
//
// What leaves is a hop to an address, not to a server: how a domain is reached is asked at each attempt (Table.Transport,
// then MX). A forward of other people's mail gets a sender of ours where [forward] says so (SRS, package srs), and a field
// Sluice-Loop by which it is known when it comes back to the same alias: then it is refused with 554 5.4.6, so two servers
// that forward to each other stop in one round.
//
// The next hop of a relayed domain may be asked at RCPT about its recipients (verify_recipients, package callout). Only a
// definite refusal is one; the reply is that for a mailbox that does not exist.
//
// Router plugins are asked when the table has said where a message would go, and see
// that. Each may refuse, defer, discard, quarantine or junk it per recipient, change
// fields and recipients, and say where it goes instead: to addresses that are looked up
// like the targets of an alias of the recipient, and by which server. Of several routes the first in the
// configuration's order counts. A route that leads nowhere or to itself refuses the
// recipient. A plugin that fails stands for its on_failure, here by
// default defer.
//
// Untrusted input: recipient addresses, the header field Sluice-Loop, and the plugins' verdicts, which package
// pipeline checks.
package route

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/route/callout"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
)

// Quotas says how much of its storage an account uses.
type Quotas interface {
	Quota(ctx context.Context, id storage.AccountID) (storage.Quota, error)
}

// Verifier knows what the next hop of a domain takes.
type Verifier interface {
	// Refused reports whether the next hop of the address's domain refuses mail for it for good. It is called while a client
	// waits for the reply to RCPT, from any goroutine, and takes ten seconds at most; nothing but a definite answer is true.
	Refused(ctx context.Context, q callout.Question) bool
}

// Stage is the stage route.
type Stage struct {
	table  *Table
	quotas Quotas
	panel  pipeline.Panel

	Verifier Verifier // of recipients of relayed domains; nil: nobody is asked
}

// New returns the stage; askers are the router plugins in the configuration's order.
func New(table *Table, quotas Quotas, askers []pipeline.Asker) *Stage {
	return &Stage{table: table, quotas: quotas, panel: pipeline.Panel{
		Stage: pipeline.StageRoute, Phase: sdk.PhaseRoute, Askers: askers, Default: sdk.Defer,
	}}
}

// Name returns "route".
func (s *Stage) Name() string { return pipeline.StageRoute }

// Recipient answers RCPT and fills in the accounts that the address leads to.
func (s *Stage) Recipient(ctx context.Context, m *pipeline.Message, r *pipeline.Recipient) pipeline.Reply {
	way, err := s.table.Resolve(ctx, asked(m, r))
	if err != nil {
		return Refusal(err)
	}
	r.Accounts = accounts(way.Targets)
	if reply := s.room(ctx, way.Targets, m.Params.Size); !reply.OK() {
		return reply
	}
	for i := range way.Targets {
		if t := &way.Targets[i]; t.Verify && s.refused(ctx, m, t) {
			return pipeline.ReplyNoMailbox
		}
	}
	return pipeline.Reply{}
}

// refused asks the next hop of a relayed domain. The budget is for those who may be guessing addresses: not for servers that the
// administrator trusts, or that hand over by LMTP.
func (s *Stage) refused(ctx context.Context, m *pipeline.Message, t *Target) bool {
	if s.Verifier == nil {
		return false
	}
	q := callout.Question{ID: m.ID, Pipeline: m.Pipeline, Address: t.Remote}
	if m.Peer != nil && (m.Origin == sdk.Stranger || m.Origin == sdk.Login) {
		q.Client = m.Peer.Addr
	}
	return s.Verifier.Refused(ctx, q)
}

// Target is Recipient for an address that a plugin adds: the administrator put it there,
// as with an alias, whoever the peer is.
func (s *Stage) Target(ctx context.Context, m *pipeline.Message, r *pipeline.Recipient) pipeline.Reply {
	way, err := s.table.ResolveTargets(ctx, "", []string{r.Address})
	if err != nil {
		return Refusal(err)
	}
	r.Accounts = accounts(way.Targets)
	return s.room(ctx, way.Targets, m.Content.Size())
}

func asked(m *pipeline.Message, r *pipeline.Recipient) Asked {
	return Asked{Address: r.Address, Origin: m.Origin, Sender: m.Sender}
}

// accounts are the addresses of the accounts among targets.
func accounts(targets []Target) []string {
	list := make([]string, 0, len(targets))
	for i := range targets {
		if targets[i].Remote == "" {
			list = append(list, targets[i].Account.Address)
		}
	}
	return list
}

// Refusal is what a peer hears of an error of Resolve: 4yz for a trouble of ours, else 5yz.
func Refusal(err error) pipeline.Reply {
	switch {
	case errors.Is(err, ErrNotHosted):
		return pipeline.ReplyNoRelay
	case errors.Is(err, ErrNoMailbox), errors.Is(err, ErrSRS):
		return pipeline.ReplyNoMailbox
	case errors.Is(err, ErrLoop), errors.Is(err, ErrTooMany):
		return pipeline.ReplyAliasLoop
	case errors.Is(err, ErrLiteral):
		return pipeline.ReplyNoLiteral
	case errors.Is(err, ErrBadAddress):
		return pipeline.ReplyBadAddress
	}
	return pipeline.ReplyTryLater
}

// room reports with a reply when one of the accounts has no room for size more
// octets (at least one).
func (s *Stage) room(ctx context.Context, targets []Target, size int64) pipeline.Reply {
	for i := range targets {
		a := &targets[i].Account
		if targets[i].Remote != "" || a.Quota <= 0 {
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
	ways, err := s.resolve(ctx, m, make([][]Target, 0, len(m.Recipients)))
	if err != nil {
		return err
	}
	if len(s.panel.Askers) > 0 {
		if ways, err = s.ask(ctx, m, ways); err != nil {
			return err
		}
	}
	s.leave(m, ways)
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

// resolve looks up the recipients that have no way yet: new ones, and those whom a plugin had removed and another added
// again. It returns the ways of all.
func (s *Stage) resolve(ctx context.Context, m *pipeline.Message, ways [][]Target) ([][]Target, error) {
	ways = append(ways, make([][]Target, len(m.Recipients)-len(ways))...)
	for i, r := range m.Recipients {
		if ways[i] != nil || gone(r) {
			continue
		}
		var way Way
		var err error
		if r.Added != "" {
			way, err = s.table.ResolveTargets(ctx, "", []string{r.Address})
		} else {
			way, err = s.table.Resolve(ctx, asked(m, r))
		}
		switch {
		case err != nil && !definite(err):
			return nil, fmt.Errorf("resolve %s: %w", r.Address, err)
		case err != nil: // it went away since RCPT
			r.Take(pipeline.Opinion{Action: sdk.Reject, Reply: Refusal(err), Stage: s.Name(), Why: err.Error()})
		default:
			r.Hops = hops(r.Hops[:0], way.Targets)
		}
		ways[i] = way.Targets
	}
	return ways, nil
}

func hops(list []pipeline.Hop, targets []Target) []pipeline.Hop {
	for i := range targets {
		t := &targets[i]
		if t.Remote != "" {
			list = append(list, pipeline.Hop{Kind: pipeline.HopRemote, Address: t.Remote, Via: t.Via})
			continue
		}
		list = append(list, pipeline.Hop{Kind: pipeline.HopMailbox, Account: t.Account.ID, Address: t.Account.Address})
	}
	return list
}

// Hops returns the hops of targets for a message with this sender, as those of release from quarantine are made.
func (t *Table) Hops(sender string, targets []Target) []pipeline.Hop {
	list := hops(nil, targets)
	for i := range targets {
		if targets[i].Forward {
			list[i].Sender, _ = t.rewrite(sender)
		}
	}
	return list
}

// leave sees to what forwards of other people's mail need: a message that was forwarded from the same address before is
// refused, since it runs in a circle (RFC 5321 section 6.3); any other is marked, and has a sender of ours where it needs one.
func (s *Stage) leave(m *pipeline.Message, ways [][]Target) {
	var f *forwarding
	for i, r := range m.Recipients {
		if gone(r) {
			continue
		}
		for k := range ways[i] {
			t := &ways[i][k]
			if t.Remote == "" || t.Through == "" {
				continue
			}
			if f == nil {
				f = newForwarding(s.table, m)
			}
			if !f.passes(t.Through) {
				r.Take(pipeline.Opinion{
					Action: sdk.Reject, Reply: pipeline.ReplyForwardLoop, Stage: s.Name(), Why: "it was forwarded from " + t.Through + " before: it runs in a circle",
				})
				delete(f.forwarded, i)
				break
			}
			f.forwarded[i] = true
			if t.Forward {
				f.hop(&r.Hops[k])
			}
		}
	}
	if f == nil {
		return
	}
	if f.problem != nil {
		m.Trace.Add(trace.Event{At: time.Now(), Stage: s.Name(), Action: "sender kept", Text: "SRS: " + f.problem.Error()})
	}
	if len(f.forwarded) > 0 {
		slices.Sort(f.tokens)
		s.table.mark(m, f.forwarded, f.tokens)
	}
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
			if h.Sender != "" {
				text += " from " + h.Sender
			}
		}
	}
	return text
}
