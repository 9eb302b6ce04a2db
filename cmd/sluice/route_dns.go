package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy"
	"github.com/sluicemail/sluice/pipeline/resolver"
)

// routeServer is one server that takes mail for a domain, as DNS has it now.
type routeServer struct {
	Name       string   `json:"name"`
	Port       uint16   `json:"port"`
	Preference uint16   `json:"preference"`
	Addresses  []string `json:"addresses,omitempty"`
	TLS        string   `json:"tls,omitempty"`     // the level that holds, and who asks for it
	Problem    string   `json:"problem,omitempty"` // why it would not be used
}

func (s *routeServer) words() string {
	if s.Problem != "" {
		return s.Problem
	}
	return strings.Join(s.Addresses, ", ") + ", tls " + s.TLS
}

// routeTime bounds all look-ups of one sluice route.
const routeTime = 30 * time.Second

// lookUp asks DNS, as the configuration says, about the targets that go by MX.
func (i *routeItem) lookUp(ctx context.Context, c *config.Config) error {
	ctx, cancel := context.WithTimeout(ctx, routeTime)
	defer cancel()
	dns, err := resolver.New(c.DNS, resolver.Options{})
	if err != nil {
		return fmt.Errorf("look up servers: %w", err)
	}
	settings := i.pipeline(c).Deliver
	finder := mx.New(mx.Options{DNS: dns, Hostname: c.Hostname, Port: uint16(settings.Port)})
	policies := tlspolicy.New(tlspolicy.Options{DNS: dns})
	for n := range i.Targets {
		t := &i.Targets[n]
		if t.Transport != "mx" {
			continue
		}
		domain := t.Address[strings.LastIndexByte(t.Address, '@')+1:]
		found, err := finder.Find(ctx, domain)
		switch {
		case err != nil:
			t.Problem = err.Error()
			continue
		case found.Null:
			t.Problem = "the domain takes no mail (null MX, RFC 7505)"
			continue
		}
		policy, err := policies.Domain(ctx, tlspolicy.Asked{Domain: domain, Exchangers: found, Level: t.TLS, DANE: settings.DANE})
		if err != nil {
			return fmt.Errorf("look up TLS policies: %w", err)
		}
		rules := mx.Rules{Families: mx.Families(settings.Families)}
		for _, text := range settings.AllowPrivate {
			if network, err := netip.ParsePrefix(text); err == nil {
				rules.Allow = append(rules.Allow, network)
			}
		}
		for _, host := range found.Hosts {
			t.Servers = append(t.Servers, askServer(ctx, finder, policy, host, rules))
		}
	}
	return nil
}

// askServer looks up one server's addresses and what its connection has to be like. MTA-STS is asked for at delivery only: it
// would take a connection to a web server.
func askServer(ctx context.Context, finder *mx.Finder, domain *tlspolicy.Domain, host mx.Host, rules mx.Rules) routeServer {
	s := routeServer{Name: host.Name, Port: host.Port, Preference: host.Preference}
	addrs, _, err := finder.Addresses(ctx, host, rules)
	if err != nil {
		s.Problem = err.Error()
		return s
	}
	for _, a := range addrs {
		s.Addresses = append(s.Addresses, a.String())
	}
	policy, err := domain.Host(ctx, host)
	var refused *tlspolicy.Error
	if err != nil && !errors.As(err, &refused) {
		s.Problem = err.Error()
		return s
	}
	if refused != nil {
		s.Problem = refused.Text
	}
	s.TLS = policy.Level.String() + " (" + policy.Source + ")"
	return s
}
