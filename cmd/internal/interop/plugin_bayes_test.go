package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const bayesConfig = `
[pipeline.inbound.anti-spam]
plugins = ["bayes"]

[plugin.bayes]
builtin = "bayes"
[plugin.bayes.config]
min_spam = 20
min_ham = 20
`

// bayesLetter is a letter of one kind, different from every other.
func bayesLetter(spam bool, id string) string {
	text := "Here are the minutes of yesterday's meeting about the schedule of the project."
	if spam {
		text = "Cheap pills, no prescription! Order now at http://pills.example/buy and save 70%."
	}
	return fmt.Sprintf("From: A Stranger <%s>\r\nTo: <%s>\r\nDate: Sat, 21 Nov 2026 20:00:00 +0000\r\nMessage-ID: <%s>\r\nSubject: letter %s\r\n\r\n%s\r\n",
		stranger, alice, id, id, text)
}

// TestBayes: the built program with no other filter is silent at first, learns what an administrator and a reader teach, puts spam into
// Junk by itself, and still does after kill -9.
func TestBayes(t *testing.T) {
	s := newSite(t, bayesConfig)
	s.start()
	send := func(spam bool, id, mailbox string) {
		t.Helper()
		c, err := dialSMTP(s.addr("mx"), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		if _, err := c.send(stranger, []string{alice}, bayesLetter(spam, id)); err != nil {
			t.Fatal(err)
		}
		s.waitMail(alice, mailbox, id)
	}
	send(true, "early@example.org", "INBOX")

	// The administrator: a folder, and an mbox.
	dir := filepath.Join(s.dir, "data", "plugin", "bayes", "teach")
	if err := os.MkdirAll(filepath.Join(dir, "spam"), 0o755); err != nil {
		t.Fatal(err)
	}
	var mbox strings.Builder
	for i := range 30 {
		if err := os.WriteFile(filepath.Join(dir, "spam", fmt.Sprint(i)), []byte(bayesLetter(true, fmt.Sprintf("s%d@example.net", i))), 0o644); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&mbox, "From x@example.net Sat Nov 21 20:00:00 2026\n%s\n", strings.ReplaceAll(bayesLetter(false, fmt.Sprintf("h%d@example.net", i)), "\r\n", "\n"))
	}
	if err := os.WriteFile(filepath.Join(dir, "ham"), []byte(mbox.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	for words, want := range map[string]string{"spam teach/spam": "30 messages learned as spam, 0 were known", "ham teach/ham": "30 messages learned as ham, 0 were known"} {
		if out := s.sluice("", append([]string{"plugin", "tell", "bayes", "learn"}, strings.Fields(words)...)...); !strings.Contains(out, want) {
			t.Errorf("learn %s: %s", words, out)
		}
	}
	send(true, "late@example.org", "Junk")
	send(false, "wanted@example.org", "INBOX")
	if trace := s.sluice("", "trace", "late@example.org"); !strings.Contains(trace, "BAYES_99") {
		t.Errorf("the trace does not say why:\n%s", trace)
	}

	// The reader: what was missed goes into Junk by hand, once and for all.
	learned := func(want string) {
		t.Helper()
		var out string
		for end := time.Now().Add(10 * time.Second); !strings.Contains(out, want); time.Sleep(50 * time.Millisecond) {
			if out = s.sluice("", "plugin", "tell", "bayes", "stats"); time.Now().After(end) {
				t.Fatalf("not %q:\n%s", want, out)
			}
		}
	}
	learned("learned: 30 spam, 30 ham")
	if err := s.moveMail("early@example.org", "INBOX", "Junk"); err != nil {
		t.Fatal(err)
	}
	learned("learned: 31 spam, 30 ham")
	if err := s.moveMail("early@example.org", "Junk", "INBOX"); err != nil {
		t.Fatal(err)
	}
	learned("learned: 30 spam, 31 ham")

	s.crash()
	s.start()
	learned("learned: 30 spam, 31 ham")
	send(true, "again@example.org", "Junk")
	send(false, "fine@example.org", "INBOX")
	s.stop()
}
