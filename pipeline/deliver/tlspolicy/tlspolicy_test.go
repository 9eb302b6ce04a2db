package tlspolicy_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/mtasts"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/policytest"
	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

const zone = `
plain.test.            MX 10 mx.plain.test.
mx.plain.test.         A  203.0.113.1
half.test.             MX 10 mx.signed.test.
signed.test.           MX 10 mx.signed.test.
signed.test.           MX 20 mx.plain.test.
mx.signed.test.        A  203.0.113.2
unusable.signed.test.  MX 10 mx.unusable.signed.test.
mx.unusable.signed.test. A 203.0.113.3
_25._tcp.mx.unusable.signed.test. TLSA 1 0 1 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
bogus.signed.test.     MX 10 mx.bogus.signed.test.
mx.bogus.signed.test.  A 203.0.113.4
none.signed.test.      MX 10 mx.none.signed.test.
mx.none.signed.test.   A 203.0.113.5
enforce.test.          MX 10 mx.plain.test.
enforce.test.          MX 20 other.plain.test.
testing.test.          MX 10 mx.plain.test.
testing.test.          MX 20 other.plain.test.
both.test.             MX 10 mx.signed.test.
both.test.             MX 20 mx.other.signed.test.
mx.other.signed.test.  A 203.0.113.6
_25._tcp.mx.other.signed.test. TLSA 3 1 1 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
broken.test.           MX 10 mx.plain.test.
`

// world has the domains above; those of MTA-STS with policies that list mx.plain.test and mx.signed.test.
type world struct {
	zone    *resolvertest.Zone
	ca      *policytest.Cert
	leaf    *policytest.Cert // of mx.signed.test, which TLSA is about
	clock   *policytest.Clock
	cache   *policytest.Cache
	reports *tlsrpt.Collector
	finder  *mx.Finder
	dns     *resolver.Resolver
	sts     *mtasts.Store
	p       *tlspolicy.Policies
}

func newWorld(t *testing.T) *world {
	t.Helper()
	now := time.Now()
	w := &world{zone: resolvertest.MustParse(zone), ca: policytest.NewCA("authority", now), clock: policytest.NewClock(now)}
	w.cache = &policytest.Cache{Now: w.clock.Now}
	w.leaf = w.ca.Leaf("mx.signed.test")
	sum := sha256.Sum256(w.leaf.Cert.RawSubjectPublicKeyInfo)
	w.add(t, "_25._tcp.mx.signed.test. TLSA 3 1 1 "+hex.EncodeToString(sum[:]))
	w.zone.Sign("signed.test", "both.test")
	w.zone.Break("_25._tcp.mx.bogus.signed.test", resolvertest.Fault{Rcode: dns.RcodeServerFailure})
	config := resolver.DefaultConfig()
	config.TrustAD, config.CacheEntries = true, 0
	w.dns = resolvertest.NewWith(w.zone, config, w.clock.Now)
	w.finder = mx.New(mx.Options{DNS: w.dns, Hostname: "us.test"})
	port := w.web(t)
	w.sts = mtasts.New(mtasts.Options{
		DNS: w.dns, Finder: w.finder, Port: port, Roots: w.ca.Pool(), Cache: w.cache, Now: w.clock.Now,
		Rules: mx.Rules{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
	})
	t.Cleanup(w.sts.Close)
	w.reports = tlsrpt.New(tlsrpt.Options{Cache: w.cache, Now: w.clock.Now})
	t.Cleanup(w.reports.Close)
	w.restart()
	return w
}

func (w *world) restart() {
	w.p = tlspolicy.New(tlspolicy.Options{
		DNS: w.dns, STS: w.sts, Cache: w.cache, Reports: w.reports, Roots: w.ca.Pool(), Now: w.clock.Now, Remember: true,
	})
}

func (w *world) add(t *testing.T, record string) {
	t.Helper()
	if err := w.zone.Add(record); err != nil {
		t.Fatal(err)
	}
}

// web serves the policies of the domains that have one.
func (w *world) web(t *testing.T) uint16 {
	t.Helper()
	leaf := w.ca.Leaf("mta-sts.enforce.test", "mta-sts.testing.test", "mta-sts.both.test", "mta-sts.broken.test").TLS()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"enforce", "testing", "both", "broken"} {
		w.add(t, "_mta-sts."+d+".test. TXT \"v=STSv1; id=1\"")
		w.add(t, "mta-sts."+d+".test. A 127.0.0.1")
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, TLSConfig: &tls.Config{Certificates: []tls.Certificate{leaf}}}
	server.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mode := "enforce"
		switch {
		case strings.HasPrefix(r.Host, "mta-sts.broken"):
			http.NotFound(rw, r)
			return
		case strings.HasPrefix(r.Host, "mta-sts.testing"):
			mode = "testing"
		}
		rw.Header().Set("Content-Type", "text/plain")
		fmt.Fprintf(rw, "version: STSv1\nmode: %s\nmx: mx.plain.test\nmx: mx.signed.test\nmax_age: 86400\n", mode)
	})
	go func() { _ = server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() { server.Close() })
	return netip.MustParseAddrPort(listener.Addr().String()).Port()
}

