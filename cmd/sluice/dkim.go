package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/cmd/internal/datadir"
	"github.com/sluicemail/sluice/pipeline/authenticate/dkim"
	"github.com/sluicemail/sluice/pipeline/authenticate/keyring"
	"github.com/sluicemail/sluice/pipeline/resolver"
)

// What DNS says of a key's record.
const (
	keyPublished = "published"
	keyMissing   = "missing"
	keyDiffers   = "another key"
	keyUnknown   = "unknown"
)

// keyLookup is how long one look-up of `--check` may take.
const keyLookup = 10 * time.Second

// dkimItem is one key as the subcommands of `sluice dkim` show it.
type dkimItem struct {
	keyring.Record
	DNS string `json:"dns,omitempty"` // with --check: published, missing, another key or unknown
	Why string `json:"why,omitempty"` // of unknown
}

func (a *app) dkimCommand() *cobra.Command {
	return group("dkim", "make, show and rotate the keys that mail is signed with",
		a.dkimNewCommand(), a.dkimShowCommand(), a.dkimRotateCommand())
}

// keyFlags are what new keys are like.
type keyFlags struct {
	selector, algorithm string
	bits                int
}

func (f *keyFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.selector, "selector", "", "the `name` under which DNS has the key; default: the day, and r or e")
	cmd.Flags().StringVar(&f.algorithm, "algorithm", "both", "rsa, ed25519 or both; not every server can verify Ed25519, so it is best beside RSA")
	cmd.Flags().IntVar(&f.bits, "bits", 2048, "of an RSA key, 1024 to 8192; more than 2048 makes signing slow, and its record may not fit")
}

// wishes turns the flags into keys to be made.
func (f *keyFlags) wishes() ([]keyring.Wish, error) {
	if f.bits < dkim.MinBits || f.bits > dkim.MaxBits {
		return nil, usagef("--bits: %d, expected %d to %d", f.bits, dkim.MinBits, dkim.MaxBits)
	}
	one := keyring.Wish{Selector: f.selector, Algorithm: dkim.RSA, Bits: f.bits}
	two := keyring.Wish{Selector: f.selector, Algorithm: dkim.Ed25519}
	switch f.algorithm {
	case "rsa":
		return []keyring.Wish{one}, nil
	case "ed25519":
		return []keyring.Wish{two}, nil
	case "both":
		if f.selector != "" {
			one.Selector, two.Selector = f.selector+"-rsa", f.selector+"-ed25519"
		}
		return []keyring.Wish{one, two}, nil
	}
	return nil, usagef("--algorithm: %q, expected rsa, ed25519 or both", f.algorithm)
}

func (a *app) dkimNewCommand() *cobra.Command {
	var flags keyFlags
	cmd := &cobra.Command{
		Use:   "new DOMAIN",
		Short: "make keys for a domain and print the records that DNS needs; the first sign at once, later ones when rotate says so",
		Args:  exactArgs("a domain"),
		RunE: func(_ *cobra.Command, args []string) error {
			wishes, err := flags.wishes()
			if err != nil {
				return err
			}
			dir, domain, err := a.ownKeys(args[0])
			if err != nil {
				return err
			}
			keys, err := dir.Keys(domain)
			if err != nil {
				return err
			}
			for _, w := range wishes {
				if slices.ContainsFunc(keys, func(k keyring.Key) bool { return k.State == keyring.Next && k.Algorithm == w.Algorithm }) {
					return fmt.Errorf("%s has a next key already; publish it, then: sluice dkim rotate %s --activate", domain, domain)
				}
			}
			made, err := dir.Make(domain, wishes, time.Now())
			if err != nil {
				return err
			}
			return a.showMade(dir, domain, made)
		},
	}
	flags.add(cmd)
	return cmd
}

// showMade prints the records of new keys and what to do with them.
func (a *app) showMade(dir keyring.Dir, domain string, made []keyring.Key) error {
	if err := a.showKeys(dir, domain, func(k keyring.Key) bool { return hasSelector(made, k.Selector) }, nil); err != nil || a.json {
		return err
	}
	if made[0].State == keyring.Active {
		fmt.Fprintf(a.stdout, "; publish this; mail from %s is signed from now on, and counts as unsigned until DNS has it\n", domain)
	} else {
		fmt.Fprintf(a.stdout, "; publish this beside what is there, then: sluice dkim rotate %s --activate\n", domain)
	}
	return nil
}

func hasSelector(keys []keyring.Key, selector string) bool {
	return slices.ContainsFunc(keys, func(k keyring.Key) bool { return k.Selector == selector })
}

