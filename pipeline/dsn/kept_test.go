package dsn

import (
	"errors"
	"net/mail"
	"strings"
	"testing"
	"time"
)

// TestKept: the letter says what happened and what to do; what others wrote adds no field.
func TestKept(t *testing.T) {
	k := Kept{
		ID: "4F2K", ReportingMTA: "mx.example.test", Date: time.Unix(1e9, 0).UTC(), Owner: "postmaster@example.test",
		Alias: "info@example.test", Target: "info@example.net\r\nBcc: x@example.org", QueueID: "06H0", Sender: "evil\r\n\r\n@example.org",
		Arrival: time.Unix(1e9, 0).UTC(), RemoteMTA: "mx.example.net", Diagnostic: "550 5.7.1 <script>\x1b[2J no",
	}
	var b strings.Builder
	if _, err := WriteKept(&b, &k); err != nil {
		t.Fatal(err)
	}
	m, err := mail.ReadMessage(strings.NewReader(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"To": "<postmaster@example.test>", "From": "Mail Delivery System <MAILER-DAEMON@mx.example.test>", "Auto-Submitted": "auto-generated",
		"Subject": "Mail for info@example.test could not be forwarded", "Bcc": "", "Message-Id": "<4F2K@mx.example.test>",
	} {
		if got := m.Header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	for _, want := range []string{"info@example.net Bcc: x@example.org\r\n", "The server mx.example.net said: 550 5.7.1", "sluice quarantine show 06H0", "<evil @example.org>"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	for line := range strings.SplitSeq(b.String(), "\r\n") {
		if len(line) > 998 || strings.ContainsAny(line, "\x1b\r\n") {
			t.Errorf("line %q", line)
		}
	}
	k.Owner = "a b@example.test"
	if _, err := WriteKept(&b, &k); !errors.Is(err, ErrAddress) {
		t.Error(err)
	}
}

// TestKeptCopy: postmaster is told which plugin has added the address, and that the sender knows nothing.
func TestKeptCopy(t *testing.T) {
	var b strings.Builder
	_, err := WriteKept(&b, &Kept{
		ID: "4F2K", ReportingMTA: "mx.example.test", Date: time.Unix(1e9, 0).UTC(), Owner: "postmaster@example.test", Plugin: "journal\r\nBcc: x@example.org",
		Alias: "journal@archive.example", Target: "journal@archive.example", QueueID: "06H0", Sender: "a@example.org", Why: "It could not be reached.",
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Subject: A copy for journal@archive.example could not be delivered\r\n", "\r\n    journal@archive.example\r\n",
		"The plugin journal Bcc: x@example.org has added this address.", "sluice quarantine show 06H0",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "\r\nBcc:") || strings.Contains(b.String(), "verified") {
		t.Error(b.String())
	}
}
