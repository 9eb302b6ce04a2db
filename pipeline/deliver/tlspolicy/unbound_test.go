package tlspolicy_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/policytest"
	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

// needUnbound returns the program, or skips the test.
func needUnbound(t *testing.T) string {
	t.Helper()
	for _, path := range []string{"unbound", "/usr/sbin/unbound"} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	const text = "unbound is not installed: apt-get install -y --no-install-recommends unbound"
	if os.Getenv("INTEROP") == "require" {
		t.Fatal(text)
	}
	t.Skip(text)
	return ""
}

// startUnbound starts a validating resolver that asks s about "test.", and returns its address.
func startUnbound(t *testing.T, s *resolvertest.Signer) string {
	t.Helper()
	program := needUnbound(t)
	listener, packets, port := listenBoth(t)
	udp, tcp := &dns.Server{PacketConn: packets, Handler: s}, &dns.Server{Listener: listener, Handler: s}
	go func() { _ = udp.ActivateAndServe() }()
	go func() { _ = tcp.ActivateAndServe() }()
	t.Cleanup(func() { _ = packets.Close(); _ = listener.Close() })

	free, freePackets, own := listenBoth(t)
	_ = free.Close()
	_ = freePackets.Close()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // unbound may run as somebody else
		t.Fatal(err)
	}
	config := fmt.Sprintf(`server:
  interface: 127.0.0.1
  port: %d
  do-ip6: no
  do-daemonize: no
  use-syslog: no
  logfile: ""
  verbosity: 1
  chroot: ""
  username: ""
  pidfile: ""
  directory: %q
  num-threads: 1
  module-config: "validator iterator"
  do-not-query-localhost: no
  qname-minimisation: no
  local-zone: "test." nodefault
  trust-anchor: "%s"
remote-control:
  control-enable: no
stub-zone:
  name: "signed.test."
  stub-addr: 127.0.0.1@%d
stub-zone:
  name: "plain.test."
  stub-addr: 127.0.0.1@%d
`, own, dir, s.Anchor(), port, port)
	file := filepath.Join(dir, "unbound.conf")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil { //nolint:gosec // as above
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-d", "-c", file)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("unbound says:\n%s", log.String())
		}
	})
	addr := fmt.Sprintf("127.0.0.1:%d", own)
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		m := new(dns.Msg).SetQuestion("mx.plain.test.", dns.TypeA)
		if answer, _, err := (&dns.Client{Timeout: time.Second}).Exchange(m, addr); err == nil && answer.Rcode == dns.RcodeSuccess {
			return addr
		}
		if time.Now().After(end) {
			t.Fatal("unbound does not answer")
		}
	}
}

func listenBoth(t *testing.T) (net.Listener, net.PacketConn, int) {
	t.Helper()
	for range 20 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if packets, err := net.ListenPacket("udp", listener.Addr().String()); err == nil {
			return listener, packets, listener.Addr().(*net.TCPAddr).Port
		}
		listener.Close()
	}
	t.Fatal("no port that is free for UDP and TCP")
	return nil, nil, 0
}

