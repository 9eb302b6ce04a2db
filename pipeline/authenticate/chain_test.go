package authenticate

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
)

// forwarder is a server on the way of a message.
type forwarder struct {
	f      *fixture
	stage  *Stage
	sealer *Sealer
	domain string
}

func newForwarder(f *fixture, domain string) *forwarder {
	options := f.stage.Options
	options.Hostname = "mx." + domain
	sealer, _ := f.sealer(map[string]Signing{domain: DefaultSigning()})
	sealer.Hostname = options.Hostname
	return &forwarder{f: f, stage: New(options), sealer: sealer, domain: domain}
}

// forward takes a message in, lets change change it, and returns it as it leaves.
func (w *forwarder) forward(raw string, change func(*pipeline.Message)) string {
	w.f.t.Helper()
	m := w.f.message("a@evil.test", raw)
	m.Recipients = m.Recipients[:1]
	m.Recipients[0].Address = "list@" + w.domain
	if err := w.stage.Process(w.f.t.Context(), m); err != nil {
		w.f.t.Fatal(err)
	}
	if change != nil {
		change(m)
	}
	m.Recipients[0].Hops = []pipeline.Hop{{Kind: pipeline.HopRemote, Address: "next@elsewhere.test"}}
	if err := w.sealer.Seal(w.f.t.Context(), m); err != nil {
		w.f.t.Fatal(err)
	}
	return text(w.f.t, m)
}

// tag is a mailing list's change of the subject.
func tag(m *pipeline.Message) {
	_ = m.Change(func(v *pipeline.Version) (*pipeline.Version, error) {
		return v.Apply([]sdk.Change{{Kind: sdk.ReplaceField, Name: "Subject", Value: "[list] hello"}})
	})
}

// written is a message with a DKIM signature of reject.test, which asks for p=reject.
func written(f *fixture) string {
	return newSigner(f, "s._domainkey.reject.test", "").sign("reject.test", "",
		"From: b@reject.test\nTo: list@one.test\nSubject: hello\nDate: Sat, 21 Nov 2026 20:00:00 +0000\nMessage-ID: <1@reject.test>\n\nHello.\n")
}

// arcOf returns what our eyes see of a chain.
func arcOf(f *fixture, raw string) string {
	f.t.Helper()
	m := f.message("a@evil.test", raw)
	f.process(m)
	all := field(f.t, m)
	_, found, ok := strings.Cut(all, "; arc=")
	if !ok {
		return "none"
	}
	found, _, _ = strings.Cut(found, ";")
	return found
}