// policy asks for the n-th server of a domain.
func (w *world) policy(t *testing.T, domain string, n int, change func(*tlspolicy.Asked)) (*tlspolicy.Policy, error) {
	t.Helper()
	x, err := w.finder.Find(t.Context(), domain)
	if err != nil {
		t.Fatal(err)
	}
	asked := tlspolicy.Asked{Domain: domain, Exchangers: x, DANE: true, MTASTS: true}
	if change != nil {
		change(&asked)
	}
	d, err := w.p.Domain(t.Context(), asked)
	if err != nil {
		t.Fatal(err)
	}
	return d.Host(t.Context(), asked.Exchangers.Hosts[n])
}

func TestLevels(t *testing.T) {
	w := newWorld(t)
	level := func(l string) func(*tlspolicy.Asked) { return func(a *tlspolicy.Asked) { a.Level = l } }
	secret := func(a *tlspolicy.Asked) { a.RequireTLS = true }
	for _, c := range []struct {
		name, domain string
		host         int
		change       func(*tlspolicy.Asked)
		want         string // level and source; "": an error
	}{
		{"default", "plain.test", 0, nil, "opportunistic default"},
		{"none", "plain.test", 0, level("none"), "none config"},
		{"opportunistic", "plain.test", 0, level("opportunistic"), "opportunistic default"},
		{"require", "plain.test", 0, level("require"), "require config"},
		{"verify", "plain.test", 0, level("verify"), "verify config"},
		{"DANE demanded", "plain.test", 0, level("dane"), ""},
		{"a word unknown", "plain.test", 0, level("paranoid"), ""},
		{"DANE", "signed.test", 0, nil, "dane dane"},
		{"DANE, demanded", "signed.test", 0, level("dane"), "dane dane"},
		{"DANE beats verify", "signed.test", 0, level("verify"), "dane dane"},
		{"DANE of the other server", "signed.test", 1, nil, "opportunistic default"},
		{"DANE demanded of the other server", "signed.test", 1, level("dane"), ""},
		{"none, over DANE", "signed.test", 0, level("none"), "none config"},
		{"DANE switched off", "signed.test", 0, func(a *tlspolicy.Asked) { a.DANE = false }, "opportunistic default"},
		{"DANE switched off and demanded", "signed.test", 0, func(a *tlspolicy.Asked) { a.DANE = false; a.Level = "dane" }, "dane dane"},
		{"DANE below an insecure MX", "half.test", 0, nil, "dane dane"},
		{"DANE demanded below an insecure MX", "half.test", 0, level("dane"), ""},
		{"DANE, signed and without records", "none.signed.test", 0, nil, "opportunistic default"},
		{"DANE, nothing usable", "unusable.signed.test", 0, nil, "require dane"},
		{"DANE demanded, nothing usable", "unusable.signed.test", 0, level("dane"), ""},
		{"DANE, bogus", "bogus.signed.test", 0, nil, ""},
		{"DANE, bogus and none", "bogus.signed.test", 0, level("none"), "none config"},
		{"MTA-STS", "enforce.test", 0, nil, "verify mta-sts"},
		{"MTA-STS, not listed", "enforce.test", 1, nil, ""},
		{"MTA-STS, switched off", "enforce.test", 1, func(a *tlspolicy.Asked) { a.MTASTS = false }, "opportunistic default"},
		{"MTA-STS, none", "enforce.test", 1, level("none"), "none config"},
		{"MTA-STS testing", "testing.test", 0, nil, "opportunistic default"}, // DRILLS E5.1
		{"MTA-STS testing, not listed", "testing.test", 1, nil, "opportunistic default"},
		{"MTA-STS that can't be had", "broken.test", 0, nil, "opportunistic default"},
		{"both", "both.test", 0, nil, "dane dane"},
		{"both, not listed", "both.test", 1, nil, "dane dane"}, // DANE decides
		{"REQUIRETLS, nobody vouches", "plain.test", 0, secret, ""},
		{"REQUIRETLS, DANE", "signed.test", 0, secret, "dane dane"},
		{"REQUIRETLS, secure MX", "signed.test", 1, secret, "verify requiretls"},
		{"REQUIRETLS, MTA-STS", "enforce.test", 0, secret, "verify mta-sts"},
		{"REQUIRETLS, MTA-STS testing", "testing.test", 0, secret, "verify requiretls"},
		{"REQUIRETLS, MTA-STS testing, not listed", "testing.test", 1, secret, ""},
		{"REQUIRETLS, DANE below an insecure MX", "half.test", 0, secret, ""},
		{"REQUIRETLS and none", "signed.test", 0, func(a *tlspolicy.Asked) { a.RequireTLS = true; a.Level = "none" }, ""},
		{"REQUIRETLS, relay", "plain.test", 0, func(a *tlspolicy.Asked) { a.RequireTLS = true; a.Fixed = true }, "verify requiretls"},
		{"relay", "signed.test", 0, func(a *tlspolicy.Asked) { a.Fixed = true }, "opportunistic default"},
		{"relay, MTA-STS", "enforce.test", 1, func(a *tlspolicy.Asked) { a.Fixed = true }, "opportunistic default"},
		{"relay, implicit", "plain.test", 0, func(a *tlspolicy.Asked) { a.Fixed = true; a.Level = "implicit" }, "verify config"},
		{"relay, implicit, address", "[203.0.113.1]", 0, func(a *tlspolicy.Asked) { a.Fixed = true; a.Level = "implicit" }, "require config"},
		{"literal", "[203.0.113.1]", 0, nil, "opportunistic default"},
	} {
		p, err := w.policy(t, c.domain, c.host, c.change)
		got := ""
		if err == nil {
			got = p.Level.String() + " " + p.Source
		}
		var ours *tlspolicy.Error
		if got != c.want || err != nil && (!errors.As(err, &ours) || ours.Text == "" || ours.Status == "") {
			t.Errorf("%s: got %q, %v; want %q", c.name, got, err, c.want)
		}
		if err == nil && p.Plain() != (p.Level <= tlspolicy.Opportunistic) {
			t.Errorf("%s: plain is %t", c.name, p.Plain())
		}
	}
	for domain, permanent := range map[string]bool{"plain.test": true, "bogus.signed.test": false} {
		_, err := w.policy(t, domain, 0, secret)
		var ours *tlspolicy.Error
		if !errors.As(err, &ours) || ours.Permanent != permanent {
			t.Errorf("%s: %v, permanent %+v", domain, err, ours)
		}
	}
}

