package resolvertest

import (
	"crypto"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Signer is a dns.Handler, authoritative for whatever its zone file has, that signs one zone while it answers (RFC 4035), so that a real
// validating resolver can be between it and those who ask. What is not there it denies with an NSEC that covers nothing else (as RFC 9824
// does). Safe for concurrent use.
type Signer struct {
	apex    string
	key     *dns.DNSKEY
	private crypto.Signer

	mu      sync.Mutex
	records map[string][]dns.RR // by name
	bogus   map[string]bool     // names whose signatures are wrong
	stale   map[string]bool     // and whose signatures have expired
}

// NewSigner reads a zone file, with names of any zone, of which those at and below apex are signed with a new key.
func NewSigner(apex, zone string) (*Signer, error) {
	s := &Signer{apex: dns.CanonicalName(apex), records: make(map[string][]dns.RR), bogus: make(map[string]bool), stale: make(map[string]bool)}
	s.key = &dns.DNSKEY{
		Hdr:   dns.RR_Header{Name: s.apex, Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: 300},
		Flags: dns.ZONE | dns.SEP, Protocol: 3, Algorithm: dns.ECDSAP256SHA256,
	}
	private, err := s.key.Generate(256)
	if err != nil {
		return nil, fmt.Errorf("make a key for %s: %w", apex, err)
	}
	s.private = private.(crypto.Signer)
	s.records[s.apex] = []dns.RR{s.key}
	p := dns.NewZoneParser(strings.NewReader(zone), ".", "zone")
	p.SetDefaultTTL(300)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		name := dns.CanonicalName(rr.Header().Name)
		s.records[name] = append(s.records[name], rr)
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("read the zone: %w", err)
	}
	return s, nil
}

// Anchor is the DS record of the signed zone, as trust-anchor of unbound.conf(5) takes it.
func (s *Signer) Anchor() string {
	return strings.ReplaceAll(s.key.ToDS(dns.SHA256).String(), "\t", " ")
}

// Bogus makes the signatures of names wrong.
func (s *Signer) Bogus(names ...string) { s.mark(s.bogus, names) }

// Stale lets the signatures of names have expired.
func (s *Signer) Stale(names ...string) { s.mark(s.stale, names) }

func (s *Signer) mark(set map[string]bool, names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		set[dns.CanonicalName(n)] = true
	}
}

// ServeDNS implements dns.Handler.
func (s *Signer) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	m, err := s.respond(query)
	if err != nil {
		m = new(dns.Msg).SetRcode(query, dns.RcodeServerFailure)
	}
	_ = w.WriteMsg(m) // a peer that is gone asks again
}

func (s *Signer) respond(query *dns.Msg) (*dns.Msg, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(query)
	m.Authoritative = true
	m.SetEdns0(1232, true)
	if len(query.Question) != 1 {
		m.Rcode = dns.RcodeFormatError
		return m, nil
	}
	q := query.Question[0]
	name := dns.CanonicalName(q.Name)
	secure := dns.IsSubDomain(s.apex, name)
	var found []dns.RR
	var types []uint16
	for _, rr := range s.records[name] {
		types = append(types, rr.Header().Rrtype)
		if t := rr.Header().Rrtype; t == q.Qtype || t == dns.TypeCNAME {
			found = append(found, rr)
		}
	}
	if len(found) > 0 {
		m.Answer = found
		if !secure {
			return m, nil
		}
		sig, err := s.sign(name, found)
		m.Answer = append(m.Answer, sig)
		return m, err
	}
	soa := []dns.RR{&dns.SOA{
		Hdr: dns.RR_Header{Name: s.apex, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 300}, Ns: "ns." + s.apex, Mbox: "hostmaster." + s.apex,
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: 60,
	}}
	m.Ns = soa
	if !secure {
		return m, nil
	}
	nsec := []dns.RR{&dns.NSEC{
		Hdr:        dns.RR_Header{Name: name, Rrtype: dns.TypeNSEC, Class: dns.ClassINET, Ttl: 60},
		NextDomain: `\000.` + name, TypeBitMap: append(types, dns.TypeRRSIG, dns.TypeNSEC),
	}}
	soaSig, err := s.sign(s.apex, soa)
	if err != nil {
		return nil, err
	}
	nsecSig, err := s.sign(name, nsec)
	if err != nil {
		return nil, err
	}
	m.Ns = append(append(m.Ns, soaSig), append(nsec, nsecSig)...)
	return m, nil
}

// sign makes the signature over a set of records, as good as the name is to have it.
func (s *Signer) sign(name string, set []dns.RR) (*dns.RRSIG, error) {
	now := time.Now()
	if s.stale[name] {
		now = now.Add(-30 * 24 * time.Hour)
	}
	sig := &dns.RRSIG{
		KeyTag: s.key.KeyTag(), SignerName: s.apex, Algorithm: s.key.Algorithm,
		Inception: uint32(now.Add(-time.Hour).Unix()), Expiration: uint32(now.Add(24 * time.Hour).Unix()),
	}
	if err := sig.Sign(s.private, set); err != nil {
		return nil, fmt.Errorf("sign %s: %w", name, err)
	}
	if s.bogus[name] {
		raw, err := base64.StdEncoding.DecodeString(sig.Signature)
		if err != nil {
			return nil, err
		}
		raw[len(raw)/4] ^= 1
		sig.Signature = base64.StdEncoding.EncodeToString(raw)
	}
	return sig, nil
}
