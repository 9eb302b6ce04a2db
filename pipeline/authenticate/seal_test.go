package authenticate

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	msgauth "github.com/emersion/go-msgauth/dkim"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/authenticate/dkim"
	"github.com/sluicemail/sluice/sdk"
)

// testRSA is one RSA key for all tests: making one takes longer than they do.
var testRSA = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// ring is a KeyRing of the test's.
type ring map[string][]*dkim.Signer

func (r ring) Signers(domain string) ([]*dkim.Signer, error) {
	if strings.HasPrefix(domain, "broken.") {
		return nil, errors.New("read the key: input/output error")
	}
	return r[domain], nil
}

// keysFor makes an RSA and an Ed25519 key for a domain and publishes them.
func (f *fixture) keysFor(domain string) []*dkim.Signer {
	f.t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	var signers []*dkim.Signer
	one, err := dkim.NewSigner(domain, "r1", testRSA(), 0)
	if err != nil {
		f.t.Fatal(err)
	}
	two, err := dkim.NewSigner(domain, "e1", private, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, s := range append(signers, one, two) {
		f.publish(s)
		signers = append(signers, s)
	}
	return signers
}

func (f *fixture) publish(s *dkim.Signer) {
	f.t.Helper()
	text, err := dkim.Record(s.Key.Public())
	if err != nil {
		f.t.Fatal(err)
	}
	line := fmt.Sprintf("%s._domainkey.%s. 300 TXT ", s.Selector, s.Domain)
	for text != "" {
		n := min(len(text), 200)
		line += `"` + text[:n] + `" `
		text = text[n:]
	}
	if err := f.zone.Add(line); err != nil {
		f.t.Fatal(err)
	}
}

// sealer returns one for sluice.test, with a ring that has its keys.
func (f *fixture) sealer(domains map[string]Signing) (*Sealer, ring) {
	r := ring{}
	for name, c := range domains {
		if c.Sign == SignAuto && !strings.HasPrefix(name, "broken.") {
			r[name] = f.keysFor(name)
		}
	}
	return NewSealer(SealerOptions{
		Keys: r, Hostname: "mx.sluice.test",
		Domain: func(name string) (Signing, bool) { c, ok := domains[name]; return c, ok },
	}), r
}

// leave gives every recipient a remote hop.
func leave(m *pipeline.Message) {
	for _, r := range m.Recipients {
		r.Hops = []pipeline.Hop{{Kind: pipeline.HopRemote, Address: r.Address}}
	}
}

// text returns a recipient's message as it leaves.
func text(t testing.TB, m *pipeline.Message) string {
	t.Helper()
	r, err := m.Open(m.Recipients[0].Version)
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r.Section(0, r.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// judge lets go-msgauth verify.
func (f *fixture) judge(raw string) string {
	f.t.Helper()
	list, err := msgauth.VerifyWithOptions(strings.NewReader(raw), &msgauth.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
		return f.stage.DNS.LookupTXT(f.t.Context(), name)
	}})
	if err != nil {
		f.t.Fatal(err)
	}
	var words []string
	for _, v := range list {
		word := v.Domain
		if v.Err != nil {
			word += " " + v.Err.Error()
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

const ours = "From: Carol <carol@sluice.test>\nTo: bob@example.org\nSubject: hello\n there\nDate: Sat, 21 Nov 2026 20:00:00 +0000\n" +
	"Message-ID: <1@sluice.test>\nX-Other: x\n\nHello.  \n\tBye \n\n\n"

func TestSealOurs(t *testing.T) {
	domains := map[string]Signing{
		"sluice.test": DefaultSigning(), "off.sluice.test": {Sign: SignOff}, "must.test": {Sign: SignRequire}, "none.test": {Sign: "none yet"},
		"broken.sluice.test": DefaultSigning(), "young.sluice.test": {Sign: "none yet"}, "short.test": {Sign: SignAuto, Expire: 0},
	}
	tests := []struct {
		what   string
		origin sdk.Origin
		from   string
		want   string // domains that sign
		fails  string
	}{
		{"login", sdk.Login, "carol@sluice.test", "sluice.test, sluice.test", ""},
		{"a host of ours", sdk.Trusted, "root@web1.SLUICE.test", "sluice.test, sluice.test", ""},
		{"generated", sdk.Generated, "MAILER-DAEMON@mx.sluice.test", "sluice.test, sluice.test", ""},
		{"two authors", sdk.Trusted, "a@sluice.test, b@short.test", "short.test, short.test, sluice.test, sluice.test", ""},
		{"not ours", sdk.Trusted, "a@example.org", "", ""},
		{"a subdomain that does not sign", sdk.Login, "a@off.sluice.test", "", ""},
		{"a subdomain of ours without keys", sdk.Login, "a@young.sluice.test", "sluice.test, sluice.test", ""},
		{"no keys", sdk.Login, "a@none.test", "", ""},
		{"no keys where they must be", sdk.Login, "a@must.test", "", "no active key"},
		{"keys that cannot be read", sdk.Login, "a@broken.sluice.test", "", "input/output"},
		{"a stranger in our name", sdk.Stranger, "carol@sluice.test", "", ""},
		{"a store in our name", sdk.LMTP, "carol@sluice.test", "", ""},
	}
	for _, test := range tests {
		f := newFixture(t, "")
		sealer, _ := f.sealer(domains)
		m := f.message("carol@sluice.test", strings.Replace(ours, "Carol <carol@sluice.test>", test.from, 1))
		m.Origin = test.origin
		leave(m)
		before := m.Recipients[0].Version
		err := sealer.Seal(t.Context(), m)
		if test.fails != "" {
			if err == nil || !strings.Contains(err.Error(), test.fails) || m.Recipients[0].Version != before {
				t.Errorf("%s: %v, want %q and no change", test.what, err, test.fails)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.what, err)
			continue
		}
		raw := text(t, m)
		if got := f.judge(raw); got != test.want {
			t.Errorf("%s: verified %q, want %q\n%s", test.what, got, test.want, raw)
		}
		if m.Recipients[0].Version != m.Recipients[1].Version {
			t.Errorf("%s: recipients do not share their version", test.what)
		}
		for _, line := range strings.Split(raw, "\r\n") {
			if len(line) > 78 {
				t.Errorf("%s: a line of %d octets: %s", test.what, len(line), line)
			}
		}
		if test.want == "" {
			continue
		}
		again := f.message("carol@sluice.test", raw)
		again.Origin = sdk.Trusted
		f.process(again)
		if got := field(t, again); strings.Count(got, "dkim=pass") != strings.Count(test.want, ".test") || strings.Contains(got, "fail") {
			t.Errorf("%s: our own eyes see %s", test.what, got)
		}
	}
}

// TestOversigned (DRILLS E4.2): nobody can add what readers show.
func TestOversigned(t *testing.T) {
	f := newFixture(t, "")
	sealer, _ := f.sealer(map[string]Signing{"sluice.test": {Sign: SignAuto}})
	m := f.message("carol@sluice.test", ours)
	m.Origin = sdk.Login
	leave(m)
	if err := sealer.Seal(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	raw := text(t, m)
	for _, name := range []string{"From", "To", "Cc", "Subject", "Date", "Message-ID", "Reply-To", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"} {
		if got := f.judge(name + ": x\r\n" + raw); strings.Count(got, "did not verify") != 2 {
			t.Errorf("with another %s: %s", name, got)
		}
	}
	if got := f.judge("Received: x\r\nX-Other: y\r\n" + raw); got != "sluice.test, sluice.test" {
		t.Errorf("with fields that relays add: %s", got)
	}
}

func TestSealLogin(t *testing.T) {
	f := newFixture(t, "")
	sealer, _ := f.sealer(map[string]Signing{"sluice.test": {Sign: SignAuto, Expire: 0}})
	m := f.message("carol@sluice.test", "Authentication-Results: other.test; spf=pass\n"+ours)
	m.Origin, m.Peer.Login = sdk.Login, "secret@sluice.test"
	f.process(m)
	leave(m)
	if err := sealer.Seal(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if raw := text(t, m); strings.Contains(raw, "secret@") || !strings.Contains(raw, "other.test; spf=pass") {
		t.Errorf("what leaves:\n%s", raw)
	}
	events := m.Trace.Events()
	if last := events[len(events)-1]; len(last.Changes) != 1 || last.Changes[0] != "DKIM signature of sluice.test: r1 e1" {
		t.Errorf("trace: %+v", last)
	}
}

// TestSealLocal: what does not leave is signed if it is ours (RULES A6), and stays as it is if it is not.
func TestSealLocal(t *testing.T) {
	for origin, want := range map[sdk.Origin]bool{sdk.Login: true, sdk.Trusted: true, sdk.Stranger: false, sdk.LMTP: false} {
		f := newFixture(t, "")
		sealer, _ := f.sealer(map[string]Signing{"sluice.test": DefaultSigning()})
		m := f.message("carol@sluice.test", ours)
		m.Origin = origin
		f.process(m)
		before := m.Recipients[0].Version
		if err := sealer.Seal(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if changed := m.Recipients[0].Version != before; changed != want {
			t.Errorf("%s: changed %v", origin, changed)
		}
	}
}

// TestSealQuarantined: what a stranger sends through an alias, and waits in quarantine, leaves when it is released: it is sealed
// before, since nothing can be changed then (RULES A6).
func TestSealQuarantined(t *testing.T) {
	for leaves, want := range map[bool]bool{true: true, false: false} {
		f := newFixture(t, "")
		sealer, _ := f.sealer(map[string]Signing{"sluice.test": DefaultSigning()})
		m := f.message("carol@sluice.test", ours)
		m.Recipients = m.Recipients[:1]
		m.Recipients[0].Address = "list@sluice.test"
		f.process(m)
		m.Recipients[0].Hops, m.Recipients[0].Leaves = []pipeline.Hop{{Kind: pipeline.HopQuarantine, Why: "score 9"}}, leaves
		if err := sealer.Seal(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(text(t, m), "ARC-Seal: i=1"); got != want {
			t.Errorf("leaves %v: sealed %v", leaves, got)
		}
	}
}

// BenchmarkSeal is what a message of 4 KiB costs on top of the signature itself.
func BenchmarkSeal(b *testing.B) {
	body := strings.Repeat("A line of a body, as long as lines in bodies usually are.\n", 60)
	for _, test := range []struct {
		name string
		keys int
	}{{"rsa2048", 1}, {"rsa2048+ed25519", 2}, {"ed25519", -1}, {"unsigned", 0}} {
		b.Run(test.name, func(b *testing.B) {
			f := newFixture(b, "")
			sealer, keys := f.sealer(map[string]Signing{"sluice.test": DefaultSigning()})
			if test.keys < 0 {
				keys["sluice.test"] = keys["sluice.test"][1:]
			} else {
				keys["sluice.test"] = keys["sluice.test"][:test.keys]
			}
			m := f.message("carol@sluice.test", strings.ReplaceAll(ours, "Hello.", body))
			m.Origin = sdk.Login
			leave(m)
			arrived := m.Arrived()
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				m.Trace = nil
				for _, r := range m.Recipients {
					r.Version = arrived
				}
				if err := sealer.Seal(b.Context(), m); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-before)/1e3/float64(b.N), "cpu-us/op")
		})
	}
	b.Run("rsa2048-alone", func(b *testing.B) {
		sum := bytes.Repeat([]byte{7}, 32)
		before := cpuTime(b)
		for b.Loop() {
			if _, err := testRSA().Sign(rand.Reader, sum, crypto.SHA256); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(cpuTime(b)-before)/1e3/float64(b.N), "cpu-us/op")
	})

}

// TestSealVariants (DRILLS E6.5): each variant is signed as it leaves, with its own fields and body (RULES A4, A6).
func TestSealVariants(t *testing.T) {
	for _, raw := range []string{ours, "From: carol@sluice.test\nSubject: no empty line\n", "From: carol@sluice.test\nSubject: no end"} {
		f := newFixture(t, "")
		sealer, _ := f.sealer(map[string]Signing{"sluice.test": DefaultSigning()})
		m := f.message("carol@sluice.test", raw)
		m.Origin = sdk.Login
		f.process(m)
		spool := f.blobs.NewSpool()
		if _, err := io.WriteString(spool, "Another body \r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		draft, err := spool.Finish()
		if err != nil {
			t.Fatal(err)
		}
		other, err := m.Recipients[1].Version.Apply([]sdk.Change{
			{Kind: sdk.ReplaceBody, Body: m.NewBody(draft)}, {Kind: sdk.AddField, Name: "X-Changed", Value: "yes"}, {Kind: sdk.ReplaceField, Name: "Subject", Value: "changed"},
		})
		if err != nil {
			t.Fatal(err)
		}
		m.Recipients[1].Version = other
		leave(m)
		if err := sealer.Seal(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		one := text(t, m)
		m.Recipients[0], m.Recipients[1] = m.Recipients[1], m.Recipients[0]
		two := text(t, m)
		if !strings.HasSuffix(two, "Another body \r\n\r\n") || strings.Contains(one, "X-Changed") || strings.Count(two, "DKIM-Signature:") != 2 {
			t.Errorf("the variants are\n%s\n%s", one, two)
		}
		for _, raw := range []string{one, two} {
			again := f.message("carol@sluice.test", raw)
			again.Origin = sdk.Trusted
			f.process(again)
			if got := field(t, again); strings.Count(got, "dkim=pass") != 2 {
				t.Errorf("%s\n%q", got, raw)
			}
		}
	}
}

// TestSealUnreadable: what cannot be read is not signed.
func TestSealUnreadable(t *testing.T) {
	f := newFixture(t, "")
	sealer, _ := f.sealer(map[string]Signing{"sluice.test": DefaultSigning()})
	m := f.message("carol@sluice.test", ours)
	m.Origin = sdk.Login
	leave(m)
	before := m.Recipients[0].Version
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := sealer.Seal(ctx, m); !errors.Is(err, context.Canceled) || m.Recipients[0].Version != before {
		t.Errorf("the peer has gone: %v", err)
	}
	m.Content.Discard()
	if err := sealer.Seal(t.Context(), m); err == nil || m.Recipients[0].Version != before {
		t.Errorf("the content has gone: %v", err)
	}
}
