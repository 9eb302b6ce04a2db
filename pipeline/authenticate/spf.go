package authenticate

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"time"

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
		spf.WithContext(ctx), spf.WithResolver(&spfLookups{ForSPF: resolver.ForSPF{Lookup: s.DNS, Client: addr}}))
	r.result = string(result)
	if err != nil && (result == spf.TempError || result == spf.PermError) {
		r.why = err.Error()
	}
	return r
}

// reverseTime is what "ptr" and the macro "p" may take of the time of one check. The reverse zone, and the zones of the names
// in it, belong to whoever sends: one that never answers would turn the fail of the author's domain into a temperror.
const reverseTime = time.Second

// spfLookups are the look-ups of one check, which makes them one after another. What takes too long on the way back from the
// client's address makes a mechanism not match (RFC 7208 section 5.5); it is no error.
type spfLookups struct {
	resolver.ForSPF
	until time.Time       // when reverseTime is over; zero: nothing was asked
	names map[string]bool // of the client, not looked at yet
}

// LookupAddr returns the names of addr in the reverse tree.
func (l *spfLookups) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	if l.until.IsZero() {
		l.until = time.Now().Add(reverseTime)
	}
	ctx, cancel := context.WithDeadline(ctx, l.until)
	defer cancel()
	names, err := l.ForSPF.LookupAddr(ctx, addr)
	l.names = make(map[string]bool, len(names))
	for _, name := range names {
		l.names[name] = true
	}
	return names, err
}

// LookupIPAddr returns host's addresses. For one of the client's names the first question is that of the way back.
func (l *spfLookups) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	if l.names[host] {
		delete(l.names, host)
		limited, cancel := context.WithDeadline(ctx, l.until)
		defer cancel()
		ctx = limited
	}
	return l.ForSPF.LookupIPAddr(ctx, host)
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
