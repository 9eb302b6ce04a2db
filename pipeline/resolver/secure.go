package resolver

import (
	"context"
	"net"
	"net/netip"

	"github.com/miekg/dns"
)

// Answer is what DNS says about one name and type, with what is known about where it comes from. It is filled in as far
// as possible for an error too: that a name is not there may be secure or not.
type Answer[T any] struct {
	Records []T

	// Secure says that a validating server vouches for the records, or for their absence, and for every CNAME on the
	// way (the AD bit of each answer; RFC 4035 section 3.2.3). It is never true without Config.TrustAD.
	Secure bool

	// Name is where the CNAMEs led to: the name asked for, without any. No final dot, lower case.
	Name string

	// NoName says that Name does not exist at all (NXDOMAIN), and not only that it has no such record.
	NoName bool

	// Unusable says that there are such records, and that all of them are rubbish.
	Unusable bool
}

func answered[T any](a *answer, records []T) Answer[T] {
	return Answer[T]{Records: records, Secure: a.secure, Name: a.name, NoName: a.nothing, Unusable: a.unusable}
}

// TLSA is one record of RFC 6698 section 2.1.
type TLSA struct {
	Usage, Selector, Matching uint8
	Data                      []byte // of the certificate association; not empty
}

// SecureLookup is what delivery asks of DNS: Lookup with Answer.Secure. *Resolver is one. It is as safe as Lookup, its
// results are shared in the same way, and its errors are the same. A temporary error with a validating server may mean
// that the answer is forged (SERVFAIL; RFC 4035 section 5.5): nothing may be concluded from it.
type SecureLookup interface {
	// SecureMX is LookupMX.
	SecureMX(ctx context.Context, name string) (Answer[*net.MX], error)

	// SecureIP is LookupIP for one family: network is "ip4" or "ip6".
	SecureIP(ctx context.Context, network, host string) (Answer[netip.Addr], error)

	// SecureTLSA returns the TLSA records of name, such as "_25._tcp.mx.example.net".
	SecureTLSA(ctx context.Context, name string) (Answer[TLSA], error)

	// SecureCNAME returns where name is an alias to, without going there; not found if it is none.
	SecureCNAME(ctx context.Context, name string) (Answer[string], error)

	// Validates reports whether Secure can be true at all: Config.TrustAD.
	Validates() bool
}

// Validates implements SecureLookup.
func (r *Resolver) Validates() bool { return r.config.TrustAD }

// SecureMX implements SecureLookup.
func (r *Resolver) SecureMX(ctx context.Context, name string) (Answer[*net.MX], error) {
	a, err := r.look(ctx, name, dns.TypeMX)
	return answered(a, a.exchangers), err
}

// SecureIP implements SecureLookup.
func (r *Resolver) SecureIP(ctx context.Context, network, host string) (Answer[netip.Addr], error) {
	qtype := dns.TypeA
	switch network {
	case "ip4":
	case "ip6":
		qtype = dns.TypeAAAA
	default:
		return Answer[netip.Addr]{}, &net.DNSError{Err: "unknown network " + network, Name: host}
	}
	a, err := r.look(ctx, host, qtype)
	return answered(a, a.addrs), err
}

// SecureTLSA implements SecureLookup.
func (r *Resolver) SecureTLSA(ctx context.Context, name string) (Answer[TLSA], error) {
	a, err := r.look(ctx, name, dns.TypeTLSA)
	return answered(a, a.tlsas), err
}

// SecureCNAME implements SecureLookup.
func (r *Resolver) SecureCNAME(ctx context.Context, name string) (Answer[string], error) {
	a, err := r.look(ctx, name, dns.TypeCNAME)
	return answered(a, a.names), err
}
