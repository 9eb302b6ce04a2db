package interop

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-milter"
	"github.com/emersion/go-msgauth/dkim"
)

// dkimKey is a key in a file for opendkim, and what DNS would say of it.
func dkimKey(t testing.TB, dir string) (path, record string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "key.pem")
	private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	if err := os.WriteFile(path, private, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(public)
}

// newOpenDKIM starts opendkim with a unix socket "sock" in its directory. It takes nobody for one of its
// own hosts, so that it signs for those alone who have logged in.
func newOpenDKIM(t testing.TB, config func(dir string) string) *scanner {
	t.Helper()
	program := peer(t, "opendkim", "opendkim")
	d := &scanner{t: t, dir: scannerDir(t)}
	socket := filepath.Join(d.dir, "sock")
	d.write("none", "192.0.2.99\n")
	d.write("opendkim.conf", fmt.Sprintf(`Background no
AutoRestart no
RequireSafeKeys no
Syslog no
UMask 000
Socket local:%[1]s
PidFile %[2]s/pid
TemporaryDirectory %[2]s
InternalHosts %[2]s/none
%[3]s
`, socket, d.dir, config(d.dir)))
	d.args = []string{program, "-f", "-x", filepath.Join(d.dir, "opendkim.conf")}
	d.answer = func() error { return milterAnswers("unix", socket) }
	d.start()
	return d
}

// milterAnswers negotiates with a milter.
func milterAnswers(network, address string) error {
	c, err := net.Dial(network, address)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Write([]byte("\x00\x00\x00\x0dO\x00\x00\x00\x06\x00\x00\x01\xff\x00\x1f\xff\xff")); err != nil {
		return err
	}
	b := make([]byte, 5)
	if _, err := c.Read(b); err != nil {
		return err
	}
	if b[4] != 'O' {
		return fmt.Errorf("answered %q", b)
	}
	_, err = c.Write([]byte("\x00\x00\x00\x01Q"))
	return err
}

// submit sends a message as alice, who logs in.
func (s *site) submit(to, message string) error {
	s.t.Helper()
	c, err := dialSMTP(s.addr("submission"), time.Minute)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.close()
	if err := c.startTLS(); err != nil {
		s.t.Fatal(err)
	}
	if _, err := c.command(235, "AUTH PLAIN %s", base64.StdEncoding.EncodeToString([]byte("\x00"+alice+"\x00"+password))); err != nil {
		s.t.Fatal(err)
	}
	_, err = c.send(alice, []string{to}, message)
	return err
}

// TestOpenDKIM: a real milter signs what users send, and another verifies what comes in and is taken
// away.
func TestOpenDKIM(t *testing.T) {
	peer(t, "opendkim", "opendkim")
	path, record := dkimKey(t, t.TempDir())
	signer := newOpenDKIM(t, func(string) string {
		return fmt.Sprintf("Mode s\nCanonicalization relaxed/simple\nDomain %s\nSelector mail\nKeyFile %s\n", domain, path)
	})
	verifier := newOpenDKIM(t, func(dir string) string {
		if err := os.WriteFile(filepath.Join(dir, "public"), []byte("mail._domainkey."+domain+" "+record+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("Mode v\nTestPublicKeys %s/public\nOn-BadSignature reject\nOn-DNSError accept\nAlwaysAddARHeader yes\n", dir)
	})
	address := fmt.Sprintf("address = \"unix:%s/sock\"\n", verifier.dir)
	s := twoPolicies(t, "milter", address, address+`rename = { "Authentication-Results" = "X-Milter-Results" }`)
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.writeFile("sluice.toml", string(text)+fmt.Sprintf(`
[plugin.sign]
builtin = "milter"
[plugin.sign.config]
address = "unix:%s/sock"
[pipeline.outbound.anti-spam]
plugins = ["sign"]
`, signer.dir))
	s.start()
	defer s.stop()

	const id = "signed@example.test"
	if err := s.submit(bob, strings.ReplaceAll(letter(id, "A subject that is long enough to be folded when it is written again, some day, by somebody", 3000), stranger, alice)); err != nil {
		t.Fatal(err)
	}
	s.waitMail(bob, "INBOX", id)
	signed, err := s.message(bob, id)
	if err != nil {
		t.Fatal(err)
	}
	found, err := dkim.VerifyWithOptions(strings.NewReader(signed), &dkim.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
		if name != "mail._domainkey."+domain {
			return nil, errors.New("who is " + name)
		}
		return []string{record}, nil
	}})
	if err != nil || len(found) != 1 || found[0].Err != nil || found[0].Domain != domain {
		t.Fatalf("opendkim's signature: %+v %v\n%.2000s", found, err, signed)
	}

	// What was signed comes back from outside, whole and not.
	signed = signed[strings.Index(signed, "DKIM-Signature:"):]
	for _, listener := range []string{"mx", "strict"} {
		copied := strings.Replace(signed, "\r\n\r\n", "\r\nX-Copy: "+listener+"\r\n\r\n", 1)
		if _, err := s.sendTo(listener, copied); err != nil {
			t.Errorf("%s: what opendkim signed: %v", listener, err)
		}
		if _, err := s.sendTo(listener, strings.Replace(copied, "Line 3 ", "Line 4 ", 1)); replyCode(err) != 550 {
			t.Errorf("%s: what was changed: %v, expected 550", listener, err)
		}
	}
	eventually(t, 10*time.Second, "both copies", func() bool { ids, err := s.ids(alice, "INBOX"); return err == nil && ids[id] == 2 })
	if trace := s.sluice("", "trace", id); !strings.Contains(trace, "MILTER_FIELD (Authentication-Results: mx.example.test; dkim=pass") ||
		!strings.Contains(trace, "the milter said at end: 550 5.7.0 bad DKIM signature data") {
		t.Errorf("the trace:\n%s", trace)
	}
	const unsigned = "unsigned.strict@example.org"
	if _, err := s.sendTo("strict", letter(unsigned, "unsigned", 500, "X-Milter-Results: forged; dkim=pass")); err != nil {
		t.Fatal(err)
	}
	s.waitMail(alice, "INBOX", unsigned)
	if text, err := s.message(alice, unsigned); err != nil || strings.Contains(text, "forged") || !strings.Contains(text, "X-Milter-Results: mx.example.test; dkim=none") {
		t.Errorf("under another name: %v\n%.1500s", err, text)
	}
	for _, listener := range []string{"unasked", "mx"} {
		s.pace(listener, 4, 16)
		one, rate := s.pace(listener, 50, 160)
		t.Logf("%s: %v a message alone, %.0f messages/s over 8 connections", listener, one.Round(10*time.Microsecond), rate)
	}
	s.drill(verifier)
}

