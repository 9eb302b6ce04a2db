// Package policytest makes certificates, for tests of what verifies them. Nothing of it is for use outside of tests.
package policytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"time"
)

// Cert is a certificate with its key. It may be an authority.
type Cert struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey

	chain [][]byte // Cert and those above it, without the root
	now   time.Time
}

// NewCA makes a root, valid for a year around now.
func NewCA(name string, now time.Time) *Cert {
	c := &Cert{now: now}
	return issue(c, nil, authority(name, now))
}

// Intermediate makes an authority below c.
func (c *Cert) Intermediate(name string) *Cert {
	return issue(&Cert{now: c.now}, c, authority(name, c.now))
}

// Leaf makes a server's certificate for names, valid for a month around now. Names may be addresses.
func (c *Cert) Leaf(names ...string) *Cert {
	return c.LeafAt(c.now.Add(-15*24*time.Hour), c.now.Add(15*24*time.Hour), names...)
}

// LeafAt makes a server's certificate that is valid from one time to another.
func (c *Cert) LeafAt(from, to time.Time, names ...string) *Cert {
	template := server(from, to, names[0])
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	return issue(&Cert{now: c.now}, c, template)
}

// CommonName makes a server's certificate that has its name in the subject alone.
func (c *Cert) CommonName(name string) *Cert {
	return issue(&Cert{now: c.now}, c, server(c.now.Add(-time.Hour), c.now.Add(time.Hour), name))
}

// TLS returns the certificate for a server, with the intermediates above it; also those given.
func (c *Cert) TLS(more ...*Cert) tls.Certificate {
	chain := append([][]byte(nil), c.chain...)
	for _, m := range more {
		chain = append(chain, m.Cert.Raw)
	}
	return tls.Certificate{Certificate: chain, PrivateKey: c.Key}
}

// Pool returns a pool with c as the only root.
func (c *Cert) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.Cert)
	return pool
}

func authority(name string, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: now.AddDate(0, -6, 0), NotAfter: now.AddDate(0, 6, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
}

func server(from, to time.Time, name string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

// issue fills in c, signed by parent or by itself. Nothing can fail with these keys but the system's randomness, which ends
// the process by itself.
func issue(c, parent *Cert, template *x509.Certificate) *Cert {
	c.Key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template.SerialNumber, _ = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	signer, key := template, c.Key
	if parent != nil {
		signer, key = parent.Cert, parent.Key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, signer, &c.Key.PublicKey, key)
	if err != nil {
		panic(err) // a mistake in the test's own template
	}
	c.Cert, _ = x509.ParseCertificate(raw)
	c.chain = [][]byte{raw}
	if parent != nil && len(parent.chain) > 0 && !isRoot(parent.Cert) {
		c.chain = append(c.chain, parent.chain...)
	}
	return c
}

func isRoot(c *x509.Certificate) bool { return string(c.RawIssuer) == string(c.RawSubject) }
