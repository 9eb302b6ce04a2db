package authenticate

import (
	"context"
	"net/netip"
	"strings"

	"blitiri.com.ar/go/spf"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/resolver"
)

type spfResult struct {
	result string // RFC 8601 section 2.7.2
	domain string // the domain that was checked, as A-labels
	helo   bool   // the identity was HELO, not MAIL FROM
	local  string // local part of MAIL FROM, "" for HELO
	why    string // for the record, "" if there is nothing to say
}

// checkSPF checks the domain of MAIL FROM, or that of HELO if the sender is null (RFC 7208 section 2.4).
func (s *Stage) checkSPF(ctx context.Context, m *pipeline.Message) *spfResult {
	r := &spfResult{result: resultNone}
	local, domain := splitAddress(m.Sender)
	if domain == "" {
		r.helo = true
		local, domain = "postmaster", m.Peer.Helo
	} else {
		r.local = local
	}
	var ok bool
	if r.domain, ok = asciiDomain(domain); !ok || strings.IndexByte(r.domain, '.') < 0 {
		// No domain that could have a policy: an address literal, a single label, rubbish (RFC 7208 section 4.3).
		r.domain, r.why = "", "no domain to ask"
		return r
	}
	helo := m.Peer.Helo
	if h, ok := asciiDomain(helo); ok {
		helo = h
	}
	// The library splits at the first "@", so one in a quoted local part would make it ask another domain.
	sender := strings.ReplaceAll(local, "@", "_") + "@" + r.domain
	addr := m.Peer.Addr.Unmap().WithZone("")
	result, err := spf.CheckHostWithSender(addr.AsSlice(), helo, sender,
		spf.WithContext(ctx), spf.WithResolver(resolver.ForSPF{Lookup: s.DNS, Client: addr}))
	r.result = string(result)
	if err != nil && (result == spf.TempError || result == spf.PermError) {
		r.why = err.Error()
	}
	return r
}

// splitAddress splits at the last "@"; quoted local parts may hold others.
func splitAddress(address string) (local, domain string) {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return address, ""
	}
	return address[:at], address[at+1:]
}

// isLiteral reports whether domain is an IP address, in brackets (RFC 5321 section 4.1.3) or without.
func isLiteral(domain string) bool {
	if strings.HasPrefix(domain, "[") {
		return true
	}
	_, err := netip.ParseAddr(domain)
	return err == nil
}