// newClamAVMilter starts clamav-milter before a clamd.
func newClamAVMilter(t testing.TB, clamd *scanner) (d *scanner, address string) {
	t.Helper()
	program := peer(t, "clamav-milter", "clamav-milter")
	d = &scanner{t: t, dir: scannerDir(t)}
	port := scannerPort(t)
	d.write("milter.conf", fmt.Sprintf(`Foreground yes
MilterSocket inet:%s@127.0.0.1
ClamdSocket unix:%s/clamd.sock
OnInfected Reject
RejectMsg Not with %%v in it
AddHeader Replace
MaxFileSize 2M
TemporaryDirectory %s
`, port, clamd.dir, d.dir))
	d.args = []string{program, "--config-file=" + filepath.Join(d.dir, "milter.conf")}
	d.answer = func() error { return milterAnswers("tcp", "127.0.0.1:"+port) }
	d.start()
	return d, "tcp:127.0.0.1:" + port
}

// TestClamAVMilter: the other way to ClamAV refuses the test file, and adds its fields to what is clean.
func TestClamAVMilter(t *testing.T) {
	clamd := newClamd(t)
	_, address := newClamAVMilter(t, clamd)
	config := fmt.Sprintf("address = %q", address)
	s := twoPolicies(t, "milter", config, config)
	s.start()
	defer s.stop()
	for _, listener := range []string{"mx", "strict"} {
		id := "clean." + listener + "@example.org"
		if _, err := s.sendTo(listener, letter(id, "the minutes", 200<<10, "X-Virus-Status: Clean, says the sender")); err != nil {
			t.Fatal(err)
		}
		s.waitMail(alice, "INBOX", id)
		text, err := s.message(alice, id)
		if err != nil || !strings.Contains(text, "X-Virus-Scanned: clamav-milter") || !strings.Contains(text, "X-Virus-Status: Clean\r\n") || strings.Contains(text, "says the sender") {
			t.Errorf("%s: %v\n%.1500s", listener, err, text)
		}
		var attached bytes.Buffer
		fmt.Fprintf(&attached, "From: <%s>\r\nMessage-ID: <bad.%s>\r\nMIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n%s",
			stranger, id, base64Lines(eicarText()))
		for _, message := range []string{letter("bad."+id, "x", 100) + eicarText() + "\r\n", attached.String()} {
			if _, err := s.sendTo(listener, message); replyCode(err) != 550 || !strings.Contains(err.Error(), "Not with Test.Eicar") {
				t.Errorf("%s: %v, expected 550 with the virus's name", listener, err)
			}
		}
	}
	clamd.kill() // the milter says "temporary", which is an opinion
	if _, err := s.sendTo("mx", letter("half@example.org", "x", 500)); replyCode(err) != 451 {
		t.Errorf("without clamd: %v, expected the milter's 451", err)
	}
}

