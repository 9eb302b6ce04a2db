package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/pipeline/authenticate/keyring"
	"github.com/sluicemail/sluice/pipeline/units"
)

// rotateFlags are the flags of `sluice dkim rotate`.
type rotateFlags struct {
	keyFlags
	activate, retire, force bool
	keep                    string
}

func (a *app) dkimRotateCommand() *cobra.Command {
	var flags rotateFlags
	cmd := &cobra.Command{
		Use:   "rotate DOMAIN",
		Short: "make the next keys; --activate them when DNS has them; --retire what was replaced long ago",
		Args:  exactArgs("a domain"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if flags.activate && flags.retire {
				return usagef("--activate and --retire do not go together")
			}
			dir, domain, err := a.ownKeys(args[0])
			if err != nil {
				return err
			}
			switch {
			case flags.activate:
				return a.activateKeys(cmd.Context(), dir, domain, &flags)
			case flags.retire:
				return a.retireKeys(dir, domain, flags.force)
			}
			return a.nextKeys(cmd, dir, domain, &flags)
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&flags.activate, "activate", false, "sign with the next keys from now on")
	cmd.Flags().BoolVar(&flags.retire, "retire", false, "remove the retired keys whose records are needed no more")
	cmd.Flags().BoolVar(&flags.force, "force", false, "with --activate: without asking DNS; with --retire: before their time")
	cmd.Flags().StringVar(&flags.keep, "keep", "10d", "with --activate: how long the `records` of the old keys stay needed")
	return cmd
}

// nextKeys makes what follows the active keys: of the same kinds, unless flags say otherwise.
func (a *app) nextKeys(cmd *cobra.Command, dir keyring.Dir, domain string, flags *rotateFlags) error {
	keys, err := dir.Keys(domain)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(keys, func(k keyring.Key) bool { return k.State == keyring.Next }) {
		if err := a.showKeys(dir, domain, func(k keyring.Key) bool { return k.State == keyring.Next }, nil); err != nil || a.json {
			return err
		}
		fmt.Fprintf(a.stdout, "; these were made before; when DNS has them: sluice dkim rotate %s --activate\n", domain)
		return nil
	}
	if !slices.ContainsFunc(keys, func(k keyring.Key) bool { return k.State == keyring.Active }) {
		return fmt.Errorf("%s has no keys; sluice dkim new %s makes some", domain, domain)
	}
	wishes, err := flags.wishes()
	if err != nil {
		return err
	}
	if !cmd.Flags().Changed("algorithm") {
		wishes = slices.DeleteFunc(wishes, func(w keyring.Wish) bool {
			return !slices.ContainsFunc(keys, func(k keyring.Key) bool { return k.State == keyring.Active && k.Algorithm == w.Algorithm })
		})
	}
	made, err := dir.Make(domain, wishes, time.Now())
	if err != nil {
		return err
	}
	return a.showMade(dir, domain, made)
}

func (a *app) activateKeys(ctx context.Context, dir keyring.Dir, domain string, flags *rotateFlags) error {
	keep, err := units.ParseDuration(flags.keep)
	if err != nil || keep.Std() < 0 {
		return usagef("--keep: %q, expected a time such as 10d", flags.keep)
	}
	if !flags.force {
		if err := a.mayActivate(ctx, dir, domain); err != nil {
			return err
		}
	}
	active, retired, err := dir.Activate(domain, time.Now(), keep.Std())
	if err != nil {
		return err
	}
	if a.json {
		return a.showKeys(dir, domain, func(k keyring.Key) bool { return hasSelector(active, k.Selector) || hasSelector(retired, k.Selector) }, nil)
	}
	for _, k := range active {
		fmt.Fprintf(a.stdout, "; %s signs with %s from now on\n", domain, k.Selector)
	}
	for _, k := range retired {
		fmt.Fprintf(a.stdout, "; leave %s._domainkey.%s in DNS until %s: mail signed with it is on its way\n", k.Selector, domain, k.Until.Format(time.DateOnly))
	}
	return nil
}

// mayActivate refuses keys that DNS does not have.
func (a *app) mayActivate(ctx context.Context, dir keyring.Dir, domain string) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	records, err := dir.Records(domain)
	if err != nil {
		return err
	}
	dns, err := newKeyChecker(ctx, c)
	if err != nil {
		return err
	}
	for _, r := range records {
		if r.State != keyring.Next {
			continue
		}
		if state, why := dns(&r); state != keyPublished {
			if why != "" {
				state += ", " + why
			}
			return fmt.Errorf("%s in DNS: %s; publish it first (sluice dkim show %s prints it), or --force", r.Name, state, domain)
		}
	}
	return nil
}

func (a *app) retireKeys(dir keyring.Dir, domain string, force bool) error {
	now := time.Now()
	removed, err := dir.Remove(domain, func(k keyring.Key) bool { return force || !now.Before(k.Until) })
	if err != nil {
		return err
	}
	for _, k := range removed {
		r := dkimItem{Record: keyring.Record{Key: k, Domain: domain, Name: k.Selector + "._domainkey." + domain}}
		if a.json {
			if err := json.NewEncoder(a.stdout).Encode(r); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(a.stdout, "; removed; take %s out of DNS\n", r.Name)
	}
	if len(removed) == 0 && !a.json {
		fmt.Fprintf(a.stdout, "; %s has no retired key whose time is over\n", domain)
	}
	return nil
}
