package interop

import (
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

// TestDNSFails: while DNS fails for a domain, or says nothing at all, mail for it waits and its sender hears that
// it is late; it is never returned for that. When DNS is well again it leaves (DRILLS E5.4).
func TestDNSFails(t *testing.T) {
	t.Parallel()
	if !inside(t) {
		return
	}
	w := newWorld(t, quickRetry+"warn_after = \"2s\"\n[destination.\"mute.test\"]\nwarn_after = \"1h\"\n", `
sick.test.         IN MX 10 mx.sick.test.
mx.sick.test.      IN A 127.0.1.71
lame.test.         IN MX 10 mx.lame.test.
mx.lame.test.      IN A 127.0.1.71
mute.test.         IN MX 10 mx.sick.test.
`)
	w.inConfig("[dns]\n", "[dns]\ntimeout = \"500ms\"\ndeadline = \"2s\"\n")
	s := startScripted(t, "127.0.1.71:25", nil)
	w.dns.Zone.Break("sick.test.", resolvertest.Fault{Rcode: dns.RcodeServerFailure})
	w.dns.Zone.Break("mx.lame.test.", resolvertest.Fault{Rcode: dns.RcodeServerFailure}) // of the server alone
	w.dns.Zone.Break("mute.test.", resolvertest.Fault{Silent: true})
	w.start()
	defer w.stop()
	domains := []string{"sick.test", "lame.test", "mute.test"}
	for _, d := range domains {
		w.post([]string{"a@" + d}, "dns."+d+"@example.test", "DNS fails", 1000)
	}
	for _, d := range domains[:2] {
		notice := w.awaitInbox(alice, "dns."+d+"@example.test", "Action: delayed", "Status: 4.4.")
		if ip, _, _ := strings.Cut(nameServer, ":"); strings.Contains(notice, ip) {
			t.Errorf("the notice has our resolver's address (DRILLS E2.8):\n%s", notice)
		}
	}
	for _, d := range domains {
		w.dns.Zone.Break(d+".", resolvertest.Fault{})
		w.dns.Zone.Break("mx."+d+".", resolvertest.Fault{})
	}
	for _, d := range domains {
		s.await("dns." + d + "@example.test")
	}
	for _, text := range w.inbox(alice) {
		if strings.Contains(text, "Action: failed") {
			t.Errorf("mail was returned:\n%s", text)
		}
	}
}
