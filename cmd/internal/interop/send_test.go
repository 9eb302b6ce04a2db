package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// python runs a script of testdata with this site's addresses in its
// environment. A script prints what it does and ends with an exception when the
// server does something else than it expects.
func (s *site) python(script string, args ...string) string {
	s.t.Helper()
	python := peer(s.t, "python3", "python3")
	path, err := filepath.Abs(filepath.Join("testdata", script))
	if err != nil {
		s.t.Fatal(err)
	}
	return s.mustRun("", append([]string{python, "-B", path}, args...)...)
}

// TestSMTPLib: Python's smtplib, as scripts and web applications use it.
func TestSMTPLib(t *testing.T) {
	t.Parallel()
	peer(t, "python3", "python3")
	s := newSite(t, "")
	s.start()
	defer s.stop()
	for _, mode := range []string{"plain", "starttls", "implicit", "utf8", "many", "binary-attachment", "refused"} {
		t.Run(mode, func(t *testing.T) {
			s.t = t
			listener := map[string]string{"starttls": "submission", "implicit": "submissions"}[mode]
			if listener == "" {
				listener = "mx"
			}
			out := s.python("smtplib_send.py", mode, s.port(listener), s.ca, password)
			sent := 0
			for _, line := range strings.Split(out, "\n") {
				if id, ok := strings.CutPrefix(line, "sent "); ok {
					s.waitMail(alice, "INBOX", id)
					sent++
				}
			}
			if want := map[string]int{"many": 20, "refused": 0}[mode]; mode == "many" && sent != want || mode != "refused" && sent == 0 {
				t.Fatalf("sent %d messages\n%s", sent, out)
			}
		})
	}
	s.t = t
}

// TestCurlSend: curl's smtp and smtps.
func TestCurlSend(t *testing.T) {
	t.Parallel()
	curl := peer(t, "curl", "curl")
	s := newSite(t, "")
	s.start()
	defer s.stop()
	tests := []struct {
		name, url string
		args      []string
		from      string
	}{
		{"plain", "smtp://127.0.0.1:" + s.port("mx"), nil, stranger},
		{"starttls", "smtp://127.0.0.1:" + s.port("mx"), []string{"--ssl-reqd", "--cacert", s.ca}, stranger},
		{"submission", "smtp://127.0.0.1:" + s.port("submission"), []string{"--ssl-reqd", "--cacert", s.ca, "--user", alice + ":" + password}, alice},
		{"auth-login", "smtp://127.0.0.1:" + s.port("submission"), []string{"--ssl-reqd", "--cacert", s.ca, "--user", alice + ":" + password, "--login-options", "AUTH=LOGIN"}, alice},
		{"smtps", "smtps://127.0.0.1:" + s.port("submissions"), []string{"--cacert", s.ca, "--user", alice + ":" + password}, alice},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s.t = t
			id := fmt.Sprintf("curl.%d@example.org", i)
			file := s.writeFile("letter.eml", strings.Replace(letter(id, "from curl", 3000), stranger, test.from, 1))
			args := append([]string{curl, "-sS", "--noproxy", "*", "--max-time", "30", "--mail-from", test.from, "--mail-rcpt", alice, "--upload-file", file}, test.args...)
			s.mustRun("", append(args, test.url)...)
			s.waitMail(alice, "INBOX", id)
		})
	}
	s.t = t
}

// TestSMTPSource: Postfix's smtp-source sends 10,000 messages over 32
// connections to four mailboxes, and each is in its mailbox once.
func TestSMTPSource(t *testing.T) {
	source := peer(t, "smtp-source", "postfix")
	total, users := 10000, []string{alice, bob, "carol@" + domain, "dave@" + domain}
	if testing.Short() || raceEnabled {
		total = 2000
	}
	s := newSite(t, "")
	s.addUser(users[2])
	s.addUser(users[3])
	s.start()
	defer s.stop()

	began := time.Now()
	errs := make(chan error, len(users))
	for _, user := range users {
		go func() {
			out, err := s.run(5*time.Minute, "", source, "-s", "8", "-m", fmt.Sprint(total/len(users)), "-l", "4096", "-f", stranger, "-t", user,
				"-M", "mx.example.org", s.addr("mx"))
			if err != nil || strings.Contains(out, "fatal") || strings.Contains(out, "warning") {
				err = fmt.Errorf("smtp-source to %s: %v\n%s", user, err, out)
			}
			errs <- err
		}()
	}
	for range users {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(began)
	for _, user := range users {
		var counts map[string]int
		var err error
		eventually(t, time.Minute, "the mail of "+user, func() bool {
			counts, err = s.ids(user, "INBOX")
			return err == nil && len(counts) >= total/len(users)
		})
		if len(counts) != total/len(users) {
			t.Errorf("%s has %d different messages, want %d", user, len(counts), total/len(users))
		}
		for id, n := range counts {
			if n != 1 {
				t.Errorf("%s has <%s> %d times", user, id, n)
			}
		}
	}
	t.Logf("%d messages of 4 KiB over 32 connections accepted in %v (%.0f/s)", total, took.Round(time.Millisecond), float64(total)/took.Seconds())
	if out := s.sluice("", "queue", "list", "--json"); strings.TrimSpace(out) != "" {
		t.Errorf("the queue is not empty:\n%.1000s", out)
	}
}

// writeLetter puts a message into a file and returns its path.
func (s *site) writeLetter(name, id string, size int) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(letter(id, name, size)), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}
