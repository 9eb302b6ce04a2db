// Package resolver asks DNS, for everybody in the house, and remembers the answers.
//
// It is a stub resolver over miekg/dns: it asks the recursive servers of the configuration, or of the system, and
// believes what they say; it does not validate DNSSEC itself. Whether an answer was validated it takes from the server (the AD
// bit), and only if the administrator says by trust_ad that the servers do validate and that nobody is between them and us
// (RFC 6840 section 5.8; RFC 7672 section 2.2 has DANE depend on it). A server on loopback is not believed by itself: many of those
// merely forward, with the AD bit of whoever is upstream. What it promises:
//
//   - Every look-up ends: a single query within Config.Timeout, a whole look-up, with its retries, its further servers
//     and its CNAME chain, within Config.Deadline, and sooner if the caller's context ends sooner.
//   - An error is always a *net.DNSError, so that callers may ask IsNotFound (the name or the record is not there: a
//     definite answer) and IsTemporary (nobody could tell us: ask again later). Nothing else is an answer.
//   - An answer is taken only if its ID and its question are those of the query (RFC 5452 section 9); records of other
//     names than the one asked for and its CNAME chain are ignored; what does not fit in a datagram of 1232 octets is
//     asked again over TCP.
//   - Memory is bounded: the cache by entries and octets, the queries in flight by number, an answer by its records.
//   - A question asked by many at once is asked once (the answer of a leader whose caller has gone away still serves the others).
//   - An answer that is in the cache costs no allocation. Therefore results are shared: callers must not change them.
//
// Answers come from strangers: names with odd octets are dropped, texts are handed on as they came, octet for octet
// (miekg/dns escapes them; that is undone here).
//
// RFCs: 1035, 2181, 2308 (negative answers), 5452 (spoofing), 6891 (EDNS), 9520 (failures are remembered for a moment).
package resolver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Lookup is what the rooms of the pipeline ask of DNS. *Resolver is one. Safe for concurrent use; results are shared
// and must not be changed; errors are *net.DNSError, except where ctx ended, which gives a temporary *net.DNSError too.
type Lookup interface {
	// LookupTXT returns the texts of name, the strings of each record joined (RFC 7208 section 3.3).
	LookupTXT(ctx context.Context, name string) ([]string, error)

	// LookupMX returns the exchangers of name, most preferred first; hosts without a final dot, but "." for a null MX
	// (RFC 7505).
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)

	// LookupIP returns the addresses of host; network is "ip4", "ip6" or "ip" for both.
	LookupIP(ctx context.Context, network, host string) ([]netip.Addr, error)

	// LookupPTR returns the names that the reverse tree has for addr, without final dots and unverified.
	LookupPTR(ctx context.Context, addr netip.Addr) ([]string, error)
}

// Exchange asks one server one question over "udp" or "tcp" and returns its answer, checked to be an answer to query.
// The context has the query's deadline. Tests put their own in Options.
type Exchange func(ctx context.Context, network, server string, query *dns.Msg) (*dns.Msg, error)

// Options is what New takes beside the configuration; the zero value is what a server runs with.
type Options struct {
	Exchange   Exchange         // nil: sockets
	Clock      func() time.Time // nil: time.Now
	ResolvConf string           // where the system's servers are written; "": /etc/resolv.conf
}

// Resolver is a Lookup with a cache. Make one with New; it owns no goroutine while nobody asks.
type Resolver struct {
	config   Config
	servers  []string
	exchange Exchange
	clock    func() time.Time
	cache    cache
	inFlight chan struct{} // a token for each look-up that is outside the cache
	good     atomic.Uint32 // index of the server that answered last: it is asked first

	queries, failures atomic.Uint64
}

// maxInFlight bounds the look-ups that wait for the network at one time, and with them sockets and goroutines.
const maxInFlight = 512

// New returns a resolver for a valid configuration.
func New(config Config, options Options) (*Resolver, error) {
	servers, err := config.servers(options.ResolvConf)
	if err != nil {
		return nil, err
	}
	r := &Resolver{
		config:   config,
		servers:  servers,
		exchange: options.Exchange,
		clock:    options.Clock,
		inFlight: make(chan struct{}, maxInFlight),
	}
	if r.exchange == nil {
		r.exchange = exchangeSocket
	}
	if r.clock == nil {
		r.clock = time.Now
	}
	r.cache.init(config.CacheEntries, int64(config.CacheSize))
	return r, nil
}

// LookupTXT implements Lookup.
func (r *Resolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	a, err := r.lookup(ctx, name, dns.TypeTXT)
	if err != nil {
		return nil, err
	}
	return a.texts, nil
}

