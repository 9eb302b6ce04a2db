package authenticate

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/sluicemail/sluice/pipeline"
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

type iprevResult struct {
	result string
	addr   netip.Addr
	name   string // the first name that leads back, or ""
}

// checkReverse is the method iprev (RFC 8601 section 3). Receive has asked already, beside the envelope; who comes another
// way is looked up here.
func (s *Stage) checkReverse(ctx context.Context, p *pipeline.Peer) *iprevResult {
	r := &iprevResult{result: p.Reverse, name: p.Name, addr: p.Addr.Unmap().WithZone("")}
	if r.result == "" {
		r.result, r.name = resolver.VerifyReverse(ctx, s.DNS, r.addr)
	}
	return r
}

// temporary reports whether err, of a Lookup, leaves the question open.
func temporary(err error) bool {
	var e *net.DNSError
	return !errors.As(err, &e) || e.IsTemporary
}
