// Package tlspolicy decides how a connection to another server has to be protected, enforces it on that connection, and
// takes note of how it went.
//
// Who asks for more wins: what the administrator wrote for a relay or a destination, what the domain publishes (DANE,
// RFC 7672; MTA-STS, RFC 8461), what the sender asks for (REQUIRETLS, RFC 8689), and what the server offered the last
// time. Only "none", written by the administrator, takes everything away; and a sender who says TLS-Required: No (RFC 8689
// section 5) takes away what the domain and the past ask for. Where nobody asks, TLS is opportunistic (RFC
// 7435): with any certificate, and in the clear where there is no TLS to be had.
//
// DANE and MTA-STS together: DANE decides (RFC 8461 section 2: MTA-STS must not override a failing DANE validation);
// reports have both. TLSA records of a server that was found by MX records which nobody vouches for are enforced too: they
// cost nothing, and protect from whoever is near the server (RFC 7672 section 2.2.1). They do not count where DANE is
// demanded, by level "dane" or by REQUIRETLS: there the MX records have to be secure.
//
// A server that has offered STARTTLS once is expected to go on: mail for it is deferred when it does not, for a day from
// the first refusal; then it is believed, with a warning in the log.
//
// TLS itself: verified connections need TLS 1.2; opportunistic ones take TLS 1.0 and RSA key exchange too, which are no
// worse than the clear text that would follow. There is no session resumption: it would take a handshake from 0.76 ms of both
// sides' processor time to 0.60 ms (BenchmarkResumption), connections are kept anyway, and tickets are where implementations disagree.
// No client certificates, no renegotiation. Nothing here logs recipients, passwords or keys.
package tlspolicy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/dane"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/mtasts"
	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
	"github.com/sluicemail/sluice/pipeline/resolver"
)

// Level is how much a policy asks for, rising.
type Level uint8

// The levels.
const (
	None          Level = iota // no TLS, also where it is offered
	Opportunistic              // TLS if it is offered, with whatever certificate; in the clear if that fails (RFC 7435)
	Require                    // TLS with whatever certificate
	Verify                     // TLS with a certificate that a public authority gave to the name (RFC 5280, RFC 9525)
	DANE                       // TLS with a certificate that matches secure TLSA records (RFC 7672)
)

// String returns the word used in the configuration and in traces.
func (l Level) String() string {
	return [...]string{"none", "opportunistic", "require", "verify", "dane"}[min(l, DANE)]
}

// Cache keeps small records over restarts. It is called from any goroutine. Get returns nil and no error for a key that
// is not there or has expired. An error means that nothing is known; nobody is stopped by it. Keys have at most 300 octets,
// values 1 MiB.
type Cache interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Set(ctx context.Context, key string, value []byte, expires time.Time) error
}

// Options is what New takes.
type Options struct {
	DNS      resolver.SecureLookup
	STS      *mtasts.Store     // nil: no MTA-STS
	Cache    Cache             // nil: nothing survives a restart
	Reports  *tlsrpt.Collector // nil: nothing is counted
	Roots    *x509.CertPool    // nil: the system's
	Logger   *slog.Logger      // nil: none
	Now      func() time.Time  // nil: time.Now
	Remember bool              // a server that offered STARTTLS has to go on, for a day
}

// Policies knows the policies of domains. Safe for concurrent use. It owns no goroutine.
type Policies struct {
	options Options
	memory  memory
	seen    seen
}

// New returns a Policies.
func New(options Options) *Policies {
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Policies{options: options}
	p.memory.init(options)
	p.seen.init()
	return p
}

// Asked is a question about a domain.
type Asked struct {
	Domain     string        // of the recipients; in A-labels
	Exchangers mx.Exchangers // where its mail goes
	Level      string        // as configured for the relay or the destination: "", "opportunistic", "require", "verify", "dane", "none" or "implicit"
	RequireTLS bool          // the sender asks for it (RFC 8689)
	Fixed      bool          // the servers are from the configuration (a [relay]): DANE and MTA-STS do not apply
	DANE       bool          // [pipeline.X.deliver] dane
	MTASTS     bool          // [pipeline.X.deliver] mta_sts
	Optional   bool          // the sender asks for delivery rather than TLS (TLS-Required: No, RFC 8689 section 5); RequireTLS overrides it
	Unreported bool          // nothing about it goes into TLS reports
}

// reported says whether reports are to tell of it.
func (a *Asked) reported() bool { return !a.Fixed && !a.Unreported }

