package resolver_test

import (
	"errors"
	"net"
	"testing"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

const secureZone = `
signed.test.          MX    10 mx.signed.test.
mx.signed.test.       A     192.0.2.1
mx.signed.test.       TLSA  3 1 1 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
alias.signed.test.    CNAME mx.signed.test.
away.signed.test.     CNAME mx.plain.test.
mx.plain.test.        A     192.0.2.2
back.plain.test.      CNAME mx.signed.test.
x.child.signed.test.  A     192.0.2.3
`

func trusting(z *resolvertest.Zone) *resolver.Resolver {
	config := resolver.DefaultConfig()
	config.TrustAD = true
	return resolvertest.NewWith(z, config, nil)
}

func TestSecure(t *testing.T) {
	z := resolvertest.MustParse(secureZone)
	z.Sign("signed.test")
	z.Unsign("child.signed.test")
	for _, c := range []struct {
		host, name string
		secure     bool
		found      bool
	}{
		{"mx.signed.test", "mx.signed.test", true, true},
		{"MX.Signed.Test.", "mx.signed.test", true, true},
		{"alias.signed.test", "mx.signed.test", true, true},
		{"away.signed.test", "mx.plain.test", false, true}, // a chain is as good as its worst link
		{"back.plain.test", "mx.signed.test", false, true},
		{"mx.plain.test", "mx.plain.test", false, true},
		{"x.child.signed.test", "x.child.signed.test", false, true},
		{"nothing.signed.test", "nothing.signed.test", true, false},
		{"nothing.plain.test", "nothing.plain.test", false, false},
	} {
		a, err := trusting(z).SecureIP(t.Context(), "ip4", c.host)
		if a.Secure != c.secure || (err == nil) != c.found || a.Name != c.name || a.NoName != !c.found {
			t.Errorf("%s: %+v, %v; want secure %t, name %s, found %t", c.host, a, err, c.secure, c.name, c.found)
		}
		if a, _ := resolvertest.New(z).SecureIP(t.Context(), "ip4", c.host); a.Secure {
			t.Errorf("%s: secure, and the server is not trusted", c.host)
		}
	}
}

// TestSecureChain has a server that leaves the end of a CNAME to another question.
func TestSecureChain(t *testing.T) {
	z := resolvertest.MustParse(secureZone)
	z.Sign("signed.test")
	r := trusting(z)
	a, err := r.SecureTLSA(t.Context(), "alias.signed.test")
	if err != nil || !a.Secure || len(a.Records) != 1 || a.Records[0].Usage != 3 || len(a.Records[0].Data) != 32 {
		t.Errorf("got %+v, %v", a, err)
	}
	c, err := r.SecureCNAME(t.Context(), "away.signed.test")
	if err != nil || !c.Secure || len(c.Records) != 1 || c.Records[0] != "mx.plain.test" {
		t.Errorf("got %+v, %v", c, err)
	}
	if c, err := r.SecureCNAME(t.Context(), "mx.signed.test"); err == nil || c.NoName {
		t.Errorf("got %+v, %v", c, err)
	}
	m, err := r.SecureMX(t.Context(), "signed.test")
	if err != nil || !m.Secure || len(m.Records) != 1 {
		t.Errorf("got %+v, %v", m, err)
	}
	if m, err := r.SecureMX(t.Context(), "mx.signed.test"); err == nil || m.NoName || !m.Secure {
		t.Errorf("no MX: got %+v, %v", m, err)
	}
}

// TestBogus: what a validating server does not vouch for it answers with SERVFAIL; that is temporary, never "not there".
func TestBogus(t *testing.T) {
	z := resolvertest.MustParse(secureZone)
	z.Sign("signed.test")
	z.Break("mx.signed.test", resolvertest.Fault{Rcode: dns.RcodeServerFailure})
	a, err := trusting(z).SecureTLSA(t.Context(), "mx.signed.test")
	var failed *net.DNSError
	if !errors.As(err, &failed) || !failed.IsTemporary || failed.IsNotFound || a.Secure {
		t.Errorf("got %+v, %v", a, err)
	}
}

func TestOddTLSA(t *testing.T) {
	z := resolvertest.MustParse(secureZone)
	if err := z.Add("odd.signed.test. TLSA 255 7 9 ff"); err != nil {
		t.Fatal(err)
	}
	a, err := trusting(z).SecureTLSA(t.Context(), "odd.signed.test")
	if err != nil || len(a.Records) != 1 || a.Records[0].Usage != 255 {
		t.Errorf("got %+v, %v", a, err)
	}
}

func TestProbe(t *testing.T) {
	z := resolvertest.MustParse(". DNSKEY 257 3 13 AAAA\n")
	if err := trusting(z).Probe(t.Context()); err == nil {
		t.Error("a server that does not validate")
	}
	z.Sign(".")
	if err := trusting(z).Probe(t.Context()); err != nil {
		t.Error(err)
	}
	z.Break(".", resolvertest.Fault{Rcode: dns.RcodeServerFailure})
	if err := trusting(z).Probe(t.Context()); err == nil {
		t.Error("a server that fails")
	}
}

func TestNoCache(t *testing.T) {
	z := resolvertest.MustParse(secureZone)
	config := resolver.DefaultConfig()
	config.CacheEntries = 0
	r := resolvertest.NewWith(z, config, nil)
	for range 3 {
		if _, err := r.LookupIP(t.Context(), "ip4", "mx.signed.test"); err != nil {
			t.Fatal(err)
		}
	}
	if n := z.Asked("mx.signed.test"); n != 3 {
		t.Errorf("asked %d times without a cache", n)
	}
}
