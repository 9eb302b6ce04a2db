package interop

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestSwaks: jetmore's swaks sends in every way that it knows and we offer.
func TestSwaks(t *testing.T) {
	t.Parallel()
	swaks := peer(t, "swaks", "swaks libnet-ssleay-perl")
	if out, err := exec.Command("perl", "-MNet::SSLeay", "-e1").CombinedOutput(); err != nil {
		missing(t, fmt.Sprintf("swaks cannot do TLS: %s", out), "libnet-ssleay-perl")
	}
	s := newSite(t, "")
	s.start()
	defer s.stop()
	attachment := s.writeFile("attachment.bin", strings.Repeat("\x00\x01\xfe\xff binary ", 20000))
	long := s.writeFile("dots.txt", strings.Repeat(".\n..\n.dot\n"+strings.Repeat("x", 900)+"\n", 50))

	auth := []string{"--auth-user", alice, "--auth-password", password}
	tests := []struct {
		name     string
		listener string
		args     []string
		from, to string
		fails    string // what the transcript says; "": the message arrives
	}{
		{"plain", "mx", nil, stranger, alice, ""},
		{"two recipients", "mx", nil, stranger, bob + "," + alice, ""},
		{"alias", "mx", nil, stranger, "team@" + domain, ""},
		{"subaddress", "mx", nil, stranger, "alice+swaks@" + domain, ""},
		{"null sender", "mx", nil, "<>", alice, ""},
		{"helo", "mx", []string{"--protocol", "SMTP"}, stranger, alice, ""},
		{"starttls", "mx", []string{"--tls"}, stranger, alice, ""},
		{"pipelining", "mx", []string{"--pipeline"}, stranger, alice, ""},
		{"pipelining over TLS", "mx", []string{"--pipeline", "--tls"}, stranger, alice, ""},
		{"attachment", "mx", []string{"--attach-type", "application/octet-stream", "--attach", "@" + attachment}, stranger, alice, ""},
		{"dots", "mx", []string{"--body", "@" + long}, stranger, alice, ""},
		{"lmtp", "lmtp", []string{"--protocol", "LMTP"}, stranger, alice, ""},
		{"auth plain", "submission", append([]string{"--tls", "--auth", "PLAIN"}, auth...), alice, alice, ""},
		{"auth login", "submission", append([]string{"--tls", "--auth", "LOGIN"}, auth...), alice, alice, ""},
		{"implicit TLS", "submissions", append([]string{"--tlsc", "--auth", "PLAIN"}, auth...), alice, alice, ""},

		{"unknown recipient", "mx", nil, stranger, "nobody@" + domain, "550 5.1.1"},
		{"relay", "mx", nil, stranger, "someone@example.net", "550 5.7.1"},
		{"no auth", "submission", []string{"--tls"}, alice, alice, "530 5.7.0"},
		{"no TLS", "submission", append([]string{"--auth", "PLAIN"}, auth...), alice, alice, "*** "},
		{"wrong password", "submission", []string{"--tls", "--auth", "PLAIN", "--auth-user", alice, "--auth-password", "wrong"}, alice, alice, "535 5.7.8"},
		{"other sender", "submission", append([]string{"--tls", "--auth", "PLAIN"}, auth...), bob, alice, "550 5.7.1"},
		{"no auth on smtp", "mx", append([]string{"--tls", "--auth", "PLAIN"}, auth...), alice, alice, "*** "},
	}
	for i, test := range tests {
		t.Run(strings.ReplaceAll(test.name, " ", "-"), func(t *testing.T) {
			s.t = t
			id := fmt.Sprintf("swaks.%d@example.org", i)
			args := append([]string{swaks, "--server", "127.0.0.1", "--port", s.port(test.listener), "--ehlo", "mx.example.org", "--timeout", "20s",
				"--from", test.from, "--to", test.to, "--h-From", test.from, "--h-Message-Id", "<" + id + ">"}, test.args...)
			if test.from == "<>" {
				args = append(args, "--h-From", "MAILER-DAEMON@example.org")
			}
			out, err := s.run(time.Minute, "", args...)
			if test.fails != "" {
				if err == nil || !strings.Contains(out, test.fails) {
					t.Fatalf("expected swaks to fail with %q: %v\n%s", test.fails, err, out)
				}
				return
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if !strings.Contains(out, "250 2.0.0 ") {
				t.Errorf("no 250 2.0.0 with a queue ID in\n%s", out)
			}
			s.waitMail(alice, "INBOX", id)
			if strings.Contains(test.to, bob) || strings.HasPrefix(test.to, "team") {
				s.waitMail(bob, "INBOX", id)
			}
		})
	}
	s.t = t
}
