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
// of the running server; while none runs nothing is said, because check opens no store.
func checkAccounts(ctx context.Context, c *config.Config) (config.Problems, error) {
	exists := make(map[string]bool)
	err := control.NewClient(c.DataDir).Call(ctx, userListOperation().name, struct{}{}, func(raw json.RawMessage) error {
		var u userItem
		if err := json.Unmarshal(raw, &u); err != nil {
			return fmt.Errorf("read the answer to user/list: %w", err)
		}
		exists[strings.ToLower(u.Address)] = true
		return nil
	})
	if errors.Is(err, control.ErrNotRunning) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask the server for its accounts: %w", err)
	}
	return deadEnds(c, exists), nil
}

// deadEnds is checkAccounts for the accounts that exist.
func deadEnds(c *config.Config, exists map[string]bool) config.Problems {
	leads := func(address string) bool {
		local, domain, _ := strings.Cut(address, "@")
		d := c.Domain[domain]
		if exists[address] || d == nil || d.Accept == route.AcceptRelay { // another server's
			return true
		}
		base := local
		if d.Subaddress != "" {
			base, _, _ = strings.Cut(local, d.Subaddress)
		}
		return exists[base+"@"+domain] || len(d.Aliases[local]) > 0 || len(d.Aliases[base]) > 0 || len(d.CatchAll) > 0
	}
	var out config.Problems
	report := func(target string, key ...string) {
		if !leads(target) {
			out = append(out, c.Warning(fmt.Sprintf("%s has no account and no alias; sluice user add %s makes one", target, target), key...))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Domain)) {
		d := c.Domain[name]
		for _, local := range slices.Sorted(maps.Keys(d.Aliases)) {
			if exists[local+"@"+name] {
				out = append(out, c.Warning("is never used: there is an account of that name, and accounts come first", "domain", name, "aliases", local))
			}
			for _, target := range d.Aliases[local] {
				report(target, "domain", name, "aliases", local)
			}
		}
		for _, target := range d.CatchAll {
			if _, domain, _ := strings.Cut(target, "@"); c.Domain[domain] == nil { // forwarded
				continue
			}
			if !exists[target] && len(d.Aliases[strings.TrimSuffix(target, "@"+name)]) == 0 {
				out = append(out, c.Warning(fmt.Sprintf("%s has no account; sluice user add %s makes one", target, target), "domain", name, "catch_all"))
			}
		}
	}
	if c.Postmaster != "" {
		report(c.Postmaster, "postmaster")
	}
	return out
}