// shake makes a handshake with a server that has a certificate, and returns both sides' view.
func shake(t *testing.T, p *tlspolicy.Policy, host string, certificate tls.Certificate, server *tls.Config) (state tls.ConnectionState, sni string, err error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	names := make(chan string, 1)
	config := &tls.Config{}
	if server != nil {
		config = server.Clone()
	}
	config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		names <- hello.ServerName
		return &certificate, nil
	}
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_ = tls.Server(conn, config).HandshakeContext(context.Background())
		_, _ = conn.Read(make([]byte, 1))
	}()
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	conn := tls.Client(raw, p.Config(host))
	err = conn.HandshakeContext(t.Context())
	select {
	case sni = <-names:
	default:
	}
	return conn.ConnectionState(), sni, err
}

// TestHandshake: DRILLS E5.5.
func TestHandshake(t *testing.T) {
	w := newWorld(t)
	now := w.clock.Now()
	stranger := policytest.NewCA("stranger", now)
	verify := func(a *tlspolicy.Asked) { a.Level = "verify" }
	require := func(a *tlspolicy.Asked) { a.Level = "require" }
	for _, c := range []struct {
		name, domain string
		change       func(*tlspolicy.Asked)
		cert         *policytest.Cert
		words        string            // at the end of those for the trace; "": it fails
		kind         tlsrpt.ResultType // how
	}{
		{"DANE", "signed.test", nil, w.leaf, "dane", ""},
		{"DANE, another key of a good authority", "signed.test", nil, w.ca.Leaf("mx.signed.test"), "", tlsrpt.ValidationFailure},
		{"opportunistic, stranger", "plain.test", nil, stranger.Leaf("mx.stranger.test"), "unverified", ""},
		{"required, stranger", "plain.test", require, stranger.Leaf("mx.stranger.test"), "unverified", ""},
		{"unusable TLSA, stranger", "unusable.signed.test", nil, stranger.Leaf("mx.stranger.test"), "unverified", ""},
		{"verify", "plain.test", verify, w.ca.Leaf("mx.plain.test"), "pkix", ""},
		{"verify, wildcard", "plain.test", verify, w.ca.Leaf("*.plain.test"), "pkix", ""},
		{"verify, stranger", "plain.test", verify, stranger.Leaf("mx.plain.test"), "", tlsrpt.CertificateNotTrusted},
		{"verify, another name", "plain.test", verify, w.ca.Leaf("www.plain.test"), "", tlsrpt.CertificateHostMismatch},
		{"verify, expired", "plain.test", verify, w.ca.LeafAt(now.Add(-48*time.Hour), now.Add(-24*time.Hour), "mx.plain.test"), "", tlsrpt.CertificateExpired},
		{"verify, not yet", "plain.test", verify, w.ca.LeafAt(now.Add(24*time.Hour), now.Add(48*time.Hour), "mx.plain.test"), "", tlsrpt.CertificateExpired},
		{"verify, name in the subject alone", "plain.test", verify, w.ca.CommonName("mx.plain.test"), "", tlsrpt.CertificateHostMismatch},
		{"MTA-STS", "enforce.test", nil, w.ca.Leaf("mx.plain.test"), "mta-sts", ""},
		{"MTA-STS, stranger", "enforce.test", nil, stranger.Leaf("mx.plain.test"), "", tlsrpt.CertificateNotTrusted},
		{"MTA-STS, the domain's name", "enforce.test", nil, w.ca.Leaf("enforce.test"), "", tlsrpt.CertificateHostMismatch},
		{"MTA-STS testing, stranger", "testing.test", nil, stranger.Leaf("mx.plain.test"), "unverified", ""},
	} {
		p, err := w.policy(t, c.domain, 0, c.change)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		x, _ := w.finder.Find(t.Context(), c.domain)
		host := x.Hosts[0].Name
		state, sni, err := shake(t, p, host, c.cert.TLS(), nil)
		if sni != host {
			t.Errorf("%s: SNI %q", c.name, sni)
		}
		if c.words != "" {
			if words := p.Verified(state); err != nil || !strings.HasPrefix(words, "TLS 1.3, TLS_") || !strings.HasSuffix(words, ", "+c.words) {
				t.Errorf("%s: %q, %v", c.name, words, err)
			}
			if err := p.Check(&state); err != nil {
				t.Errorf("%s: again: %v", c.name, err)
			}
			continue
		}
		var ours *tlspolicy.Error
		if !errors.As(err, &ours) || ours.Type != c.kind || ours.Permanent {
			t.Errorf("%s: %v, want %s", c.name, err, c.kind)
		}
	}
}

