package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/pipeline/authenticate"
	"github.com/sluicemail/sluice/pipeline/authenticate/keyring"
)

// This file is what `sluice check` says of mail that leaves: by which servers, and signed with what.

type relayReport struct {
	For      string   `json:"for"` // the domain, ".parent" or "*"
	Protocol string   `json:"protocol"`
	Hosts    []string `json:"hosts"`
	TLS      string   `json:"tls"`
	Login    string   `json:"login,omitempty"`
}

func relayReports(c *config.Config) []relayReport {
	var list []relayReport
	for _, name := range slices.Sorted(maps.Keys(c.Relay)) {
		r := c.Relay[name]
		list = append(list, relayReport{name, r.Protocol, r.Hosts, r.TLS, r.Username})
	}
	return list
}

// signed says with what mail from a domain is signed.
func signed(c *config.Config, name string, signing authenticate.Signing) string {
	if signing.Sign == authenticate.SignOff {
		return "off"
	}
	keys, err := keyring.Of(c.DataDir).Keys(name)
	if err != nil {
		return "broken: " + err.Error()
	}
	var active []string
	for _, k := range keys {
		if k.State == keyring.Active {
			active = append(active, k.Selector)
		}
	}
	if len(active) == 0 {
		return "unsigned, sluice dkim new " + name + " makes keys"
	}
	return "by " + strings.Join(active, ", ")
}

func deliverDoes(c *config.Config, p *config.Pipeline) string {
	d := &p.Deliver
	does := fmt.Sprintf("into local mailboxes; to other servers with tls %s", d.TLS)
	switch {
	case d.DANE && c.DNS.TrustAD:
		does += ", DANE"
	case d.DANE:
		does += ", no DANE ([dns] trust_ad is false)"
	}
	if d.MTASTS {
		does += ", MTA-STS"
	}
	if len(d.AllowPrivate) > 0 {
		does += "; DNS may lead to " + strings.Join(d.AllowPrivate, ", ")
	}
	return does
}

func (r *report) printLeaving(p *printer) {
	p.section("relays", len(r.Relays))
	p.table(func(t io.Writer) {
		for _, l := range r.Relays {
			login := "no login"
			if l.Login != "" {
				login = "login " + l.Login
			}
			fmt.Fprintf(t, "  %s\t%s\t%s\ttls %s\t%s\n", l.For, l.Protocol, strings.Join(l.Hosts, ", "), l.TLS, login)
		}
	})
}
