package interop

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestUndeliverable: mail that can't arrive comes back at once, with the reason in the words
// of RFC 3463; mail that can't arrive now is told to be late, and comes back in the end.
func TestUndeliverable(t *testing.T) {
	t.Parallel()
	if !inside(t) {
		return
	}
	w := newWorld(t, `
[pipeline.outbound.queue]
retry = "1s"
retry_max = "1s"
warn_after = "2s"
give_up_after = "1m"
`, `
deaf.test.         IN MX 10 mx.deaf.test.
mx.deaf.test.      IN A 127.0.1.99
private.test.      IN MX 10 mx.private.test.
mx.private.test.   IN A 10.1.2.3
cname.test.        IN CNAME nomail.test.
`)
	w.start()
	defer w.stop()
	for _, c := range []struct{ to, status, why string }{
		{"a@nosuch.test", "5.1.2", ""},
		{"a@nomail.test", "5.1.10", ""}, // RFC 7505 section 4
		{"a@cname.test", "5.1.10", ""},
		{"a@loop.test", "5.4.6", ""}, // RFC 5321 section 5.1: we are the best server for it
		{"a@private.test", "5.", ""},
	} {
		id := "undeliverable." + strings.ReplaceAll(c.to, "@", ".") + "@example.test"
		w.post([]string{c.to}, id, "undeliverable", 1000)
		dsn := w.awaitInbox(alice, id, "Action: failed")
		if !strings.Contains(dsn, "Status: "+c.status) || !strings.Contains(dsn, "Final-Recipient: rfc822; "+c.to) {
			t.Errorf("%s: want status %s in\n%s", c.to, c.status, dsn)
		}
	}
	w.post([]string{"a@deaf.test"}, "deaf@example.test", "nobody listens", 1000)
	late := w.awaitInbox(alice, "deaf@example.test", "Action: delayed")
	if !strings.Contains(late, "Status: 4.4.1") || !strings.Contains(late, "Will-Retry-Until: ") {
		t.Errorf("the notice of delay is\n%s", late)
	}
	if out := w.sluice("", "queue", "list"); !strings.Contains(out, "a@deaf.test") {
		t.Errorf("the queue does not list it:\n%s", out)
	}
}

// TestForward: a stranger's message to an alias that leads away arrives with a sender of ours
// that passes SPF (SRS), an ARC seal, and its own octets; a bounce of it finds back to the stranger.
func TestForward(t *testing.T) {
	t.Parallel()
	if !inside(t) {
		return
	}
	w := newWorld(t, `
[forward]
srs_domain = "example.test"
srs_secrets = ["one secret of many words"]
`, `
example.org.       IN MX 10 mx.postfix.test.
example.org.       IN TXT "v=spf1 ip4:127.0.0.0/8 -all"
`)
	w.inConfig(`team = [`, `away = "box@postfix.test", gone = "noone@postfix.test", team = [`)
	m := startPostfix(t, postfixAddr)
	w.sluice("", "dkim", "new", domain)
	w.start()
	defer w.stop()

	send := func(to, id string) {
		c, err := dialSMTP(w.addr("mx"), clientTime)
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		if _, err := c.send(stranger, []string{to}, letter(id, "to be forwarded", 2000)); err != nil {
			t.Fatal(err)
		}
	}
	send("away@example.test", "away@example.org")
	got := m.await("away@example.org")
	for _, want := range []string{"Return-Path: <SRS0=", "@example.test>", "ARC-Seal: i=1;", "ARC-Message-Signature: i=1;", "Line 0 of a letter"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%.4000s", want, got)
		}
	}
	if strings.Contains(got, "DKIM-Signature: ") {
		t.Error("a stranger's mail has a signature of ours")
	}
	// The peer refuses this one. SPF passed for the stranger, so he is told (RULES A7): by way of his MX, which is the peer.
	send("gone@example.test", "gone@example.org")
	eventually(t, 20*time.Second, "the notice to the stranger", func() bool {
		return strings.Contains(m.log(), "to=<"+stranger+">")
	})
	if out := strings.TrimSpace(w.sluice("", "quarantine", "list", "--json")); out != "" {
		t.Errorf("in quarantine:\n%s", out)
	}
}

// TestNoBackscatter: what a stranger forged is never bounced to whom he named: not for a
// forward that fails, nor for anything that comes after the 250.
func TestNoBackscatter(t *testing.T) {
	t.Parallel()
	if !inside(t) {
		return
	}
	w := newWorld(t, "", `
victim.test.       IN MX 10 mx.postfix.test.
victim.test.       IN TXT "v=spf1 -all"
`)
	w.inConfig(`team = [`, `gone = "noone@postfix.test", team = [`)
	m := startPostfix(t, postfixAddr)
	w.start()
	defer w.stop()
	for i, from := range []string{"victim@victim.test", "victim@postfix.test", ""} {
		c, err := dialSMTP(w.addr("mx"), clientTime)
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		id := fmt.Sprintf("forged.%d@victim.test", i)
		if _, err := c.send(from, []string{"gone@example.test"}, letter(id, "forged", 1000)); err != nil {
			t.Fatal(err)
		}
		eventually(t, 20*time.Second, "the forward's end", func() bool {
			return strings.Contains(w.sluice("", "trace", id), "noone@postfix.test") && !strings.Contains(w.sluice("", "queue", "list"), "queued")
		})
	}
	if strings.Contains(m.log(), "to=<victim@") {
		t.Errorf("a victim was told:\n%s", m.log())
	}
	if out := w.sluice("", "quarantine", "list", "--json"); strings.Count(out, "gone@example.test") != 2 {
		t.Errorf("in quarantine, want the two with a sender:\n%s", out)
	}
}
