package tlspolicy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/dane"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/mtasts"
	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
)

// Policy is what holds for a connection to a server for a domain. It does not change.
type Policy struct {
	Level      Level
	Source     string // who says so: "default", "config", "dane", "mta-sts", "requiretls", "remembered"
	Implicit   bool   // TLS begins with the connection, without STARTTLS (RFC 8314)
	RequireTLS bool   // the server has to offer REQUIRETLS (RFC 8689 section 4.2.1)

	domain  *Domain
	host    mx.Host
	records *dane.Records // nil: no DANE
}

// Plain reports whether the message may go in the clear, where TLS is not offered or fails.
func (p *Policy) Plain() bool { return p.Level <= Opportunistic && !p.Implicit }

// Wanted reports whether TLS is to be used where it is offered.
func (p *Policy) Wanted() bool { return p.Level > None || p.Implicit }

// weak reports whether old TLS will do: where nobody is verified, and the clear is all that there would be otherwise. What a
// server has offered before is enough for it the next time.
func (p *Policy) weak() bool { return p.Plain() || p.Level == Require && p.Source == "remembered" }

func (p *Policy) raise(level Level, source string) {
	if level > p.Level {
		p.Level, p.Source = level, source
	}
}

// configured begins with what the administrator wrote.
func (p *Policy) configured() error {
	asked := p.domain.asked
	p.Level = Opportunistic
	switch asked.Level {
	case "", "opportunistic":
	case "none":
		p.Level, p.Source = None, "config"
	case "require":
		p.raise(Require, "config")
	case "verify":
		p.raise(Verify, "config")
	case "dane":
		p.raise(Require, "config") // DANE itself is looked for behind this, and missed in demand
	case "implicit":
		// A name is verified: passwords go there. An address is the administrator's own network, mostly, and nobody has a
		// certificate for it; "verify" asks for one all the same.
		p.Implicit = true
		if p.host.Addr.IsValid() {
			p.raise(Require, "config")
		} else {
			p.raise(Verify, "config")
		}
	default:
		return &Error{Status: "4.3.5", Text: fmt.Sprintf("the configuration has the unknown TLS level %q", asked.Level)}
	}
	return nil
}

// findDANE looks for TLSA records.
func (p *Policy) findDANE(ctx context.Context) error {
	asked, dns := p.domain.asked, p.domain.policies.options.DNS
	if !asked.DANE && asked.Level != "dane" || asked.Fixed && asked.Level != "dane" || p.host.Addr.IsValid() || dns == nil {
		return nil
	}
	records, err := dane.Find(ctx, dns, p.host.Name, p.host.Port)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		// RFC 7672 section 2.1.2: an answer that can't be had may be one that is kept from us.
		return &Error{
			Type: tlsrpt.DNSSECInvalid, Status: "4.7.5", Err: err,
			Text: "DANE: nobody can tell how " + p.host.Name + " has to be verified, because its DNS records can't be had or are not valid",
		}
	}
	if records == nil {
		return nil
	}
	p.records = records
	if len(records.Usable) == 0 {
		p.raise(Require, "dane")
		return nil
	}
	p.raise(DANE, "dane")
	return nil
}

// applySTS adds what MTA-STS asks for where DANE does not decide.
func (p *Policy) applySTS() error {
	sts := p.domain.sts
	if sts == nil || sts.Mode != mtasts.Enforce || p.Level == DANE {
		return nil
	}
	if !sts.Match(p.host.Name) {
		return &Error{
			Type: tlsrpt.ValidationFailure, Status: "4.7.5", Err: errNotListed,
			Text: "the MTA-STS policy of " + p.domain.asked.Domain + " does not list the server " + p.host.Name,
		}
	}
	p.raise(Verify, "mta-sts")
	return nil
}

var errNotListed = errors.New("mx-not-in-policy")

// demand checks what the administrator and the sender insist on.
func (p *Policy) demand() error {
	asked := p.domain.asked
	secure := asked.Fixed || asked.Exchangers.Secure
	if asked.Level == "dane" && (p.Level != DANE || !secure) {
		return &Error{
			Type: tlsrpt.DANERequired, Status: "4.7.5",
			Text: "DANE is required for " + asked.Domain + ", and " + p.host.Name + " has no secure and usable TLSA records",
		}
	}
	if !asked.RequireTLS {
		return nil
	}
	p.RequireTLS = true
	listed := p.domain.sts != nil && p.domain.sts.Match(p.host.Name)
	switch {
	case p.Level == None:
		return &Error{Status: "5.7.30", Permanent: true, Text: "the sender requires TLS, which is switched off for " + asked.Domain}
	case !secure && !listed:
		return &Error{
			Status: "5.7.30", Permanent: p.domain.stsError == nil, // there may be a policy that vouches for them, later
			Text: "the sender requires TLS, and neither DNSSEC nor MTA-STS vouches for the servers of " + asked.Domain,
		}
	case p.Level == DANE: // also where MTA-STS vouches for the name: DANE verifies the server
	default:
		p.raise(Verify, "requiretls")
	}
	return nil
}

// names are the reference identifiers for DANE-TA (RFC 7672 section 3.2.2).
func (p *Policy) names() []string {
	names := []string{p.records.Base}
	if x := p.domain.asked.Exchangers; !p.domain.asked.Fixed && x.Domain != "" {
		names = append(names, x.Domain)
		if x.Secure && x.Expanded != "" && x.Expanded != x.Domain {
			names = append(names, x.Expanded)
		}
	}
	return names
}

// reference is the name that the server's certificate has to have for PKIX, in the form of x509.Certificate.VerifyHostname.
func (p *Policy) reference() string {
	if p.host.Addr.IsValid() {
		return "[" + p.host.Addr.Unmap().String() + "]"
	}
	return strings.TrimSuffix(p.host.Name, ".")
}
