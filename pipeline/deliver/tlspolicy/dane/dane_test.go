package dane_test

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/dane"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/policytest"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// record makes the TLSA record of a certificate.
func record(usage, selector, matching uint8, cert *x509.Certificate) resolver.TLSA {
	data := cert.Raw
	if selector == dane.SelectorSPKI {
		data = cert.RawSubjectPublicKeyInfo
	}
	switch matching {
	case dane.MatchSHA256:
		sum := sha256.Sum256(data)
		data = sum[:]
	case dane.MatchSHA512:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return resolver.TLSA{Usage: usage, Selector: selector, Matching: matching, Data: data}
}

const some = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

const zone = `
mx.signed.test.            A    192.0.2.1
_25._tcp.mx.signed.test.   TLSA 3 1 1 ` + some + `
_2525._tcp.mx.signed.test. TLSA 3 1 2 ` + some + some + `
none.signed.test.          A    192.0.2.2
pkix.signed.test.          A    192.0.2.3
_25._tcp.pkix.signed.test. TLSA 0 0 1 ` + some + `
_25._tcp.pkix.signed.test. TLSA 1 0 1 ` + some + `
short.signed.test.         A    192.0.2.3
_25._tcp.short.signed.test. TLSA 3 1 1 0011
shared.signed.test.        A    192.0.2.4
_25._tcp.shared.signed.test. CNAME _dane.signed.test.
_dane.signed.test.         TLSA 2 0 1 ` + some + `
mx.plain.test.             A    192.0.2.5
_25._tcp.mx.plain.test.    TLSA 3 1 1 ` + some + `
alias.signed.test.         CNAME mx.signed.test.
_25._tcp.alias.signed.test. TLSA 3 1 1 ` + some + `
alias2.signed.test.        CNAME none.signed.test.
_25._tcp.alias2.signed.test. TLSA 3 1 1 ` + some + `
away.signed.test.          CNAME mx.plain.test.
_25._tcp.away.signed.test. TLSA 3 1 1 ` + some + `
back.plain.test.           CNAME mx.signed.test.
_25._tcp.back.plain.test.  TLSA 3 1 1 ` + some + `
island.signed.test.        A 192.0.2.6
_25._tcp.island.signed.test. TLSA 3 1 1 ` + some + `
bogus.signed.test.         A 192.0.2.7
bogusa.signed.test.        A 192.0.2.7
slow.signed.test.          A 192.0.2.8
`

// TestFind (DRILLS E5.2) goes through RFC 7672 section 2.2.
func TestFind(t *testing.T) {
	z := resolvertest.MustParse(zone)
	z.Sign("signed.test")
	z.Unsign("_tcp.island.signed.test")
	z.Break("_25._tcp.bogus.signed.test", resolvertest.Fault{Rcode: dns.RcodeServerFailure})
	z.Break("_25._tcp.slow.signed.test", resolvertest.Fault{Silent: true})
	z.Break("bogusa.signed.test", resolvertest.Fault{Rcode: dns.RcodeServerFailure})
	config := resolver.DefaultConfig()
	config.TrustAD = true
	config.Timeout, config.Deadline = config.Timeout/20, config.Deadline/20
	for _, c := range []struct {
		host   string
		port   uint16
		base   string // "": no DANE
		usable int
		fails  bool
	}{
		{"mx.signed.test", 25, "mx.signed.test", 1, false},
		{"mx.signed.test", 2525, "mx.signed.test", 1, false},
		{"mx.signed.test", 26, "", 0, false},
		{"none.signed.test", 25, "", 0, false},
		{"absent.signed.test", 25, "", 0, false},
		{"pkix.signed.test", 25, "pkix.signed.test", 0, false}, // section 3.1.3
		{"short.signed.test", 25, "short.signed.test", 0, false},
		{"shared.signed.test", 25, "shared.signed.test", 1, false}, // RFC 7671 section 7: the base does not move
		{"mx.plain.test", 25, "", 0, false},
		{"alias.signed.test", 25, "mx.signed.test", 1, false},      // section 2.2.3: where the alias leads to, first
		{"alias2.signed.test", 25, "alias2.signed.test", 1, false}, // and then itself
		{"away.signed.test", 25, "away.signed.test", 1, false},     // a signed alias of an unsigned name
		{"back.plain.test", 25, "", 0, false},
		{"island.signed.test", 25, "", 0, false}, // insecure TLSA records are none
		{"bogus.signed.test", 25, "", 0, true},   // section 2.1.2
		{"slow.signed.test", 25, "", 0, true},
		{"bogusa.signed.test", 25, "", 0, true},
	} {
		r, err := dane.Find(t.Context(), resolvertest.NewWith(z, config, nil), c.host, c.port)
		switch {
		case (err != nil) != c.fails:
			t.Errorf("%s: %v", c.host, err)
		case (r == nil) != (c.base == ""):
			t.Errorf("%s: got %+v, want base %q", c.host, r, c.base)
		case r != nil && (r.Base != c.base || len(r.Usable) != c.usable):
			t.Errorf("%s: got %+v, want base %q and %d usable", c.host, r, c.base, c.usable)
		}
		// A resolver that is not trusted has no DANE, and nothing to fear.
		if r, err := dane.Find(t.Context(), resolvertest.New(z), c.host, c.port); r != nil || err != nil {
			t.Errorf("%s, without validation: %+v, %v", c.host, r, err)
		}
	}
}

func TestUnsignedZonesAreNotAsked(t *testing.T) {
	z := resolvertest.MustParse(zone)
	z.Sign("signed.test")
	config := resolver.DefaultConfig()
	config.TrustAD = true
	if _, err := dane.Find(t.Context(), resolvertest.NewWith(z, config, nil), "mx.plain.test", 25); err != nil {
		t.Fatal(err)
	}
	if n := z.Asked("_25._tcp.mx.plain.test"); n != 0 {
		t.Errorf("TLSA records of an unsigned zone were asked for %d times", n)
	}
}

// TestVerify: DRILLS E5.2.
func TestVerify(t *testing.T) {
	ca := policytest.NewCA("test authority", now)
	other := policytest.NewCA("test authority", now)
	inter := ca.Intermediate("intermediate")
	leaf := ca.Leaf("mx.example.test")
	expired := ca.LeafAt(now.Add(-48*time.Hour), now.Add(-24*time.Hour), "mx.example.test")
	below := inter.Leaf("mx.example.test")
	wild := ca.Leaf("*.example.test")
	foreign := other.Leaf("mx.example.test")
	bare := ca.CommonName("mx.example.test")
	names := []string{"mx.example.test", "example.test"}
	certs := func(c ...*x509.Certificate) []*x509.Certificate { return c }
	for i, c := range []struct {
		records []resolver.TLSA
		chain   []*x509.Certificate
		names   []string
		good    bool
	}{
		// DANE-EE: all six that are usable, and neither names nor dates (RFC 7672 section 3.1.1).
		{[]resolver.TLSA{record(3, 0, 0, leaf.Cert)}, certs(leaf.Cert), nil, true},
		{[]resolver.TLSA{record(3, 0, 1, leaf.Cert)}, certs(leaf.Cert), nil, true},
		{[]resolver.TLSA{record(3, 0, 2, leaf.Cert)}, certs(leaf.Cert), nil, true},
		{[]resolver.TLSA{record(3, 1, 0, leaf.Cert)}, certs(leaf.Cert), nil, true},
		{[]resolver.TLSA{record(3, 1, 1, leaf.Cert)}, certs(leaf.Cert), nil, true},
		{[]resolver.TLSA{record(3, 1, 2, leaf.Cert)}, certs(leaf.Cert), nil, true},
		{[]resolver.TLSA{record(3, 1, 1, expired.Cert)}, certs(expired.Cert), nil, true},
		{[]resolver.TLSA{record(3, 1, 1, leaf.Cert)}, certs(foreign.Cert), nil, false},
		{[]resolver.TLSA{record(3, 1, 1, ca.Cert)}, certs(leaf.Cert, ca.Cert), names, false}, // not the server's own
		{[]resolver.TLSA{record(3, 1, 1, leaf.Cert)}, nil, nil, false},
		// A roll-over: the old and the new key (RFC 7671 section 8.1).
		{[]resolver.TLSA{record(3, 1, 1, foreign.Cert), record(3, 1, 1, leaf.Cert)}, certs(leaf.Cert), nil, true},
		{[]resolver.TLSA{record(3, 1, 1, leaf.Cert), record(3, 1, 1, foreign.Cert)}, certs(leaf.Cert), nil, true},
		// DANE-TA: a chain, dates and names (section 3.1.2).
		{[]resolver.TLSA{record(2, 0, 1, ca.Cert)}, certs(leaf.Cert, ca.Cert), names, true},
		{[]resolver.TLSA{record(2, 1, 1, ca.Cert)}, certs(leaf.Cert, ca.Cert), names, true},
		{[]resolver.TLSA{record(2, 1, 2, ca.Cert)}, certs(leaf.Cert, ca.Cert), names, true},
		{[]resolver.TLSA{record(2, 1, 1, ca.Cert)}, certs(below.Cert, inter.Cert, ca.Cert), names, true},
		{[]resolver.TLSA{record(2, 1, 1, inter.Cert)}, certs(below.Cert, inter.Cert), names, true}, // an anchor need not be a root
		{[]resolver.TLSA{record(2, 1, 1, inter.Cert)}, certs(below.Cert, inter.Cert, ca.Cert), names, true},
		{[]resolver.TLSA{record(2, 1, 1, ca.Cert)}, certs(below.Cert, ca.Cert), names, false},   // a gap
		{[]resolver.TLSA{record(2, 1, 1, ca.Cert)}, certs(leaf.Cert), names, false},             // the anchor is not sent
		{[]resolver.TLSA{record(2, 1, 1, ca.Cert)}, certs(foreign.Cert, ca.Cert), names, false}, // sent, and has not signed
		{[]resolver.TLSA{record(2, 1, 1, leaf.Cert)}, certs(leaf.Cert), names, false},           // the server is no authority
		{[]resolver.TLSA{record(2, 1, 1, ca.Cert)}, certs(expired.Cert, ca.Cert), names, false},
		{[]resolver.TLSA{record(2, 1, 1, ca.Cert)}, certs(leaf.Cert, ca.Cert), []string{"other.test"}, false},
		{[]resolver.TLSA{record(2, 1, 1, ca.Cert)}, certs(leaf.Cert, ca.Cert), []string{"other.test", "mx.example.test"}, true},
		{[]resolver.TLSA{record(2, 1, 1, ca.Cert)}, certs(wild.Cert, ca.Cert), names, true},
		{[]resolver.TLSA{record(2, 1, 1, ca.Cert)}, certs(wild.Cert, ca.Cert), []string{"a.b.example.test"}, false},
		{[]resolver.TLSA{record(2, 1, 1, ca.Cert)}, certs(bare.Cert, ca.Cert), names, true}, // section 3.2.3: the common name
		{[]resolver.TLSA{record(2, 1, 1, ca.Cert)}, certs(bare.Cert, ca.Cert), []string{"other.test"}, false},
		// The anchor itself in DNS, which the server may leave out (RFC 7671 sections 5.2.2 and 5.2.3).
		{[]resolver.TLSA{record(2, 0, 0, ca.Cert)}, certs(leaf.Cert), names, true},
		{[]resolver.TLSA{record(2, 1, 0, ca.Cert)}, certs(leaf.Cert), names, true},
		{[]resolver.TLSA{record(2, 1, 0, ca.Cert)}, certs(below.Cert, inter.Cert), names, true},
		{[]resolver.TLSA{record(2, 1, 0, ca.Cert)}, certs(foreign.Cert), names, false},
		{[]resolver.TLSA{record(2, 0, 0, ca.Cert)}, certs(foreign.Cert), names, false},
		// One of several is enough, of whatever usage.
		{[]resolver.TLSA{record(2, 1, 1, other.Cert), record(3, 1, 1, leaf.Cert)}, certs(leaf.Cert, ca.Cert), nil, true},
	} {
		r := dane.Records{Base: "mx.example.test", Usable: c.records}
		if _, err := r.Verify(c.chain, c.names, now); (err == nil) != c.good {
			t.Errorf("case %d, %s: %v", i, dane.Text(c.records[0]), err)
		}
	}
	r := dane.Records{Usable: []resolver.TLSA{record(2, 1, 1, ca.Cert)}}
	var hostname x509.HostnameError
	if _, err := r.Verify(certs(leaf.Cert, ca.Cert), []string{"other.test"}, now); !errors.As(err, &hostname) {
		t.Errorf("wrong name: %v", err)
	}
	var invalid x509.CertificateInvalidError
	if _, err := r.Verify(certs(expired.Cert, ca.Cert), names, now); !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
		t.Errorf("expired: %v", err)
	}
	if _, err := r.Verify(certs(foreign.Cert), names, now); !errors.Is(err, dane.ErrNoMatch) {
		t.Errorf("foreign: %v", err)
	}
}