func (a *app) dkimShowCommand() *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "show [DOMAIN]",
		Short: "print the records of the keys as a zone file; with --check, whether DNS has them",
		Args:  atMost("a domain"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.load()
			if err != nil {
				return err
			}
			dir := keyring.Of(c.DataDir)
			domains := slices.Sorted(maps.Keys(c.Domain))
			if len(args) == 1 {
				domain, err := hostedDomain(c, args[0])
				if err != nil {
					return err
				}
				domains = []string{domain}
			}
			var dns keyChecker
			if check {
				if dns, err = newKeyChecker(cmd.Context(), c); err != nil {
					return err
				}
			}
			bad := false
			for _, domain := range domains {
				err := a.showKeys(dir, domain, nil, dns)
				if bad = bad || errors.Is(err, errSilent); err != nil && !errors.Is(err, errSilent) {
					return err
				}
			}
			if bad {
				return errSilent
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "ask DNS for each record; exit 1 if one that is needed is not there")
	return cmd
}

// showKeys prints the records of a domain's keys that which says yes to; errSilent: DNS lacks one that is needed.
func (a *app) showKeys(dir keyring.Dir, domain string, which func(keyring.Key) bool, dns keyChecker) error {
	records, err := dir.Records(domain)
	if err != nil {
		return err
	}
	if len(records) == 0 && !a.json {
		fmt.Fprintf(a.stdout, "; %s has no keys; sluice dkim new %s makes some\n", domain, domain)
	}
	bad := false
	for _, r := range records {
		if which != nil && !which(r.Key) {
			continue
		}
		item := dkimItem{Record: r}
		if dns != nil {
			item.DNS, item.Why = dns(&r)
			needed := r.State == keyring.Active || r.State == keyring.Retired && time.Now().Before(r.Until)
			bad = bad || needed && item.DNS != keyPublished
		}
		if a.json {
			if err := json.NewEncoder(a.stdout).Encode(item); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(a.stdout, "; %s\n%s\n", describeKey(&item), item.Zone())
	}
	if bad {
		return errSilent
	}
	return nil
}

// describeKey is a key in one line for a person.
func describeKey(i *dkimItem) string {
	text := fmt.Sprintf("%s %s, %d bits, %s", i.Domain, i.Algorithm, i.Bits, i.State)
	switch i.State {
	case keyring.Active:
		if !i.Activated.IsZero() {
			text += " since " + i.Activated.Format(time.DateOnly)
		}
	case keyring.Next:
		text += ", made " + i.Created.Format(time.DateOnly)
	case keyring.Retired:
		text += ", needed until " + i.Until.Format(time.DateOnly)
	}
	if i.DNS != "" {
		text += "; in DNS: " + i.DNS
	}
	if i.Why != "" {
		text += ", " + i.Why
	}
	return text
}

// keyChecker says whether DNS has a record.
type keyChecker func(r *keyring.Record) (state, why string)

// newKeyChecker asks the servers of [dns].
func newKeyChecker(ctx context.Context, c *config.Config) (keyChecker, error) {
	dns, err := resolver.New(c.DNS, resolver.Options{})
	if err != nil {
		return nil, err
	}
	return func(r *keyring.Record) (string, string) {
		limited, cancel := context.WithTimeout(ctx, keyLookup)
		defer cancel()
		texts, err := dns.LookupTXT(limited, r.Name)
		var e *net.DNSError
		switch {
		case errors.As(err, &e) && e.IsNotFound:
			return keyMissing, ""
		case err != nil:
			return keyUnknown, err.Error()
		}
		for _, text := range texts {
			if sameKey(text, r.Text) {
				return keyPublished, ""
			}
		}
		return keyDiffers, ""
	}, nil
}

// sameKey reports whether a record of DNS has the key of ours, and nothing in it keeps that from being used.
func sameKey(published, ours string) bool {
	if _, err := dkim.ParseKey(published); err != nil {
		return false
	}
	one, _ := dkim.ParseTags(published)
	two, _ := dkim.ParseTags(ours)
	kind := one.Squeezed("k")
	if kind == "" {
		kind = "rsa" // RFC 6376 section 3.6.1
	}
	return one.Squeezed("p") == two.Squeezed("p") && strings.EqualFold(kind, two.Squeezed("k"))
}

// ownKeys returns the directory of the keys for a command that changes it, as its owner (RULES D5).
func (a *app) ownKeys(name string) (keyring.Dir, string, error) {
	c, err := a.load()
	if err != nil {
		return "", "", err
	}
	domain, err := hostedDomain(c, name)
	if err != nil {
		return "", "", err
	}
	if err := datadir.Enter(c.DataDir, c.User, os.Args); err != nil {
		return "", "", err
	}
	return keyring.Of(c.DataDir), domain, nil
}

// hostedDomain returns a domain of the configuration in canonical form.
func hostedDomain(c *config.Config, name string) (string, error) {
	domain, ok := dkim.Domain(name)
	if !ok {
		return "", usagef("%q is not a domain", name)
	}
	if _, ours := c.Domain[domain]; !ours {
		return "", fmt.Errorf("%s is not hosted here; add [domain.%q] to %s first", domain, domain, c.Path)
	}
	return domain, nil
}