// TestUnbound (DRILLS E5.2) has a real validating resolver between us and a zone with real signatures, good, wrong, expired and none.
func TestUnbound(t *testing.T) {
	ca := policytest.NewCA("authority", time.Now())
	leaf := ca.Leaf("mx.signed.test")
	sum := sha256.Sum256(leaf.Cert.RawSubjectPublicKeyInfo)
	tlsa := hex.EncodeToString(sum[:])
	s, err := resolvertest.NewSigner("signed.test.", strings.ReplaceAll(`
signed.test.                   MX 10 mx.signed.test.
mx.signed.test.                A 203.0.113.1
_25._tcp.mx.signed.test.       TLSA 3 1 1 KEY
none.signed.test.              A 203.0.113.2
bogus.signed.test.             MX 10 mxbogus.signed.test.
mxbogus.signed.test.           A 203.0.113.3
_25._tcp.mxbogus.signed.test.  TLSA 3 1 1 KEY
mxstale.signed.test.           A 203.0.113.4
_25._tcp.mxstale.signed.test.  TLSA 3 1 1 KEY
mxdenied.signed.test.          A 203.0.113.5
alias.signed.test.             CNAME mx.signed.test.
away.signed.test.              CNAME mx.plain.test.
_25._tcp.away.signed.test.     TLSA 3 1 1 KEY
forged.signed.test.            MX 10 mx.signed.test.
mx.plain.test.                 A 203.0.113.6
_25._tcp.mx.plain.test.        TLSA 3 1 1 KEY
hosted.plain.test.             MX 10 mx.signed.test.
`, "KEY", tlsa))
	if err != nil {
		t.Fatal(err)
	}
	s.Bogus("_25._tcp.mxbogus.signed.test.", "forged.signed.test.",
		"_25._tcp.mxdenied.signed.test.") // even that there is none has to be proved
	s.Stale("_25._tcp.mxstale.signed.test.")
	config := resolver.DefaultConfig()
	config.Servers, config.TrustAD = []string{startUnbound(t, s)}, true
	r, err := resolver.New(config, resolver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	finder := mx.New(mx.Options{DNS: r})
	policies := tlspolicy.New(tlspolicy.Options{DNS: r})
	for _, c := range []struct {
		host string
		want string // level, or the type of the error
	}{
		{"mx.signed.test", "dane"}, {"none.signed.test", "opportunistic"}, {"alias.signed.test", "dane"}, {"away.signed.test", "dane"},
		{"mx.plain.test", "opportunistic"},
		{"mxbogus.signed.test", string(tlsrpt.DNSSECInvalid)}, {"mxstale.signed.test", string(tlsrpt.DNSSECInvalid)}, {"mxdenied.signed.test", string(tlsrpt.DNSSECInvalid)},
	} {
		x, err := finder.Find(ctx, c.host) // the host itself, without MX
		if err != nil {
			t.Errorf("%s: %v", c.host, err)
			continue
		}
		d, err := policies.Domain(ctx, tlspolicy.Asked{Domain: c.host, Exchangers: x, DANE: true})
		if err != nil {
			t.Fatal(err)
		}
		p, err := d.Host(ctx, x.Hosts[0])
		var ours *tlspolicy.Error
		got := ""
		switch {
		case err == nil:
			got = p.Level.String()
		case errors.As(err, &ours):
			got = string(ours.Type)
		}
		if got != c.want {
			t.Errorf("%s: %s (%v), want %s", c.host, got, err, c.want)
		}
		if c.want == "dane" {
			if _, sni, err := shake(t, p, x.Hosts[0].Name, leaf.TLS(), nil); err != nil || c.host != "away.signed.test" && sni != "mx.signed.test" {
				t.Errorf("%s: SNI %s, %v", c.host, sni, err)
			}
			if _, _, err := shake(t, p, x.Hosts[0].Name, ca.Leaf("mx.signed.test").TLS(), nil); err == nil {
				t.Errorf("%s: another key is taken", c.host)
			}
		}
	}
	for domain, secure := range map[string]bool{"signed.test": true, "hosted.plain.test": false} {
		if x, err := finder.Find(ctx, domain); err != nil || x.Secure != secure || x.Hosts[0].Name != "mx.signed.test" {
			t.Errorf("%s: %+v, %v", domain, x, err)
		}
	}
	if x, err := finder.Find(ctx, "forged.signed.test"); !mx.Temporary(err) {
		t.Errorf("forged MX records: %+v, %v", x, err)
	}
	config.TrustAD = false
	if r, err = resolver.New(config, resolver.Options{}); err != nil {
		t.Fatal(err)
	}
	if a, err := r.SecureTLSA(ctx, "_25._tcp.mx.signed.test"); err != nil || a.Secure {
		t.Errorf("without trust: %+v, %v", a, err)
	}
}
