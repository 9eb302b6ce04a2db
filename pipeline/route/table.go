package route

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	"golang.org/x/net/idna"

	"github.com/sluicemail/sluice/storage/account"
)

// Limits on what one address may expand to.
const (
	maxDepth   = 20   // aliases that lead to aliases
	maxTargets = 1000 // accounts of one address
)

// Errors of Resolve, told apart with errors.Is.
var (
	ErrNotHosted  = errors.New("the domain is not hosted here")
	ErrNoMailbox  = errors.New("no such mailbox")
	ErrLoop       = errors.New("the alias leads back to itself")
	ErrBadAddress = errors.New("not an address")
	ErrRemote     = errors.New("the alias leads to another server, which this version cannot deliver to yet")
	ErrTooMany    = fmt.Errorf("the address expands to more than %d mailboxes", maxTargets)
)

// Accounts says who exists.
type Accounts interface {
	// Lookup returns the account of an address, compared without case, or
	// account.ErrUnknown.
	Lookup(ctx context.Context, address string) (account.Account, error)
}

// Table answers "where would this address go" (RULES A10). It does not change
// after New; a reload makes a new one. Its methods may be called from any goroutine.
type Table struct {
	domains    map[string]domain // by A-label in lower case
	postmaster string
	accounts   Accounts
}

type domain struct {
	aliases    map[string][]string // by local part in lower case
	catchAll   []string
	subaddress string
	sendAs     map[string][]string // by account in lower case
}

// NewTable returns the table of the hosted domains. postmaster is the address
// that <Postmaster> stands for; empty: the postmaster of the only domain.
func NewTable(domains map[string]Domain, postmaster string, accounts Accounts) (*Table, error) {
	t := &Table{domains: make(map[string]domain, len(domains)), postmaster: postmaster, accounts: accounts}
	for name, d := range domains {
		key, err := foldDomain(name)
		if err != nil {
			return nil, fmt.Errorf("domain %q: %w", name, err)
		}
		own := domain{
			aliases: make(map[string][]string, len(d.Aliases)), catchAll: d.CatchAll,
			subaddress: d.Subaddress, sendAs: make(map[string][]string, len(d.SendAs)),
		}
		for local, targets := range d.Aliases {
			own.aliases[strings.ToLower(local)] = targets
		}
		for who, list := range d.SendAs {
			if !strings.Contains(who, "@") {
				who += "@" + name
			}
			own.sendAs[fold(who)] = list
		}
		t.domains[key] = own
		if postmaster == "" && len(domains) == 1 {
			t.postmaster = "postmaster@" + name
		}
	}
	return t, nil
}

// Postmaster returns the address that <Postmaster> stands for, or "".
func (t *Table) Postmaster() string { return t.postmaster }

// Hosts reports whether mail for the address's domain is delivered here.
func (t *Table) Hosts(address string) bool {
	_, name, err := split(address)
	if err != nil {
		return false
	}
	_, ok := t.domains[name]
	return ok
}

// Resolve returns the accounts that an address leads to, each once: account,
// alias, both again without subaddress, catch-all (RULES A10).
func (t *Table) Resolve(ctx context.Context, address string) ([]account.Account, error) {
	w := walk{table: t, seen: make(map[string]bool, 1)}
	if err := w.follow(ctx, address, 0); err != nil {
		return nil, err
	}
	return w.found, nil
}

// ResolveTargets returns the accounts that addresses lead to as the targets of an alias
// would, each once: one without a mailbox is passed over as long as another one has one.
// An address that leads back to from, or away from this server, fails. from may be "".
func (t *Table) ResolveTargets(ctx context.Context, from string, targets []string) ([]account.Account, error) {
	w := walk{table: t, seen: make(map[string]bool, 1)}
	if local, name, err := w.locate(from); err == nil {
		from = local + "@" + name
	}
	if err := w.each(ctx, from, targets, 0); err != nil {
		return nil, err
	}
	return w.found, nil
}

// walk follows aliases from one address.
type walk struct {
	table *Table
	named bool            // catch-alls do not count: who is behind an address by its name
	seen  map[string]bool // addresses on the way here
	found []account.Account
}

