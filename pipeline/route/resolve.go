package route

import (
	"context"
	"errors"
	"strings"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/account"
)

// Asked is a question to a Table: where does mail of this origin and sender for this address go?
type Asked struct {
	Address string
	Origin  sdk.Origin
	Sender  string // MAIL FROM; SRS addresses are for the null sender alone
	Explain bool   // the answer has Steps
}

// Way is the answer.
type Way struct {
	Targets []Target // each account and each address once
	Steps   []Step   // how that was found out, in order; where there is an error too, up to there
}

// Target is one place where mail goes: a mailbox here, or an address at another server.
type Target struct {
	Account account.Account // where Remote is ""
	Remote  string          // as it is written in RCPT TO
	Through string          // for Remote: the address of ours, folded, that leads there: an alias's, a catch-all's, a route's, with "via " in front where that names a server; "" for none
	Forward bool            // Remote is at a domain that is none of ours, and not who the sender wrote to
	Via     string          // for Remote: as in pipeline.Hop.Via
	Verify  bool            // Remote's own next hop is asked at RCPT whether it takes the address
}

// Domain returns the domain of Remote.
func (t *Target) Domain() string { return t.Remote[strings.LastIndexByte(t.Remote, '@')+1:] }

// Rules of a Step.
const (
	RulePostmaster = "postmaster"
	RuleAccount    = "account"
	RuleAlias      = "alias"
	RuleSubaddress = "subaddress"
	RuleCatchAll   = "catch_all"
	RuleNobody     = "nobody"
	RuleRelay      = "relay domain" // [domain.X] accept = "relay"
	RuleForward    = "forward"
	RuleOrigin     = "origin" // login and trusted may send anywhere, strangers may not
	RuleSRS        = "srs"
	RuleLoop       = "loop"
)

// Step is one rule that was applied on the way.
type Step struct {
	Address string   // that was looked at
	Rule    string   // one of the rules above
	Text    string   // for a person
	Key     []string // the TOML key that says so; nil: none does
}

// mayRelay reports whether mail of an origin may go anywhere (RULES D2). Nothing in the configuration changes that.
func mayRelay(origin sdk.Origin) bool {
	return origin == sdk.Login || origin == sdk.Trusted || origin == sdk.Generated
}

// Resolve returns where an address leads: account, alias, both again without subaddress, catch-all (RULES A10); addresses
// at other servers for who may relay, where the domain is relayed, and where an alias or a catch-all leads there.
func (t *Table) Resolve(ctx context.Context, a Asked) (Way, error) {
	w := newWalk(t, a)
	err := w.follow(ctx, a.Address, "", 0)
	return w.way(err)
}

// ResolveTargets returns where addresses lead as the targets of an alias would: one without a mailbox is passed over as
// long as another one has one, and one at another server is a forward by from. One that leads back to from fails. from may
// be "". The administrator wrote the addresses, or the plugin that wants them, so nobody is asked who may relay.
func (t *Table) ResolveTargets(ctx context.Context, from string, targets []string) (Way, error) {
	w := newWalk(t, Asked{})
	if local, name, _, err := w.locate(from); err == nil {
		from = local + "@" + name
	}
	err := w.each(ctx, from, from, targets, 0)
	return w.way(err)
}

// walk follows aliases from one address.
type walk struct {
	table   *Table
	origin  sdk.Origin
	sender  string
	explain bool
	named   bool            // catch-alls do not count: who is behind an address by its name
	seen    map[string]bool // addresses on the way here
	visits  int
	found   []Target
	steps   []Step
}

func newWalk(t *Table, a Asked) *walk {
	return &walk{table: t, origin: a.Origin, sender: a.Sender, explain: a.Explain}
}

func (w *walk) way(err error) (Way, error) {
	if err != nil {
		return Way{Steps: w.steps}, err
	}
	return Way{w.found, w.steps}, nil
}

func (w *walk) note(s Step) {
	if w.explain {
		w.steps = append(w.steps, s)
	}
}

// key is a key of a [domain] table.
func key(domain string, words ...string) []string {
	return append([]string{"domain", domain}, words...)
}

// follow adds where an address leads. from is the address of ours that led here, "" at the beginning.
func (w *walk) follow(ctx context.Context, address, from string, depth int) error {
	if w.visits++; w.visits > maxVisits {
		return ErrTooMany
	}
	local, name, address, err := w.locate(address)
	if err != nil {
		return err
	}
	if s := w.table.srs; s != nil && depth == 0 && name == s.Domain() && looksLikeSRS(address) {
		return w.reverse(ctx, address, strings.LastIndexByte(address, '@'))
	}
	d, ok := w.table.domains[name]
	if !ok {
		return w.foreign(address, from, depth)
	}
	switch found, err := w.account(ctx, &d, local, name, ""); {
	case found || err != nil:
		return err
	}
	matched, targets := local, d.aliases[local]
	if base, ok := d.withoutDetail(local); ok && targets == nil {
		if found, err := w.account(ctx, &d, base, name, d.subaddress); found || err != nil {
			return err
		}
		if matched, targets = base, d.aliases[base]; targets != nil {
			w.note(Step{local + "@" + name, RuleSubaddress, "the same as " + base + "@" + name, key(name, "subaddress")})
		}
	}
	rule, at := RuleAlias, key(name, "aliases", matched)
	if targets == nil && !w.named {
		matched, targets, rule, at = local, d.catchAll, RuleCatchAll, key(name, "catch_all")
	}
	switch {
	case len(targets) > 0:
		w.note(Step{local + "@" + name, rule, "to " + strings.Join(targets, ", "), at})
		return w.each(ctx, matched+"@"+name, matched+"@"+name, targets, depth)
	case d.relay:
		w.note(Step{local + "@" + name, RuleRelay, "the domain is passed on to another server", key(name, "accept")})
		before := len(w.found)
		err := w.leave(address, from, false)
		if d.verify && depth == 0 && len(w.found) > before {
			w.note(Step{local + "@" + name, RuleRelay, "which is asked at RCPT whether it takes the address", key(name, "verify_recipients")})
			w.found[before].Verify = true
		}
		return err
	}
	w.note(Step{local + "@" + name, RuleNobody, "no account, no alias, no catch-all", key(name)})
	return ErrNoMailbox
}

