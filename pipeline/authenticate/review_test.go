package authenticate

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/mime"
)

// TestHiddenAuthors: what some mail reader would show as the author is asked about, or at least suspected, however
// crooked the field is.
func TestHiddenAuthors(t *testing.T) {
	pad := strings.Repeat(" ", 70)
	for header, least := range map[string]sdk.Action{
		"From" + pad + ": ceo@reject.test":                    sdk.Reject,
		"From" + pad + ": ceo@reject.test\nFrom: a@evil.test": sdk.Reject, // two of them
		"From\x0b: ceo@reject.test":                           sdk.Reject,
		"\xef\xbb\xbfFrom: ceo@reject.test":                   sdk.Reject,
		" From: ceo@reject.test":                              sdk.Reject,
		"From\n : ceo@reject.test":                            sdk.Reject,
		"From: a@evil.test \"<ceo@reject.test>":               sdk.Junk,
		"From: a@evil.test (<ceo@reject.test>":                sdk.Junk,
		"From: a@evil.test (<ceo@reject.test>\nX-Y: )":        sdk.Junk,
		"From: <a@evil.test> ceo@reject.test":                 sdk.Reject,
		"From: <a@evil.test>ceo@reject.test":                  sdk.Reject,
		"From: ceo@reject.test .evil.test":                    sdk.Junk,
		"From: ceo@reject.test(x).evil.test":                  sdk.Junk,
		"From: ceo@reject.test\n .evil.test":                  sdk.Junk,
		"From: ceo@reject.test. evil.test":                    sdk.Junk,
		"From: ceo@reject.test;, a@evil.test":                 sdk.Reject,
		"From: <ceo@reject.test, a@evil.test>":                sdk.Reject,
		"From: ceo@reject.test:a@evil.test;":                  sdk.Reject,
		"From: <@evil.test:ceo@reject.test>":                  sdk.Reject,
		"From: ceo@REJECT.TEST.":                              sdk.Reject,
		"From: ceo@\xef\xbd\x92eject.test":                    sdk.Reject, // a wide r
		"From: ceo@reject\xe3\x80\x82test":                    sdk.Reject, // an ideographic full stop
		"From: <a@evil.test> <ceo@reject.test>":               sdk.Reject,
		"From: a@evil.test, ceo@reject.test":                  sdk.Reject,
		"From: \"a@evil.test\" <ceo@reject.test>":             sdk.Reject,
		"From: ceo@reject.test\x00@evil.test":                 sdk.Junk,
	} {
		f := newFixture(t, "")
		m := f.message("a@evil.test", header+"\nSubject: x\n\nbody\n")
		f.process(m)
		if got := m.Recipients[0].Opinion.Action; got < least {
			t.Errorf("%q: %s, want %s: %s", header, got, least, field(t, m))
		}
	}
	for _, honest := range []string{
		"From: Alice (at work) <a@evil.test>", "From: a@evil.test (Alice (at work))", "From: <a@evil.test> (Alice)",
		"From: \"Alice, at work\" <a@evil.test>", "From: a@evil.test", "From: Alice\n <a@evil.test>", "From: a@evil.test <a@evil.test>",
		"From: <a@evil.test> Alice", "From: Team: a@evil.test, b@evil.test;", "From: Alice :) <a@evil.test>",
	} {
		f := newFixture(t, "")
		m := f.message("a@evil.test", honest+"\nSubject: x\n\nbody\n")
		f.process(m)
		if got := m.Recipients[0].Opinion.Action; got != sdk.Accept {
			t.Errorf("%q: %s: %s", honest, got, field(t, m))
		}
	}
}

