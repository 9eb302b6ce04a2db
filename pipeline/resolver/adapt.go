package resolver

import (
	"context"
	"net"
	"net/netip"
	"strings"
)

// ForSPF is a Lookup as blitiri.com.ar/go/spf wants it, for one check of one client.
type ForSPF struct {
	Lookup Lookup

	// Client is the address that is being checked. For an IPv4 client only A records are asked for (RFC 7208 section
	// 5.3); for IPv6 both kinds are, since "exists" looks at A records whatever the client is.
	Client netip.Addr
}

// LookupTXT returns name's texts.
func (s ForSPF) LookupTXT(ctx context.Context, name string) ([]string, error) {
	return s.Lookup.LookupTXT(ctx, shorten(name))
}

// LookupMX returns name's exchangers.
func (s ForSPF) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	return s.Lookup.LookupMX(ctx, shorten(name))
}

// LookupIPAddr returns host's addresses.
func (s ForSPF) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	network := "ip"
	if s.Client.Unmap().Is4() {
		network = "ip4"
	}
	addrs, err := s.Lookup.LookupIP(ctx, network, shorten(host))
	if err != nil {
		return nil, err
	}
	out := make([]net.IPAddr, len(addrs))
	for i, a := range addrs {
		out[i].IP = a.AsSlice()
	}
	return out, nil
}

// LookupAddr returns the names of addr in the reverse tree.
func (s ForSPF) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	parsed, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, &net.DNSError{Err: "not an IP address", Name: addr, IsNotFound: true}
	}
	return s.Lookup.LookupPTR(ctx, parsed)
}

// shorten cuts labels from the left of a name that a macro made longer than 253 octets (RFC 7208 section 7.3).
func shorten(name string) string {
	for len(strings.TrimSuffix(name, ".")) > 253 {
		_, rest, found := strings.Cut(name, ".")
		if !found {
			break
		}
		name = rest
	}
	return name
}

// TXTFunc is lookup's LookupTXT under a fixed context, as go-msgauth's dkim and dmarc want it.
func TXTFunc(ctx context.Context, lookup Lookup) func(name string) ([]string, error) {
	return func(name string) ([]string, error) { return lookup.LookupTXT(ctx, name) }
}
