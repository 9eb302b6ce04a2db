package interop

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
)

// newSpamd starts spamd with a handful of SpamAssassin's own rules and without the network.
func newSpamd(t testing.TB) *scanner {
	t.Helper()
	spamd := peer(t, "spamd", "spamd")
	d := &scanner{t: t, dir: scannerDir(t)}
	d.write("init.pre", "loadplugin Mail::SpamAssassin::Plugin::Check\nloadplugin Mail::SpamAssassin::Plugin::HeaderEval\n"+
		"loadplugin Mail::SpamAssassin::Plugin::BodyEval\nloadplugin Mail::SpamAssassin::Plugin::RelayEval\nloadplugin Mail::SpamAssassin::Plugin::Bayes\n")
	d.write("local.cf", "use_bayes 1\nbayes_path "+d.dir+"/bayes\nbayes_auto_learn 0\nheader TEST_BAT X-Mailer =~ /The Bat/\ndescribe TEST_BAT a mailer of the test\nscore TEST_BAT 1.5\n"+
		"header TEST_SENDER EnvelopeFrom =~ /^stranger\\@example\\.org$/\ndescribe TEST_SENDER the sender of the envelope\nscore TEST_SENDER -0.25\n")
	if err := os.Mkdir(filepath.Join(d.dir, "rules"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"10_default_prefs.cf", "20_body_tests.cf", "50_scores.cf", "languages"} {
		if err := os.Symlink("/usr/share/spamassassin/"+name, filepath.Join(d.dir, "rules", name)); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(d.dir, "spamd.sock")
	d.args = []string{
		spamd, "--local", "--nouser-config", "--allow-tell", "--syslog=stderr", "--max-children=2", "--min-children=2",
		"--configpath=" + filepath.Join(d.dir, "rules"), "--siteconfigpath=" + d.dir, "--socketpath=" + socket,
	}
	if os.Getuid() == 0 {
		d.args = append(d.args, "--username=nobody")
	}
	d.answer = func() error {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		fmt.Fprint(c, "PING SPAMC/1.5\r\n\r\n")
		line, err := bufio.NewReader(c).ReadString('\n')
		if err == nil && !strings.Contains(line, "PONG") {
			err = fmt.Errorf("answered %q", line)
		}
		return err
	}
	d.start()
	return d
}

// TestSpamAssassin: a real spamd scores, its spam goes into Junk or is refused, and it is taken away.
func TestSpamAssassin(t *testing.T) {
	d := newSpamd(t)
	address := fmt.Sprintf("address = \"unix:%s/spamd.sock\"", d.dir)
	s := twoPolicies(t, "spamassassin", address+"\nscale = 0.01\nfields = true\nlearn = true", address)
	s.start()
	defer s.stop()

	const id = "clean.mx@example.org"
	if _, err := s.sendTo("mx", letter(id, "the minutes", 2000, "X-Mailer: The Bat! (v1.52f) Business", "X-Spam-Flag: YES")); err != nil {
		t.Fatal(err)
	}
	s.waitMail(alice, "INBOX", id)
	trace := s.sluice("", "trace", id)
	for _, want := range []string{"SPAMASSASSIN (spam: no, score 1.2 of 5.0)", "TEST_BAT=0.015 (a mailer of the test)", "TEST_SENDER=-0.002"} {
		if !strings.Contains(trace, want) {
			t.Errorf("the trace of a clean message does not have %q:\n%s", want, trace)
		}
	}
	text, err := s.message(alice, id)
	if header, _, _ := strings.Cut(text, "\r\n\r\n"); err != nil || !strings.Contains(header, "X-Spam-Status: No, score=1.2 required=5.0 tests=TEST_BAT, TEST_SENDER") ||
		strings.Contains(header, "X-Spam-Flag") || strings.Contains(header, "X-Envelope-From") {
		t.Errorf("the fields of a clean message: %v\n%s", err, header)
	}

	// 1,000 points: over reject_at. A hundredth of them: spamd's word alone puts it into Junk at 10 points.
	if _, err := s.sendTo("strict", letter("gtube.strict@example.org", "gtube", 500)+gtubeLine()+"\r\n"); replyCode(err) != 550 {
		t.Errorf("GTUBE: %v, expected 550", err)
	}
	if _, err := s.sendTo("mx", letter("gtube.mx@example.org", "gtube", 500)+gtubeLine()+"\r\n"); err != nil {
		t.Error(err)
	}
	s.waitMail(alice, "Junk", "gtube.mx@example.org")

	const large = "large.mx@example.org"
	if _, err := s.sendTo("mx", letter(large, "large", 600<<10)); err != nil {
		t.Fatal(err)
	}
	s.waitMail(alice, "INBOX", large)
	if trace := s.sluice("", "trace", large); !strings.Contains(trace, "SPAMASSASSIN_SKIPPED_SIZE (not scanned: 614") {
		t.Errorf("the trace of a large message:\n%s", trace)
	}
	s.lessons(d, id)
	if out := s.sluice("", "plugin", "tell", "open", "ping"); !strings.Contains(out, "answers in") {
		t.Errorf("plugin tell open ping: %s", out)
	}
	s.drill(d)
}

// lessons moves a message of alice's into Junk and back, and waits until spamd has been taught twice.
func (s *site) lessons(d *scanner, id string) {
	t := s.t
	t.Helper()
	for n, to := range []string{"Junk", "INBOX"} {
		c, err := s.imapLogin(alice)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Select(map[string]string{"Junk": "INBOX", "INBOX": "Junk"}[to], nil).Wait(); err != nil {
			t.Fatal(err)
		}
		found, err := c.UIDSearch(&imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: "Message-ID", Value: "<" + id + ">"}}}, nil).Wait()
		if err != nil || len(found.AllUIDs()) != 1 {
			t.Fatalf("<%s> before the move to %s: %v, %v", id, to, found, err)
		}
		if _, err := c.Move(imap.UIDSetNum(found.AllUIDs()...), to).Wait(); err != nil {
			t.Fatal(err)
		}
		eventually(t, 20*time.Second, "spamd is taught after a move to "+to, func() bool {
			output, err := os.ReadFile(filepath.Join(d.dir, "output"))
			return err == nil && strings.Count(string(output), "Tell: Setting local") == n+1
		})
	}
}
