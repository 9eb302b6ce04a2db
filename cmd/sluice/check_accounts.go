package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/cmd/internal/control"
	"github.com/sluicemail/sluice/pipeline/route"
)

// checkAccounts finds aliases, catch-alls and a postmaster that lead to nobody. Who exists is in the store, so it is asked
// of the running server; while none runs there is nothing to compare with (asked is false), because check opens no store.
func checkAccounts(ctx context.Context, c *config.Config) (found config.Problems, asked bool, err error) {
	exists := make(map[string]bool)
	err = control.NewClient(c.DataDir).Call(ctx, userListOperation().name, struct{}{}, func(raw json.RawMessage) error {
		var u userItem
		if err := json.Unmarshal(raw, &u); err != nil {
			return fmt.Errorf("read the answer to user/list: %w", err)
		}
		exists[strings.ToLower(u.Address)] = true
		return nil
	})
	if errors.Is(err, control.ErrNotRunning) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("ask the server for its accounts: %w", err)
	}
	return append(deadEnds(c, exists), nobodysPost(c, exists)...), true, nil
}

// deadEnds is checkAccounts for the accounts that exist.
func deadEnds(c *config.Config, exists map[string]bool) config.Problems {
	e := ends{c, exists}
	var out config.Problems
	report := func(target string, key ...string) {
		if why := e.dead(target); why != "" {
			out = append(out, c.Warning(fmt.Sprintf("%s %s; sluice user add %s makes one", target, why, target), key...))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Domain)) {
		d := c.Domain[name]
		for _, local := range slices.Sorted(maps.Keys(d.Aliases)) {
			switch address := local + "@" + name; {
			case listsItself(address, d.Aliases[local]) && !exists[address]:
				out = append(out, c.Warning(fmt.Sprintf("lists its own address, which has no account to keep a copy; sluice user add %s makes one", address), "domain", name, "aliases", local))
			case !listsItself(address, d.Aliases[local]) && exists[address]:
				out = append(out, c.Warning("is never used: there is an account of that name, and accounts come first; list the address itself to keep a copy", "domain", name, "aliases", local))
			}
			for _, target := range d.Aliases[local] {
				report(target, "domain", name, "aliases", local)
			}
		}
		for _, target := range d.CatchAll {
			report(target, "domain", name, "catch_all")
		}
	}
	if c.Postmaster != "" {
		report(c.Postmaster, "postmaster")
	}
	return out
}

// listsItself reports whether an alias leaves a copy to the account of its own address.
func listsItself(address string, targets []string) bool { return slices.Contains(targets, address) }

// nobodysPost finds domains that are delivered here and have no postmaster, who has to be at each of them (RFC 5321 section
// 4.5.1); one that is passed on has its own. Who <Postmaster> without a domain is has been looked at already.
func nobodysPost(c *config.Config, exists map[string]bool) config.Problems {
	var out config.Problems
	for _, name := range slices.Sorted(maps.Keys(c.Domain)) {
		address := "postmaster@" + name
		if settled, targets, _ := (ends{c, exists}).next(address); !settled && len(targets) == 0 && address != c.Postmaster {
			out = append(out, c.Warning(fmt.Sprintf("mail for %s is refused, which RFC 5321 section 4.5.1 forbids; expected an alias or an account", address),
				"domain", name))
		}
	}
	return out
}

// ends follows addresses as package route does (RULES A10), with the accounts that there are.
type ends struct {
	config *config.Config
	exists map[string]bool
}

// dead says why mail for an address ends nowhere, if it is the address that has to be changed or made; where another one on its
// way is to blame, that one is reported, at the line where it stands.
func (e ends) dead(address string) string {
	settled, targets, caught := e.next(address)
	switch {
	case settled:
		return ""
	case len(targets) == 0:
		return "has no account and no alias"
	case caught && e.comesBack(address, targets):
		return "has no account and no alias, and the catch-all that gets its mail leads back to it, so it is refused"
	}
	return ""
}

// next returns where an address leads: into a mailbox or to another server (settled), or to targets, caught if these are a
// catch-all's.
func (e ends) next(address string) (settled bool, targets []string, caught bool) {
	local, domain, _ := strings.Cut(address, "@")
	d := e.config.Domain[domain]
	if e.exists[address] || d == nil { // or another server's
		return true, nil, false
	}
	if targets = d.Aliases[local]; len(targets) > 0 {
		return false, targets, false
	}
	if base, _, ok := strings.Cut(local, d.Subaddress); ok && d.Subaddress != "" && base != "" {
		if e.exists[base+"@"+domain] {
			return true, nil, false
		}
		if targets = d.Aliases[base]; len(targets) > 0 {
			return false, targets, false
		}
	}
	return d.Accept == route.AcceptRelay, d.CatchAll, true
}

// comesBack reports whether one of the targets leads to address again. Each address is looked at once.
func (e ends) comesBack(address string, targets []string) bool {
	seen := make(map[string]bool)
	for todo := slices.Clone(targets); len(todo) > 0; {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if at == address {
			return true
		}
		if !seen[at] {
			seen[at] = true
			_, more, _ := e.next(at)
			todo = append(todo, more...)
		}
	}
	return false
}
