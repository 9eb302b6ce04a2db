package interop

import (
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

// world is a network of its own with a name server, our server and others, who
// find each other by MX at port 25.
type world struct {
	*site
	dns *resolvertest.Server
}

const nameServer = "127.0.1.53:53"

// worldZone is what DNS says in a world: our server at 127.0.0.1, the others
// where mtaAddresses has them.
const worldZone = `
example.test.                IN MX 10 mx.example.test.
example.test.                IN TXT "v=spf1 ip4:127.0.0.1 -all"
mx.example.test.             IN A 127.0.0.1
1.0.0.127.in-addr.arpa.      IN PTR mx.example.test.
postfix.test.                IN MX 10 mx.postfix.test.
postfix.test.                IN TXT "v=spf1 ip4:127.0.1.2 -all"
mx.postfix.test.             IN A 127.0.1.2
2.1.0.127.in-addr.arpa.      IN PTR mx.postfix.test.
exim.test.                   IN MX 10 mx.exim.test.
exim.test.                   IN TXT "v=spf1 ip4:127.0.1.3 -all"
mx.exim.test.                IN A 127.0.1.3
3.1.0.127.in-addr.arpa.      IN PTR mx.exim.test.
opensmtpd.test.              IN MX 10 mx.opensmtpd.test.
opensmtpd.test.              IN TXT "v=spf1 ip4:127.0.1.4 -all"
mx.opensmtpd.test.           IN A 127.0.1.4
4.1.0.127.in-addr.arpa.      IN PTR mx.opensmtpd.test.
nomail.test.                 IN MX 0 .
loop.test.                   IN MX 10 mx.example.test.
`

const (
	postfixAddr   = "127.0.1.2"
	eximAddr      = "127.0.1.3"
	opensmtpdAddr = "127.0.1.4"
)

// newWorld makes our part of a world: a name server that the others ask too, and a
// site whose server takes mail at port 25 and may deliver on loopback. extra is
// more configuration, zone more of DNS.
func newWorld(t testing.TB, extra, zone string) *world {
	t.Helper()
	z, err := resolvertest.ParseZone(worldZone + zone)
	if err != nil {
		t.Fatal(err)
	}
	dns, err := resolvertest.StartServerAt(z, nameServer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dns.Stop)
	w := newWorldAsking(t, extra)
	w.dns = dns
	return w
}

// newWorldAsking is newWorld for those who start the name server by themselves.
func newWorldAsking(t testing.TB, extra string) *world {
	t.Helper()
	ip, _, _ := strings.Cut(nameServer, ":")
	bind(t, "/etc/resolv.conf", "nameserver "+ip+"\n", 0o644)
	s := newSite(t, "")
	text := strings.Replace(fmt.Sprintf(baseConfig, nameServer), `[listener.mx]
protocol = "smtp"
address = "127.0.0.1:0"`, `[listener.mx]
protocol = "smtp"
address = "127.0.0.1:25"`, 1)
	s.writeFile("sluice.toml", text+`
[pipeline.inbound.deliver]
allow_private = ["127.0.0.0/8"]
[pipeline.outbound.deliver]
allow_private = ["127.0.0.0/8"]
`+extra)
	return &world{site: s}
}

// clientTime bounds a conversation of a test with a server.
const clientTime = time.Minute

// post sends a message of alice's through submission, as her mail program does.
func (s *site) post(to []string, id, subject string, size int, fields ...string) {
	s.t.Helper()
	c := s.submission()
	defer c.close()
	message := strings.Replace(letter(id, subject, size, fields...), stranger, alice, 1)
	if _, err := c.send(alice, to, message); err != nil {
		s.t.Fatalf("post %s: %v", id, err)
	}
}

// postUTF8 sends a message to an address that needs SMTPUTF8 (RFC 6531).
func (s *site) postUTF8(to, id string) {
	s.t.Helper()
	c := s.submission()
	defer c.close()
	message := strings.Replace(letter(id, "international", 1000), stranger, alice, 1)
	for _, step := range []struct {
		want int
		line string
	}{{250, "MAIL FROM:<" + alice + "> SMTPUTF8"}, {250, "RCPT TO:<" + to + ">"}, {354, "DATA"}, {250, dotStuff(message) + "."}} {
		if _, err := c.command(step.want, "%s", step.line); err != nil {
			s.t.Fatalf("post %s: %v", id, err)
		}
	}
}

// submission logs alice in.
func (s *site) submission() *smtpClient {
	s.t.Helper()
	c, err := dialSMTP(s.addr("submission"), clientTime)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := c.startTLS(); err != nil {
		s.t.Fatal(err)
	}
	token := base64.StdEncoding.EncodeToString([]byte("\x00" + alice + "\x00" + password))
	if _, err := c.command(235, "AUTH PLAIN %s", token); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// inConfig replaces text in the site's configuration.
func (s *site) inConfig(old, with string) {
	s.t.Helper()
	text, err := os.ReadFile(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		s.t.Fatalf("the configuration has no %q", old)
	}
	s.writeFile("sluice.toml", strings.Replace(string(text), old, with, 1))
}

// inbox returns the messages in a user's INBOX.
func (s *site) inbox(user string) []string {
	s.t.Helper()
	p, err := s.pop3Login(user)
	if err != nil {
		s.t.Fatal(err)
	}
	defer p.conn.Close()
	listing, err := p.multi("LIST")
	if err != nil {
		s.t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(listing) {
		number, _, _ := strings.Cut(line, " ")
		text, err := p.multi("RETR " + number)
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, text)
	}
	return all
}

// awaitInbox waits for a message in which all of the words stand.
func (s *site) awaitInbox(user string, words ...string) (message string) {
	s.t.Helper()
	eventually(s.t, 30*time.Second, fmt.Sprintf("a message for %s with %q", user, words), func() bool {
		for _, text := range s.inbox(user) {
			all := true
			for _, w := range words {
				all = all && strings.Contains(text, w)
			}
			if all {
				message = text
				return true
			}
		}
		return false
	})
	return message
}
