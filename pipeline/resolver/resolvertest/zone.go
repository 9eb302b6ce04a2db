// Package resolvertest is DNS for those who must not ask the world: the demo, tests and benchmarks (RULES D4). It
// serves a zone file's text from memory, by a real server on loopback (Start, StartServer) or without any socket (New).
//
// The text is in the syntax of RFC 1035 section 5 and may hold records of any names; relative ones are below the root.
// Whoever asks for a name that is not there is told NXDOMAIN; nothing is ever asked of another server. Wildcards and
// CNAMEs work as usual. A Zone can be told to misbehave for a name, which is what tests of time-outs, truncation and
// failures need, and to pass for signed with DNSSEC, as a validating resolver would see it; it signs nothing.
package resolvertest

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// DefaultTTL is the TTL, in seconds, of records that are written without one.
const DefaultTTL = 300

// Zone is a set of records that answers questions. Safe for concurrent use.
type Zone struct {
	mu      sync.Mutex
	records map[string]map[uint16][]dns.RR // by canonical name and type
	names   map[string]bool                // every name above or at a record: these exist
	faults  map[string]Fault
	asked   map[string]int
	signed  map[string]bool // the names from which on downwards answers are secure, or are not
	queries int
}

// Fault is a misbehaviour for one name.
type Fault struct {
	Rcode    int           // answer this, with nothing else
	Silent   bool          // do not answer at all
	Delay    time.Duration // answer so much later
	Truncate bool          // over UDP: an empty answer with TC set
	Forge    bool          // answer with the question changed
}

// ParseZone reads the zone's text.
func ParseZone(text string) (*Zone, error) {
	z := &Zone{
		records: make(map[string]map[uint16][]dns.RR),
		names:   map[string]bool{".": true},
		faults:  make(map[string]Fault),
		asked:   make(map[string]int),
		signed:  make(map[string]bool),
	}
	p := dns.NewZoneParser(strings.NewReader(text), ".", "zone")
	p.SetDefaultTTL(DefaultTTL)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		z.add(rr)
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("read the zone: %w", err)
	}
	return z, nil
}

// Add puts one more record, in the zone file's syntax, into the zone.
func (z *Zone) Add(record string) error {
	rr, err := dns.NewRR(record)
	if err != nil {
		return fmt.Errorf("read the record: %w", err)
	}
	if rr == nil {
		return fmt.Errorf("read the record %q: there is none", record)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.add(rr)
	return nil
}

// Remove takes every record of name out of the zone.
func (z *Zone) Remove(name string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	delete(z.records, dns.CanonicalName(name))
	delete(z.names, dns.CanonicalName(name))
}

// Break lets questions about name, of any type, meet the fault; the zero Fault mends it.
func (z *Zone) Break(name string, f Fault) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.faults[dns.CanonicalName(name)] = f
}

// Sign lets answers about the names, and about all below them, pass for validated: they have the AD bit if the query has
// it or DO (RFC 6840 section 5.7). What is not in the zone counts too. A bogus name is a Fault with SERVFAIL.
func (z *Zone) Sign(names ...string) { z.sign(true, names) }

// Unsign takes the names, and all below them, out again: unsigned delegations below a signed name.
func (z *Zone) Unsign(names ...string) { z.sign(false, names) }

func (z *Zone) sign(signed bool, names []string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, name := range names {
		z.signed[dns.CanonicalName(name)] = signed
	}
}

// isSigned reports what was said about the closest name at or above name.
func (z *Zone) isSigned(name string) bool {
	for n := name; ; n = parent(n) {
		if signed, said := z.signed[n]; said || n == "." {
			return signed
		}
	}
}

// Queries returns how many questions there were in all.
func (z *Zone) Queries() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.queries
}

// Asked returns how many questions there were about name.
func (z *Zone) Asked(name string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.asked[dns.CanonicalName(name)]
}

func (z *Zone) add(rr dns.RR) {
	name := dns.CanonicalName(rr.Header().Name)
	if z.records[name] == nil {
		z.records[name] = make(map[uint16][]dns.RR)
	}
	z.records[name][rr.Header().Rrtype] = append(z.records[name][rr.Header().Rrtype], rr)
	for n := name; n != "." && !z.names[n]; n = parent(n) {
		z.names[n] = true
	}
}

func parent(name string) string {
	at, end := dns.NextLabel(name, 0)
	if end {
		return "."
	}
	return name[at:]
}

// respond answers a query; the fault says how the transport shall treat the answer.
func (z *Zone) respond(query *dns.Msg) (*dns.Msg, Fault) {
	z.mu.Lock()
	defer z.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(query)
	m.RecursionAvailable = true
	z.queries++
	if len(query.Question) != 1 {
		m.Rcode = dns.RcodeFormatError
		return m, Fault{}
	}
	q := query.Question[0]
	name := dns.CanonicalName(q.Name)
	z.asked[name]++
	fault := z.faults[name]
	if fault.Rcode != 0 {
		m.Rcode = fault.Rcode
		return m, fault
	}
	if fault.Forge {
		m.Question = []dns.Question{{Name: "forged.invalid.", Qtype: q.Qtype, Qclass: q.Qclass}}
	}
	secure := z.answer(m, name, q.Qtype)
	opt := query.IsEdns0()
	m.AuthenticatedData = secure && (query.AuthenticatedData || opt != nil && opt.Do())
	if opt != nil {
		m.SetEdns0(opt.UDPSize(), false)
	}
	return m, fault
}

// answer follows CNAMEs, at most 16, and fills in the sections. It reports whether all names on the way are signed.
func (z *Zone) answer(m *dns.Msg, name string, qtype uint16) (secure bool) {
	secure = true
	for range 16 {
		secure = secure && z.isSigned(name)
		found, exists := z.find(name)
		if records := found[qtype]; len(records) > 0 {
			m.Answer = append(m.Answer, owned(records, name)...)
			return secure
		}
		alias := found[dns.TypeCNAME]
		if len(alias) == 0 {
			if !exists {
				m.Rcode = dns.RcodeNameError
			}
			m.Ns = []dns.RR{z.soa(name)}
			return secure
		}
		m.Answer = append(m.Answer, owned(alias[:1], name)...)
		name = dns.CanonicalName(alias[0].(*dns.CNAME).Target)
	}
	return secure
}

// find returns the records of name, or those of the wildcard that stands for it (RFC 4592).
func (z *Zone) find(name string) (records map[uint16][]dns.RR, exists bool) {
	if z.names[name] {
		return z.records[name], true
	}
	closest := parent(name)
	for closest != "." && !z.names[closest] {
		closest = parent(closest)
	}
	if wild := z.records["*."+strings.TrimPrefix(closest, ".")]; wild != nil {
		return wild, true
	}
	return nil, false
}

// owned returns copies of the records under the name asked for.
func owned(records []dns.RR, name string) []dns.RR {
	out := make([]dns.RR, len(records))
	for i, rr := range records {
		out[i] = dns.Copy(rr)
		out[i].Header().Name = name
	}
	return out
}

// soa returns the SOA of the closest enclosing zone, or one made up at the root.
func (z *Zone) soa(name string) dns.RR {
	for n := name; n != "."; n = parent(n) {
		if soa := z.records[n][dns.TypeSOA]; len(soa) > 0 {
			return soa[0]
		}
	}
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60},
		Ns:  "ns.invalid.", Mbox: "hostmaster.invalid.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: 60,
	}
}
