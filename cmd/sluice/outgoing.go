package main

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/authenticate"
	"github.com/sluicemail/sluice/pipeline/authenticate/keyring"
	"github.com/sluicemail/sluice/pipeline/deliver"
	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/mtasts"
	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/storage/memo"
)

// outgoing is what mail to other servers needs: keys to sign with, and a courier that knows where and how it goes.
type outgoing struct {
	keys    *keyring.Ring
	facts   *memo.Memo // about other servers
	reports *tlsrpt.Collector
	sts     *mtasts.Store
	courier *deliver.Remote
	own     atomic.Pointer[[]netip.AddrPort] // where we listen
	isOwn   func(netip.AddrPort) bool        // whether a socket of ours listens at an address: mail that went there would come back
}

// maxFacts bounds what is remembered of other servers' TLS, in records.
const maxFacts = 100_000

// startOutgoing brings up what the queue needs for mail that leaves.
func (s *server) startOutgoing(ctx context.Context) error {
	o := &s.outgoing
	o.keys = keyring.NewRing(keyring.Of(s.config.DataDir), time.Now)
	o.facts = memo.New(s.store.KV(), "tls", maxFacts, time.Now)
	if err := o.facts.Tidy(ctx); err != nil {
		return err
	}
	o.own.Store(configuredAddresses(s.config))
	o.isOwn = mx.Own(o.listening)
	finder := newFinder(s.config, s.dns)
	o.reports = tlsrpt.New(tlsrpt.Options{Cache: o.facts, Logger: s.logger})
	o.sts = mtasts.New(mtasts.Options{
		DNS: s.dns, Finder: finder, Rules: mx.Rules{Allow: allowed(s.config), Own: o.isOwn}, Cache: o.facts, Logger: s.logger,
	})
	o.courier = deliver.New(deliver.Options{
		Config:      s.deliverConfig,
		Destination: func(_, domain string) deliver.Destination { return s.destination(domain).DeliverDestination },
		Transport:   func(domain string) pipeline.Transport { return s.currentTable().Transport(domain) },
		Hostname:    s.config.Hostname,
		Finder:      finder,
		Policies: tlspolicy.New(tlspolicy.Options{
			DNS: s.dns, STS: o.sts, Cache: o.facts, Reports: o.reports, Logger: s.logger, Remember: true,
		}),
		Own:    o.isOwn,
		Logger: s.logger,
	})
	go s.sayDANE(context.WithoutCancel(ctx))
	return nil
}

// sayDANE says whether certificates are held against TLSA records. Nobody waits for it: mail for which that matters is
// deferred by itself.
func (s *server) sayDANE(ctx context.Context) {
	if !s.config.DNS.TrustAD {
		s.logger.Info("DANE is off", "stage", pipeline.StageDeliver, "action", "none",
			"why", "[dns] trust_ad is false: nobody vouches for what DNS says")
		return
	}
	if err := s.dns.Probe(ctx); err != nil {
		s.logger.Warn("DANE may defer mail", "stage", pipeline.StageDeliver, "action", "none", "why", err)
	}
}

// stop ends it after the queue: nothing is sent any more.
func (o *outgoing) stop() error {
	if o.courier == nil {
		return nil
	}
	err := o.courier.Close()
	o.sts.Close()
	o.reports.Close()
	return err
}

// newFinder returns who finds the servers of a domain.
func newFinder(c *config.Config, dns *resolver.Resolver) *mx.Finder {
	return mx.New(mx.Options{DNS: dns, Hostname: c.Hostname})
}

// deliverConfig returns the settings of the moment; a pipeline that is gone has the defaults (RULES B8).
func (s *server) deliverConfig(name string) deliver.Config {
	if p, ok := s.currentConfig().Pipeline[name]; ok {
		return p.Deliver
	}
	return deliver.DefaultConfig()
}

// destination returns what is different for mail to a domain.
func (s *server) destination(domain string) config.Destination {
	d, _ := s.currentConfig().DestinationFor(domain)
	return d
}

func (s *server) queueDestination(_, domain string) queue.Destination {
	return s.destination(domain).QueueDestination
}

// currentConfig returns the configuration in force.
func (s *server) currentConfig() *config.Config {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.config
}

// sealer signs what leaves, with the keys of the domains of c.
func (s *server) sealer(c *config.Config) *authenticate.Sealer {
	return authenticate.NewSealer(authenticate.SealerOptions{
		Keys: s.outgoing.keys, Hostname: c.Hostname,
		Domain: func(name string) (authenticate.Signing, bool) {
			d, ok := c.Domain[name]
			if !ok {
				return authenticate.Signing{}, false
			}
			return d.DKIM, true
		},
	})
}

// listening is where we listen now.
func (o *outgoing) listening() []netip.AddrPort {
	if list := o.own.Load(); list != nil {
		return *list
	}
	return nil
}

// configuredAddresses is where we shall listen, as far as that is written.
func configuredAddresses(c *config.Config) *[]netip.AddrPort {
	var list []netip.AddrPort
	for _, l := range c.Listener {
		if a, err := netip.ParseAddrPort(l.Address); err == nil && a.Port() != 0 {
			list = append(list, a)
		}
	}
	return &list
}

// noteListeners tells delivery where we listen now.
func (s *server) noteListeners() {
	var list []netip.AddrPort
	for _, l := range s.listeners {
		if tcp, ok := l.addr.(*net.TCPAddr); ok {
			list = append(list, tcp.AddrPort())
		}
	}
	s.outgoing.own.Store(&list)
}

// allowed are the private networks to which policies may be fetched: those to which any mail may go.
func allowed(c *config.Config) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range c.Pipeline {
		for _, text := range p.Deliver.AllowPrivate {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				list = append(list, prefix)
			}
		}
	}
	return list
}
