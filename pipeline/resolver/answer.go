package resolver

import (
	"cmp"
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// answer is what is known about one name and type: records, or err.
type answer struct {
	texts      []string
	exchangers []*net.MX
	addrs      []netip.Addr
	names      []string
	tlsas      []TLSA
	services   []*net.SRV
	name       string // where the CNAMEs led to
	secure     bool   // as in Answer
	nothing    bool   // no name at all: NXDOMAIN
	unusable   bool   // there are records, and all of them were dropped
	err        *net.DNSError
	ttl        time.Duration // 0: not to be remembered
}

func (a *answer) temporary() bool { return a.err != nil && a.err.IsTemporary }

// Bounds on what is kept of one answer. They are far above what honest zones have; SPF needs to see more than 10 MX.
const (
	maxRecords   = 256
	maxTextBytes = 64 << 10
	maxChain     = 8 // CNAMEs in a row
)

func failure(name, why string, temporary bool) *answer {
	return &answer{err: &net.DNSError{Err: why, Name: name, IsTemporary: temporary}}
}

func absent(name, why string, ttl time.Duration) *answer {
	return &answer{err: &net.DNSError{Err: why, Name: name, IsNotFound: true}, ttl: ttl}
}

// read takes from m, a response with NOERROR or NXDOMAIN to a question about k, the answer. If m ends in a CNAME to a
// name that it says nothing about, next is that name, and ttl how long the chain so far may be believed.
func (r *Resolver) read(m *dns.Msg, k key) (a *answer, next string, ttl time.Duration) {
	ttl = r.config.MaxTTL.Std()
	owner := wireName(k.name)
	for range maxChain {
		target, seconds, found := cname(m.Answer, owner)
		if !found || k.qtype == dns.TypeCNAME {
			break
		}
		ttl = min(ttl, seconds)
		owner = dns.CanonicalName(target)
	}
	a = &answer{name: trimDot(owner), secure: r.vouched(m)}
	count, octets := 0, 0
	for _, rr := range m.Answer {
		h := rr.Header()
		if h.Rrtype != k.qtype || h.Class != dns.ClassINET || !sameName(h.Name, owner) || count == maxRecords {
			continue
		}
		if n := a.add(rr, maxTextBytes-octets); n > 0 {
			octets += n
			count++
			ttl = min(ttl, lifetime(h.Ttl))
		} else {
			a.unusable = true
		}
	}
	if count > 0 {
		a.unusable = false
		slices.SortStableFunc(a.exchangers, func(x, y *net.MX) int { return cmp.Compare(x.Pref, y.Pref) })
		a.ttl = ttl
		return a, "", ttl
	}
	if owner != wireName(k.name) && m.Rcode == dns.RcodeSuccess && !hasSOA(m) {
		if name, ok := hostName(owner); ok && name != "." {
			return nil, name, ttl
		}
	}
	why := "no such record"
	switch {
	case a.unusable:
		why = "no usable record"
	case m.Rcode == dns.RcodeNameError:
		why = "no such host"
		a.nothing = true
	}
	a.err = &net.DNSError{Err: why, Name: k.name, IsNotFound: true}
	a.ttl = min(ttl, r.negativeTTL(m))
	return a, "", ttl
}

// vouched reports whether a server that we believe says that it validated all of m (RFC 4035 section 3.2.3).
func (r *Resolver) vouched(m *dns.Msg) bool { return r.config.TrustAD && m.AuthenticatedData }

// trimDot is a name out of miekg/dns in our form; the root stays ".".
func trimDot(name string) string {
	if name == "." {
		return name
	}
	return strings.TrimSuffix(name, ".")
}

// add puts one record into the answer and returns the octets that it takes; 0 if it is unusable.
func (a *answer) add(rr dns.RR, room int) int {
	switch rr := rr.(type) {
	case *dns.TXT:
		text := unescape(strings.Join(rr.Txt, ""))
		if len(text) > room {
			return 0
		}
		a.texts = append(a.texts, text)
		return len(text) + 16
	case *dns.MX:
		if host, ok := hostName(rr.Mx); ok {
			a.exchangers = append(a.exchangers, &net.MX{Host: host, Pref: rr.Preference})
			return len(host) + 32
		}
	case *dns.A:
		if addr, ok := netip.AddrFromSlice(rr.A.To4()); ok {
			a.addrs = append(a.addrs, addr)
			return 24
		}
	case *dns.AAAA:
		if addr, ok := netip.AddrFromSlice(rr.AAAA.To16()); ok {
			a.addrs = append(a.addrs, addr.Unmap())
			return 24
		}
	case *dns.PTR:
		if host, ok := hostName(rr.Ptr); ok && host != "." {
			a.names = append(a.names, host)
			return len(host) + 16
		}
	case *dns.CNAME:
		if host, ok := hostName(rr.Target); ok && host != "." {
			a.names = append(a.names, host)
			return len(host) + 16
		}
	case *dns.TLSA:
		data, err := hex.DecodeString(rr.Certificate)
		if err != nil || len(data) == 0 || len(data) > room {
			return 0
		}
		a.tlsas = append(a.tlsas, TLSA{rr.Usage, rr.Selector, rr.MatchingType, data})
		return len(data) + 32
	case *dns.SRV:
		if host, ok := hostName(rr.Target); ok {
			a.services = append(a.services, &net.SRV{Target: host, Port: rr.Port, Priority: rr.Priority, Weight: rr.Weight})
			return len(host) + 40
		}
	}
	return 0
}

// size is an estimate of the memory that the answer takes.
func (a *answer) size() int64 {
	n := int64(160 + 24*len(a.addrs))
	for _, s := range a.texts {
		n += int64(16 + len(s))
	}
	for _, mx := range a.exchangers {
		n += int64(40 + len(mx.Host))
	}
	for _, s := range a.names {
		n += int64(16 + len(s))
	}
	for _, t := range a.tlsas {
		n += int64(32 + len(t.Data))
	}
	for _, s := range a.services {
		n += int64(48 + len(s.Target))
	}
	n += int64(len(a.name))
	if a.err != nil {
		n += 128
	}
	return n
}

func cname(records []dns.RR, owner string) (target string, ttl time.Duration, found bool) {
	for _, rr := range records {
		if c, ok := rr.(*dns.CNAME); ok && c.Hdr.Class == dns.ClassINET && sameName(c.Hdr.Name, owner) {
			return c.Target, lifetime(c.Hdr.Ttl), true
		}
	}
	return "", 0, false
}

func sameName(name, canonical string) bool {
	return name == canonical || len(name) == len(canonical) && strings.EqualFold(name, canonical)
}

// lifetime reads a TTL; one with the top bit set is 0 (RFC 2181 section 8).
func lifetime(seconds uint32) time.Duration {
	if seconds > 1<<31-1 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

func hasSOA(m *dns.Msg) bool {
	for _, rr := range m.Ns {
		if rr.Header().Rrtype == dns.TypeSOA {
			return true
		}
	}
	return false
}

// negativeTTL is how long "it is not there" holds: the lesser of the SOA's TTL and its MINIMUM (RFC 2308 section 5). An
// answer without SOA should not be kept at all; it is kept as long as a failure, so that one session does not repeat it.
func (r *Resolver) negativeTTL(m *dns.Msg) time.Duration {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(lifetime(soa.Hdr.Ttl), lifetime(soa.Minttl), r.config.NegativeTTL.Std())
		}
	}
	return min(failureTTL, r.config.NegativeTTL.Std())
}
