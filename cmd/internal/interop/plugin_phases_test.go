package interop

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

// lists are two DNS lists: who is on deny.test is refused at connect, who is on grey.test
// has four points before it has said a word.
const lists = `
2.0.0.127.deny.test.      IN A 127.0.0.2
66.113.0.203.deny.test.   IN A 127.0.0.2
2.0.0.127.grey.test.      IN A 127.0.0.2
9.113.0.203.grey.test.    IN A 127.0.0.2
`

// from begins a connection that comes from somewhere else, by PROXY, and returns what the
// server says first.
func (s *site) from(client string) (*smtpClient, string) {
	s.t.Helper()
	conn, err := net.DialTimeout("tcp", s.addr("proxied"), 5*time.Second)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(15 * time.Second))
	fmt.Fprintf(conn, "PROXY TCP4 %s 127.0.0.1 40000 25\r\n", client)
	c := &smtpClient{conn: conn, r: bufio.NewReader(conn)}
	line, err := c.r.ReadString('\n')
	if err != nil {
		s.t.Fatal(err)
	}
	if strings.HasPrefix(line, "220 ") {
		if _, err := c.command(250, "EHLO mx.example.org"); err != nil {
			s.t.Fatal(err)
		}
	}
	return c, strings.TrimRight(line, "\r\n")
}

// TestPluginPhases: two shipped plugins decide at connect and at RCPT, one by what the other
// has said, and the message that comes through has all of it in its score and its trace.
func TestPluginPhases(t *testing.T) {
	dns, stop, err := resolvertest.Start(lists)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	s := newSite(t, fmt.Sprintf(`
[listener.proxied]
protocol = "smtp"
address = "127.0.0.1:0"
proxy_from = ["127.0.0.1"]

[plugin.dnsbl]
builtin = "dnsbl"
[plugin.dnsbl.config]
servers = [%q]
[plugin.dnsbl.config.addresses."deny.test"]
weight = 10.0
refuse = true
[plugin.dnsbl.config.addresses."grey.test"]
weight = 4.0

[plugin.greylist]
builtin = "greylist"
[plugin.greylist.config]
delay = "1s"
min_score = 2.0

[pipeline.inbound.anti-spam]
plugins = ["dnsbl", "greylist"]
`, dns))
	s.start()

	c, said := s.from("203.0.113.66")
	if !strings.HasPrefix(said, "554 5.7.1 mx.example.test ") {
		t.Errorf("a client on the list is told %q", said)
	}
	if line, err := c.r.ReadString('\n'); err == nil {
		t.Errorf("and then %q", line)
	}
	eventually(t, 5*time.Second, "a line in the log", func() bool {
		log := s.logText()
		return strings.Contains(log, "connection refused") && strings.Contains(log, "plugin=dnsbl")
	})

	c, _ = s.from("203.0.113.10") // nothing speaks against it
	if _, err := c.send(stranger, []string{alice}, letter("clean@example.org", "clean", 1000)); err != nil {
		t.Errorf("an unlisted client: %v", err)
	}

	c, _ = s.from("203.0.113.9")
	for _, attempt := range []struct {
		wait time.Duration
		code string
	}{{0, "451"}, {1200 * time.Millisecond, "250"}} {
		time.Sleep(attempt.wait)
		if _, err := c.command(250, "MAIL FROM:<"+stranger+">"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.command(550, "RCPT TO:<nobody@example.test>"); err != nil {
			t.Errorf("somebody who does not exist: %v", err) // ours to say, not greylist's
		}
		fmt.Fprintf(c.conn, "RCPT TO:<%s>\r\n", alice)
		line, _ := c.r.ReadString('\n')
		if !strings.HasPrefix(line, attempt.code) {
			t.Fatalf("greylisted %v before: %q, want %s", attempt.wait, line, attempt.code)
		}
		if _, err := c.command(250, "RSET"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.send(stranger, []string{alice}, letter("grey@example.org", "grey", 1000)); err != nil {
		t.Fatal(err)
	}
	s.waitMail(alice, "INBOX", "grey@example.org")
	text, err := s.message(alice, "grey@example.org")
	if err != nil || !strings.Contains(text, "X-Sluice-Score: 4\r\n") {
		t.Errorf("the score of connect is not in the message: %v\n%.600s", err, text)
	}
	told := s.sluice("", "trace", "grey@example.org")
	for _, want := range []string{"dnsbl", "at connect", "greylist", "at recipient"} {
		if !strings.Contains(told, want) {
			t.Errorf("the trace says nothing of %q:\n%s", want, told)
		}
	}
}
