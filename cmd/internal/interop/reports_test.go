package interop

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/resolver"
)

// TestDNSWithUnbound: what `sluice dns` prints, loaded into unbound, is what `sluice dns --check` wants to find there.
func TestDNSWithUnbound(t *testing.T) {
	unbound := peer(t, "unbound", "unbound")
	s := newSite(t, "")
	const address = "--address=192.0.2.25,2001:db8::25"
	s.sluice("", "dkim", "new", domain)
	var records []string
	for _, line := range strings.Split(s.sluice("", "dns", domain, address), "\n") {
		// There is no web server for the policy of MTA-STS here.
		if line != "" && !strings.HasPrefix(line, ";") && !strings.HasPrefix(line, "_mta-sts.") {
			records = append(records, strings.NewReplacer("( ", "", " )", "").Replace(line))
		}
	}
	if len(records) < 9 { // MX, A, AAAA, two PTR, two SPF, DKIM, DMARC, TLSRPT
		t.Fatalf("%d records: %q", len(records), records)
	}
	server := startUnbound(t, unbound, records)
	s.useDNS(server)
	out, err := s.trySluice("", "dns", domain, address, "--check")
	if err != nil {
		t.Errorf("what was printed is not good enough: %v\n%s", err, out)
	}
	for i := range records {
		if strings.Contains(records[i], "IN SRV") || strings.Contains(records[i], "_smtp._tls") || strings.HasPrefix(records[i], "mx.example.test. 3600 IN TXT") {
			continue // recommended only
		}
		if strings.Contains(records[i], "IN MX") || i%3 == 0 { // some are enough
			without := append(append([]string(nil), records[:i]...), records[i+1:]...)
			s.useDNS(startUnbound(t, unbound, without))
			if out, err := s.trySluice("", "dns", domain, address, "--check"); err == nil || !strings.Contains(out, "missing") && !strings.Contains(out, "differs") {
				t.Errorf("without %s: %v\n%s", records[i], err, out)
			}
		}
	}
}

// useDNS lets the site ask another server.
func (s *site) useDNS(server string) {
	s.t.Helper()
	text, err := os.ReadFile(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(text), "[dns]\n")
	_, after, _ := strings.Cut(rest, "\n")
	s.writeFile("sluice.toml", fmt.Sprintf("%s[dns]\nservers = [%q]\n%s", before, server, after))
}

// startUnbound serves records, and nothing else, on a free port of loopback until the test ends.
func startUnbound(t *testing.T, program string, records []string) string {
	t.Helper()
	dir := t.TempDir()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	var b strings.Builder
	fmt.Fprintf(&b, "server:\n  interface: 127.0.0.1\n  port: %d\n  username: \"\"\n  chroot: \"\"\n  directory: %q\n  pidfile: \"\"\n  do-daemonize: no\n", port, dir)
	b.WriteString("  use-syslog: no\n  module-config: \"iterator\"\n  local-zone: \".\" static\n  local-zone: \"in-addr.arpa.\" static\n  local-zone: \"2.0.192.in-addr.arpa.\" static\n")
	b.WriteString("  local-zone: \"8.b.d.0.1.0.0.2.ip6.arpa.\" static\n  local-zone: \"test.\" static\n")
	for _, r := range records {
		fmt.Fprintf(&b, "  local-data: '%s'\n", r)
	}
	b.WriteString("remote-control:\n  control-enable: no\n")
	file := filepath.Join(dir, "unbound.conf")
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(program, "-d", "-c", file)
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("unbound: %s", log.String())
		}
	})
	server := fmt.Sprintf("127.0.0.1:%d", port)
	config := resolver.DefaultConfig()
	config.Servers, config.CacheEntries = []string{server}, 0
	r, err := resolver.New(config, resolver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "unbound", func() bool {
		_, err := r.LookupTXT(context.Background(), "_dmarc.example.test")
		return err == nil || !strings.Contains(err.Error(), "refused") && !strings.Contains(err.Error(), "timeout")
	})
	return server
}

// TestReportArrives: a DMARC report that comes as mail is shown from the mailbox, with and without a running server.
func TestReportArrives(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	s.start()
	text, err := os.ReadFile("../../../pipeline/report/dmarc/testdata/full.xml")
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := io.Copy(z, bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	z.Close()
	message := "From: <noreply@example.org>\r\nTo: <alice@example.test>\r\nSubject: Report domain: example.net Submitter: example.org\r\nDate: Sat, 21 Nov 2026 12:00:00 +0000\r\n" +
		"Message-ID: <r1@example.org>\r\nMIME-Version: 1.0\r\nContent-Type: application/gzip\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
		base64.StdEncoding.EncodeToString(packed.Bytes()) + "\r\n"
	c, err := dialSMTP(s.addr("mx"), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if _, err := c.send(stranger, []string{alice}, message); err != nil {
		t.Fatal(err)
	}
	want := "example.net: 4 messages, 3 passed (3 by DKIM, 0 by SPF), 1 quarantined, 0 rejected"
	eventually(t, 10*time.Second, "the report in the mailbox", func() bool {
		return strings.Contains(s.sluice("", "report", "show", "--account", alice), want)
	})
	s.stop()
	if out := s.sluice("", "report", "show", "--account", alice); !strings.Contains(out, "INBOX, UID 1") || !strings.Contains(out, want) {
		t.Errorf("without a server: %s", out)
	}
	if out, err := s.trySluice("", "report", "show", "--account", bob, "--mailbox", "Nowhere"); err == nil || !strings.Contains(out, "Nowhere") {
		t.Errorf("a mailbox that is not there: %v %s", err, out)
	}
}
