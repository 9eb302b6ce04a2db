// Package mtasts knows the MTA-STS policies of domains (RFC 8461): which servers mail for a domain may go to, and that they
// must prove who they are with a certificate of a public authority.
//
// A policy is found by a TXT record and fetched by HTTPS. Once it is known it holds until it expires, whatever DNS says
// meanwhile: somebody who can keep the record from us can't make us forget (section 10.2). The record is asked for at each use (the
// resolver has it in its cache), and when its id has changed the policy is fetched anew; and once a day without that, in the
// background, so that a domain that is in use never reaches the end of a policy. A fetch that failed is not repeated for
// five minutes (section 3.3), and the policy that we have stays; one that says max_age 0 holds as long, so that it does not
// cost a fetch for each message.
//
// What strangers can make us do is bounded: 64 KiB and 60 seconds a fetch, of which mail waits for 10, maxFetches at a time, no redirects, only
// addresses that mail may go to, maxPolicies in memory. With a Cache policies survive a restart.
package mtasts

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
)

// Lookup is what is asked of DNS; a resolver.Lookup is one.
type Lookup interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

// Cache is tlspolicy.Cache.
type Cache interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Set(ctx context.Context, key string, value []byte, expires time.Time) error
}

// Options is what New takes.
type Options struct {
	DNS    Lookup
	Finder *mx.Finder     // finds the addresses of the policy's server
	Rules  mx.Rules       // which of them may be connected to
	Port   uint16         // of HTTPS; 0 is 443
	Roots  *x509.CertPool // nil: the system's
	Cache  Cache          // nil: nothing survives a restart
	Logger *slog.Logger
	Now    func() time.Time // nil: time.Now

	Patience time.Duration // for a fetch that mail waits for; 0 is 10 seconds
}

const (
	maxPolicies = 10_000         // in memory, with domains whose fetch failed
	maxFetches  = 32             // at a time
	maxFlights  = 8 * maxFetches // with those that wait for their turn
	patience    = 10 * time.Second
	failureTime = 5 * time.Minute // without another fetch after one that failed
	freshTime   = 24 * time.Hour  // without a fetch after one that did not
	watchTime   = time.Hour       // between two looks for policies that grow old
	idleTime    = 31 * 24 * time.Hour
)

// Store has the policies. Safe for concurrent use. Make one with New and end it with Close.
type Store struct {
	options Options
	fetches chan struct{} // a token for each fetch under way
	within  time.Duration // what a fetch may take: fetchTime

	mu      sync.Mutex
	entries map[string]*entry
	flights int // fetches under way, and those that wait for their turn

	stop    context.CancelFunc
	context context.Context
	running sync.WaitGroup
}

// entry is what is known about a domain. Its fields belong to Store.mu.
type entry struct {
	policy *Policy       // nil: none, or expired
	loaded bool          // the Cache was asked
	failed error         // of the last fetch
	tried  time.Time     // when the last fetch ended
	used   time.Time     // when it was asked for last
	begun  time.Time     // of the fetch under way, on the machine's clock
	flight chan struct{} // closed at the end of the fetch under way; nil: none is
}

