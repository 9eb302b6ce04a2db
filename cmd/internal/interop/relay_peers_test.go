package interop

import (
	"fmt"
	"strings"
	"testing"
)

// TestPeersPostfix, TestPeersExim, TestPeersOpenSMTPD: a real server of each kind and
// ours find each other by MX and exchange mail under TLS, both ways; what the peer
// refuses comes back to the sender as a DSN, and what it can't take is said so.
func TestPeersPostfix(t *testing.T)   { peers(t, startPostfix, postfixAddr) }
func TestPeersExim(t *testing.T)      { peers(t, startExim, eximAddr) }
func TestPeersOpenSMTPD(t *testing.T) { peers(t, startOpenSMTPD, opensmtpdAddr) }

func peers(t *testing.T, start func(testing.TB, string) *mta, ip string) {
	t.Parallel()
	if !inside(t) {
		return
	}
	w := newWorld(t, "", "")
	m := start(t, ip)
	w.sluice("", "dkim", "new", domain)
	w.start()
	box := "box@" + m.domain()

	t.Run("to", func(t *testing.T) {
		w.post([]string{box}, "one@example.test", "to "+m.name, 4000)
		got := m.await("one@example.test")
		if !strings.Contains(got, "DKIM-Signature: ") {
			t.Errorf("no signature on\n%.2000s", got)
		}
		tls := "TLS 1.3"
		if m.name == "opensmtpd" { // Debian 12 links it to an OpenSSL 3 that its engine for keys does not know: no handshake with it ends well
			tls = "without TLS: TLS handshake"
		}
		trace := w.sluice("", "trace", "one@example.test")
		if _, delivery, _ := strings.Cut(trace, "deliver  "); !strings.Contains(delivery, tls) {
			t.Errorf("the trace does not tell %q of the delivery:\n%s", tls, trace)
		}
	})
	t.Run("large", func(t *testing.T) {
		w.post([]string{box}, "large@example.test", "large", 8<<20, "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit", "X-Eight: \u00fc")
		if got := m.await("large@example.test"); len(got) < 8<<20-200_000 || !strings.Contains(got, "\u00fc") {
			t.Errorf("%d octets arrived", len(got))
		}
	})
	t.Run("many", func(t *testing.T) {
		for i := range 50 {
			w.post([]string{box}, fmt.Sprintf("many.%d@example.test", i), "many", 2000)
		}
		for i := range 50 {
			m.await(fmt.Sprintf("many.%d@example.test", i))
		}
	})
	t.Run("from", func(t *testing.T) {
		c, err := dialSMTP(m.ip+":25", clientTime)
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		message := strings.Replace(letter("back@"+m.domain(), "from "+m.name, 4000), stranger, box, 1)
		if _, err := c.send(box, []string{alice}, message); err != nil {
			t.Fatal(err)
		}
		got := w.awaitInbox(alice, "<back@"+m.domain()+">")
		for _, want := range []string{"spf=", "ESMTPS"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in\n%.3000s", want, got)
			}
		}
	})
	t.Run("refused", func(t *testing.T) {
		w.post([]string{box, "noone@" + m.domain()}, "half@example.test", "half of it", 2000)
		m.await("half@example.test")
		dsn := w.awaitInbox(alice, "noone@"+m.domain(), "Action: failed", "half@example.test")
		if strings.Contains(dsn, "Final-Recipient: rfc822; "+box) || !strings.Contains(dsn, "Remote-MTA: dns; mx."+m.domain()) ||
			!strings.Contains(dsn, "Status: 5.") {
			t.Errorf("the DSN is\n%s", dsn)
		}
	})
	t.Run("utf8", func(t *testing.T) {
		w.postUTF8("j\u00fcrgen@"+m.domain(), "utf8@example.test")
		dsn := w.awaitInbox(alice, "utf8@example.test", "Action: failed")
		if m.utf8 == strings.Contains(dsn, "Status: 5.6.7") { // with SMTPUTF8 the peer says that it has no such user
			t.Errorf("the DSN is\n%s", dsn)
		}
	})
	t.Run("success", func(t *testing.T) { tellSuccess(t, w, m) })
	t.Run("smuggle", func(t *testing.T) { smuggle(t, w, m) })
	if out := strings.TrimSpace(w.sluice("", "queue", "list", "--json")); out != "" {
		t.Errorf("the queue is not empty:\n%.2000s", out)
	}
	w.stop()
	chunked(t, m)
}
