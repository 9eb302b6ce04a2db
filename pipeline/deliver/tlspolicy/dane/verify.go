package dane

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluicemail/sluice/pipeline/resolver"
)

// ErrNoMatch is why a certificate that no record is about is refused.
var ErrNoMatch = errors.New("no TLSA record matches the server's certificates")

// maxChain bounds the certificates of a peer that are looked at.
const maxChain = 10

// Verify holds the certificates that a server sent, its own first, against the usable records. names are the reference
// identifiers for DANE-TA (RFC 7672 section 3.2.2): the TLSA base domain and the names of the next-hop domain. It returns
// the record that matched, or an error: ErrNoMatch, or one of crypto/x509 where a trust anchor matched and the chain below is bad.
func (r *Records) Verify(certs []*x509.Certificate, names []string, now time.Time) (resolver.TLSA, error) {
	if len(certs) == 0 {
		return resolver.TLSA{}, ErrNoMatch
	}
	certs = certs[:min(len(certs), maxChain)]
	problem := ErrNoMatch
	for _, t := range r.Usable {
		if t.Usage == UsageEE {
			// Neither names nor dates: the record says both (RFC 7672 section 3.1.1).
			if matches(t, certs[0]) {
				return t, nil
			}
			continue
		}
		err := verifyAnchored(t, certs, names, now)
		if err == nil {
			return t, nil
		}
		if !errors.Is(err, ErrNoMatch) {
			problem = err
		}
	}
	return resolver.TLSA{}, problem
}

// matches compares the record with a certificate (RFC 6698 section 2.1).
func matches(t resolver.TLSA, cert *x509.Certificate) bool {
	selected := cert.Raw
	if t.Selector == SelectorSPKI {
		selected = cert.RawSubjectPublicKeyInfo
	}
	switch t.Matching {
	case MatchFull:
		return bytes.Equal(selected, t.Data)
	case MatchSHA256:
		sum := sha256.Sum256(selected)
		return bytes.Equal(sum[:], t.Data)
	case MatchSHA512:
		sum := sha512.Sum512(selected)
		return bytes.Equal(sum[:], t.Data)
	}
	return false
}

// verifyAnchored is DANE-TA: some certificate above the server's is, or is signed by, the record's trust anchor, and
// everything below it is in order, with the right name (RFC 7672 sections 3.1.2 and 3.2).
func verifyAnchored(t resolver.TLSA, certs []*x509.Certificate, names []string, now time.Time) error {
	anchors := anchors(t, certs)
	if len(anchors) == 0 {
		return ErrNoMatch
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range anchors {
		roots.AddCert(c)
	}
	for _, c := range certs[1:] {
		intermediates.AddCert(c)
	}
	_, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now})
	if err != nil {
		return fmt.Errorf("verify the certificate up to the trust anchor in DNS: %w", err)
	}
	return nameMatches(certs[0], names)
}

// anchors returns the trust anchors that the record and the peer's certificates make together.
func anchors(t resolver.TLSA, certs []*x509.Certificate) []*x509.Certificate {
	var found []*x509.Certificate
	for _, c := range certs[1:] {
		if matches(t, c) {
			found = append(found, c)
		}
	}
	if t.Matching != MatchFull {
		return found
	}
	// RFC 7671 section 5.2.2 and 5.2.3: the record holds the anchor itself, which the server may then leave out.
	if t.Selector == SelectorCert {
		if c, err := x509.ParseCertificate(t.Data); err == nil {
			found = append(found, c)
		}
		return found
	}
	key, err := x509.ParsePKIXPublicKey(t.Data)
	if err != nil {
		return found
	}
	for i, c := range certs {
		// A bare key has no name; it is given that of the issuer that it shall be.
		anchor := &x509.Certificate{
			Raw: append([]byte{byte(i)}, t.Data...), RawSubject: c.RawIssuer, RawSubjectPublicKeyInfo: t.Data,
			PublicKey: key, PublicKeyAlgorithm: keyAlgorithm(key), Version: 3,
			BasicConstraintsValid: true, IsCA: true, MaxPathLen: -1,
			NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		}
		if c.CheckSignatureFrom(anchor) == nil {
			found = append(found, anchor)
		}
	}
	return found
}

func keyAlgorithm(key any) x509.PublicKeyAlgorithm {
	switch key.(type) {
	case *ecdsa.PublicKey:
		return x509.ECDSA
	case ed25519.PublicKey:
		return x509.Ed25519
	case *rsa.PublicKey:
		return x509.RSA
	}
	return x509.UnknownPublicKeyAlgorithm
}

// nameMatches looks for one of names in the certificate; in its common name only where it has no other names at all
// (RFC 7672 section 3.2.3).
func nameMatches(cert *x509.Certificate, names []string) error {
	presented := cert
	if len(cert.DNSNames) == 0 && len(cert.IPAddresses) == 0 && len(cert.EmailAddresses) == 0 && len(cert.URIs) == 0 {
		presented = &x509.Certificate{DNSNames: []string{cert.Subject.CommonName}}
	}
	if slices.ContainsFunc(names, func(name string) bool { return name != "" && presented.VerifyHostname(name) == nil }) {
		return nil
	}
	host := ""
	if len(names) > 0 {
		host = names[0]
	}
	return x509.HostnameError{Certificate: cert, Host: host}
}
