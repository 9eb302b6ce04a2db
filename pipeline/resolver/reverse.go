package resolver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
)

// The result words of the method iprev (RFC 8601 section 2.7.3).
const (
	ReversePass      = "pass"
	ReverseFail      = "fail"
	ReverseTempError = "temperror"
	ReversePermError = "permerror" // the address has no name
)

// maxReverseNames is how many names of an address are looked at (RFC 7208 section 4.6.4 says 10 for its ptr).
const maxReverseNames = 5

// ReverseLookup is the part of Lookup that VerifyReverse needs.
type ReverseLookup interface {
	LookupPTR(ctx context.Context, addr netip.Addr) ([]string, error)
	LookupIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// VerifyReverse is the method iprev (RFC 8601 section 3): it returns how the address's names in the reverse tree did, and
// the first one that is a host name and leads back to addr, or "".
func VerifyReverse(ctx context.Context, dns ReverseLookup, addr netip.Addr) (result, name string) {
	addr = addr.Unmap().WithZone("")
	names, err := dns.LookupPTR(ctx, addr)
	switch {
	case err != nil && temporary(err):
		return ReverseTempError, ""
	case err != nil:
		return ReversePermError, ""
	}
	network := "ip6"
	if addr.Is4() {
		network = "ip4"
	}
	result = ReverseFail
	for _, name := range names[:min(len(names), maxReverseNames)] {
		name = strings.TrimSuffix(name, ".")
		if !plainName(name) {
			continue
		}
		addrs, err := dns.LookupIP(ctx, network, name)
		if err != nil && temporary(err) {
			result = ReverseTempError
		}
		for _, a := range addrs {
			if a.Unmap() == addr {
				return ReversePass, name
			}
		}
	}
	return result, ""
}

// temporary reports whether err, of a Lookup, leaves the question open.
func temporary(err error) bool {
	var e *net.DNSError
	return !errors.As(err, &e) || e.IsTemporary
}

// plainName reports whether name can stand in a header field as it is: letters, digits, hyphens and dots (RFC 1123
// section 2.1; underscores are seen in the wild).
func plainName(name string) bool {
	if name == "" || len(name) > 253 || strings.HasPrefix(name, ".") || strings.Contains(name, "..") {
		return false
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return true
}
