package tlspolicy_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

// TestRememberedOld: a server that has old TLS only, which is good enough for opportunistic TLS, is good enough when it is
// remembered: otherwise every message but the first would wait for a day.
func TestRememberedOld(t *testing.T) {
	w := newWorld(t)
	old := &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}
	for range 3 {
		p, err := w.policy(t, "plain.test", 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		state, _, err := shake(t, p, "mx.plain.test", w.ca.Leaf("mx.plain.test").TLS(), old)
		if err != nil {
			t.Fatalf("%s (%s): %v", p.Level, p.Source, err)
		}
		if err := p.Check(&state); err != nil {
			t.Errorf("%s (%s), kept: %v", p.Level, p.Source, err)
		}
		w.p.Learn(p, tlspolicy.Result{Offered: true, TLS: &state})
		w.clock.Move(time.Hour)
	}
	p, err := w.policy(t, "plain.test", 0, nil)
	if err != nil || p.Plain() {
		t.Errorf("it is not remembered: %v", err)
	}
	if p.Check(nil) == nil {
		t.Error("a connection in the clear is used")
	}
}

// TestOptional: the sender says that delivery matters more than TLS (RFC 8689 section 5): what the domain and the past ask for is
// ignored; what the administrator and REQUIRETLS ask for is not.
func TestOptional(t *testing.T) {
	w := newWorld(t)
	remembered, err := w.policy(t, "plain.test", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.p.Learn(remembered, tlspolicy.Result{Offered: true, TLS: &tls.ConnectionState{Version: tls.VersionTLS13}})
	for _, c := range []struct {
		domain string
		host   int
		change func(*tlspolicy.Asked)
		want   tlspolicy.Level
		failed bool
	}{
		{domain: "plain.test", want: tlspolicy.Opportunistic},
		{domain: "enforce.test", want: tlspolicy.Opportunistic},
		{domain: "enforce.test", host: 1, want: tlspolicy.Opportunistic},
		{domain: "signed.test", want: tlspolicy.Opportunistic},
		{domain: "bogus.signed.test", want: tlspolicy.Opportunistic},
		{domain: "signed.test", change: func(a *tlspolicy.Asked) { a.Level = "dane" }, want: tlspolicy.DANE},
		{domain: "plain.test", change: func(a *tlspolicy.Asked) { a.Level = "dane" }, failed: true},
		{domain: "enforce.test", change: func(a *tlspolicy.Asked) { a.Level = "require" }, want: tlspolicy.Require},
		{domain: "signed.test", change: func(a *tlspolicy.Asked) { a.RequireTLS = true }, want: tlspolicy.DANE},
		{domain: "plain.test", change: func(a *tlspolicy.Asked) { a.RequireTLS = true }, failed: true},
		{domain: "plain.test", change: func(a *tlspolicy.Asked) { a.Level = "none" }, want: tlspolicy.None},
	} {
		p, err := w.policy(t, c.domain, c.host, func(a *tlspolicy.Asked) {
			a.Optional = true
			if c.change != nil {
				c.change(a)
			}
		})
		if (err != nil) != c.failed || err == nil && p.Level != c.want {
			t.Errorf("%s: %+v, %v", c.domain, p, err)
		}
		if err == nil && c.change == nil {
			w.p.Learn(p, tlspolicy.Result{})
		}
	}
	if all, err := w.reports.Take(t.Context(), w.clock.Now()); err != nil || len(all) > 1 {
		t.Errorf("reported: %+v, %v", all, err)
	}
}

// TestRequiredLater: REQUIRETLS is refused for good only where it is known that nobody vouches for the servers.
func TestRequiredLater(t *testing.T) {
	w := newWorld(t)
	w.zone.Break("_mta-sts.enforce.test", resolvertest.Fault{Rcode: dns.RcodeServerFailure})
	for domain, permanent := range map[string]bool{"plain.test": true, "broken.test": false, "enforce.test": false} {
		_, err := w.policy(t, domain, 0, func(a *tlspolicy.Asked) { a.RequireTLS = true })
		var failed *tlspolicy.Error
		if !errors.As(err, &failed) || failed.Permanent != permanent {
			t.Errorf("%s: %+v", domain, err)
		}
	}
	p, err := w.policy(t, "enforce.test", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.p.Learn(p, tlspolicy.Result{Offered: true, TLS: &tls.ConnectionState{}})
	all, err := w.reports.Take(t.Context(), w.clock.Now())
	if err != nil || len(all) != 1 || len(all[0].Policies) > 0 && all[0].Policies[0].Policy.Type == "sts" {
		t.Errorf("reported: %+v, %v", all, err)
	}
}

// TestKeptWithOldSuite: a kept connection has no weaker keys than a new one could have under the same policy.
func TestKeptWithOldSuite(t *testing.T) {
	w := newWorld(t)
	state := tls.ConnectionState{Version: tls.VersionTLS12, CipherSuite: tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
	for level, good := range map[string]bool{"opportunistic": true, "require": false} {
		p, err := w.policy(t, "plain.test", 0, func(a *tlspolicy.Asked) { a.Level = level })
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Check(&state); (err == nil) != good {
			t.Errorf("%s: %v", level, err)
		}
	}
}

// TestReportsAreNotAboutUs: connections that end in the middle of the handshake are one kind of failure, though each has a port of its
// own; and of our address behind a translator nobody is told.
func TestReportsAreNotAboutUs(t *testing.T) {
	w := newWorld(t)
	p, err := w.policy(t, "plain.test", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	for port := range 60 {
		w.p.Learn(p, tlspolicy.Result{
			Offered: true, Local: netip.MustParseAddr("10.1.2.3"), Remote: netip.MustParseAddr("203.0.113.1"),
			Err: fmt.Errorf("TLS handshake: %w", &net.OpError{
				Op: "read", Net: "tcp", Source: &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 40_000 + port},
				Addr: &net.TCPAddr{IP: net.IPv4(203, 0, 113, 1), Port: 25}, Err: os.NewSyscallError("read", syscall.ECONNRESET),
			}),
		})
	}
	all, err := w.reports.Take(t.Context(), w.clock.Now())
	if err != nil || len(all) != 1 || len(all[0].Policies) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	details := all[0].Policies[0].Details
	if len(details) != 1 || details[0].Count != 60 || details[0].SendingIP != "" || strings.Contains(details[0].Code, "10.1.2.3") || details[0].Code == "" {
		t.Errorf("%d details, the first is %+v", len(details), details[0])
	}
}