// newRspamdMilter starts rspamd as a milter.
func newRspamdMilter(t testing.TB) (d *scanner, address string) {
	t.Helper()
	program := peer(t, "rspamd", "rspamd")
	d = &scanner{t: t, dir: scannerDir(t)}
	d.write("tld", "com\nnet\norg\ntest\n")
	config := strings.Replace(rspamdConfig, `.include "$CONFDIR/actions.conf"`, "actions { add_header = 3; reject = 15; }", 1)
	d.write("rspamd.conf", fmt.Sprintf(config, d.dir, scannerPort(t))+fmt.Sprintf(`
worker "rspamd_proxy" {
  bind_socket = "%s/milter.sock mode=0600";
  milter = yes;
  count = 1;
  upstream "local" { default = yes; self_scan = yes; }
}
`, d.dir))
	d.args = []string{program, "--no-fork", "--insecure", "--config", filepath.Join(d.dir, "rspamd.conf")}
	d.answer = func() error { return milterAnswers("unix", d.dir+"/milter.sock") }
	d.start()
	return d, "unix:" + d.dir + "/milter.sock"
}

// TestRspamdMilter: rspamd as a milter, which does not use libmilter, refuses GTUBE and adds its fields.
func TestRspamdMilter(t *testing.T) {
	_, at := newRspamdMilter(t)
	address := fmt.Sprintf("address = %q", at)
	s := twoPolicies(t, "milter", address, address)
	s.start()
	defer s.stop()
	const id = "clean@example.org"
	if _, err := s.sendTo("strict", letter(id, "the minutes", 2000, "X-Mailer: The Bat! (v1.52f) Business")); err != nil {
		t.Fatal(err)
	}
	s.waitMail(alice, "INBOX", id)
	if text, err := s.message(alice, id); err != nil || !strings.Contains(text, "X-Spam: Yes\r\n") {
		t.Errorf("%v\n%.1500s\n%s", err, text, s.sluice("", "trace", id))
	}
	if _, err := s.sendTo("strict", letter("gtube@example.org", "gtube", 500)+gtubeLine()+"\r\n"); replyCode(err) != 554 || !strings.Contains(err.Error(), "Gtube pattern") {
		t.Errorf("GTUBE: %v, expected 554 with rspamd's words", err)
	}
}

// rewriter is a milter that changes everything.
type rewriter struct{ milter.NoOpMilter }

func (rewriter) Body(m *milter.Modifier) (milter.Response, error) {
	for _, err := range []error{
		m.InsertHeader(0, "X-Inserted", "one\r\n\ttwo"), m.AddHeader("X-Added", "three"), m.ChangeHeader(1, "Subject", "another"), m.ChangeHeader(2, "X-Old", ""),
		m.DeleteRecipient(alice), m.AddRecipient(bob),
	} {
		if err != nil {
			return nil, err
		}
	}
	for range 20 { // more than the plugin keeps in memory
		if err := m.ReplaceBody([]byte(strings.Repeat("A line of the new body.\r\n", 2000))); err != nil {
			return nil, err
		}
	}
	return milter.RespAccept, nil
}

// TestMilterChanges: everything that a milter can change, in a message that is delivered.
func TestMilterChanges(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := milter.Server{
		NewMilter: func() milter.Milter { return rewriter{} },
		Actions:   milter.OptAddHeader | milter.OptChangeHeader | milter.OptChangeBody | milter.OptAddRcpt | milter.OptRemoveRcpt,
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	defer func() { l.Close(); <-done }()
	s := newSite(t, fmt.Sprintf(`
[plugin.rewriter]
builtin = "milter"
[plugin.rewriter.config]
address = "tcp:%s"
[pipeline.inbound.anti-virus]
plugins = ["rewriter"]
`, l.Addr()))
	s.start()
	defer s.stop()
	const id = "changed@example.org"
	if _, err := s.sendTo("mx", letter(id, "one", 2000, "X-Old: 1", "X-Old: 2")); err != nil {
		t.Fatal(err)
	}
	s.waitMail(bob, "INBOX", id)
	text, err := s.message(bob, id)
	header, body, _ := strings.Cut(text, "\r\n\r\n")
	if err != nil || body != strings.Repeat("A line of the new body.\r\n", 40000) {
		t.Errorf("%v: a body of %d octets: %.100q", err, len(body), body)
	}
	for field, want := range map[string]bool{
		"X-Inserted: one two": true, "X-Added: three": true, "Subject: another": true, "X-Old: 1": true, "X-Old: 2": false, "Subject: one": false,
	} {
		if strings.Contains(header+"\r\n", "\r\n"+field+"\r\n") != want {
			t.Errorf("%s: expected %v\n%s", field, want, header)
		}
	}
	if ids, err := s.ids(alice, "INBOX"); err != nil || len(ids) != 0 {
		t.Errorf("the recipient who was removed has %v %v", ids, err)
	}
	if out := s.sluice("", "plugin", "tell", "rewriter", "options"); !strings.Contains(out, "speaks version 2") {
		t.Errorf("options: %s", out)
	}
}
