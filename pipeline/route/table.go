package route

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline/route/srs"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/account"
)

// Limits on what one address may expand to.
const (
	maxDepth   = 20   // aliases that lead to aliases
	maxTargets = 1000 // accounts and addresses at other servers of one address
	maxVisits  = 5000 // addresses that are looked at: lists that have each other's lists grow by multiplication
)

// Errors of Resolve, told apart with errors.Is.
var (
	ErrNotHosted  = errors.New("the domain is not hosted here")
	ErrNoMailbox  = errors.New("no such mailbox")
	ErrLoop       = errors.New("the alias leads back to itself")
	ErrBadAddress = errors.New("not an address")
	ErrLiteral    = errors.New("mail for an address literal does not leave this server")
	ErrSRS        = errors.New("not for this sender, or not made by us")
	ErrTooMany    = fmt.Errorf("the address expands to more than %d places", maxTargets)
)

// Accounts says who exists.
type Accounts interface {
	// Lookup returns the account of an address, compared without case, or
	// account.ErrUnknown.
	Lookup(ctx context.Context, address string) (account.Account, error)
}

// Options are what a Table is made of.
type Options struct {
	Hostname   string            // of this server
	Domains    map[string]Domain // by name
	Relays     map[string]Relay  // by domain, ".domain" or "*"
	Forward    Forward
	Postmaster string // what <Postmaster> stands for; empty: the postmaster of the only domain, if there is one
	Accounts   Accounts
	LoopKey    []byte           // a secret by which forwarded mail is known again; it outlives restarts
	Now        func() time.Time // nil: time.Now
}

// Table answers "where would this address go" (RULES A10), and "how does it leave" (RULES D2). It does not change
// after New; a reload makes a new one. Its methods may be called from any goroutine.
type Table struct {
	hostname   string
	domains    map[string]domain // by A-label in lower case
	relays     transports
	srs        *srs.Rewriter // nil: forwards keep their sender
	postmaster string
	accounts   Accounts
	loopKey    []byte
}

type domain struct {
	relay      bool                // it is another server's, and mail for it is passed on
	verify     bool                // that server is asked about its recipients at RCPT
	aliases    map[string][]string // by local part in lower case
	keeps      map[string]bool     // aliases that list themselves: beside their other targets, the account of that address
	catchAll   []string
	subaddress string
	sendAs     map[string][]string // by account in lower case
}

// NewTable returns a table.
func NewTable(o Options) (*Table, error) {
	t := &Table{
		hostname: o.Hostname, domains: make(map[string]domain, len(o.Domains)), postmaster: o.Postmaster,
		accounts: o.Accounts, loopKey: o.LoopKey,
	}
	for name, d := range o.Domains {
		key, err := foldDomain(name)
		if err != nil {
			return nil, fmt.Errorf("domain %q: %w", name, err)
		}
		t.domains[key] = newDomain(name, &d)
		if o.Postmaster == "" && len(o.Domains) == 1 {
			t.postmaster = "postmaster@" + name
		}
	}
	var err error
	if t.relays, err = newTransports(o.Relays); err != nil {
		return nil, err
	}
	if o.Forward.SRSDomain == "" {
		return t, nil
	}
	name, err := foldDomain(o.Forward.SRSDomain)
	if err != nil || !t.ours(name) {
		return nil, fmt.Errorf("srs_domain %q is none of our domains", o.Forward.SRSDomain)
	}
	if t.srs, err = srs.New(name, o.Forward.SRSSecrets, clock(o.Now)); err != nil {
		return nil, err
	}
	return t, nil
}

func newDomain(name string, d *Domain) domain {
	own := domain{
		relay: d.Accept == AcceptRelay, verify: d.Accept == AcceptRelay && d.Verify, aliases: make(map[string][]string, len(d.Aliases)), keeps: make(map[string]bool), catchAll: d.CatchAll,
		subaddress: d.Subaddress, sendAs: make(map[string][]string, len(d.SendAs)),
	}
	for local, targets := range d.Aliases {
		local = strings.ToLower(local)
		own.aliases[local], own.keeps[local] = targets, listsItself(local+"@"+name, targets)
	}
	for who, list := range d.SendAs {
		if !strings.Contains(who, "@") {
			who += "@" + name
		}
		own.sendAs[fold(who)] = list
	}
	return own
}

