package authenticate

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	msgauth "github.com/emersion/go-msgauth/dkim"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
)

// TestReplay (DRILLS E4.3): what plugins are told that lets them see a message which somebody got signed and sends to everybody.
func TestReplay(t *testing.T) {
	f := newFixture(t, "")
	private := ed25519.NewKeyFromSeed(make([]byte, 32))
	public := base64.StdEncoding.EncodeToString(private.Public().(ed25519.PublicKey))
	for _, name := range []string{"s._domainkey.reject.test", "other._domainkey.reject.test"} {
		if err := f.zone.Add(name + `. 300 TXT "v=DKIM1; k=ed25519; p=` + public + `"`); err != nil {
			t.Fatal(err)
		}
	}
	sign := func(selector, names, raw string) string {
		var out bytes.Buffer
		err := msgauth.Sign(&out, strings.NewReader(strings.ReplaceAll(raw, "\n", "\r\n")), &msgauth.SignOptions{
			Domain: "reject.test", Selector: selector, Signer: private, Hash: crypto.SHA256, HeaderKeys: strings.Split(names, ":"),
			HeaderCanonicalization: msgauth.CanonicalizationRelaxed, BodyCanonicalization: msgauth.CanonicalizationRelaxed,
		})
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(out.String(), "\r\n", "\n")
	}
	const from, end = "From: b@reject.test\nSubject: x\n", "\nbody\n"
	const both = from + "To: Alice <alice@sluice.test>\nCc: bob@sluice.test\n" + end
	signed := sign("s", "From:To:Cc", both)
	m := f.message("x@evil.test", signed)
	f.process(m)
	first := m.Envelope().Auth["dkim.signatures"]
	if parts := strings.SplitN(first, "/", 3); len(parts) != 3 || parts[0] != "reject.test" || parts[1] != "s" || len(parts[2]) != 8 {
		t.Fatalf("signatures: %q", first)
	}
	for _, c := range []struct {
		what, raw string
		to        []string
		want      string
	}{
		{"to whom it was written", signed, []string{"alice@sluice.test", "bob@sluice.test"}, "all"},
		{"written otherwise", signed, []string{"ALICE@Sluice.Test."}, "all"},
		{"to somebody else", signed, []string{"carol@sluice.test"}, "none"},
		{"to somebody else too", signed, []string{"carol@sluice.test", "bob@sluice.test"}, "some"},
		{"another local part", signed, []string{"alice+x@sluice.test"}, "none"},
		{"To put in front", "To: carol@sluice.test\n" + signed, []string{"carol@sluice.test"}, "none"},
		{"To put in front, the right one", "To: carol@sluice.test\n" + signed, []string{"alice@sluice.test"}, "all"},
		{"To with odd white space in front", "To\t: carol@sluice.test\n" + signed, []string{"carol@sluice.test"}, "none"},
		{"two signed", sign("s", "From:To:To", from+"To: carol@sluice.test\nTo: alice@sluice.test\n"+end), []string{"carol@sluice.test", "alice@sluice.test"}, "all"},
		{"oversigned", sign("s", "From:To:To:Cc:Cc", both), []string{"alice@sluice.test", "bob@sluice.test"}, "all"},
		{"To is not signed", sign("s", "From:Cc", both), []string{"alice@sluice.test", "bob@sluice.test"}, "some"},
		{"nothing is signed but the author", sign("s", "From", both), []string{"alice@sluice.test", "bob@sluice.test"}, "none"},
		{"none in the message", sign("s", "From:To:Cc", from+end), []string{"alice@sluice.test"}, "none"},
		{"a group", sign("s", "From:To", from+"To: us: \"Alice\" <alice@sluice.test>, bob@sluice.test;\n"+end), []string{"alice@sluice.test", "bob@sluice.test"}, "all"},
		{"a name that looks like it", sign("s", "From:To", from+"To: \"carol@sluice.test\" <alice@sluice.test> (carol@sluice.test)\n"+end), []string{"carol@sluice.test"}, "none"},
		{"U-label", sign("s", "From:To", from+"To: d@xn--bcher-kva.test\n"+end), []string{"d@b\u00fccher.test"}, "all"},
		{"as many as one can write", sign("s", "From:To", from+"To: "+strings.Repeat("a@b.test,\n ", 20_000)+"alice@sluice.test\n"+end), []string{"alice@sluice.test"}, "none"},
		{"broken on the way", strings.Replace(signed, "body", "bodies", 1), []string{"alice@sluice.test"}, ""},
		{"never signed", both, []string{"alice@sluice.test"}, ""},
	} {
		m := f.message("x@evil.test", c.raw)
		m.Recipients = nil
		for _, to := range c.to {
			m.Recipients = append(m.Recipients, &pipeline.Recipient{Address: to, Version: m.Arrived()})
		}
		f.process(m)
		auth := m.Envelope().Auth
		if auth["dkim.named"] != c.want || (auth["dkim.signatures"] == "") != (c.want == "") {
			t.Errorf("%s: named %q, signatures %q; want %q (%s)", c.what, auth["dkim.named"], auth["dkim.signatures"], c.want, field(t, m))
		}
	}
	// The same message is known again, whatever is written around it, and by its signature alone; another one is another.
	for what, raw := range map[string]string{
		"at another time": signed, "with b= folded": refold(t, signed), "with a trace in front": "Received: x\nX-Nonce: 12345\n" + signed,
	} {
		m := f.message("somebody@evil.test", raw)
		m.Origin = sdk.Trusted
		f.process(m)
		if got := m.Envelope().Auth["dkim.signatures"]; got != first {
			t.Errorf("%s: %q, want %q: %s", what, got, first, field(t, m))
		}
	}
	m = f.message("x@evil.test", sign("other", "From:To", both+"more\n"))
	f.process(m)
	if got := m.Envelope().Auth["dkim.signatures"]; got == first || !strings.HasPrefix(got, "reject.test/other/") {
		t.Errorf("another message: %q", got)
	}
	m = f.message("x@evil.test", sign("other", "From", signed))
	f.process(m)
	if got := strings.Fields(m.Envelope().Auth["dkim.signatures"]); len(got) != 2 || got[1] != first {
		t.Errorf("two signatures: %q", got)
	}
}

// refold puts white space into b=, which does not count (RFC 6376 section 3.5).
func refold(t *testing.T, raw string) string {
	t.Helper()
	head, rest, ok := strings.Cut(raw, " b=")
	if !ok {
		head, rest, ok = strings.Cut(raw, "\tb=")
	}
	if !ok {
		t.Fatal("no b=")
	}
	return fmt.Sprintf("%s b=%s \n %s", head, rest[:3], strings.TrimPrefix(rest[3:], " "))
}
