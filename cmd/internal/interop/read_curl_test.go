package interop

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// fill puts n letters into alice's INBOX by SMTP and returns their Message-IDs in
// the order of their UIDs.
func (s *site) fill(prefix string, n int) []string {
	s.t.Helper()
	c, err := dialSMTP(s.addr("mx"), time.Minute)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.close()
	ids := make([]string, n)
	for i := range n {
		ids[i] = fmt.Sprintf("%s.%d@example.org", prefix, i)
		if _, err := c.send(stranger, []string{alice}, letter(ids[i], fmt.Sprintf("%s %d", prefix, i), 1500, "X-Number: "+fmt.Sprint(i))); err != nil {
			s.t.Fatal(err)
		}
		// One after the other, so that UIDs are in order: delivery is concurrent.
		s.waitMail(alice, "INBOX", ids[i])
	}
	return ids
}

// TestCurlRead: curl's imap, imaps, pop3 and pop3s.
func TestCurlRead(t *testing.T) {
	t.Parallel()
	curl := peer(t, "curl", "curl")
	s := newSite(t, "")
	s.start()
	defer s.stop()
	ids := s.fill("curlread", 3)
	user := []string{"--user", alice + ":" + password}
	starttls := func(more ...string) []string {
		return slices.Concat([]string{"--ssl-reqd", "--cacert", s.ca}, user, more)
	}
	implicit := func(more ...string) []string { return slices.Concat([]string{"--cacert", s.ca}, user, more) }
	imap, imaps := "imap://127.0.0.1:"+s.port("imap")+"/", "imaps://127.0.0.1:"+s.port("imaps")+"/"
	pop3, pop3s := "pop3://127.0.0.1:"+s.port("pop3")+"/", "pop3s://127.0.0.1:"+s.port("pop3s")+"/"
	tests := []struct {
		name string
		args []string
		want []string // in the output; "!" in front: not in the output
		fail bool
	}{
		{"imap-list", starttls(imap), []string{"INBOX", `\Sent`, `\Drafts`, `\Junk`, `\Trash`, `\Archive`}, false},
		{"imap-fetch", starttls(imap + "INBOX;MAILINDEX=1"), []string{"<" + ids[0] + ">", "Line 9 of a letter", "Delivered-To: alice@example.test"}, false},
		{"imap-header", starttls(imap + "INBOX;MAILINDEX=2;SECTION=HEADER.FIELDS%20(SUBJECT)"), []string{"Subject: curlread 1", "!X-Number"}, false},
		{"imap-text", starttls(imap + "INBOX;MAILINDEX=2;SECTION=TEXT"), []string{"Line 0 of a letter", "!Subject:"}, false},
		{"imap-search", implicit(imaps + "INBOX?SUBJECT%20%22curlread%202%22"), []string{"* SEARCH 3"}, false},
		{"imap-status", implicit(imaps, "-X", "STATUS INBOX (MESSAGES UNSEEN UIDNEXT)"), []string{"MESSAGES 3", "UIDNEXT 4"}, false},
		{"imap-capability", implicit(imaps, "-X", "CAPABILITY"), []string{"IMAP4rev1", "IDLE", "MOVE", "UIDPLUS", "SPECIAL-USE"}, false},
		{"imap-append", implicit(imaps+"Sent", "--upload-file", s.writeLetter("append.eml", "appended@example.org", 2000)), nil, false},
		{"imap-appended", implicit(imaps + "Sent;MAILINDEX=1"), []string{"<appended@example.org>", "!Delivered-To"}, false},
		{"imap-no-tls", slices.Concat(user, []string{imap}), nil, true},
		{"imap-wrong-password", []string{"--ssl-reqd", "--cacert", s.ca, "--user", alice + ":wrong", imap}, nil, true},

		{"pop3-list", starttls(pop3), []string{"1 ", "2 ", "3 ", "!4 "}, false},
		{"pop3-uidl", starttls(pop3, "-X", "UIDL"), []string{"1 ", "3 "}, false},
		{"pop3-retr", starttls(pop3 + "2"), []string{"<" + ids[1] + ">", "Line 9 of a letter", "Delivered-To: alice@example.test"}, false},
		{"pop3-top", implicit(pop3s, "-X", "TOP 3 1"), []string{"<" + ids[2] + ">", "Line 0 of a letter", "!Line 1 of"}, false},
		{"pop3-auth-plain", implicit(pop3s+"1", "--login-options", "AUTH=PLAIN", "--sasl-ir"), []string{"<" + ids[0] + ">"}, false},
		{"pop3-auth-plain-challenge", implicit(pop3s+"1", "--login-options", "AUTH=PLAIN"), []string{"<" + ids[0] + ">"}, false},
		{"pop3-user-pass", implicit(pop3s+"1", "--login-options", "AUTH=+LOGIN"), nil, true}, // no such mechanism here
		{"pop3-no-tls", slices.Concat(user, []string{pop3}), nil, true},
		{"pop3-wrong-password", []string{"--cacert", s.ca, "--user", alice + ":wrong", pop3s}, nil, true},
		{"pop3-dele", implicit(pop3s, "-X", "DELE 1", "--head"), nil, false},
		{"pop3-after-dele", implicit(pop3s), []string{"1 ", "2 ", "!3 "}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s.t = t
			args := append([]string{curl, "-sS", "--noproxy", "*", "--max-time", "20"}, test.args...)
			out, err := s.run(30*time.Second, "", args...)
			if (err != nil) != test.fail {
				t.Fatalf("curl %q: %v\n%s", test.args, err, out)
			}
			for _, want := range test.want {
				without := strings.HasPrefix(want, "!")
				want = strings.TrimPrefix(want, "!")
				if strings.Contains(out, want) == without {
					t.Errorf("curl %q: expected %q (absent: %v) in\n%s", test.args, want, without, out)
				}
			}
		})
	}
	s.t = t
}
