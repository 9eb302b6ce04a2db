package tlspolicy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/dane"
	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
)

// weakSuites are what crypto/tls does not offer by itself and opportunistic TLS does beside all others: no forward
// secrecy, but encrypted. RC4 and 3DES stay out.
var weakSuites = [...]uint16{
	tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_256_CBC_SHA,
}

func opportunisticSuites() []uint16 {
	var ids []uint16
	for _, s := range tls.CipherSuites() {
		ids = append(ids, s.ID)
	}
	return append(ids, weakSuites[:]...)
}

// Config returns the TLS configuration for a connection to the policy's host. The handshake fails with an *Error if the
// peer is not what Level asks for. host is the name of the mx.Host and is sent as SNI unless DANE has another
// one (RFC 7672 section 8.1). Each call returns a configuration of its own.
func (p *Policy) Config(host string) *tls.Config {
	c := &tls.Config{
		ServerName:         host,
		InsecureSkipVerify: true, // VerifyConnection does it, as the policy says
		VerifyConnection:   p.verify,
		MinVersion:         tls.VersionTLS12,
		Time:               p.domain.policies.options.Now,
	}
	if p.host.Addr.IsValid() {
		c.ServerName = "" // RFC 6066 section 3: no addresses
	}
	if p.records != nil {
		c.ServerName = p.records.Base
	}
	if p.weak() {
		c.MinVersion = tls.VersionTLS10
		c.CipherSuites = opportunisticSuites()
	}
	return c
}

// verify holds a handshake against the policy.
func (p *Policy) verify(state tls.ConnectionState) error { return p.judge(state, false) }

// judge is verify. With recall, what was found out about the same certificates a moment ago will do: a connection that is kept is
// looked at for each message.
func (p *Policy) judge(state tls.ConnectionState, recall bool) error {
	if p.Level < Verify {
		return nil
	}
	seen := &p.domain.policies.seen
	key := p.sightingKey(state.PeerCertificates)
	now := p.domain.policies.options.Now()
	err, known := error(nil), false
	if recall {
		err, known = seen.recall(key, now)
	}
	if !known {
		if p.Level == DANE {
			_, err = p.records.Verify(state.PeerCertificates, p.names(), now)
		} else {
			err = p.domain.policies.pkix(state.PeerCertificates, p.reference())
		}
		seen.remember(key, state.PeerCertificates, err, now)
	}
	if err == nil {
		return nil
	}
	failed := certificateError(p.host.Name, err)
	if p.Level == DANE {
		failed.Text = "DANE: " + failed.Text
	}
	return failed
}

// Check says whether a connection that was made before, under another policy perhaps, may be used under this one: nil,
// or an *Error. state is nil for a connection in the clear.
func (p *Policy) Check(state *tls.ConnectionState) error {
	if state == nil {
		if p.Plain() {
			return nil
		}
		return p.Missing()
	}
	if !p.weak() && state.Version < tls.VersionTLS12 {
		return &Error{Type: tlsrpt.ValidationFailure, Status: "4.7.5", Text: tls.VersionName(state.Version) + " is not enough for " + p.host.Name}
	}
	if !p.weak() && slices.Contains(weakSuites[:], state.CipherSuite) {
		return &Error{Type: tlsrpt.ValidationFailure, Status: "4.7.5", Text: tls.CipherSuiteName(state.CipherSuite) + " is not enough for " + p.host.Name}
	}
	return p.judge(*state, true)
}

// Missing is the *Error of a server that offers no STARTTLS, or with which TLS fails, where the message may not go in the clear.
func (p *Policy) Missing() error {
	text := "TLS is required for " + p.host.Name + " (" + p.Source + ") and not to be had"
	if p.Source == "remembered" {
		text = p.host.Name + " offered STARTTLS before and does not now, which may be an attack"
	}
	return &Error{Type: tlsrpt.STARTTLSNotSupported, Status: "4.7.5", Text: text}
}

// Verified returns words for the trace: "TLS 1.3, TLS_AES_128_GCM_SHA256, dane". The last one says how the peer was
// verified: "dane", "mta-sts", "pkix", or "unverified" where nobody asked for it.
func (p *Policy) Verified(state tls.ConnectionState) string {
	how := "unverified"
	switch {
	case p.Level == DANE:
		how = "dane"
	case p.Level == Verify && p.Source == "mta-sts":
		how = "mta-sts"
	case p.Level == Verify:
		how = "pkix"
	}
	return tls.VersionName(state.Version) + ", " + tls.CipherSuiteName(state.CipherSuite) + ", " + how
}

// pkix verifies certificates as browsers do (RFC 5280, RFC 9525).
func (p *Policies) pkix(certs []*x509.Certificate, name string) error {
	if len(certs) == 0 {
		return errors.New("the server sent no certificate")
	}
	intermediates := x509.NewCertPool()
	for _, c := range certs[1:min(len(certs), 10)] {
		intermediates.AddCert(c)
	}
	_, err := certs[0].Verify(x509.VerifyOptions{
		Roots: p.options.Roots, Intermediates: intermediates, DNSName: name, CurrentTime: p.options.Now(),
	})
	return err
}

// certificateError says in our words, and in those of RFC 8460 section 4.3, what is wrong with a certificate. What the
// certificate itself says is left out: it is a stranger's text.
func certificateError(host string, err error) *Error {
	var (
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		authority x509.UnknownAuthorityError
	)
	e := &Error{Type: tlsrpt.ValidationFailure, Status: "4.7.5", Err: err}
	switch {
	case errors.As(err, &hostname):
		e.Type = tlsrpt.CertificateHostMismatch
		e.Text = fmt.Sprintf("the certificate of %s is for other names", host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		e.Type = tlsrpt.CertificateExpired
		e.Text = fmt.Sprintf("the certificate of %s has expired or is not valid yet (%s to %s)", host, date(invalid.Cert.NotBefore), date(invalid.Cert.NotAfter))
	case errors.As(err, &authority):
		e.Type = tlsrpt.CertificateNotTrusted
		e.Text = fmt.Sprintf("the certificate of %s is from an unknown authority", host)
	case errors.As(err, &invalid):
		e.Type = tlsrpt.CertificateNotTrusted
		e.Text = fmt.Sprintf("the certificate of %s, or one above it, is not valid for this use", host)
	case errors.Is(err, dane.ErrNoMatch):
		e.Text = fmt.Sprintf("the certificate of %s matches none of its TLSA records", host)
	default:
		e.Text = fmt.Sprintf("the certificate of %s could not be verified", host)
	}
	return e
}

func date(t time.Time) string { return t.UTC().Format(time.DateOnly) }
