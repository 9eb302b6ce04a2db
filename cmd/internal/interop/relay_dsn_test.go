package interop

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// tellSuccess asks for a notice of success (RFC 3461) and gets one, from the peer if it can, else from us.
func tellSuccess(t *testing.T, w *world, m *mta) {
	box := "box@" + m.domain()
	c := w.submission()
	defer c.close()
	message := strings.Replace(letter("success@example.test", "tell me", 2000), stranger, alice, 1)
	for _, step := range []struct {
		want int
		line string
	}{
		{250, "MAIL FROM:<" + alice + "> RET=HDRS ENVID=envelope+2B7"},
		{250, "RCPT TO:<" + box + "> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;first+40" + m.domain()},
		{354, "DATA"}, {250, dotStuff(message) + "."},
	} {
		if _, err := c.command(step.want, "%s", step.line); err != nil {
			t.Fatalf("%s: %v", step.line, err)
		}
	}
	m.await("success@example.test")
	dsn := w.awaitInbox(alice, "success@example.test", "Action: ")
	want := []string{`(?m)^Action: (delivered|relayed)\r?$`, `(?mi)^Original-Envelope-Id: envelope\+7\r?$`, `(?mi)^Original-Recipient: ?rfc822; ?first@` + m.domain()}
	switch m.name {
	case "exim": // leaves xtext as it is
		want[1], want[2] = `(?mi)^Original-Envelope-Id: envelope\+2B7\r?$`, strings.Replace(want[2], "first@", `first\+40`, 1)
	case "opensmtpd": // has neither
		want = want[:1]
	}
	for _, w := range want {
		if !regexp.MustCompile(w).MatchString(dsn) {
			t.Errorf("no %s in the DSN\n%s", w, dsn)
		}
	}
	if strings.Contains(dsn, "Line 3 of a letter") {
		t.Errorf("the DSN has more than the header:\n%s", dsn)
	}
	t.Logf("the notice of success is by %s", regexp.MustCompile(`(?mi)^Reporting-MTA: .*$`).FindString(dsn))
	count := 0
	for _, text := range w.inbox(alice) {
		if strings.Contains(text, "success@example.test") && strings.Contains(text, "Action: ") {
			count++
		}
	}
	if count != 1 {
		t.Errorf("%d notices came", count)
	}
}

// chunked looks into a peer's log whether large mail came by BDAT (RFC 3030), where it can.
func chunked(t *testing.T, m *mta) {
	words := map[string]string{"postfix": `bdat=[1-9]`, "exim": `(?m)<= alice@example\.test .* K .*S=8[0-9]{6}`}[m.name]
	if words != "" && !regexp.MustCompile(words).MatchString(m.allLogs()) {
		t.Errorf("no BDAT in\n%s", m.log())
	}
}

// TestPeerWithout: a server that lacks an extension is not sent what needs it: the sender
// hears so, and no octet is changed on the way (RULES A6; RFC 6152, 1870, 8689).
func TestPeerWithout(t *testing.T) {
	t.Parallel()
	if !inside(t) {
		return
	}
	w := newWorld(t, "", `
seven.test.        IN MX 10 mx.seven.test.
mx.seven.test.     IN A 127.0.1.41
small.test.        IN MX 10 mx.small.test.
mx.small.test.     IN A 127.0.1.42
lax.test.          IN MX 10 mx.lax.test.
mx.lax.test.       IN A 127.0.1.43
strict.test.       IN MX 10 mx.strict.test.
mx.strict.test.    IN A 127.0.1.44
`)
	cert := newCA(t).Leaf("mx.strict.test", "mx.lax.test").TLS()
	seven := startScripted(t, "127.0.1.41:25", func(s *scripted) { s.hello = []string{"PIPELINING"} })
	small := startScripted(t, "127.0.1.42:25", func(s *scripted) { s.hello = []string{"8BITMIME", "SIZE 10000"} })
	lax := startScripted(t, "127.0.1.43:25", func(s *scripted) { s.cert = &cert })
	strict := startScripted(t, "127.0.1.44:25", func(s *scripted) { s.hello, s.cert = []string{"8BITMIME", "REQUIRETLS"}, &cert })
	w.start()
	defer w.stop()
	failed := func(id, to, status string) {
		t.Helper()
		dsn := w.awaitInbox(alice, id, "Action: failed", "Final-Recipient: rfc822; "+to)
		if !strings.Contains(dsn, "Status: "+status) {
			t.Errorf("want status %s in\n%s", status, dsn)
		}
	}
	const eight = "X-Eight: \u00fc"
	w.post([]string{"a@seven.test"}, "eight@example.test", "eight bits", 1000, "MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit", eight)
	failed("eight@example.test", "a@seven.test", "5.6.")
	w.post([]string{"a@seven.test"}, "seven@example.test", "seven bits", 1000)
	if got := seven.await("seven@example.test"); strings.Contains(got.mail, "BODY=") || len(seven.took("eight@example.test")) > 0 {
		t.Errorf("MAIL was %q", got.mail)
	}
	w.post([]string{"a@small.test"}, "over@example.test", "too large", 20_000)
	failed("over@example.test", "a@small.test", "5.3.4")
	w.post([]string{"a@small.test"}, "under@example.test", "just fits", 8000)
	small.await("under@example.test")
	if len(small.took("over@example.test")) > 0 {
		t.Error("the large one was sent")
	}

	requireTLS := func(id string, to ...string) {
		t.Helper()
		c := w.submission()
		defer c.close()
		if _, err := c.command(250, "MAIL FROM:<%s> REQUIRETLS", alice); err != nil {
			t.Fatal(err)
		}
		for _, rcpt := range to {
			if _, err := c.command(250, "RCPT TO:<%s>", rcpt); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.command(354, "DATA"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.command(250, "%s.", strings.Replace(letter(id, "only by TLS", 1000), stranger, alice, 1)); err != nil {
			t.Fatal(err)
		}
	}
	for i, to := range []string{"a@small.test", "a@lax.test"} { // no STARTTLS; no REQUIRETLS
		id := fmt.Sprintf("require.%d@example.test", i)
		requireTLS(id, to)
		failed(id, to, "5.7.30")
	}
	if len(lax.took("require.1@example.test")) > 0 {
		t.Error("it was sent to a server without REQUIRETLS")
	}
	// RFC 8689 section 4.2.1: nothing vouches for the MX records, so whoever forged them could have had the message.
	requireTLS("require.2@example.test", "a@strict.test")
	w.awaitTrace("require.2@example.test", "neither DNSSEC nor MTA-STS vouches", "failed")
	if len(strict.took("require.2@example.test")) > 0 {
		t.Error("it was sent to a server that nobody vouches for")
	}
}
