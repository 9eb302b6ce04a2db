package authenticate

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/sluicemail/sluice/pipeline/resolver"
)

// The result words of RFC 8601 section 2.7 that several methods share.
const (
	resultPass      = "pass"
	resultFail      = "fail"
	resultNone      = "none"
	resultNeutral   = "neutral"
	resultPolicy    = "policy"
	resultTempError = "temperror"
	resultPermError = "permerror"
)

// maxReverseNames is how many names of an address are looked at (RFC 7208 section 4.6.4 says 10 for its ptr).
const maxReverseNames = 5

type iprevResult struct {
	result string
	addr   netip.Addr
	name   string // the first name that leads back, or ""
}

// VerifiedName returns the name of addr in the reverse tree, if that name leads back to addr, or "" (RFC 8601 section 3).
// It is what receive puts into Peer.Name.
func VerifiedName(ctx context.Context, dns resolver.Lookup, addr netip.Addr) string {
	return checkReverse(ctx, dns, addr).name
}

// checkReverse is the method iprev (RFC 8601 section 3).
func checkReverse(ctx context.Context, dns resolver.Lookup, addr netip.Addr) *iprevResult {
	addr = addr.Unmap().WithZone("")
	r := &iprevResult{addr: addr, result: resultFail}
	names, err := dns.LookupPTR(ctx, addr)
	if err != nil {
		r.result = resultPermError // section 2.7.3: no PTR record
		if temporary(err) {
			r.result = resultTempError
		}
		return r
	}
	network := "ip6"
	if addr.Is4() {
		network = "ip4"
	}
	for _, name := range names[:min(len(names), maxReverseNames)] {
		addrs, err := dns.LookupIP(ctx, network, name)
		if err != nil && temporary(err) {
			r.result = resultTempError
			continue
		}
		for _, a := range addrs {
			if a == addr {
				r.result, r.name = resultPass, name
				return r
			}
		}
	}
	return r
}

// temporary reports whether err, of a Lookup, leaves the question open.
func temporary(err error) bool {
	var e *net.DNSError
	return !errors.As(err, &e) || e.IsTemporary
}