// TestVersions (DRILLS E5.5): what is verified has to be TLS 1.2 at least; what is better than nothing may be less.
func TestVersions(t *testing.T) {
	w := newWorld(t)
	old := &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	weak := &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}}
	p, err := w.policy(t, "plain.test", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	state, _, err := shake(t, p, "mx.plain.test", w.ca.Leaf("mx.plain.test").TLS(), old)
	if err != nil || state.Version != tls.VersionTLS11 {
		t.Errorf("opportunistic: %v", err)
	}
	strict, err := w.policy(t, "plain.test", 0, func(a *tlspolicy.Asked) { a.Level = "verify" })
	if err != nil {
		t.Fatal(err)
	}
	if err := strict.Check(&state); err == nil {
		t.Error("a connection with TLS 1.1 is used where a verified one is asked for")
	}
	if err := strict.Check(nil); err == nil {
		t.Error("a connection in the clear is used where a verified one is asked for")
	}
	if err := p.Check(nil); err != nil {
		t.Errorf("opportunistic, in the clear: %v", err)
	}
	if _, _, err := shake(t, strict, "mx.plain.test", w.ca.Leaf("mx.plain.test").TLS(), old); err == nil {
		t.Error("verified with TLS 1.1")
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"mx.plain.test"}, NotAfter: time.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	withRSA := tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
	if state, _, err := shake(t, p, "mx.plain.test", withRSA, weak); err != nil || state.CipherSuite != tls.TLS_RSA_WITH_AES_128_CBC_SHA {
		t.Errorf("opportunistic, RSA key exchange: %v", err)
	}
	if c := p.Config("mx.plain.test"); c.ClientSessionCache != nil || len(c.Certificates) > 0 || c.GetClientCertificate != nil || len(c.CipherSuites) == 0 {
		t.Errorf("opportunistic: %+v", c)
	}
	if c := strict.Config("mx.plain.test"); c.CipherSuites != nil || c.MinVersion != tls.VersionTLS12 {
		t.Errorf("verified: suites %v, version %x", c.CipherSuites, c.MinVersion)
	}
}