// TestUsable: DRILLS E5.2.
func TestUsable(t *testing.T) {
	ca := policytest.NewCA("test authority", now)
	for usage := range uint8(5) {
		for selector := range uint8(3) {
			for matching := range uint8(4) {
				r := record(usage, min(selector, 1), matching, ca.Cert)
				r.Selector = selector
				want := (usage == 2 || usage == 3) && selector <= 1 && matching <= 2
				if got := dane.Usable(r); got != want {
					t.Errorf("%s: usable %t", dane.Text(r)[:5], got)
				}
			}
		}
	}
	for _, r := range []resolver.TLSA{
		{Usage: 3, Selector: 1, Matching: 1, Data: make([]byte, 31)}, {Usage: 3, Selector: 1, Matching: 2, Data: make([]byte, 32)},
		{Usage: 2, Selector: 0, Matching: 0, Data: []byte("rubbish")}, {Usage: 2, Selector: 1, Matching: 0, Data: []byte("rubbish")},
	} {
		if dane.Usable(r) {
			t.Errorf("%s is usable", dane.Text(r))
		}
	}
}

// TestAgility: RFC 7671 section 9.
func TestAgility(t *testing.T) {
	z := resolvertest.MustParse("mx.signed.test. A 192.0.2.1\n")
	for _, text := range []string{"3 1 1 " + some, "3 1 2 " + some + some, "3 0 1 " + some, "2 1 1 " + some} {
		if err := z.Add("_25._tcp.mx.signed.test. TLSA " + text); err != nil {
			t.Fatal(err)
		}
	}
	z.Sign("signed.test")
	config := resolver.DefaultConfig()
	config.TrustAD = true
	r, err := dane.Find(t.Context(), resolvertest.NewWith(z, config, nil), "mx.signed.test", 25)
	if err != nil || len(r.All) != 4 {
		t.Fatalf("%+v, %v", r, err)
	}
	var got []string
	for _, u := range r.Usable {
		got = append(got, dane.Text(u)[:5])
	}
	slices.Sort(got)
	if text := strings.Join(got, ", "); text != "2 1 1, 3 0 1, 3 1 2" {
		t.Errorf("got %s", text)
	}
}

