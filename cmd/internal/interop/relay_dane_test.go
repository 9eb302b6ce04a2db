package interop

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

// startValidator runs unbound at nameServer's address: it asks an authoritative
// server about "test.", of which one zone is signed, and says whether the signatures
// are good.
func startValidator(t testing.TB, authority *resolvertest.Signer, apex string) {
	t.Helper()
	unbound := peer(t, "unbound", "unbound")
	const at = "127.0.1.54:53"
	packets, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: authority}, {Listener: listener, Handler: authority}} {
		go func() { _ = server.ActivateAndServe() }()
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	dir, err := os.MkdirTemp("/tmp", "sluice-unbound-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file := filepath.Join(dir, "unbound.conf")
	text := fmt.Sprintf(`server:
  interface: 127.0.1.53
  outgoing-interface: 127.0.0.1
  access-control: 127.0.0.0/8 allow
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
  local-zone: "127.in-addr.arpa." nodefault
  trust-anchor: "%s"
remote-control:
  control-enable: no
`, dir, authority.Anchor())
	for _, zone := range []string{apex, "test.", "127.in-addr.arpa."} {
		text += fmt.Sprintf("stub-zone:\n  name: %q\n  stub-addr: 127.0.1.54@53\n", zone)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(unbound, "-d", "-c", file)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("unbound says:\n%s", log.String())
		}
	})
	eventually(t, 15*time.Second, "an answer of unbound", func() bool {
		question := new(dns.Msg).SetQuestion("example.test.", dns.TypeMX)
		answer, _, err := (&dns.Client{Timeout: time.Second}).Exchange(question, nameServer)
		return err == nil && answer.Rcode == dns.RcodeSuccess
	})
}

// keyDigest returns what a TLSA record 3 1 1 has of the certificate in a directory.
func keyDigest(t testing.TB, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// TestDANE: unbound validates a signed zone, and a Postfix whose certificate signed itself is
// held against what the zone has of it (RFC 7672). What does not match, or can't be
// proved, waits; none of it is ever sent in the clear (DRILLS E5.2).
func TestDANE(t *testing.T) {
	t.Parallel()
	if !inside(t) {
		return
	}
	peer(t, "unbound", "unbound")
	cases := []struct {
		name  string // of the domain, below dane.test
		tlsa  string // of its server, which has one of its own; KEY is Postfix's, OTHER somebody else's
		bogus string // name whose signatures are wrong, below the domain
		plain bool   // the server does not offer STARTTLS
		how   string // Postfix took it, so the trace has it
		why   string // it waits, so the trace has it
	}{
		{name: "right", tlsa: "3 1 1 KEY", how: "dane"},
		{name: "rollover", tlsa: "3 1 1 OTHER,3 1 1 KEY", how: "dane"},
		{name: "none", how: "unverified"},
		{name: "unusable", tlsa: "1 1 1 OTHER", how: "unverified"}, // RFC 7672 section 3.1.3
		{name: "wrong", tlsa: "3 1 1 OTHER", why: "matches none of its TLSA records"},
		{name: "forged", tlsa: "3 1 1 KEY", bogus: "_25._tcp.mx.", why: "DNS records can't be had or are not valid"},
		{name: "denied", bogus: "_25._tcp.mx.", why: "DNS records can't be had or are not valid"}, // that there is none has to be proved
		{name: "stripped", tlsa: "3 1 1 KEY", plain: true, why: "not offered"},
	}
	extra, domains := "", []string{"postfix.test"}
	for _, c := range cases {
		if !c.plain {
			domains = append(domains, c.name+".dane.test")
		}
	}
	// Everybody below these domains has the same mailbox.
	m := startPostfixWith(t, postfixAddr, "virtual_mailbox_maps = static:box/\nvirtual_mailbox_domains = "+strings.Join(domains, ", ")+"\n")
	zone := worldZone + "dane.test. IN MX 10 mx.postfix.test.\n"
	digests := strings.NewReplacer("KEY", keyDigest(t, m.dir), "OTHER", strings.Repeat("5a", 32))
	// Of this domain not even the servers are proved.
	zone += "astray.dane.test. IN MX 10 mx.right.dane.test.\n"
	bogus := []string{"astray.dane.test."}
	for _, c := range cases {
		name, addr := c.name+".dane.test.", m.ip
		if c.plain {
			addr = "127.0.1.31"
		}
		zone += name + " IN MX 10 mx." + name + "\nmx." + name + " IN A " + addr + "\n"
		for record := range strings.SplitSeq(c.tlsa, ",") {
			if record != "" {
				zone += "_25._tcp.mx." + name + " IN TLSA " + digests.Replace(record) + "\n"
			}
		}
		if c.bogus != "" {
			bogus = append(bogus, c.bogus+name)
		}
	}
	clear := startScripted(t, "127.0.1.31:25", nil)
	authority, err := resolvertest.NewSigner("dane.test.", zone)
	if err != nil {
		t.Fatal(err)
	}
	authority.Bogus(bogus...)
	w := newWorldAsking(t, quickRetry+extra)
	w.inConfig("servers = [\""+nameServer+"\"]", "servers = [\""+nameServer+"\"]\ntrust_ad = true")
	startValidator(t, authority, "dane.test.")
	w.start()
	defer w.stop()
	w.post([]string{"astray@astray.dane.test"}, "astray@example.test", "dane", 1000)
	for _, c := range cases {
		w.post([]string{c.name + "@" + c.name + ".dane.test"}, c.name+"@example.test", "dane", 1000)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			id := c.name + "@example.test"
			w.site.t, m.t = t, t
			defer func() { w.site.t = t }()
			if c.why == "" {
				m.await(id)
				w.awaitTrace(id, "delivered", ", "+c.how)
				return
			}
			trace := w.awaitTrace(id, c.why, "delayed")
			if strings.Contains(trace, "delivered") {
				t.Errorf("the trace is\n%s", trace)
			}
			if out := w.sluice("", "queue", "list"); !strings.Contains(out, c.name+".dane.test") {
				t.Errorf("it does not wait:\n%s", out)
			}
		})
	}
	w.site.t, m.t = t, t
	for _, text := range m.received() {
		for _, c := range cases {
			if c.why != "" && strings.Contains(text, "<"+c.name+"@example.test>") {
				t.Errorf("%s arrived", c.name)
			}
		}
	}
	eventually(t, 20*time.Second, "a word in the log about the domain whose servers are not proved", func() bool {
		return strings.Contains(w.logText(), "domain=astray.dane.test")
	})
	if len(m.received()) != 4 {
		t.Errorf("%d messages arrived, want 4", len(m.received()))
	}
	if n := len(clear.took("stripped@example.test")); n > 0 || clear.connections() == 0 {
		t.Errorf("%d messages in the clear, of %d connections", n, clear.connections())
	}
}
