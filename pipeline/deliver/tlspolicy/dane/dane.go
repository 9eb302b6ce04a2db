// Package dane finds out whether a mail server has TLSA records that count, and holds its certificate against them
// (RFC 7672, RFC 7671).
//
// What counts is what a validating resolver vouches for. Where the server's zone is not signed, or our resolver does not
// validate, there is no DANE, and nothing is asked for. Where the answer can't be had, be it broken or forged, Find
// returns an error, and mail for that server has to wait: whoever takes that for "no DANE" lets an attacker switch it off
// (section 2.1.2).
//
// Records come from strangers: at most as many as the resolver keeps; those that SMTP has no use for (PKIX usages,
// unknown numbers, digests of the wrong length, keys that can't be read) are unusable and count only by being there.
package dane

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicemail/sluice/pipeline/resolver"
)

// The numbers of RFC 6698 section 7, named as in RFC 7218.
const (
	UsageTA = 2 // DANE-TA: the certificate or key of a trust anchor
	UsageEE = 3 // DANE-EE: the server's own

	SelectorCert = 0 // all of the certificate
	SelectorSPKI = 1 // its key

	MatchFull   = 0
	MatchSHA256 = 1
	MatchSHA512 = 2
)

// Lookup is what is asked of DNS; a resolver.SecureLookup is one.
type Lookup interface {
	SecureIP(ctx context.Context, network, host string) (resolver.Answer[netip.Addr], error)
	SecureTLSA(ctx context.Context, name string) (resolver.Answer[resolver.TLSA], error)
	SecureCNAME(ctx context.Context, name string) (resolver.Answer[string], error)
	Validates() bool
}

// Records are what a server has published, by a secure answer.
type Records struct {
	Base   string          // the TLSA base domain: for SNI and as a name in the certificate
	Usable []resolver.TLSA // empty: none of All is; then TLS is required, and nobody is verified (RFC 7672 section 2.2)
	All    []resolver.TLSA
}

// Find returns the records of the server host at a port, or nil if it has none that count. The error is that of a
// look-up and always temporary: host must not be used for now.
func Find(ctx context.Context, dns Lookup, host string, port uint16) (*Records, error) {
	if !dns.Validates() {
		return nil, nil
	}
	bases, err := baseDomains(ctx, dns, host)
	if err != nil {
		return nil, err
	}
	for _, base := range bases {
		name := "_" + strconv.Itoa(int(port)) + "._tcp." + base
		answer, err := dns.SecureTLSA(ctx, name)
		switch {
		case err != nil && !notFound(err):
			return nil, fmt.Errorf("look up TLSA records of %s: %w", name, err)
		case err != nil || !answer.Secure || len(answer.Records) == 0:
			continue
		}
		return &Records{Base: base, All: answer.Records, Usable: usable(answer.Records)}, nil
	}
	return nil, nil
}

// baseDomains returns the names below which TLSA records may be (RFC 7672 sections 2.2.2 and 2.2.3): none if the
// server's zone is not signed. To ask for TLSA records there would gain nothing, and some servers fail at the question.
func baseDomains(ctx context.Context, dns Lookup, host string) ([]string, error) {
	secure, known := false, false
	expanded := host
	var last error
	for _, network := range []string{"ip4", "ip6"} {
		answer, err := dns.SecureIP(ctx, network, host)
		if err != nil && !notFound(err) {
			last = err
			continue
		}
		known = true
		if answer.Secure {
			secure, expanded = true, answer.Name
		}
	}
	switch {
	case !known:
		return nil, fmt.Errorf("look up the addresses of %s: %w", host, last)
	case secure && expanded != host:
		return []string{expanded, host}, nil
	case secure:
		return []string{host}, nil
	}
	// Section 2.2.2: a signed alias of an unsigned name still speaks for itself.
	alias, err := dns.SecureCNAME(ctx, host)
	switch {
	case err != nil && !notFound(err):
		return nil, fmt.Errorf("look up whether %s is an alias: %w", host, err)
	case err == nil && alias.Secure && len(alias.Records) > 0:
		return []string{host}, nil
	}
	return nil, nil
}

func notFound(err error) bool {
	var e *net.DNSError
	return errors.As(err, &e) && e.IsNotFound
}

// Bounds of what a stranger's zone and certificates together make us compute. crypto/tls has the same one for keys.
const (
	maxUsable = 24   // records
	maxKey    = 8192 // bits of an RSA key
)

// usable returns the records that a certificate may be held against. Of several digests of the same thing the
// strongest kind alone counts (RFC 7671 section 9).
func usable(all []resolver.TLSA) []resolver.TLSA {
	var kept []resolver.TLSA
	for _, t := range all {
		if len(kept) < maxUsable && Usable(t) {
			kept = append(kept, t)
		}
	}
	return slices.DeleteFunc(slices.Clone(kept), func(t resolver.TLSA) bool {
		return t.Matching == MatchSHA256 && slices.ContainsFunc(kept, func(o resolver.TLSA) bool {
			return o.Usage == t.Usage && o.Selector == t.Selector && o.Matching == MatchSHA512
		})
	})
}

// Usable reports whether SMTP has a use for the record (RFC 7672 section 3.1): DANE-TA or DANE-EE, with a selector and a
// matching type that we know and data that can match something.
func Usable(t resolver.TLSA) bool {
	if t.Usage != UsageTA && t.Usage != UsageEE || t.Selector > SelectorSPKI {
		return false
	}
	switch t.Matching {
	case MatchSHA256:
		return len(t.Data) == 32
	case MatchSHA512:
		return len(t.Data) == 64
	case MatchFull:
		if t.Selector == SelectorCert {
			cert, err := x509.ParseCertificate(t.Data)
			return err == nil && sensible(cert.PublicKey)
		}
		key, err := x509.ParsePKIXPublicKey(t.Data)
		return err == nil && sensible(key)
	}
	return false
}

func sensible(key any) bool {
	k, isRSA := key.(*rsa.PublicKey)
	return !isRSA || k.N.BitLen() <= maxKey
}

// Text is the record as it stands in a zone file and in a TLS report: "3 1 1 1F85...". Long data is cut, with dots.
func Text(t resolver.TLSA) string {
	const most = 128 // octets: a SHA-512 digest is 64
	data := fmt.Sprintf("%x", t.Data[:min(len(t.Data), most)])
	if len(t.Data) > most {
		data += "..."
	}
	return fmt.Sprintf("%d %d %d %s", t.Usage, t.Selector, t.Matching, strings.ToUpper(data))
}