func (w *walk) follow(ctx context.Context, address string, depth int) error {
	local, name, err := w.locate(address)
	if err != nil {
		return err
	}
	d, ok := w.table.domains[name]
	if !ok {
		if depth > 0 {
			return ErrRemote
		}
		return ErrNotHosted
	}
	if acct, err := w.table.lookup(ctx, local, name); err == nil {
		return w.add(acct)
	} else if !errors.Is(err, account.ErrUnknown) {
		return err
	}
	targets := d.aliases[local]
	if base, ok := d.withoutDetail(local); ok && targets == nil {
		if acct, err := w.table.lookup(ctx, base, name); err == nil {
			return w.add(acct)
		} else if !errors.Is(err, account.ErrUnknown) {
			return err
		}
		targets = d.aliases[base]
	}
	if targets == nil && !w.named {
		targets = d.catchAll
	}
	if len(targets) == 0 {
		return ErrNoMailbox
	}
	return w.each(ctx, local+"@"+name, targets, depth)
}

// each follows the targets of an alias. A target without a mailbox is passed over
// as long as another one has one.
func (w *walk) each(ctx context.Context, address string, targets []string, depth int) error {
	if w.seen[address] || depth >= maxDepth {
		return ErrLoop
	}
	w.seen[address] = true
	defer delete(w.seen, address)
	var missing error
	before := len(w.found)
	for _, target := range targets {
		switch err := w.follow(ctx, target, depth+1); {
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

func (w *walk) add(acct account.Account) error {
	for _, have := range w.found {
		if have.ID == acct.ID {
			return nil
		}
	}
	if len(w.found) >= maxTargets {
		return ErrTooMany
	}
	w.found = append(w.found, acct)
	return nil
}

func (w *walk) locate(address string) (local, name string, err error) {
	if strings.EqualFold(address, "postmaster") && w.table.postmaster != "" {
		address = w.table.postmaster
	}
	return split(address)
}

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
	w := walk{table: t, named: true, seen: make(map[string]bool, 1)}
	err = w.follow(ctx, address, 0)
	switch {
	case errors.Is(err, ErrNotHosted), errors.Is(err, ErrNoMailbox), errors.Is(err, ErrBadAddress),
		errors.Is(err, ErrLoop), errors.Is(err, ErrRemote), errors.Is(err, ErrTooMany):
		return false, nil
	case err != nil:
		return false, err
	}
	for _, acct := range w.found {
		if acct.ID == login.ID {
			return true, nil
		}
	}
	return false, nil
}

// Check returns every alias and catch-all that can't work: loops, and targets at
// other servers. The keys are those of the TOML tables.
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
			if !t.Hosts(target) {
				problems[fmt.Sprintf("domain.%q.catch_all", name)] = ErrRemote
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
	address = local + "@" + name
	d, hosted := t.domains[name]
	if !hosted {
		return fmt.Errorf("%s: %w", address, ErrRemote)
	}
	for _, before := range way {
		if before == address {
			return fmt.Errorf("%s: %w", strings.Join(append(way, address), " -> "), ErrLoop)
		}
	}
	for _, target := range d.aliases[local] {
		if err := t.checkAlias(target, append(way, address)); err != nil {
			return err
		}
	}
	return nil
}

// split divides an address into its local part and domain, both folded for
// comparison: lower case, the domain as A-labels. The local part of an address
// is everything before the last @ (RFC 5321 section 4.1.2); quotes that are not
// needed are taken off.
func split(address string) (local, name string, err error) {
	at := strings.LastIndexByte(address, '@')
	if at <= 0 || at == len(address)-1 || len(address) > 512 {
		return "", "", ErrBadAddress
	}
	name, err = foldDomain(address[at+1:])
	if err != nil {
		return "", "", ErrBadAddress
	}
	return strings.ToLower(unquote(address[:at])), name, nil
}

// unquote takes the quotes off a quoted local part whose content needs none.
func unquote(local string) string {
	if len(local) < 3 || local[0] != '"' || local[len(local)-1] != '"' {
		return local
	}
	inner := local[1 : len(local)-1]
	if strings.ContainsAny(inner, " \t\"\\@<>()[]:;,") || strings.HasPrefix(inner, ".") ||
		strings.HasSuffix(inner, ".") || strings.Contains(inner, "..") {
		return local
	}
	return inner
}

func foldDomain(name string) (string, error) {
	name = strings.TrimSuffix(name, ".")
	plain := true
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c >= 0x80 || c == '[' {
			plain = false
		}
		if c >= 'A' && c <= 'Z' {
			plain = false
		}
	}
	if plain && name != "" {
		return name, nil
	}
	if name == "" {
		return "", ErrBadAddress
	}
	if name[0] == '[' {
		return strings.ToLower(name), nil
	}
	return idna.Lookup.ToASCII(strings.ToLower(name))
}

func fold(address string) string {
	local, name, err := split(address)
	if err != nil {
		return strings.ToLower(address)
	}
	return local + "@" + name
}