func looksLikeSRS(address string) bool {
	local := address[:strings.LastIndexByte(address, '@')]
	local = strings.TrimPrefix(local, `"`)
	return len(local) > 5 && strings.EqualFold(local[:3], "SRS") && (local[3] == '0' || local[3] == '1') && strings.IndexByte("=+-", local[4]) >= 0
}

// account adds the account of a folded address, if there is one. detail is what divides off a subaddress that is not in
// it, or "". Where an alias of that address lists itself, the account comes when the alias's targets are followed.
func (w *walk) account(ctx context.Context, d *domain, local, name, detail string) (bool, error) {
	keeps := d.keeps[local]
	if keeps && !w.seen[local+"@"+name] {
		return false, nil
	}
	acct, err := w.table.lookup(ctx, local, name)
	if errors.Is(err, account.ErrUnknown) {
		if keeps {
			err = ErrNoMailbox // the alias's other targets have what there is
			w.note(Step{local + "@" + name, RuleNobody, "the alias lists its own address, which has no account", key(name, "aliases", local)})
			return false, err
		}
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if detail != "" {
		w.note(Step{local + "@" + name, RuleSubaddress, "what follows " + detail + " is a detail", key(name, "subaddress")})
	}
	w.note(Step{local + "@" + name, RuleAccount, "the account " + acct.Address, key(name)})
	return true, w.add(Target{Account: acct})
}

// foreign is about an address of a domain that is not in the table.
func (w *walk) foreign(address, from string, depth int) error {
	switch {
	case depth > 0 && from != "":
		w.note(Step{address, RuleForward, "at another server; forwarded from " + from, nil})
		return w.leave(address, from, true)
	case depth > 0: // it is known again by itself
		return w.leave(address, fold(address), true)
	case mayRelay(w.origin):
		w.note(Step{address, RuleOrigin, "at another server; mail of origin " + string(w.origin) + " may go there", nil})
		return w.leave(address, "", false)
	}
	w.note(Step{address, RuleOrigin, "at another server; mail of origin " + string(w.origin) + " may not go there", nil})
	return ErrNotHosted
}

// leave adds an address at another server.
func (w *walk) leave(address, from string, forward bool) error {
	wire, err := onWire(address)
	if err != nil {
		return err
	}
	return w.add(Target{Remote: wire, Through: from, Forward: forward})
}

// each follows the targets of an alias. A target without a mailbox is passed over
// as long as another one has one.
func (w *walk) each(ctx context.Context, address, from string, targets []string, depth int) error {
	if w.seen[address] || depth >= maxDepth {
		w.note(Step{address, RuleLoop, ErrLoop.Error(), nil})
		return ErrLoop
	}
	if w.seen == nil {
		w.seen = make(map[string]bool, 1)
	}
	w.seen[address] = true
	defer delete(w.seen, address)
	var missing error
	before := len(w.found)
	for _, target := range targets {
		switch err := w.follow(ctx, target, from, depth+1); {
		case errors.Is(err, ErrNoMailbox):
			missing = err
		case err != nil:
			return err
		}
	}
	if len(w.found) == before && missing != nil {
		return missing
	}
	return nil
}

func (w *walk) add(t Target) error {
	for i := range w.found {
		have := &w.found[i]
		if t.Remote == "" && have.Remote == "" && have.Account.ID == t.Account.ID || t.Remote != "" && sameRemote(have.Remote, t.Remote) {
			return nil
		}
	}
	if len(w.found) >= maxTargets {
		return ErrTooMany
	}
	w.found = append(w.found, t)
	return nil
}

// sameRemote compares addresses at other servers. Local parts are compared without case, as nearly every server does: who
// lists both gets one copy.
func sameRemote(a, b string) bool { return strings.EqualFold(a, b) }

// locate returns an address folded, and as it was given unless it is <Postmaster>.
func (w *walk) locate(address string) (local, name, as string, err error) {
	if strings.EqualFold(address, "postmaster") && w.table.postmaster != "" {
		address = w.table.postmaster
		w.note(Step{"Postmaster", RulePostmaster, "stands for " + address, []string{"postmaster"}})
	}
	local, name, err = split(address)
	return local, name, address, err
}
