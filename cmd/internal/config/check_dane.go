package config

import (
	"maps"
	"net/netip"
	"slices"
)

// checkDANE looks whether what is asked of DANE can be had: without a resolver that validates, and is believed, there is none (RFC 7672
// section 2.2), and where it is demanded nothing would ever leave.
func (c *Config) checkDANE() {
	s := c.src
	if c.DNS.TrustAD {
		for _, server := range c.DNS.Servers {
			if addr, err := netip.ParseAddrPort(server); err == nil && !addr.Addr().Unmap().IsLoopback() {
				s.warnf(keys("dns", "trust_ad"), "believes what comes from %s: whoever is on the way to it can forge that; expected a server on this machine, or a network that is safe", server)
			}
		}
		return
	}
	const expected = "expected [dns] trust_ad = true and servers that validate DNSSEC, such as unbound on this machine"
	for _, name := range slices.Sorted(maps.Keys(c.Pipeline)) {
		p := c.Pipeline[name]
		if p.Deliver.TLS == "dane" {
			s.errorf(keys("pipeline", name, "deliver", "tls"), "demands DANE, and no answer of DNS is believed to be secure, so no mail would leave; %s", expected)
		}
		if p.Deliver.DANE && s.isSet("pipeline", name, "deliver", "dane") {
			s.warnf(keys("pipeline", name, "deliver", "dane"), "has no effect, as no answer of DNS is believed to be secure; %s", expected)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Destination)) {
		if c.Destination[name].TLS == "dane" {
			s.errorf(keys("destination", name, "tls"), "demands DANE, and no answer of DNS is believed to be secure, so no mail would leave; %s", expected)
		}
	}
}
