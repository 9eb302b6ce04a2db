package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/cmd/internal/datadir"
	"github.com/sluicemail/sluice/cmd/internal/dnsrecords"
	"github.com/sluicemail/sluice/cmd/internal/tlsfile"
	"github.com/sluicemail/sluice/pipeline/authenticate/keyring"
	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/mtasts"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/pipeline/route"
)

// dnsWait bounds all look-ups of one `sluice dns --check`.
const dnsWait = 2 * time.Minute

func (a *app) dnsCommand() *cobra.Command {
	var addresses []string
	check := false
	cmd := &cobra.Command{
		Use:   "dns DOMAIN",
		Short: "print every DNS record that a domain needs, or --check what DNS says",
		Long: "Prints the records that a domain of the configuration needs, as the text of a zone file with comments.\n\n" +
			"With --check they are compared with what DNS says, by meaning: an SPF record is evaluated for the server's addresses, of a DKIM\n" +
			"record the key counts. Exit status 1: something that is needed is missing, or something that is there is wrong.",
		Args: exactArgs("a domain"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.load()
			if err != nil {
				return err
			}
			plan, err := a.dnsPlan(c, args[0], addresses)
			if err != nil {
				return err
			}
			if !check {
				return a.printPlan(plan)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), dnsWait)
			defer cancel()
			return a.checkPlan(ctx, c, plan)
		},
	}
	cmd.Flags().StringSliceVar(&addresses, "address", nil, "the server's `address` as the world sees it; may be given several times")
	cmd.Flags().BoolVar(&check, "check", false, "compare with what DNS says")
	return cmd
}

// dnsPlan gathers what is known of a domain.
func (a *app) dnsPlan(c *config.Config, domain string, addresses []string) (*dnsrecords.Plan, error) {
	postmaster, err := c.Address("postmaster@" + strings.TrimSuffix(domain, "."))
	if err != nil {
		return nil, err
	}
	_, domain, _ = strings.Cut(postmaster, "@")
	site := dnsrecords.Site{Domain: domain, Hostname: c.Hostname, Postmaster: postmaster, SmartHost: c.Relay["*"] != nil}
	if site.Addresses, err = publicAddresses(c, addresses); err != nil {
		return nil, err
	}
	var hidden []string
	site.Services, hidden = clientServices(c)
	site.Certified = "is signed by itself"
	if c.TLS.Certificate != "" {
		if site.Certified, err = tlsfile.Check(c.TLS.Certificate, c.TLS.Key, c.Hostname, time.Now()); err != nil {
			site.Certified = "can't be read: " + err.Error()
		}
	}
	if site.Keys, err = dnsKeys(c, domain); err != nil {
		return nil, err
	}
	plan := dnsrecords.Make(site)
	if c.Domain[domain].Accept == route.AcceptRelay {
		plan.Notes = append(plan.Notes, "Mail for "+domain+" is passed on here. If this server is only a backup, it needs an MX record with a larger number than the main server's, and nothing else of this.")
	}
	if len(hidden) > 0 {
		plan.Notes = append(plan.Notes, "No records for listeners that this machine alone reaches, or whose port changes: "+strings.Join(hidden, ", ")+".")
	}
	return plan, nil
}

// dnsKeys returns the records of a domain's DKIM keys.
func dnsKeys(c *config.Config, domain string) ([]dnsrecords.Key, error) {
	if _, err := os.Stat(c.DataDir); errors.Is(err, os.ErrNotExist) {
		return nil, nil // nothing was ever made
	}
	if err := datadir.BecomeOwner(c.DataDir, os.Args); err != nil {
		return nil, err
	}
	records, err := keyring.Of(c.DataDir).Records(domain)
	if err != nil {
		return nil, err
	}
	var keys []dnsrecords.Key
	for _, r := range records {
		keys = append(keys, dnsrecords.Key{Name: r.Name, Text: r.Text, State: string(r.State)})
	}
	return keys, nil
}

