package tlspolicy

import (
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/dane"
	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
)

// report tells the collector how a session did under each of the domain's policies (RFC 8460 section 4.2).
func (p *Policy) report(c *tlsrpt.Collector, r Result) {
	var failed *Error
	if errors.As(r.Err, &failed) && failed.Type == "" {
		return // a matter between the sender and us
	}
	d := p.domain
	tell := func(policy tlsrpt.Policy, kind tlsrpt.ResultType, err error) {
		if kind == "" {
			c.Success(d.asked.Domain, policy)
			return
		}
		c.Failure(d.asked.Domain, policy, p.failure(r, kind, err))
	}
	unsigned := failed != nil && (failed.Type == tlsrpt.DNSSECInvalid || failed.Type == tlsrpt.DANERequired)
	switch {
	case unsigned:
		tell(tlsrpt.Policy{Type: tlsrpt.TypeTLSA, Domain: p.host.Name}, failed.Type, failed.Err)
	case p.records != nil:
		kind, err := p.tlsaResult(r, failed)
		tell(p.tlsaPolicy(), kind, err)
	}
	switch {
	case d.stsError != nil && d.stsError.Type != "":
		tell(tlsrpt.Policy{Type: tlsrpt.TypeSTS, Domain: d.asked.Domain}, d.stsError.Type, d.stsError.Err)
	case d.sts != nil && !unsigned:
		policy := tlsrpt.Policy{Type: tlsrpt.TypeSTS, Domain: d.asked.Domain, String: d.sts.Lines(), MXHost: d.sts.MX}
		if kind, err, known := p.stsResult(r, failed); known {
			tell(policy, kind, err)
		}
	case d.sts == nil && p.records == nil && !unsigned:
		kind, err := sessionResult(r, failed)
		tell(tlsrpt.Policy{Type: tlsrpt.TypeNoPolicy, Domain: d.asked.Domain}, kind, err)
	}
}

// sessionResult is how TLS itself went: "" is well.
func sessionResult(r Result, failed *Error) (tlsrpt.ResultType, error) {
	switch {
	case r.TLS != nil:
		return "", nil
	case failed != nil:
		return failed.Type, failed.Err
	case !r.Offered:
		return tlsrpt.STARTTLSNotSupported, nil
	}
	return tlsrpt.ValidationFailure, r.Err
}

func (p *Policy) tlsaResult(r Result, failed *Error) (tlsrpt.ResultType, error) {
	if r.TLS != nil && len(p.records.Usable) == 0 {
		return tlsrpt.TLSAInvalid, nil
	}
	return sessionResult(r, failed)
}

// stsResult is how the session did under the MTA-STS policy, whether that decided anything or not; known is false where
// nobody can tell.
func (p *Policy) stsResult(r Result, failed *Error) (kind tlsrpt.ResultType, err error, known bool) {
	if !p.domain.sts.Match(p.host.Name) {
		return tlsrpt.ValidationFailure, errNotListed, true
	}
	if r.TLS == nil {
		if failed != nil && p.Level == DANE && r.Offered {
			return "", nil, false // DANE refused the certificate: nobody has looked at it as MTA-STS does
		}
		kind, err = sessionResult(r, failed)
		return kind, err, true
	}
	if p.Level == Verify {
		return "", nil, true
	}
	if err := p.domain.policies.check(r.TLS.PeerCertificates, p.reference()); err != nil {
		e := certificateError(p.host.Name, err)
		return e.Type, e.Err, true
	}
	return "", nil, true
}

func (p *Policy) tlsaPolicy() tlsrpt.Policy {
	policy := tlsrpt.Policy{Type: tlsrpt.TypeTLSA, Domain: p.records.Base}
	for _, t := range p.records.All {
		policy.String = append(policy.String, dane.Text(t))
	}
	slices.Sort(policy.String) // DNS gives them in any order
	return policy
}

func (p *Policy) failure(r Result, kind tlsrpt.ResultType, err error) tlsrpt.Failure {
	f := tlsrpt.Failure{Type: kind, MXHostname: p.host.Name, MXHelo: r.Helo, SendingIP: ip(r.Local), IP: ip(r.Remote)}
	if err != nil && (kind == tlsrpt.ValidationFailure || kind == tlsrpt.CertificateNotTrusted || kind == tlsrpt.STSPolicyFetchError ||
		kind == tlsrpt.STSPolicyInvalid || kind == tlsrpt.STSWebPKIInvalid) {
		f.Code = reason(err) // the collector cuts it and makes it printable
	}
	if mx.Forbidden(r.Local) != "" {
		f.SendingIP = "" // behind a translator: it says nothing to anybody but how our network is built
	}
	return f
}

// reason is the text of an error without our address and port, which make each failure another one.
func reason(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err.Error()
	}
	return err.Error()
}

func ip(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.Unmap().WithZone("").String()
}