// LookupMX implements Lookup.
func (r *Resolver) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	a, err := r.lookup(ctx, name, dns.TypeMX)
	if err != nil {
		return nil, err
	}
	return a.exchangers, nil
}

// LookupIP implements Lookup.
func (r *Resolver) LookupIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	switch network {
	case "ip4":
		return r.lookupAddrs(ctx, host, dns.TypeA)
	case "ip6":
		return r.lookupAddrs(ctx, host, dns.TypeAAAA)
	case "ip":
	default:
		return nil, &net.DNSError{Err: "unknown network " + network, Name: host}
	}
	four, err4 := r.lookupAddrs(ctx, host, dns.TypeA)
	six, err6 := r.lookupAddrs(ctx, host, dns.TypeAAAA)
	switch {
	case err4 == nil && err6 == nil:
		return append(append(make([]netip.Addr, 0, len(four)+len(six)), four...), six...), nil
	case err4 == nil && notFound(err6):
		return four, nil
	case err6 == nil && notFound(err4):
		return six, nil
	case err4 != nil && !notFound(err4):
		// Half an answer is none: with one family unknown, "no such address" would be a guess.
		return nil, err4
	default:
		return nil, err6
	}
}

func (r *Resolver) lookupAddrs(ctx context.Context, host string, qtype uint16) ([]netip.Addr, error) {
	a, err := r.lookup(ctx, host, qtype)
	if err != nil {
		return nil, err
	}
	return a.addrs, nil
}

// LookupPTR implements Lookup.
func (r *Resolver) LookupPTR(ctx context.Context, addr netip.Addr) ([]string, error) {
	if !addr.IsValid() {
		return nil, &net.DNSError{Err: "not an IP address", Name: addr.String(), IsNotFound: true}
	}
	a, err := r.lookup(ctx, reverseName(addr), dns.TypePTR)
	if err != nil {
		return nil, err
	}
	return a.names, nil
}

// Stats are counters since the start.
type Stats struct {
	Hits, Misses   uint64 // look-ups answered from the cache, and not
	Queries        uint64 // sent to servers, repetitions included
	Failures       uint64 // look-ups that ended without a definite answer
	Entries, Bytes int64  // in the cache now
	Evicted        uint64 // entries that made room for others
}

// Stats returns the counters.
func (r *Resolver) Stats() Stats {
	s := r.cache.stats()
	s.Queries, s.Failures = r.queries.Load(), r.failures.Load()
	return s
}

// lookup is look without what is known about an error.
func (r *Resolver) lookup(ctx context.Context, name string, qtype uint16) (*answer, error) {
	a, err := r.look(ctx, name, qtype)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// look answers from the cache, or joins or leads the look-up that fills it. The answer is never nil.
func (r *Resolver) look(ctx context.Context, name string, qtype uint16) (*answer, error) {
	name, ok := normalize(name)
	if !ok {
		return &answer{name: name}, &net.DNSError{Err: "not a domain name", Name: name, IsNotFound: true}
	}
	k := key{name, qtype}
	a, flight, leader := r.cache.get(k, r.clock())
	if a == nil {
		if leader {
			// The look-up outlives a caller that gives up, since others may wait for it; it has its own deadline.
			go r.lead(k, flight)
		}
		select {
		case <-flight.done:
			a = flight.answer
		case <-ctx.Done():
			return &answer{name: name}, contextError(ctx, name)
		}
	}
	if a.err != nil {
		return a, a.err
	}
	return a, nil
}

// lead finds the answer, puts it into the cache and hands it to all who wait.
func (r *Resolver) lead(k key, f *flight) {
	ctx, cancel := context.WithTimeout(context.Background(), r.config.Deadline.Std())
	defer cancel()
	var a *answer
	select {
	case r.inFlight <- struct{}{}:
		a = r.resolve(ctx, k)
		<-r.inFlight
	case <-ctx.Done():
		a = failure(k.name, "too many look-ups at once", true)
	}
	if a.temporary() {
		r.failures.Add(1)
	}
	r.cache.put(k, f, a, r.clock())
}

// contextError is what a caller gets whose time is over. It is temporary, as the look-up may still succeed.
func contextError(ctx context.Context, name string) error {
	return &net.DNSError{
		UnwrapErr:   ctx.Err(),
		Err:         "look-up abandoned: " + ctx.Err().Error(),
		Name:        name,
		IsTimeout:   errors.Is(ctx.Err(), context.DeadlineExceeded),
		IsTemporary: true,
	}
}

func notFound(err error) bool {
	var e *net.DNSError
	return errors.As(err, &e) && e.IsNotFound
}