func TestChain(t *testing.T) {
	f := newFixture(t, "")
	raw := written(f)
	one, two, three := newForwarder(f, "one.test"), newForwarder(f, "two.test"), newForwarder(f, "three.test")
	if got := arcOf(f, raw); got != "none" {
		t.Errorf("before: %s", got)
	}
	first := one.forward(raw, nil)
	second := two.forward(first, tag)
	third := three.forward(second, nil)
	for _, test := range []struct{ what, raw, want string }{
		{"one", first, "pass (i=1 by one.test) header.oldest-pass=0"},
		{"two, which changed it", second, "pass (i=2 by two.test) header.oldest-pass=2"},
		{"three", third, "pass (i=3 by three.test) header.oldest-pass=2"},
		{"another subject", strings.Replace(third, "[list]", "[spam]", 1), `fail reason="message signature 3: the signature does not verify"`},
		{"another body", strings.Replace(third, "Hello.", "Hallo.", 1), `fail reason="message signature 3: the body has changed"`},
		{"a Received field", "Received: x\r\n" + third, "pass (i=3 by three.test) header.oldest-pass=2"},
		{"another result of the first", strings.Replace(third, "dkim=pass", "dkim=fail", 1), "fail"},
	} {
		if got := arcOf(f, test.raw); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: %s, want %s", test.what, got, test.want)
		}
	}
	if dir := os.Getenv("ARC_KEEP"); dir != "" { // for a look with other programs
		for name, raw := range map[string]string{"one": first, "two": second, "three": third} {
			if err := os.WriteFile(filepath.Join(dir, name+".eml"), []byte(raw), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := strings.Count(first, "ARC-"); got != 3 {
		t.Errorf("%d ARC fields after the first", got)
	}
	if !strings.Contains(first, "ARC-Authentication-Results: i=1; mx.one.test;\r\n") || !strings.Contains(first, "\tdkim=pass header.d=reject.test") {
		t.Errorf("results:\n%s", first)
	}
	for _, line := range strings.Split(third, "\r\n") {
		if len(line) > 120 {
			t.Errorf("a line of %d octets: %s", len(line), line)
		}
	}
}

// TestBrokenChain (DRILLS E4.5): who finds a chain broken says so once, and nobody adds to that (RFC 8617 section 5.1.2).
func TestBrokenChain(t *testing.T) {
	f := newFixture(t, "")
	one, two, three := newForwarder(f, "one.test"), newForwarder(f, "two.test"), newForwarder(f, "three.test")
	first := strings.Replace(one.forward(written(f), nil), "Subject: hello", "Subject: goodbye", 1)
	second := two.forward(first, nil)
	if !strings.Contains(second, "ARC-Seal: i=2;") || !strings.Contains(second, "cv=fail") {
		t.Fatalf("after a broken chain:\n%s", second)
	}
	if got := arcOf(f, second); got != `fail reason="the last sealer found the chain broken"` {
		t.Errorf("seen: %s", got)
	}
	if third := three.forward(second, nil); strings.Contains(third, "i=3") {
		t.Errorf("a third seal:\n%s", third)
	}
	// A server that is no part of the chain loses one of its fields: the next says fail, with the next number.
	lost := cutField(one.forward(written(f), nil), "ARC-Message-Signature")
	if second := two.forward(lost, nil); !strings.Contains(second, "ARC-Seal: i=2;") || !strings.Contains(second, "cv=fail") {
		t.Errorf("after a chain with a hole:\n%s", second)
	}
}

// cutField removes the first field of a name.
func cutField(raw, name string) string {
	at := strings.Index(raw, name+":")
	end := at
	for {
		end += strings.Index(raw[end:], "\r\n") + 2
		if raw[end] != '\t' && raw[end] != ' ' {
			return raw[:at] + raw[end:]
		}
	}
}

// TestLongestChain (DRILLS E4.5): 50 sets pass, the 51st server adds nothing.
func TestLongestChain(t *testing.T) {
	f := newFixture(t, "")
	one := newForwarder(f, "one.test")
	raw := written(f)
	for i := 1; i <= 50; i++ {
		raw = one.forward(raw, nil)
	}
	if got := arcOf(f, raw); got != "pass (i=50 by one.test) header.oldest-pass=0" {
		t.Errorf("50 sets: %s", got)
	}
	if more := one.forward(raw, nil); strings.Contains(more, "i=51") || strings.Count(more, "ARC-Seal:") != 50 {
		t.Error("a 51st set")
	}
}

// TestTrustedSealers: DRILLS E4.5.
func TestTrustedSealers(t *testing.T) {
	tests := []struct {
		what    string
		trusted []string
		hops    string
		from    string // what a hop writes into From, if it does
		spoil   string // what is replaced in the end
		action  sdk.Action
	}{
		{"nobody is trusted", nil, "one", "", "", sdk.Reject},
		{"the sealer is", []string{"one.test"}, "one", "", "", sdk.Accept},
		{"another is", []string{"two.test"}, "one", "", "", sdk.Reject},
		{"a domain above is not enough", []string{"test"}, "one", "", "", sdk.Reject},
		{"the last of two", []string{"two.test"}, "one two", "", "", sdk.Reject},
		{"the first of two: who sealed after it may have taken it from elsewhere", []string{"one.test"}, "one two", "", "", sdk.Reject},
		{"both", []string{"one.test", "two.test"}, "one two", "", "", sdk.Accept},
		{"another author", []string{"one.test"}, "one", "b@strict.test", "", sdk.Reject},
		{"changed since", []string{"one.test"}, "one", "", "Hello.", sdk.Reject},
	}
	for _, test := range tests {
		f := newFixture(t, "")
		raw := written(f)
		for _, name := range strings.Fields(test.hops) {
			raw = newForwarder(f, name+".test").forward(raw, func(m *pipeline.Message) {
				tag(m)
				if test.from != "" {
					_ = m.Change(func(v *pipeline.Version) (*pipeline.Version, error) {
						return v.Apply([]sdk.Change{{Kind: sdk.ReplaceField, Name: "From", Value: test.from}})
					})
				}
			})
		}
		if test.spoil != "" {
			raw = strings.Replace(raw, test.spoil, "Spoilt.", 1)
		}
		f.stage.Config.ARCTrusted = test.trusted
		reports := &observer{}
		f.stage.Reports = reports
		m := f.message("a@evil.test", raw)
		f.process(m)
		if got := m.Recipients[0].Opinion.Action; got != test.action {
			t.Errorf("%s: %s, want %s; %s", test.what, got, test.action, field(t, m))
		}
		if len(reports.list) != 1 {
			t.Fatalf("%s: %d observations", test.what, len(reports.list))
		}
		o := reports.list[0]
		if test.action == sdk.Reject && (o.Disposition != "reject" || len(o.Overrides) != 0) {
			t.Errorf("%s: observed %+v", test.what, o)
		}
		if test.action == sdk.Accept && (o.Disposition != "none" || len(o.Overrides) != 1 || o.Overrides[0].Type != "local_policy" ||
			!strings.HasPrefix(o.Overrides[0].Comment, "arc=pass as[")) {
			t.Errorf("%s: observed %+v", test.what, o)
		}
	}
}

// TestForgedResultsInChain: what a set says is read as RFC 8601 has it, not as it looks.
func TestForgedResultsInChain(t *testing.T) {
	for _, results := range []string{
		"mx.one.test; dmarc=fail (dmarc=pass header.from=reject.test) header.from=reject.test",
		`mx.one.test; dmarc=fail reason="; dmarc=pass header.from=reject.test" header.from=reject.test`,
		"mx.one.test; dmarc=pass",
		"mx.one.test; dmarc=pass header.from=other.test",
		"dmarc=pass header.from=reject.test; none",
		"mx.one.test; spf=pass dmarc=pass header.from=reject.test",
	} {
		f := newFixture(t, "")
		f.stage.Config.ARCTrusted = []string{"one.test"}
		raw := newForwarder(f, "one.test").forward(written(f), func(m *pipeline.Message) { tag(m); m.Auth.Results = results })
		m := f.message("a@evil.test", raw)
		f.process(m)
		if got := field(t, m); !strings.Contains(got, "arc=pass") || m.Recipients[0].Opinion.Action != sdk.Reject {
			t.Errorf("%s: %s", results, got)
		}
	}
}

// TestSealKeys: which domain seals.
func TestSealKeys(t *testing.T) {
	for _, test := range []struct {
		what    string
		domains map[string]Signing
		want    string // d=, "" for no seal
	}{
		{"the domain that received it", map[string]Signing{"sluice.test": DefaultSigning()}, "sluice.test"},
		{"which does not want to", map[string]Signing{"sluice.test": {Sign: SignAuto}}, ""},
		{"or has no keys", map[string]Signing{"sluice.test": {Sign: "none yet", ARC: true}}, ""},
	} {
		f := newFixture(t, "")
		sealer, _ := f.sealer(test.domains)
		m := f.message("a@evil.test", written(f))
		f.process(m)
		leave(m)
		if err := sealer.Seal(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		raw := text(t, m)
		if test.want == "" && strings.Contains(raw, "ARC-Seal") || test.want != "" && !strings.Contains(raw, "d="+test.want) {
			t.Errorf("%s:\n%s", test.what, raw)
		}
	}
	// Mail that the same message brings to a mailbox here is sealed too if it shares the variant, and not if none leaves.
	f := newFixture(t, "")
	sealer, _ := f.sealer(map[string]Signing{"sluice.test": DefaultSigning()})
	m := f.message("a@evil.test", written(f))
	f.process(m)
	for _, r := range m.Recipients {
		r.Hops = []pipeline.Hop{{Kind: pipeline.HopMailbox}}
	}
	before := m.Recipients[0].Version
	if err := sealer.Seal(t.Context(), m); err != nil || m.Recipients[0].Version != before {
		t.Errorf("local delivery: %v", err)
	}
}

// observer keeps observations.
type observer struct{ list []*pipeline.DMARCObservation }

func (o *observer) ObserveDMARC(d *pipeline.DMARCObservation) { o.list = append(o.list, d) }

func TestObservations(t *testing.T) {
	f := newFixture(t, `
_dmarc.full.test. TXT "v=DMARC1; p=Reject; sp=none; np=quarantine; adkim=s; fo=1:d; rua=mailto:a@full.test!10m , mailto:b@full.test; pct=30"
full.test. TXT "v=spf1 ip4:192.0.2.10 -all"
`)
	reports := &observer{}
	f.stage.Reports = reports
	one := func(sender, raw string) string {
		reports.list = nil
		m := f.message(sender, raw)
		f.process(m)
		var lines []string
		for _, o := range reports.list {
			lines = append(lines, fmt.Sprintf("%s from %s env %s to %s: %+v dis=%s %+v spf=%+v %v dkim=%+v %v report=%v",
				o.Source, o.HeaderFrom, o.EnvelopeFrom, o.EnvelopeTo, o.Policy, o.Disposition, o.Overrides, o.SPF, o.SPFAligned, o.DKIM, o.DKIMAligned, o.Report))
		}
		return strings.Join(lines, "\n")
	}
	const full = "{Domain:full.test Discovery:treewalk P:reject SP:none NP:quarantine ADKIM:s ASPF:r Percent:30 Testing:false FO:1:d RUA:[mailto:a@full.test!10m mailto:b@full.test]}"
	for _, test := range []struct{ what, sender, raw, want string }{
		{"passed", "a@full.test", "From: b@full.test\nSubject: Report domain: x\n\n",
			"192.0.2.10 from full.test env full.test to [sluice.test]: " + full + " dis=none [] spf={Domain:full.test Scope:mfrom Result:pass} true dkim=[] false report=true"},
		{"sampled out", "a@evil.test", "From: b@full.test\nSubject: Report domain: x\n\n",
			"192.0.2.10 from full.test env evil.test to [sluice.test]: " + full + " dis=quarantine [{Type:sampled_out Comment:}] spf={Domain:evil.test Scope:mfrom Result:pass} false dkim=[] false report=false"},
		{"no policy", "a@evil.test", "From: b@nothing.test\n\n", ""},
		{"signed", "", newSigner(f, "s._domainkey.reject.test", "").sign("reject.test", "", "From: b@x.reject.test\nSubject: x\n\n"),
			"192.0.2.10 from x.reject.test env  to [sluice.test]: {Domain:reject.test Discovery:treewalk P:reject SP: NP: ADKIM:r ASPF:r Percent:100 Testing:false FO: RUA:[]} dis=none []" +
				" spf={Domain:mail.example.org Scope:helo Result:none} false dkim=[{Domain:reject.test Selector:s Result:pass}] true report=false"},
	} {
		if got := one(test.sender, test.raw); got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.what, got, test.want)
		}
	}
	f.stage.Config.DMARC = DMARCReport
	if got := one("a@evil.test", "From: b@reject.test\n\n"); !strings.Contains(got, "dis=none [{Type:local_policy Comment:policies are not enforced here}]") {
		t.Errorf("not enforced: %s", got)
	}
}

func TestSenderVerified(t *testing.T) {
	for _, test := range []struct {
		what, sender string
		signed       bool
		origin       sdk.Origin
		want         bool
	}{
		{"SPF", "alice@example.org", false, sdk.Stranger, true},
		{"SPF fails", "alice@strict.test.evil", false, sdk.Stranger, false},
		{"SPF of HELO says nothing about it", "", false, sdk.Stranger, false},
		{"DKIM of its organisation", "x@bounce.reject.test.", true, sdk.Stranger, true},
		{"DKIM of another", "x@quarantine.nothing.test", true, sdk.Stranger, false},
		{"a login", "x@sluice.test", false, sdk.Login, true},
		{"LMTP", "x@sluice.test", false, sdk.LMTP, false},
		{"LMTP with DKIM", "x@reject.test", true, sdk.LMTP, true},
	} {
		f := newFixture(t, "")
		raw := plain
		if test.signed {
			raw = written(f)
		}
		m := f.message(test.sender, raw)
		m.Origin = test.origin
		if test.signed {
			m.Peer.Addr = m.Peer.Addr.Next() // SPF does not know it
		}
		f.process(m)
		if m.Auth.SenderVerified != test.want {
			t.Errorf("%s: %v, want %v; %+v", test.what, m.Auth.SenderVerified, test.want, m.Auth)
		}
	}
}

// BenchmarkChain is the whole stage for a forwarded message, with a warm DNS cache.
func BenchmarkChain(b *testing.B) {
	f := newFixture(b, "")
	raw := written(f)
	for _, n := range []int{1, 3} {
		for i := range n {
			raw = newForwarder(f, fmt.Sprintf("hop%d-%d.test", n, i)).forward(raw, nil)
		}
		b.Run(fmt.Sprintf("sets-%d", strings.Count(raw, "ARC-Seal:")), func(b *testing.B) {
			m := f.message("a@evil.test", raw)
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				m.Trace = nil
				for _, r := range m.Recipients {
					r.Version = m.Arrived()
				}
				if err := f.stage.Process(b.Context(), m); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-before)/1e3/float64(b.N), "cpu-us/op")
		})
	}
}