// Error says that a server, or every server of a domain, may not be used now. It is temporary, but for Permanent.
type Error struct {
	Type      tlsrpt.ResultType // "" for what is not reported
	Status    string            // enhanced status code (RFC 3463), "4.7.5" for one
	Permanent bool              // it will not do better later, if no other server does
	Text      string            // for the trace and the sender: one clean line
	Err       error             // the cause, or nil
}

func (e *Error) Error() string { return e.Text }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Domain is what is known about a domain's policy. It does not change.
type Domain struct {
	policies *Policies
	asked    Asked
	sts      *mtasts.Policy // nil: none
	stsError *mtasts.Error  // there is one, but nobody could get it; or, without a Type, nobody can tell
}

// Domain looks the domain's policy up, which may take as long as an HTTPS request does. An error is that of ctx.
func (p *Policies) Domain(ctx context.Context, asked Asked) (*Domain, error) {
	if asked.Optional = asked.Optional && !asked.RequireTLS; asked.Optional {
		// What was found out so would be no report about the domain's policies.
		asked.DANE, asked.MTASTS, asked.Unreported = false, false, true
	}
	d := &Domain{policies: p, asked: asked}
	if p.options.STS == nil || !asked.MTASTS || asked.Fixed || asked.Level == "none" || len(asked.Exchangers.Hosts) > 0 && asked.Exchangers.Hosts[0].Addr.IsValid() {
		return d, nil
	}
	policy, err := p.options.STS.Get(ctx, asked.Domain)
	d.sts = policy
	if errors.As(err, &d.stsError) {
		return d, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up the TLS policy of %s: %w", asked.Domain, err)
	}
	return d, nil
}

// Host returns what holds for one of the domain's servers. An *Error means that this server is not to be used now and
// the next one may be tried; it has been taken note of. Any other error is that of ctx.
func (d *Domain) Host(ctx context.Context, host mx.Host) (*Policy, error) {
	p := &Policy{Source: "default", domain: d, host: host}
	if err := p.decide(ctx); err != nil {
		var ours *Error
		if reports := d.policies.options.Reports; reports != nil && d.asked.reported() && errors.As(err, &ours) {
			p.report(reports, Result{Err: ours})
		}
		return nil, err
	}
	return p, nil
}

// decide goes from what the administrator wrote to what the server did the last time.
func (p *Policy) decide(ctx context.Context) error {
	if err := p.configured(); err != nil {
		return err
	}
	if p.Level == None {
		return p.demand()
	}
	if err := p.findDANE(ctx); err != nil {
		return err
	}
	if err := p.applySTS(); err != nil {
		return err
	}
	if err := p.demand(); err != nil {
		return err
	}
	policies := p.domain.policies
	if p.Level == Opportunistic && policies.options.Remember && !p.domain.asked.Optional {
		remembered, err := policies.memory.expects(ctx, memoryKey(p.host))
		if err != nil {
			return err
		}
		if remembered {
			p.raise(Require, "remembered")
		}
	}
	return nil
}

// Result is how an attempt to protect a connection ended.
type Result struct {
	Offered bool                 // the server offered STARTTLS, or Policy.Implicit
	TLS     *tls.ConnectionState // of the finished handshake; nil: there is none
	Err     error                // why there is none: that of the handshake, or of Policy.Missing
	Local   netip.Addr           // ours
	Remote  netip.Addr           // the server's
	Helo    string               // the name in its greeting, as it came
}

// Learn takes note of how an attempt went: for reports, and for what is expected of the server next time. It is to be
// called once for each connection that got as far as the answer to EHLO or a handshake; not for those that failed before, and
// not for messages on a kept connection.
func (p *Policies) Learn(policy *Policy, result Result) {
	if policy == nil || !policy.Wanted() {
		return
	}
	if p.options.Remember && !policy.Implicit {
		var ours *Error
		verdict := errors.As(result.Err, &ours)
		switch {
		case result.TLS != nil:
			p.memory.learn(memoryKey(policy.host), true)
		case !result.Offered && (!verdict || ours.Type == tlsrpt.STARTTLSNotSupported), result.Offered && !verdict:
			p.memory.learn(memoryKey(policy.host), false)
		}
	}
	if p.options.Reports != nil && policy.domain.asked.reported() {
		policy.report(p.options.Reports, result)
	}
}

// Status describes the policy of a domain for listings: "mta-sts enforce", or "".
func (d *Domain) Status() string {
	switch {
	case d.sts != nil:
		return "mta-sts " + string(d.sts.Mode)
	case d.stsError != nil:
		return "mta-sts: " + d.stsError.Error()
	}
	return ""
}

var _ dane.Lookup = resolver.SecureLookup(nil)