// TestSignedForNobodyElse: a login is held to its addresses by the submission's reader of From (RULES A1); what only our
// reader finds in the field gets no signature of another domain that is hosted here.
func TestSignedForNobodyElse(t *testing.T) {
	pad := strings.Repeat(" ", 70)
	for _, header := range []string{
		"From: <a@own.test b@other.test>", "From: <a@own.test> b@other.test", "From: a@own.test [b@other.test]", "From: a@own.test\\ b@other.test",
		"From: <@other.test:a@own.test>", "From: \"b@other.test\" <a@own.test>", "From: a@own.test (b@other.test", "From: a@own.test \"b@other.test",
		"From" + pad + ": b@other.test\nFrom: a@own.test", "From : a@own.test\n From: b@other.test", "From: a@own.test\nFrom\x0b: b@other.test",
		"From: a@own.test\nSender: b@other.test", "From: a@own.test\nResent-From: b@other.test",
	} {
		f := newFixture(t, "")
		f.keysFor("own.test")
		f.keysFor("other.test")
		sealer, _ := f.sealer(map[string]Signing{"own.test": DefaultSigning(), "other.test": DefaultSigning()})
		m := f.message("a@own.test", header+"\nSubject: x\n\nbody\n")
		m.Origin = sdk.Login
		leave(m)
		if err := sealer.Seal(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if got := text(t, m); strings.Contains(got, "d=other.test") && !refused(m) {
			t.Errorf("%q is signed for other.test", header)
		}
	}
}

// refused is what package receive says about a login of own.test.
func refused(m *pipeline.Message) bool {
	for _, f := range m.Arrived().Fields() {
		if strings.EqualFold(f.Name, "From") {
			for _, a := range mime.Addresses(f.Value(), 21) {
				if a.Host != "own.test" {
					return true
				}
			}
		}
	}
	return false
}

// TestFieldsAddedBehindASignature: a field that a reader shows, and that the signer signed, is not there a second time on
// top of the signed one (RFC 6376 section 8.15, DRILLS E4.2).
func TestFieldsAddedBehindASignature(t *testing.T) {
	for added, want := range map[string]string{
		"From: ceo@reject.test\n": "policy", "Subject: pay at once\n": "policy", "Reply-To: a@evil.test\n": "pass", "subject : pay\n": "policy",
		"Subject" + strings.Repeat(" ", 70) + ": pay\n": "policy", "Subject\n : pay\n": "policy", "Subject pay\n": "pass",
		"Content-Type: text/html\n": "pass", "X-Note: x\n": "pass", "Received: x\n": "pass", "": "pass",
	} {
		f := newFixture(t, "")
		signed := newSigner(f, "s._domainkey.reject.test", "").sign("reject.test", "", "From: a@reject.test\nSubject: hello\n\nbody\n")
		m := f.message("a@evil.test", added+signed)
		m.Origin = sdk.Trusted
		f.process(m)
		if m.Auth.DKIM != want {
			t.Errorf("%q in front: dkim=%s, want %s: %s", added, m.Auth.DKIM, want, field(t, m))
		}
	}
}

// TestSlowReverse (DRILLS E4.1): whoever sends owns the reverse zone of his address. That it never answers, or names hosts that never do,
// must not use up the time in which the author's SPF record says no (RFC 7208 section 5.5): what is left open spares him.
func TestSlowReverse(t *testing.T) {
	for _, silent := range []string{"20.2.0.192.in-addr.arpa.", "liar.example.net."} {
		t.Run(silent, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, `
ptrs.test. TXT "v=spf1 ptr include:inc.test -all"
inc.test. TXT "v=spf1 ip4:198.51.100.1 -all"
_dmarc.ptrs.test. TXT "v=DMARC1; p=reject"
`)
			patient := resolver.DefaultConfig()
			patient.Timeout, patient.Deadline = units.Of(20*time.Second), units.Of(20*time.Second)
			f.stage.DNS = resolvertest.NewWith(f.zone, patient, time.Now)
			f.zone.Break(silent, resolvertest.Fault{Silent: true})
			m := f.message("a@ptrs.test", "From: ceo@ptrs.test\nSubject: x\n\nbody\n")
			m.Peer.Addr = netip.MustParseAddr("192.0.2.20")
			f.process(m)
			if m.Recipients[0].Opinion.Action != sdk.Reject {
				t.Errorf("%s, %s", m.Recipients[0].Opinion.Action, field(t, m))
			}
		})
	}
}

// TestCrookedForgeries: what only we may say is removed also where its name is none, but a lenient reader takes it for one.
func TestCrookedForgeries(t *testing.T) {
	const says = ": mx.sluice.test; dmarc=pass header.from=reject.test\n"
	for _, line := range []string{
		"Authentication-Results" + strings.Repeat(" ", 70) + says, "Authentication-Results\n " + says, "\x0bAuthentication-Results" + says,
		"Authentication-\x00Results" + says, "X-Sluice-Score" + strings.Repeat("\t", 70) + ": 0\n", "X-Spam-Flag\x7f: NO\n",
	} {
		f := newFixture(t, "")
		m := f.message("a@evil.test", line+"From: a@evil.test\nSubject: x\n\nbody\n")
		f.process(m)
		if got := strings.Count(text(t, m), "\r\n"+line[:3]) + strings.Count(text(t, m), "\r\n\x0bAuth"); got != 0 {
			t.Errorf("%q stays:\n%s", line, text(t, m))
		}
	}
}
