package receive

import (
	"context"
	"net/netip"
	"strings"
)

// maxNames is how many names of a client are looked at; RFC 7208 section 4.6.4 has the same number for PTR.
const maxNames = 10

// verifiedName returns the first name of the client whose own addresses have the client's among them (RFC 8601 section 3,
// "iprev"), or "".
func verifiedName(ctx context.Context, r Resolver, client netip.Addr) string {
	names, err := r.LookupPTR(ctx, client)
	if err != nil {
		return ""
	}
	network := "ip4"
	if client.Is6() {
		network = "ip6"
	}
	for _, name := range names[:min(len(names), maxNames)] {
		name = strings.TrimSuffix(name, ".")
		if !validDomain(name) || strings.HasPrefix(name, "[") || !ascii(name) {
			continue
		}
		addrs, err := r.LookupIP(ctx, network, name)
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if a.Unmap() == client {
				return name
			}
		}
	}
	return ""
}
