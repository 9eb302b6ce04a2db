package config

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/sluicemail/sluice/pipeline/route"
)

// checkRelays looks at [relay]: each a name that mail can be for, hosts that are not ourselves.
func (c *Config) checkRelays() {
	written := make(map[string]string, len(c.Relay))
	for _, name := range slices.Sorted(maps.Keys(c.Relay)) {
		r := c.Relay[name]
		at := keys("relay", name)
		canonical, err := route.RelayName(name)
		if err != nil {
			c.src.errorf(at, "%v", err)
			continue
		}
		if other, twice := written[canonical]; twice {
			c.src.errorf(at, "is the same as [relay.%q]", other)
			continue
		}
		written[canonical] = name
		if d, ok := c.Domain[canonical]; ok && d.Accept != route.AcceptRelay {
			c.src.errorf(at, "is never used: %s is delivered here; expected accept = \"relay\" in [domain.%q], or no [relay] for it", canonical, canonical)
		}
		if c.src.isBad("relay", name, "password") && r.Username != "" {
			r.Password = "unread"
		}
		if err := r.Validate(); err != nil {
			c.src.refuse(at, err)
			continue
		}
		for _, host := range r.Hosts {
			if l := c.listens(host); l != "" {
				c.src.errorf(keys("relay", name, "hosts"), "%s is our own listener.%s, so mail would run in a circle; expected another server", host, l)
			}
		}
	}
}

// listens returns the listener that has an address of its own, or "". One on all addresses is found at the moment of
// connecting.
func (c *Config) listens(address string) string {
	for _, name := range slices.Sorted(maps.Keys(c.Listener)) {
		l := c.Listener[name]
		if host, port, err := net.SplitHostPort(l.Address); err == nil && port != "0" && net.JoinHostPort(host, port) == address &&
			(l.Protocol == "smtp" || l.Protocol == "submission" || l.Protocol == "lmtp") {
			return name
		}
	}
	return ""
}

// checkForward looks at [forward], and warns of forwards that other servers will refuse.
func (c *Config) checkForward() {
	at := keys("forward", "srs_domain")
	if err := c.Forward.Validate(); err != nil {
		c.src.refuse(keys("forward"), err)
	}
	if c.Forward.SRSDomain == "" {
		if c.forward != nil && !c.src.isBad(c.forward...) {
			c.src.warnf(c.forward, "forwards to another server, and forward.srs_domain is not set: the sender stays, so SPF fails there and much of the mail will be refused or taken for spam")
		}
		return
	}
	name, err := domainName(c.Forward.SRSDomain)
	if err != nil {
		c.src.errorf(at, "%v, expected one of our domains", err)
		return
	}
	if d, ok := c.Domain[name]; !ok || d.Accept == route.AcceptRelay {
		c.src.errorf(at, "%s is not delivered here, so bounces would go elsewhere; expected one of %s", name, c.localDomains())
		return
	}
	c.Forward.SRSDomain = name
}

func (c *Config) localDomains() string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(c.Domain)) {
		if c.Domain[name].Accept != route.AcceptRelay {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "our domains, of which there is none yet"
	}
	return strings.Join(names, ", ")
}

// checkDestinations brings the names of [destination] into canonical form.
func (c *Config) checkDestinations() {
	if err := c.Queue.Validate(); err != nil {
		c.src.refuse(keys("queue"), err)
	}
	canonical := make(map[string]*Destination, len(c.Destination))
	written := make(map[string]string, len(c.Destination))
	for _, name := range slices.Sorted(maps.Keys(c.Destination)) {
		at := keys("destination", name)
		key, err := route.RelayName(name)
		switch {
		case err == nil && key == "*":
			err = fmt.Errorf("is for all, whose settings are those of [pipeline.X.queue] and [pipeline.X.deliver]; expected a domain, or \".domain\" for its subdomains")
		case err == nil && written[key] != "":
			err = fmt.Errorf("is the same as [destination.%q]", written[key])
		}
		if err != nil {
			c.src.errorf(at, "%v", err)
			continue
		}
		d := c.Destination[name]
		if err := d.QueueDestination.Validate(); err != nil {
			c.src.refuse(at, err)
		}
		if err := d.DeliverDestination.Validate(); err != nil {
			c.src.refuse(at, err)
		}
		canonical[key], written[key] = d, name
	}
	c.Destination = canonical
}

// DestinationFor returns the settings of the [destination] for a domain in canonical form, and its canonical name: its own,
// else those of the nearest domain above it that has them for its subdomains, else none.
func (c *Config) DestinationFor(domain string) (d Destination, name string) {
	if len(c.Destination) == 0 {
		return Destination{}, ""
	}
	if d, ok := c.Destination[domain]; ok {
		return *d, domain
	}
	for at := strings.IndexByte(domain, '.'); at >= 0; {
		if d, ok := c.Destination[domain[at:]]; ok {
			return *d, domain[at:]
		}
		next := strings.IndexByte(domain[at+1:], '.')
		if next < 0 {
			break
		}
		at += 1 + next
	}
	return Destination{}, ""
}
