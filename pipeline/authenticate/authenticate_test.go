package authenticate

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/blob"
)

// fixture is a stage over a zone, and a place for messages.
type fixture struct {
	t     testing.TB
	zone  *resolvertest.Zone
	stage *Stage
	blobs *blob.Store
}

func newFixture(t testing.TB, more string) *fixture {
	t.Helper()
	base, err := os.ReadFile("testdata/zone")
	if err != nil {
		t.Fatal(err)
	}
	zone, err := resolvertest.ParseZone(string(base) + more)
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := blob.Open(vfs.NewMem(), "blob", blob.NewBudget(1<<30), 64<<10, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{t: t, zone: zone, blobs: blobs, stage: New(Options{
		Config: DefaultConfig(), Hostname: "mx.sluice.test", DNS: resolvertest.New(zone),
		Percent: func() int { return 60 },
	})}
}

// message makes one from a stranger at 192.0.2.10; raw may have bare line feeds for convenience.
func (f *fixture) message(sender, raw string) *pipeline.Message {
	f.t.Helper()
	spool := f.blobs.NewSpool()
	if _, err := io.WriteString(spool, strings.ReplaceAll(strings.ReplaceAll(raw, "\r\n", "\n"), "\n", "\r\n")); err != nil {
		f.t.Fatal(err)
	}
	draft, err := spool.Finish()
	if err != nil {
		f.t.Fatal(err)
	}
	m := &pipeline.Message{
		Origin: sdk.Stranger, Sender: sender, Trace: &trace.Trace{}, Received: time.Now(),
		Peer:       &pipeline.Peer{Addr: netip.MustParseAddr("192.0.2.10"), Helo: "mail.example.org"},
		Recipients: []*pipeline.Recipient{{Address: "alice@sluice.test"}, {Address: "bob@sluice.test"}},
	}
	if err := m.SetContent(draft); err != nil {
		f.t.Fatal(err)
	}
	return m
}

func (f *fixture) process(m *pipeline.Message) {
	f.t.Helper()
	if err := f.stage.Process(f.t.Context(), m); err != nil {
		f.t.Fatal(err)
	}
}

// field returns our field's value without folds.
func field(t testing.TB, m *pipeline.Message) string {
	t.Helper()
	top := m.Recipients[0].Version.Fields()[0]
	if top.Name != resultsField {
		t.Fatalf("the top field is %s", top.Name)
	}
	for _, line := range strings.Split(strings.TrimSuffix(string(top.Raw), "\r\n"), "\r\n") {
		if len(line) > 998 || strings.ContainsAny(line, "\r\n") {
			t.Errorf("line %q", line)
		}
	}
	return strings.ReplaceAll(top.Value(), "\t", " ")
}

const plain = "From: Alice <alice@example.org>\nTo: bob@sluice.test\nSubject: hello\nDate: Sat, 21 Nov 2026 20:00:00 +0000\nMessage-ID: <1@example.org>\n\nHello.\n"

func TestOrigins(t *testing.T) {
	tests := []struct {
		origin sdk.Origin
		want   string // of the field after our name; "" is no field
		text   string // of the trace
	}{
		{sdk.Stranger, "; iprev=pass policy.iprev=192.0.2.10 (mail.example.org); spf=pass smtp.mailfrom=alice@example.org; dkim=none;" +
			" dmarc=pass (p=reject dis=none) header.from=example.org", "iprev=pass spf=pass dkim=none dmarc=pass"},
		{sdk.Trusted, "; dkim=none", "dkim=none"},
		{sdk.LMTP, "; dkim=none", "dkim=none"},
		{sdk.Login, "; auth=pass smtp.auth=carol@sluice.test; dkim=none", "auth=pass dkim=none"},
		{sdk.Generated, "", ""},
	}
	for _, test := range tests {
		f := newFixture(t, "")
		m := f.message("alice@example.org", plain)
		m.Origin = test.origin
		if test.origin == sdk.Login {
			m.Peer.Login = "carol@sluice.test"
		}
		f.process(m)
		if test.want == "" {
			if m.Recipients[0].Version != m.Arrived() || len(m.Trace.Events()) != 0 {
				t.Errorf("%s: the message was touched", test.origin)
			}
			continue
		}
		if got := field(t, m); got != "mx.sluice.test"+test.want {
			t.Errorf("%s: got  %s\nwant mx.sluice.test%s", test.origin, got, test.want)
		}
		if e := m.Trace.Events(); len(e) != 1 || e[0].Text != test.text || e[0].Action != "accept" {
			t.Errorf("%s: trace %+v, want %q", test.origin, e, test.text)
		}
		if m.Recipients[0].Version != m.Recipients[1].Version {
			t.Errorf("%s: recipients do not share their version", test.origin)
		}
	}
}

func TestSettings(t *testing.T) {
	f := newFixture(t, "")
	f.stage.Config = Config{DMARC: DMARCOff}
	m := f.message("alice@example.org", plain)
	m.Peer.Addr = netip.Addr{}
	f.process(m)
	if got := field(t, m); got != "mx.sluice.test; none" {
		t.Errorf("everything off: %s", got)
	}
	f.stage.Config = Config{SPF: true, DKIM: true, DMARC: DMARCReport}
	m = f.message("mallory@evil.test", "From: a@reject.test\n\n")
	f.process(m)
	if got := field(t, m); !strings.Contains(got, "dmarc=fail (p=reject dis=reject) header.from=reject.test") {
		t.Errorf("report: %s", got)
	}
	if m.Recipients[0].Opinion.Action != sdk.Accept {
		t.Errorf("report: %v", m.Recipients[0].Opinion)
	}
}

// TestSPF: DRILLS E4.1.
func TestSPF(t *testing.T) {
	tests := []struct{ what, sender, helo, addr, want string }{
		{"pass by mx", "alice@example.org", "x", "192.0.2.10", "spf=pass smtp.mailfrom=alice@example.org"},
		{"pass by include", "alice@example.org", "x", "192.0.2.5", "spf=pass smtp.mailfrom=alice@example.org"},
		{"pass by IPv6", "alice@example.org", "x", "2001:db8::5", "spf=pass smtp.mailfrom=alice@example.org"},
		{"mapped IPv4", "alice@example.org", "x", "::ffff:192.0.2.10", "spf=pass smtp.mailfrom=alice@example.org"},
		{"fail", "alice@example.org", "x", "203.0.113.5", "spf=fail smtp.mailfrom=alice@example.org"},
		{"no record", "alice@nothing.test", "x", "192.0.2.10", "spf=none smtp.mailfrom=alice@nothing.test"},
		{"upper case", "Alice@EXAMPLE.org", "x", "192.0.2.10", "spf=pass smtp.mailfrom=Alice@example.org"},
		{"null sender takes HELO", "", "helo.example.org", "192.0.2.10", "spf=pass smtp.helo=helo.example.org"},
		{"HELO is a literal", "", "[192.0.2.10]", "192.0.2.10", `spf=none reason="no domain to ask" smtp.helo="[192.0.2.10]"`},
		{"HELO is rubbish", "", "evil\"; dmarc=pass (", "192.0.2.10", `spf=none reason="no domain to ask" smtp.helo="evil?? dmarc=pass ?"`},
		{"quoted local part", `"a@evil.test"@example.org`, "x", "203.0.113.5", "spf=fail smtp.mailfrom=example.org"},
		{"sender is a literal", "a@[192.0.2.10]", "x", "192.0.2.10", `spf=none reason="no domain to ask" smtp.mailfrom="a@[192.0.2.10]"`},
		{"U-label", "a@bücher.test", "x", "192.0.2.10", "spf=pass smtp.mailfrom=a@xn--bcher-kva.test"},
		{"include loop", "a@loop.test", "x", "192.0.2.10", `spf=permerror reason="lookup limit reached" smtp.mailfrom=a@loop.test`},
		{"void look-ups", "a@voids.test", "x", "192.0.2.10", `spf=permerror reason="void lookup limit reached" smtp.mailfrom=a@voids.test`},
		{"macros with a local part", "alice@macro.test", "x", "192.0.2.10", "spf=pass smtp.mailfrom=alice@macro.test"},
		{"and another's", "bob@macro.test", "x", "192.0.2.10", "spf=fail smtp.mailfrom=bob@macro.test"},
		{"two records", "a@twospf.test", "x", "192.0.2.10", `spf=permerror reason="multiple matching DNS records" smtp.mailfrom=a@twospf.test`},
	}
	for _, test := range tests {
		f := newFixture(t, "")
		f.stage.Config.DMARC = DMARCOff
		m := f.message(test.sender, plain)
		m.Peer.Helo, m.Peer.Addr = test.helo, netip.MustParseAddr(test.addr)
		f.process(m)
		got := field(t, m)
		_, got, _ = strings.Cut(got, "; spf=")
		got, _, _ = strings.Cut("spf="+got, "; dkim=")
		if got != test.want {
			t.Errorf("%s: got %s, want %s", test.what, got, test.want)
		}
	}
}

func TestReverse(t *testing.T) {
	tests := []struct{ addr, want, tag string }{
		{"192.0.2.10", "iprev=pass policy.iprev=192.0.2.10 (mail.example.org)", "mail.example.org"},
		{"192.0.2.20", "iprev=fail policy.iprev=192.0.2.20", ""},
		{"192.0.2.30", "iprev=pass policy.iprev=192.0.2.30 (mx.example.net)", "mx.example.net"},
		{"192.0.2.40", "iprev=permerror policy.iprev=192.0.2.40", ""},
		{"192.0.2.50", "iprev=temperror policy.iprev=192.0.2.50", ""},
		{"2001:db8::1", `iprev=permerror policy.iprev="2001:db8::1"`, ""},
	}
	for _, test := range tests {
		f := newFixture(t, "")
		f.zone.Break("50.2.0.192.in-addr.arpa", resolvertest.Fault{Rcode: 2})
		m := f.message("", plain)
		m.Peer.Addr = netip.MustParseAddr(test.addr)
		f.process(m)
		got, _, _ := strings.Cut(field(t, m), "; spf=")
		if got != "mx.sluice.test; "+test.want {
			t.Errorf("got %s, want %s", got, test.want)
		}
		if _, name := resolver.VerifyReverse(t.Context(), f.stage.DNS, m.Peer.Addr); name != test.tag {
			t.Errorf("%s: name %q, want %q", test.addr, name, test.tag)
		}
	}
}

// TestBrokenDNS (DRILLS E4.1): everything is temperror, and the message goes on, whatever its policy (RULES D4).
func TestBrokenDNS(t *testing.T) {
	f := newFixture(t, "")
	for _, name := range []string{"example.org", "_dmarc.example.org", "10.2.0.192.in-addr.arpa"} {
		f.zone.Break(name, resolvertest.Fault{Rcode: 2})
	}
	m := f.message("alice@example.org", plain)
	f.process(m)
	for _, want := range []string{"iprev=temperror", "spf=temperror", "dmarc=temperror"} {
		if got := field(t, m); !strings.Contains(got, want) {
			t.Errorf("%s is not in %s", want, got)
		}
	}
	if a := m.Recipients[0].Opinion.Action; a != sdk.Accept {
		t.Errorf("action %s", a)
	}

	// Policy known, SPF not: it might have passed.
	f = newFixture(t, "")
	f.zone.Break("example.org", resolvertest.Fault{Rcode: 2})
	m = f.message("alice@example.org", plain)
	f.process(m)
	if got := field(t, m); !strings.Contains(got, "dmarc=temperror") || m.Recipients[0].Opinion.Action != sdk.Accept {
		t.Errorf("SPF unknown: %s, %v", got, m.Recipients[0].Opinion)
	}
}

// TestHangingZone (DRILLS E4.1): a reverse zone whose servers are dead, the most common fault there is, takes nothing from the others.
func TestHangingZone(t *testing.T) {
	f := newFixture(t, "")
	f.zone.Break("10.2.0.192.in-addr.arpa", resolvertest.Fault{Silent: true})
	config := resolver.DefaultConfig()
	config.Timeout, config.Deadline = units.Of(100*time.Millisecond), units.Of(200*time.Millisecond)
	f.stage.DNS = resolvertest.NewWith(f.zone, config, nil)
	m := f.message("alice@example.org", plain)
	start := time.Now()
	f.process(m)
	got := field(t, m)
	for _, want := range []string{"iprev=temperror", "spf=pass", "dmarc=pass"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in %s", want, got)
		}
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestForgedFields(t *testing.T) {
	const raw = `Authentication-Results: mx.sluice.test; dmarc=pass
authentication-results:
 (a (nested\) comment)) "MX.sluice.test." 1; dmarc=pass
Authentication-Results : mx.sluice.test;spf=pass
Authentication-Results: mx.sluice.test(x);spf=pass
Authentication-Results: ; dmarc=pass
Authentication-Results: (mx.sluice.test
Authentication-Results: mx.example.org; spf=pass
Authentication-Results: mx.sluice.test.example.org; spf=pass
X-Sluice-Unscanned: no
x-sluice-Trace: 1
X-Sluices: stays
X-Spam-Status: No
X-Quarantine-ID: 1
Received-SPF: pass
Subject: stays

X-Sluice-Body: stays
`
	for _, test := range []struct {
		origin sdk.Origin
		want   string
	}{
		{sdk.Stranger, "mx.example.org mx.sluice.test.example.org X-Sluices Subject"},
		{sdk.Trusted, "mx.example.org mx.sluice.test.example.org X-Sluices X-Spam-Status X-Quarantine-ID Received-SPF Subject"},
	} {
		f := newFixture(t, "")
		m := f.message("", raw)
		m.Origin = test.origin
		f.process(m)
		var left []string
		for _, fl := range m.Recipients[1].Version.Fields()[1:] {
			if strings.EqualFold(fl.Name, resultsField) {
				id, _, _ := strings.Cut(fl.Value(), ";")
				left = append(left, id)
				continue
			}
			left = append(left, fl.Name)
		}
		if got := strings.Join(left, " "); got != test.want {
			t.Errorf("%s: left %s, want %s", test.origin, got, test.want)
		}
		e := m.Trace.Events()
		if len(e) != 1 || len(e[0].Changes) != 1 || !strings.HasPrefix(e[0].Changes[0], "removed ") {
			t.Errorf("%s: trace %+v", test.origin, e)
		}
	}
}

func TestAuth(t *testing.T) {
	f := newFixture(t, "")
	m := f.message("alice@example.org", plain)
	m.Tags = map[string]string{"spf": "fail", "dkim.domains": "forged.test"} // of some plugin; they mean nothing
	f.process(m)
	want := "map[arc:none dkim:none dmarc:pass dmarc.domain:example.org iprev:pass spf:pass spf.domain:example.org]"
	if got := fmt.Sprint(m.Envelope().Auth); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if len(m.Tags) != 2 || m.Tags["spf"] != "fail" {
		t.Errorf("tags %v", m.Tags)
	}
	login := f.message("alice@example.org", plain)
	login.Origin, login.Peer.Login = sdk.Login, "alice@example.org"
	f.process(login)
	if got := fmt.Sprint(login.Envelope().Auth); got != "map[auth:pass dkim:none]" {
		t.Errorf("login: %s", got)
	}
}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		config Config
		want   string
	}{
		{DefaultConfig(), ""},
		{Config{DMARC: DMARCOff}, ""},
		{Config{DMARC: DMARCReport}, ""},
		{Config{SPF: true, DMARC: DMARCEnforce}, "dmarc: \"enforce\" needs spf = true and dkim = true, expected \"report\" or \"off\" without them"},
		{Config{SPF: true, DKIM: true, DMARC: "yes"}, `dmarc: is "yes", expected "off", "report" or "enforce"`},
	} {
		got := ""
		if err := test.config.Validate(); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%+v: %s, want %s", test.config, got, test.want)
		}
	}
}