// FuzzTLSA: whatever the data of a record is, it is told apart, printed and compared without harm, and matches only what
// it says.
func FuzzTLSA(f *testing.F) {
	ca := policytest.NewCA("test authority", now)
	leaf := ca.Leaf("mx.example.test")
	for usage := range uint8(5) {
		for matching := range uint8(3) {
			f.Add(usage, uint8(0), matching, record(usage, 0, matching, ca.Cert).Data)
			f.Add(usage, uint8(1), matching, record(usage, 1, matching, leaf.Cert).Data)
		}
	}
	f.Add(uint8(2), uint8(1), uint8(0), []byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, usage, selector, matching uint8, data []byte) {
		r := resolver.TLSA{Usage: usage, Selector: selector, Matching: matching, Data: data}
		text := dane.Text(r)
		if len(text) > 300 || !strings.HasPrefix(text, fmt.Sprintf("%d %d %d ", usage, selector, matching)) {
			t.Errorf("text %q", text)
		}
		if !dane.Usable(r) {
			return
		}
		records := dane.Records{Base: "mx.example.test", Usable: []resolver.TLSA{r}}
		_, err := records.Verify([]*x509.Certificate{leaf.Cert, ca.Cert}, []string{"mx.example.test"}, now)
		about := slices.ContainsFunc([]*x509.Certificate{leaf.Cert, ca.Cert}, func(c *x509.Certificate) bool {
			return hex.EncodeToString(record(usage, selector, matching, c).Data) == hex.EncodeToString(data)
		})
		if err == nil && !about {
			t.Errorf("%s matches, and is about none of the certificates", text)
		}
	})
}
