// Package tlspolicy decides how a connection to another server has to be protected, and enforces it.
package tlspolicy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/mx"
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
// is not there or has expired. An error means that nothing is known; nobody is stopped by it. Keys have at most 300 octets.
type Cache interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Set(ctx context.Context, key string, value []byte, expires time.Time) error
}

// Options is what New takes.
type Options struct {
	DNS      resolver.SecureLookup
	Cache    Cache             // nil: nothing survives a restart
	Reports  *tlsrpt.Collector // nil: nothing is counted
	Roots    *x509.CertPool    // nil: the system's
	Logger   *slog.Logger      // nil: none
	Now      func() time.Time  // nil: time.Now
	Remember bool              // downgrades from what a server offered before are deferred
}

// Policies knows the policies of domains. Safe for concurrent use. Make one with New and end it with Close.
type Policies struct {
	options Options
}

// New returns a Policies.
func New(options Options) *Policies { return &Policies{options: options} }

// Close ends what is under way in the background.
func (p *Policies) Close() {}

// Asked is a question about a domain.
type Asked struct {
	Domain     string        // of the recipients
	Exchangers mx.Exchangers // where its mail goes
	Level      string        // as configured for the relay or the destination: "", "opportunistic", "require", "verify", "dane", "none" or "implicit"
	RequireTLS bool          // the sender asks for it (RFC 8689)
	Fixed      bool          // the servers are from the configuration (a [relay]): DANE and MTA-STS do not apply
	DANE       bool          // [pipeline.X.deliver] dane
	MTASTS     bool          // [pipeline.X.deliver] mta_sts
}

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

// Domain is what is known about a domain's policy.
type Domain struct {
	policies *Policies
	asked    Asked
}

// Domain looks the domain's policy up. An error is an *Error, or that of ctx.
func (p *Policies) Domain(_ context.Context, asked Asked) (*Domain, error) {
	return &Domain{policies: p, asked: asked}, nil
}

// Host returns what holds for one of the domain's servers. An *Error means that this server is not to be used now and
// the next one may be tried.
func (d *Domain) Host(_ context.Context, host mx.Host) (*Policy, error) {
	return &Policy{Level: Opportunistic, Source: "default", domain: d, host: host}, nil
}

// Policy is what holds for a connection to a server for a domain. It does not change.
type Policy struct {
	Level      Level
	Source     string // who says so: "default", "config", "dane", "mta-sts", "requiretls", "remembered"
	Implicit   bool   // TLS begins with the connection, without STARTTLS (RFC 8314)
	RequireTLS bool   // the server has to offer REQUIRETLS (RFC 8689 section 4.2.1)

	domain *Domain
	host   mx.Host
}

// Plain reports whether the message may go in the clear, where TLS is not offered or fails.
func (p *Policy) Plain() bool { return p.Level <= Opportunistic && !p.Implicit }

// Wanted reports whether TLS is to be used where it is offered.
func (p *Policy) Wanted() bool { return p.Level > None || p.Implicit }

// Config returns the TLS configuration for a connection to host, the name of the mx.Host. The handshake fails if the
// peer is not what Level asks for. Each call returns a configuration of its own.
func (p *Policy) Config(host string) *tls.Config {
	return &tls.Config{ServerName: host, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
}

// Check says whether a connection that was made before, under another policy perhaps, may be used under this one: nil,
// or an *Error. state is nil for a connection in the clear.
func (p *Policy) Check(state *tls.ConnectionState) error {
	if state == nil && !p.Plain() {
		return &Error{Status: "4.7.10", Text: "TLS is required", Err: errors.New("no TLS")}
	}
	return nil
}

// Verified returns words for the trace: "TLS 1.3, TLS_AES_128_GCM_SHA256, dane". The last one says how the peer was
// verified: "dane", "mta-sts", "pkix" or "unverified".
func (p *Policy) Verified(state tls.ConnectionState) string {
	return tls.VersionName(state.Version) + ", " + tls.CipherSuiteName(state.CipherSuite) + ", unverified"
}

// Result is how an attempt to protect a connection ended.
type Result struct {
	Offered bool                 // the server offered STARTTLS, or Implicit
	TLS     *tls.ConnectionState // of the finished handshake; nil: there is none
	Err     error                // why there is none: of the handshake, or the *Error of Host
	Local   netip.Addr           // ours
	Remote  netip.Addr           // the server's
	Helo    string               // the name in its greeting, as it came
}

// Learn takes note of how an attempt went: for reports, and for what is expected of the server next time. It is to be
// called once for each connection that got as far as EHLO, or whose handshake failed; never for those that failed before.
func (p *Policies) Learn(*Policy, Result) {}