// listsItself reports whether an alias's own address is among its targets: the account of that address gets a copy, where it
// would get all of it without the alias (RULES A10). One that lists nothing else is a mistake.
func listsItself(address string, targets []string) bool {
	return len(targets) > 1 && slices.ContainsFunc(targets, func(t string) bool { return fold(t) == fold(address) })
}

// Postmaster returns the address that <Postmaster> stands for, or "".
func (t *Table) Postmaster() string { return t.postmaster }

// Hosts reports whether mail for the address's domain is delivered here.
func (t *Table) Hosts(address string) bool {
	_, name, err := split(address)
	return err == nil && t.ours(name)
}

// lookup returns the account of a folded address.
func (t *Table) lookup(ctx context.Context, local, name string) (account.Account, error) {
	return t.accounts.Lookup(ctx, local+"@"+name)
}

// withoutDetail returns the local part without its subaddress (RFC 5233), and
// whether it had one.
func (d *domain) withoutDetail(local string) (string, bool) {
	if d.subaddress == "" {
		return local, false
	}
	at := strings.Index(local, d.subaddress)
	if at <= 0 {
		return local, false
	}
	return local[:at], true
}

// Owns reports whether the account may send as address: its own address, with a
// subaddress too, an alias that leads to it, or one of send_as (RULES A1). Who
// gets a domain's catch-all owns no address by that.
func (t *Table) Owns(ctx context.Context, login account.Account, address string) (bool, error) {
	_, name, err := split(login.Address)
	if err != nil {
		return false, nil
	}
	lists := [][]string{login.SendAs, t.domains[name].sendAs[fold(login.Address)]}
	for _, list := range lists {
		for _, may := range list {
			if fold(may) == fold(address) {
				return true, nil
			}
		}
	}
	w := newWalk(t, Asked{Origin: sdk.Stranger, Sender: "?"}) // an SRS address is nobody's
	w.named = true
	err = w.follow(ctx, address, "", 0)
	switch {
	case err != nil && !definite(err):
		return false, err
	case err != nil:
		return false, nil
	}
	for _, target := range w.found {
		if target.Remote == "" && target.Account.ID == login.ID {
			return true, nil
		}
	}
	return false, nil
}

// definite reports whether trying again would change nothing: the address itself is to blame.
func definite(err error) bool {
	for _, e := range []error{ErrNotHosted, ErrNoMailbox, ErrLoop, ErrBadAddress, ErrLiteral, ErrSRS, ErrTooMany} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Check returns every alias and catch-all that can't work, because it leads back to itself or to an address that can't be
// written. The keys are those of the TOML tables.
func (t *Table) Check() map[string]error {
	problems := make(map[string]error)
	names := make([]string, 0, len(t.domains))
	for name := range t.domains {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		for local := range t.domains[name].aliases {
			if err := t.checkAlias(local+"@"+name, nil); err != nil {
				problems[fmt.Sprintf("domain.%q.aliases.%s", name, local)] = err
			}
		}
		for _, target := range t.domains[name].catchAll {
			if _, err := onWire(target); err != nil && !t.Hosts(target) {
				problems[fmt.Sprintf("domain.%q.catch_all", name)] = fmt.Errorf("%s: %w", target, err)
			}
		}
	}
	return problems
}

func (t *Table) checkAlias(address string, way []string) error {
	local, name, err := split(address)
	if err != nil {
		return err
	}
	d, hosted := t.domains[name]
	if !hosted {
		_, err := onWire(address)
		return err
	}
	targets := d.aliases[local]
	if base, ok := d.withoutDetail(local); ok && targets == nil && d.aliases[base] != nil {
		local, targets = base, d.aliases[base]
	}
	folded := local + "@" + name
	for _, before := range way {
		if before == folded {
			return fmt.Errorf("%s: %w", strings.Join(append(way, folded), " -> "), ErrLoop)
		}
	}
	for _, target := range targets {
		if d.keeps[local] && fold(target) == fold(folded) {
			continue // the account
		}
		if err := t.checkAlias(target, append(way, folded)); err != nil {
			return err
		}
	}
	return nil
}
