package interop

import (
	"strings"
	"testing"
	"time"
)

// TestVerifyRecipients: a gateway in front of a real Postfix knows whom that has. What Postfix refuses is refused at RCPT, without its
// words; it is asked once, and nobody else is; whoever cannot be asked about is taken in.
func TestVerifyRecipients(t *testing.T) {
	t.Parallel()
	if !inside(t) {
		return
	}
	w := newWorld(t, `
[domain."postfix.test"]
accept = "relay"
verify_recipients = true
[domain."down.test"]
accept = "relay"
verify_recipients = true
`, `
down.test.      IN MX 10 mx.down.test.
mx.down.test.   IN A 127.0.1.9
`)
	m := startPostfixWith(t, postfixAddr, `smtpd_recipient_restrictions = check_recipient_access inline:{ { later@postfix.test = 450 4.3.0 the directory is away } }
`)
	w.start()
	c, err := dialSMTP(w.addr("mx"), clientTime)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	rcpt := func(code int, address string) string {
		t.Helper()
		if _, err := c.command(250, "MAIL FROM:<%s>", stranger); err != nil {
			t.Fatal(err)
		}
		reply, err := c.command(code, "RCPT TO:<%s>", address)
		if err != nil && replyCode(err) == 0 {
			t.Fatal(err)
		} else if err != nil {
			t.Errorf("%s: %v, expected %d", address, err, code)
		}
		if _, err := c.command(250, "RSET"); err != nil {
			t.Fatal(err)
		}
		return reply
	}
	for range 3 {
		rcpt(250, "box@postfix.test")
		if reply := rcpt(550, "noone@postfix.test"); !strings.Contains(reply, "5.1.1") || strings.Contains(reply, "mx.postfix.test") || strings.Contains(reply, "virtual") {
			t.Errorf("the reply is %q", reply)
		}
		rcpt(250, "later@postfix.test")
	}
	rcpt(550, "box@exim.test")
	start := time.Now()
	rcpt(250, "somebody@down.test")
	if took := time.Since(start); took > 12*time.Second {
		t.Errorf("a server that is down held up RCPT for %s", took)
	}
	rcpt(250, "anybody@down.test")
	for _, want := range []struct {
		text string
		n    int
	}{
		{"550 5.1.1 <noone@postfix.test>", 1}, {"from=<> to=<noone@postfix.test>", 1},
		{"<later@postfix.test>: Recipient address rejected: the directory is away", 1},
	} {
		eventually(t, 10*time.Second, "Postfix's log of "+want.text, func() bool { return strings.Count(m.allLogs(), want.text) >= want.n })
		if n := strings.Count(m.allLogs(), want.text); n != want.n {
			t.Errorf("%d times %q in Postfix's log:\n%s", n, want.text, m.log())
		}
	}
	for _, want := range []string{"action=reject rcpt=noone@postfix.test", "action=accept rcpt=later@postfix.test", "action=accept rcpt=somebody@down.test"} {
		eventually(t, 5*time.Second, want+" in our log", func() bool { return strings.Count(w.logText(), want) == 1 })
	}

	// And mail goes the way it went.
	if _, err := c.send(stranger, []string{"box@postfix.test"}, letter("verified@example.org", "verified", 1000)); err != nil {
		t.Fatal(err)
	}
	m.await("verified@example.org")
	if out := w.sluice("", "route", "box@postfix.test"); !strings.Contains(out, "asked at RCPT") {
		t.Errorf("route says\n%s", out)
	}
	w.stop()
}
