package interop

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
)

var changerProgram = sync.OnceValues(func() (string, error) {
	return build("changer", "github.com/sluicemail/sluice/cmd/internal/interop/testdata/changer", raceFlags()...)
})

const (
	carol = "carol@example.test"
	dave  = "dave@example.test"
)

func newChangerSite(t *testing.T) *site {
	t.Helper()
	program, err := changerProgram()
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, fmt.Sprintf(`
[plugin.changer]
command = [%q]

[pipeline.inbound.anti-virus]
plugins = ["changer"]

[pipeline.inbound.route]
plugins = ["changer"]
`, program))
	s.addUser(carol)
	s.addUser(dave)
	return s
}

// TestPluginChanges: a plugin in a process of its own replaces the body for one of several recipients,
// adds and removes recipients, changes the sender and routes; what each one reads is compared
// octet by octet, before and after a crash.
func TestPluginChanges(t *testing.T) {
	s := newChangerSite(t)
	s.start()
	const id, lines = "big@example.org", 100_000
	arrived := letter(id, "big", 3000, "X-Change: body="+alice+" add="+carol+" add=nobody@example.test remove="+dave+" sender=bounces@example.org", fmt.Sprint("X-Lines: ", lines))
	c, err := dialSMTP(s.addr("mx"), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if _, err := c.send(stranger, []string{alice, bob, dave}, arrived); err != nil {
		t.Fatal(err)
	}
	head := arrived[:strings.Index(arrived, "\r\n\r\n")+4]
	var body strings.Builder
	for i := range lines {
		fmt.Fprintf(&body, ".line %d of a new body, \xff with an octet that is no text\r\n", i)
	}
	check := func() {
		for user, want := range map[string]string{alice: head + body.String(), bob: arrived, carol: arrived} {
			s.waitMail(user, "INBOX", id)
			got, structure := s.whole(user)
			if user == alice {
				want = "X-Body: replaced\r\n" + want
			}
			if !strings.HasSuffix(got, want[strings.Index(want, "From: A Stranger"):]) || strings.Contains(got, "X-Body") != (user == alice) {
				t.Errorf("IMAP: %s reads %d octets: %.600q", user, len(got), got)
			}
			if !strings.HasPrefix(got, "Return-Path: <bounces@example.org>\r\n") {
				t.Errorf("%s: %.100q", user, got)
			}
			text := want[strings.Index(want, "\r\n\r\n")+4:]
			if int(structure.Size) != len(text) || structure.Text == nil || int(structure.Text.NumLines) != strings.Count(text, "\r\n") {
				t.Errorf("%s: the structure says %+v of %d octets", user, structure, len(text))
			}
			if popped := s.popped(user); popped != got {
				t.Errorf("POP3 gives %s %d octets, IMAP %d", user, len(popped), len(got))
			}
		}
		if have, err := s.ids(dave, "INBOX"); err != nil || len(have) != 0 {
			t.Errorf("who was removed has %v, %v", have, err)
		}
	}
	check()
	s.crash()
	s.start()
	check()
	told := s.sluice("", "trace", id)
	for _, want := range []string{
		"change sender <bounces@example.org> instead of " + stranger, "add recipient " + carol, "replace body",
		"nobody@example.test", "550 5.1.1", "removed by plugin changer",
	} {
		if !strings.Contains(told, want) {
			t.Errorf("the trace does not say %q:\n%s", want, told)
		}
	}
}

// TestPluginChangesRefused: too many recipients and a bare CR in a body are answers that break the
// contract, and nothing of them is done; LMTP has one reply for each RCPT; a route is followed.
func TestPluginChangesRefused(t *testing.T) {
	s := newChangerSite(t)
	s.start()
	for change, code := range map[string]int{"add-many=150": 451, "add-many=10000": 451, "cr": 451} {
		c, err := dialSMTP(s.addr("mx"), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.send(stranger, []string{alice}, letter(change+"@example.org", change, 1000, "X-Change: "+change))
		c.close()
		if replyCode(err) != code {
			t.Errorf("%s: %v, want %d", change, err, code)
		}
	}
	s.lmtpReplies(letter("lmtp@example.org", "lmtp", 1000, "X-Change: add="+carol+" remove="+alice, "X-Route: "+bob+"="+dave), alice, bob)
	s.waitMail(carol, "INBOX", "lmtp@example.org")
	s.waitMail(dave, "INBOX", "lmtp@example.org")
	for _, user := range []string{alice, bob} {
		if have, err := s.ids(user, "INBOX"); err != nil || len(have) != 0 {
			t.Errorf("%s has %v, %v", user, have, err)
		}
	}
}

// lmtpReplies sends by LMTP and wants one 250 for each recipient, and nothing more, after the content.
func (s *site) lmtpReplies(message string, to ...string) {
	s.t.Helper()
	dialled, err := net.DialTimeout("tcp", s.addr("lmtp"), 5*time.Second)
	if err != nil {
		s.t.Fatal(err)
	}
	dialled.SetDeadline(time.Now().Add(time.Minute))
	conn := &smtpClient{conn: dialled, r: bufio.NewReader(dialled)}
	defer conn.close()
	if _, err := conn.reply(220); err != nil {
		s.t.Fatal(err)
	}
	steps := []string{"LHLO mx.example.org", "MAIL FROM:<" + stranger + ">"}
	for _, r := range to {
		steps = append(steps, "RCPT TO:<"+r+">")
	}
	for _, step := range steps {
		if _, err := conn.command(250, "%s", step); err != nil {
			s.t.Fatalf("%s: %v", step, err)
		}
	}
	if _, err := conn.command(354, "DATA"); err != nil {
		s.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn.conn, "%s.\r\nQUIT\r\n", dotStuff(message)); err != nil {
		s.t.Fatal(err)
	}
	for _, r := range to {
		if _, err := conn.reply(250); err != nil {
			s.t.Errorf("the reply for %s: %v", r, err)
		}
	}
	if _, err := conn.reply(221); err != nil {
		s.t.Errorf("the reply to QUIT: %v", err)
	}
}

// whole returns the octets of the only message of an INBOX, and the structure of its text.
func (s *site) whole(user string) (string, *imap.BodyStructureSinglePart) {
	s.t.Helper()
	c, err := s.imapLogin(user)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Select("INBOX", &imap.SelectOptions{ReadOnly: true}).Wait(); err != nil {
		s.t.Fatal(err)
	}
	section := &imap.FetchItemBodySection{Peek: true}
	got, err := c.Fetch(imap.SeqSetNum(1), &imap.FetchOptions{
		BodySection: []*imap.FetchItemBodySection{section}, RFC822Size: true, BodyStructure: &imap.FetchItemBodyStructure{},
	}).Collect()
	if err != nil || len(got) != 1 {
		s.t.Fatalf("fetch the mail of %s: %d messages, %v", user, len(got), err)
	}
	octets := string(got[0].FindBodySection(section))
	if got[0].RFC822Size != int64(len(octets)) {
		s.t.Errorf("RFC822.SIZE of %s: %d of %d octets", user, got[0].RFC822Size, len(octets))
	}
	structure, ok := got[0].BodyStructure.(*imap.BodyStructureSinglePart)
	if !ok {
		s.t.Fatalf("the structure of %s's mail: %+v", user, got[0].BodyStructure)
	}
	return octets, structure
}

// popped returns the octets of the only message of a maildrop, by POP3.
func (s *site) popped(user string) string {
	s.t.Helper()
	p, err := s.pop3Login(user)
	if err != nil {
		s.t.Fatal(err)
	}
	defer p.conn.Close()
	size, err := p.command("LIST 1")
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := p.command("RETR 1"); err != nil {
		s.t.Fatal(err)
	}
	var b strings.Builder
	for {
		line, err := p.text.R.ReadString('\n')
		if err != nil {
			s.t.Fatalf("POP3: %v", err)
		}
		if line == ".\r\n" {
			break
		}
		b.WriteString(strings.TrimPrefix(line, "."))
	}
	if want := fmt.Sprintf("+OK 1 %d", b.Len()); size != want {
		s.t.Errorf("POP3 lists %q, want %q", size, want)
	}
	if _, err := p.command("QUIT"); err != nil {
		s.t.Error(err)
	}
	return b.String()
}