// publicAddresses are those that were given, or else those on which the world can reach our port for mail.
func publicAddresses(c *config.Config, given []string) ([]netip.Addr, error) {
	var list []netip.Addr
	add := func(a netip.Addr) {
		if a = a.Unmap().WithZone(""); !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	for _, text := range given {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, usagef("%q is not an IP address", text)
		}
		add(a)
	}
	if len(given) > 0 {
		return list, nil
	}
	for _, name := range slices.Sorted(maps.Keys(c.Listener)) {
		l := c.Listener[name]
		host, _, err := net.SplitHostPort(l.Address)
		if l.Protocol != "smtp" || err != nil {
			continue
		}
		a, err := netip.ParseAddr(host)
		if host == "" || err == nil && a.IsUnspecified() {
			for _, own := range interfaceAddresses(a) {
				add(own)
			}
		} else if err == nil && mx.Forbidden(a) == "" {
			add(a)
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return list, nil
}

// interfaceAddresses are this machine's addresses on the Internet, of the family of an unspecified one.
func interfaceAddresses(unspecified netip.Addr) (list []netip.Addr) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, one := range all {
		prefix, err := netip.ParsePrefix(one.String())
		if err != nil {
			continue
		}
		a := prefix.Addr().Unmap()
		if mx.Forbidden(a) == "" && (!unspecified.Is4() || a.Is4()) {
			list = append(list, a)
		}
	}
	return list
}

// clientServices are the listeners that mail programs use, and the names of those that the world can't find.
func clientServices(c *config.Config) (list []dnsrecords.Service, hidden []string) {
	for _, name := range slices.Sorted(maps.Keys(c.Listener)) {
		l := c.Listener[name]
		service := l.Protocol
		if service != "imap" && service != "pop3" && service != "submission" {
			continue
		}
		if l.TLS == "implicit" {
			service += "s"
		}
		_, portText, err := net.SplitHostPort(l.Address)
		port, err2 := strconv.ParseUint(portText, 10, 16)
		if err != nil || err2 != nil || port == 0 || l.IsLoopback() {
			hidden = append(hidden, name)
			continue
		}
		if !slices.ContainsFunc(list, func(s dnsrecords.Service) bool { return s.Name == service }) {
			list = append(list, dnsrecords.Service{Name: service, Port: uint16(port)})
		}
	}
	// What is encrypted from the first octet comes first (RFC 8314 section 5.1).
	slices.SortStableFunc(list, func(x, y dnsrecords.Service) int { return fromFirst(y.Name) - fromFirst(x.Name) })
	return list, hidden
}

func fromFirst(service string) int {
	if strings.HasSuffix(service, "s") {
		return 1
	}
	return 0
}

// printPlan prints the records.
func (a *app) printPlan(p *dnsrecords.Plan) error {
	if !a.json {
		_, err := io.WriteString(a.stdout, p.Text())
		return err
	}
	out := json.NewEncoder(a.stdout)
	for _, r := range p.Records {
		if err := out.Encode(r); err != nil {
			return err
		}
	}
	return out.Encode(struct {
		Kind string `json:"kind"`
		dnsrecords.Policy
		Notes []string `json:"notes,omitempty"`
	}{"mta-sts-policy", p.Policy, p.Notes})
}

// checkPlan compares the records with DNS and prints how they are.
func (a *app) checkPlan(ctx context.Context, c *config.Config, p *dnsrecords.Plan) error {
	dns, err := resolver.New(c.DNS, resolver.Options{})
	if err != nil {
		return err
	}
	policies := mtasts.New(mtasts.Options{
		DNS: dns, Finder: mx.New(mx.Options{DNS: dns, Hostname: c.Hostname}), Logger: slog.New(slog.DiscardHandler),
	})
	defer policies.Close()
	checker := dnsrecords.Checker{DNS: dns, Fetch: func(ctx context.Context, domain string) (string, func(string) bool, error) {
		policy, err := policies.Get(ctx, domain)
		if err != nil {
			return "", nil, err
		}
		if policy == nil {
			return "", nil, errors.New("there is none")
		}
		return string(policy.Mode), policy.Match, nil
	}}
	results := checker.Check(ctx, p)
	wrong := 0
	for i := range results {
		if results[i].Wrong() {
			wrong++
		}
	}
	if err := a.printResults(p, results); err != nil {
		return err
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d records of %s are not as they should be; sluice dns %s prints them", wrong, len(results), p.Site.Domain, p.Site.Domain)
	}
	return nil
}

func (a *app) printResults(p *dnsrecords.Plan, results []dnsrecords.Result) error {
	if a.json {
		out := json.NewEncoder(a.stdout)
		for _, r := range results {
			if err := out.Encode(r); err != nil {
				return err
			}
		}
		return nil
	}
	var b strings.Builder
	for _, note := range p.Notes {
		fmt.Fprintf(&b, "note: %s\n", note)
	}
	t := tabwriter.NewWriter(&b, 2, 8, 2, ' ', 0)
	for i := range results {
		r := &results[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", r.State, r.Need, r.Type, r.Name)
		if r.State != dnsrecords.OK && r.Value != "" {
			fmt.Fprintf(t, "\t\texpected:\t%s\n", r.Value)
		}
		if r.State != dnsrecords.OK {
			for _, found := range r.Found {
				fmt.Fprintf(t, "\t\tfound:\t%s\n", found)
			}
		}
		for _, note := range r.Notes {
			fmt.Fprintf(t, "\t\tnote:\t%s\n", note)
		}
	}
	t.Flush()
	_, err := io.WriteString(a.stdout, plain(b.String()))
	return err
}