// TestCheckAcross: servers with many domains, one connection: what did for one need not do for another.
func TestCheckAcross(t *testing.T) {
	w := newWorld(t)
	any, err := w.policy(t, "plain.test", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	strict, err := w.policy(t, "enforce.test", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	bad, _, err := shake(t, any, "mx.plain.test", policytest.NewCA("stranger", time.Now()).Leaf("mx.plain.test").TLS(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := strict.Check(&bad); err == nil {
		t.Error("an unverified connection is used for a domain with MTA-STS")
	}
	good, _, err := shake(t, any, "mx.plain.test", w.ca.Leaf("mx.plain.test").TLS(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := strict.Check(&good); err != nil {
		t.Errorf("a connection that would do: %v", err)
	}
}

// TestCheckForgets: what is remembered about a certificate ends with it, and does not do for other names or records.
func TestCheckForgets(t *testing.T) {
	w := newWorld(t)
	now := w.clock.Now()
	short := w.ca.LeafAt(now.Add(-time.Hour), now.Add(30*time.Minute), "mx.plain.test")
	strict, err := w.policy(t, "enforce.test", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	state, _, err := shake(t, strict, "mx.plain.test", short.TLS(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := strict.Check(&state); err != nil {
			t.Errorf("on the kept connection: %v", err)
		}
	}
	other, err := w.policy(t, "signed.test", 1, func(a *tlspolicy.Asked) { a.Level = "verify"; a.Exchangers.Hosts[1].Name = "www.plain.test" })
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Check(&state); err == nil {
		t.Error("does for another name")
	}
	w.clock.Move(31 * time.Minute)
	var ours *tlspolicy.Error
	if err := strict.Check(&state); !errors.As(err, &ours) || ours.Type != tlsrpt.CertificateExpired {
		t.Errorf("after it has expired: %v", err)
	}
	// The records change under a kept connection (a roll-over that is over): it is looked at anew.
	before, err := w.policy(t, "signed.test", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if state, _, err = shake(t, before, "mx.signed.test", w.leaf.TLS(), nil); err != nil {
		t.Fatal(err)
	}
	if err := before.Check(&state); err != nil {
		t.Error(err)
	}
	w.zone.Remove("_25._tcp.mx.signed.test")
	w.add(t, "_25._tcp.mx.signed.test. TLSA 3 1 1 "+strings.Repeat("00", 32))
	after, err := w.policy(t, "signed.test", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := after.Check(&state); err == nil {
		t.Error("does for other records")
	}
}