// New returns a Store, which looks for policies that grow old until Close.
func New(options Options) *Store {
	if options.Port == 0 {
		options.Port = 443
	}
	if options.Patience <= 0 {
		options.Patience = patience
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{options: options, fetches: make(chan struct{}, maxFetches), within: fetchTime, entries: make(map[string]*entry)}
	s.context, s.stop = context.WithCancel(context.Background())
	s.running.Go(s.watch)
	return s
}

// Close ends fetches that are under way.
func (s *Store) Close() {
	s.mu.Lock() // start holds it: no fetch begins after this
	s.stop()
	s.mu.Unlock()
	s.running.Wait()
}

// Get returns the policy of domain, in A-labels and lower case, or nil if it has none, says mode none, or nobody can
// tell. In the last case the error is an *Error: mail goes on as without (section 5.1), and the error is to be reported where it
// has a Type: the domain says that it has one. A fetch has patience to end; it goes on without the caller, and later ones have what
// comes of it. The error is ctx's own if that ended.
func (s *Store) Get(ctx context.Context, domain string) (*Policy, error) {
	e, err := s.entry(ctx, domain)
	if err != nil {
		return nil, err
	}
	texts, err := s.options.DNS.LookupTXT(ctx, "_mta-sts."+domain)
	id := ""
	if err == nil {
		id, err = ParseRecord(texts)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	now := s.options.Now()
	s.mu.Lock()
	policy := e.policy
	e.used = now
	if policy == nil && id == "" {
		s.mu.Unlock()
		if temporary(err) {
			return nil, &Error{Domain: domain, Err: err}
		}
		return nil, nil // RFC 8461 section 3.1
	}
	changed := id != "" && (policy == nil || policy.ID != id)
	old := policy != nil && now.Sub(policy.Fetched) >= freshTime
	recently := e.failed != nil && now.Sub(e.tried) < failureTime
	var flight chan struct{}
	if (changed || old) && !recently {
		flight = s.start(domain, id, e)
	}
	begun := e.begun
	s.mu.Unlock()
	if flight != nil && changed {
		if err := s.wait(ctx, flight, begun); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case e.policy != nil && e.policy.Mode == Off:
		return nil, nil
	case e.policy != nil:
		return e.policy, nil
	}
	var failed *Error
	if errors.As(e.failed, &failed) {
		return nil, failed
	}
	if id != "" && e.policy == nil && e.failed == nil { // not yet
		return nil, &Error{domain, tlsrpt.STSPolicyFetchError, errSlow}
	}
	return nil, nil
}

// errSlow is a fetch that is still under way, or one for which there was no room.
var errSlow = errors.New("it took too long")

// wait waits for the end of a fetch, for as long as mail may wait for it: whoever answers slowly does not hold connections up. The
// error is that of ctx.
func (s *Store) wait(ctx context.Context, flight chan struct{}, begun time.Time) error {
	timer := time.NewTimer(s.options.Patience - time.Since(begun)) // one that has lasted already is not waited for again
	defer timer.Stop()
	select {
	case <-flight:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

func temporary(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && !dns.IsNotFound
}

// Known returns the policy of domain that is in memory, without asking anybody, or nil.
func (s *Store) Known(domain string) *Policy {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[domain]; e != nil {
		return e.policy
	}
	return nil
}

// start begins a fetch, or joins the one under way. The caller holds s.mu. The fetch outlives the caller, since others
// may wait for it.
func (s *Store) start(domain, id string, e *entry) chan struct{} {
	if e.flight != nil {
		return e.flight
	}
	if s.context.Err() != nil || s.flights >= maxFlights {
		return nil
	}
	s.flights++
	flight := make(chan struct{})
	e.flight, e.begun = flight, time.Now()
	s.running.Go(func() {
		defer close(flight)
		s.refresh(domain, id, e)
	})
	return flight
}

// refresh fetches the policy and keeps it, or takes note that it could not be had. id is that of the TXT record, or "" if
// that is not known: then the policy keeps the one that it had.
func (s *Store) refresh(domain, id string, e *entry) {
	var policy *Policy
	var err error
	select {
	case s.fetches <- struct{}{}:
		policy, err = s.fetch(s.context, domain)
		<-s.fetches
	case <-s.context.Done():
		err = s.context.Err()
	}
	now := s.options.Now()
	s.mu.Lock()
	e.flight = nil
	s.flights--
	e.tried, e.failed = now, err
	had := e.policy
	if err == nil {
		policy.ID, policy.Fetched, policy.Expires = id, now, now.Add(max(policy.MaxAge, failureTime))
		if id == "" && had != nil {
			policy.ID = had.ID
		}
		e.policy = policy
	}
	s.mu.Unlock()
	if err != nil {
		if s.context.Err() == nil {
			s.options.Logger.Warn("no MTA-STS policy", "stage", "deliver", "domain", domain, "why", err.Error(), "kept", had != nil)
		}
		return
	}
	s.save(domain, policy)
}
