package authenticate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/sdk"
)

// TestTreeWalk (DRILLS E4.4) has the examples of RFC 9989 section 4.10 and its appendix, and what else can stand in a tree.
func TestTreeWalk(t *testing.T) {
	tests := []struct {
		what, zone, domain string
		org, suffix        string
		at                 string // where the policy is, "" for none
		policy             string // p, sp or np, as it applies
	}{
		{"records in two places: the fewest labels (section 4.10.2)", `mail.example.com "p=none" example.com "p=reject"`,
			"a.mail.example.com", "example.com", "", "example.com", "reject"},
		{"psd=n (section 4.10.2)", `mail.example.com "p=quarantine; psd=n" example.com "p=reject"`,
			"a.mail.example.com", "mail.example.com", "", "mail.example.com", "quarantine"},
		{"psd=y at the top only (section 4.10.2)", `com "p=reject; psd=y; sp=none; np=quarantine"`,
			"a.mail.example.com", "example.com", "com", "com", "none"},
		{"psd=y and the organisation's own", `com "p=reject; psd=y" example.com "p=none; sp=quarantine"`,
			"a.mail.example.com", "example.com", "com", "example.com", "quarantine"},
		{"psd=y at the author itself", `giant.bank.example "p=reject; psd=y" bank.example "p=none; psd=y"`,
			"giant.bank.example", "giant.bank.example", "", "giant.bank.example", "reject"},
		{"psd=n at the author itself", `giant.bank.example "p=reject; psd=n" bank.example "p=none; psd=n"`,
			"giant.bank.example", "giant.bank.example", "", "giant.bank.example", "reject"},
		{"the author's own record, and the organisation above", `a.mail.example.com "p=none" example.com "p=reject"`,
			"a.mail.example.com", "example.com", "", "a.mail.example.com", "none"},
		{"nothing", ``, "a.mail.example.com", "a.mail.example.com", "", "", ""},
		{"a parent without a record is another organisation", `news.example.com "p=reject"`,
			"news.example.com", "news.example.com", "", "news.example.com", "reject"},
		{"a public suffix of the list without psd= counts for nothing", `co.uk "p=reject" uk "p=reject"`,
			"shop.bank.co.uk", "shop.bank.co.uk", "", "", ""},
		{"the same with psd=n counts", `co.uk "p=reject; psd=n"`,
			"shop.bank.co.uk", "co.uk", "", "co.uk", "reject"},
		{"a suffix of the list that says psd=y", `co.uk "p=reject; psd=y"`,
			"shop.bank.co.uk", "bank.co.uk", "co.uk", "co.uk", "reject"},
		{"two records are none", `example.com "p=reject" example.com "p=none"`,
			"mail.example.com", "mail.example.com", "", "", ""},
		{"more than eight labels: the second name has seven", `f.g.h.i.j.mail.example.com "p=reject" g.h.i.j.mail.example.com "p=quarantine"`,
			"a.b.c.d.e.f.g.h.i.j.mail.example.com", "g.h.i.j.mail.example.com", "", "g.h.i.j.mail.example.com", "quarantine"},
		{"psd=y after a jump: the organisation is one label below it", `g.h.i.j.mail.example.com "p=quarantine; psd=y"`,
			"a.b.c.d.e.f.g.h.i.j.mail.example.com", "f.g.h.i.j.mail.example.com", "g.h.i.j.mail.example.com", "g.h.i.j.mail.example.com", "quarantine"},
		{"a single label", `localhost "p=reject"`, "localhost", "localhost", "", "localhost", "reject"},
	}
	for _, test := range tests {
		zone := resolvertest.MustParse("")
		for words := strings.Split(test.zone, `"`); len(words) > 1; words = words[2:] {
			if err := zone.Add(fmt.Sprintf(`_dmarc.%s. TXT "v=DMARC1; %s"`, strings.TrimSpace(words[0]), words[1])); err != nil {
				t.Fatal(err)
			}
		}
		dns := resolvertest.New(zone)
		w := &walker{dns: dns}
		org, suffix, err := w.walk(t.Context(), test.domain)
		if err != nil || org != test.org || suffix != test.suffix {
			t.Errorf("%s: organisation %s, suffix %q, %v; want %s and %q", test.what, org, suffix, err, test.org, test.suffix)
		}
		record, at, err := w.policy(t.Context(), test.domain)
		policy := record.policy
		if at != test.domain {
			policy = record.subdomain
		}
		if err != nil || at != test.at || policy != test.policy {
			t.Errorf("%s: policy %s at %q, %v; want %s at %q", test.what, policy, at, err, test.policy, test.at)
		}
		if n := zone.Queries(); n > 8 {
			t.Errorf("%s: %d questions", test.what, n)
		}
	}
}

// TestWalkQuestions: the eight questions of RFC 9989 section 4.10's example, in their order.
func TestWalkQuestions(t *testing.T) {
	zone := resolvertest.MustParse("")
	w := &walker{dns: resolvertest.New(zone)}
	if _, _, err := w.walk(t.Context(), "a.b.c.d.e.f.g.h.i.j.mail.example.com"); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range w.seen {
		names = append(names, p.name)
	}
	want := "a.b.c.d.e.f.g.h.i.j.mail.example.com g.h.i.j.mail.example.com h.i.j.mail.example.com i.j.mail.example.com j.mail.example.com" +
		" mail.example.com example.com com"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("asked %s\nwant  %s", got, want)
	}
	if _, _, err := w.walk(t.Context(), "b.mail.example.com"); err != nil || zone.Queries() != 9 {
		t.Errorf("a second walk asked again: %d questions, %v", zone.Queries(), err)
	}
	zone.Break("_dmarc.mail.broken.test.", resolvertest.Fault{Rcode: 2})
	if _, _, err := w.walk(t.Context(), "a.mail.broken.test"); err == nil {
		t.Error("a question without an answer is no answer")
	}
}

// TestDiscoveryModes: what the two ways say about one tree.
func TestDiscoveryModes(t *testing.T) {
	const tree = `
_dmarc.news.split.test. TXT "v=DMARC1; p=reject; psd=n"
_dmarc.split.test. TXT "v=DMARC1; p=none"
split.test. TXT "v=spf1 ip4:192.0.2.10 -all"
_dmarc.low.test. TXT "v=DMARC1; p=reject"
a.b.low.test. TXT "v=spf1 ip4:192.0.2.10 -all"
_dmarc.b.low.test. TXT "v=DMARC1; p=quarantine"
_dmarc.bank.test. TXT "v=DMARC1; p=reject; psd=y"
evil.bank.test. TXT "v=spf1 +all"
`
	for _, test := range []struct {
		what, sender, from string
		walk, list         string
		walkDoes, listDoes sdk.Action
	}{
		{"an organisation of its own by psd=n", "x@split.test", "a@news.split.test", "fail", "pass", sdk.Reject, sdk.Accept},
		{"a record between", "x@a.b.low.test", "a@c.b.low.test", "pass", "pass", sdk.Accept, sdk.Accept},
		{"a record between says more than the one above", "x@evil.test", "a@c.b.low.test", "fail", "fail", sdk.Reject, sdk.Reject},
		{"a registry's customers", "x@evil.bank.test", "a@good.bank.test", "fail", "pass", sdk.Reject, sdk.Accept},
	} {
		for _, mode := range []Discovery{TreeWalk, ListOnly} {
			f := newFixture(t, tree)
			f.stage.Config.Discovery = mode
			reports := &observer{}
			f.stage.Reports = reports
			m := f.message(test.sender, "From: "+test.from+"\n\nbody\n")
			f.process(m)
			want, does := test.walk, test.walkDoes
			if mode == ListOnly {
				want, does = test.list, test.listDoes
			}
			if got := m.Auth.DMARC; got != want || m.Recipients[0].Opinion.Action != does {
				t.Errorf("%s, %s: %s and %s, want %s and %s", test.what, mode, got, m.Recipients[0].Opinion.Action, want, does)
			}
			if len(reports.list) != 1 || reports.list[0].Policy.Discovery != map[Discovery]string{TreeWalk: "treewalk", ListOnly: "psl"}[mode] {
				t.Errorf("%s, %s: observed %+v", test.what, mode, reports.list)
			}
		}
	}
}

// TestRecordTags (DRILLS E4.4): what a record's tags come to (RFC 7489 section 6.3, RFC 9989 section 4.7).
func TestRecordTags(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"v=DMARC1; p=reject", "reject reject reject 100 false u []"},
		{"v=DMARC1; p=reject; sp=none", "reject none none 100 false u []"},
		{"v=DMARC1; p=none; np=reject; t=y; psd=y", "none none reject 100 true y []"},
		{"v=DMARC1; p=quarantine; sp=reject; np=none; psd=n; pct=0", "quarantine reject none 0 false n []"},
		{"v=DMARC1; p=reject; pct=101; psd=u; t=n", "reject reject reject 100 false u []"},
		{"v=DMARC1; sp=reject", "none"},
		{"v=DMARC1; p=reject; sp=bogus", "none"},
		{"v=DMARC1; p=reject; sp=bogus; rua=mailto:a@b.test", "none none none 100 false u [mailto:a@b.test]"},
		{"v=DMARC1; p=reject; np=bogus; rua=mailto:a@b.test", "none none none 100 false u [mailto:a@b.test]"},
		{"v=DMARC1; rua=mailto:a@b.test!5m, mailto:c@d.test", "none none none 100 false u [mailto:a@b.test!5m mailto:c@d.test]"},
		{"v=DMARC1; rua=https://b.test/", "none"},
		{"v=DMARC1; p=none; p=reject", "none none none 100 false u []"},
		{"p=reject; v=DMARC1", "none"},
		{"v=DMARC2; p=reject", "none"},
	} {
		r, ok := parseDMARC(test.text)
		got := "none"
		if ok {
			psd := "u"
			if r.psd != 0 {
				psd = string(r.psd)
			}
			got = fmt.Sprint(r.policy, " ", r.subdomain, " ", r.nonexistent, " ", r.percent, " ", r.testing, " ", psd, " ", r.rua)
		}
		if got != test.want {
			t.Errorf("%s: %s, want %s", test.text, got, test.want)
		}
	}
}

// TestForeignFailure: whose DNS fails on purpose gains nothing by it.
func TestForeignFailure(t *testing.T) {
	f := newFixture(t, "")
	for _, name := range []string{"_dmarc.evil.test.", "_dmarc.a.evil.test."} {
		f.zone.Break(name, resolvertest.Fault{Rcode: 2})
	}
	raw := newSigner(f, "s._domainkey.evil.test", "").sign("evil.test", "", "From: b@reject.test\nSubject: x\n\nbody\n")
	m := f.message("a@evil.test", raw)
	f.process(m)
	if got := field(t, m); m.Recipients[0].Opinion.Action != sdk.Reject || !strings.Contains(got, "dmarc=fail") {
		t.Errorf("%s: %s", m.Recipients[0].Opinion.Action, got)
	}
	// Where the author's own DNS fails, nobody knows.
	f.zone.Break("_dmarc.sub.reject.test.", resolvertest.Fault{Rcode: 2})
	m = f.message("a@evil.test", "From: b@sub.reject.test\n\n")
	f.process(m)
	if got := m.Auth.DMARC; got != "temperror" || m.Recipients[0].Opinion.Action != sdk.Accept {
		t.Errorf("%s and %s", got, m.Recipients[0].Opinion.Action)
	}
}

// TestSlowKey: a key that never comes leaves time to find out what the author's domain wants.
func TestSlowKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "")
	patient := resolver.DefaultConfig()
	patient.Timeout, patient.Deadline = units.Of(20*time.Second), units.Of(20*time.Second)
	f.stage.DNS = resolvertest.NewWith(f.zone, patient, time.Now)
	raw := newSigner(f, "s._domainkey.evil.test", "").sign("evil.test", "", "From: b@reject.test\nSubject: x\n\nbody\n")
	f.zone.Break("s._domainkey.evil.test.", resolvertest.Fault{Silent: true})
	f.zone.Break("evil.test.", resolvertest.Fault{Silent: true})
	m := f.message("a@evil.test", raw)
	start := time.Now()
	f.process(m)
	if got := field(t, m); m.Recipients[0].Opinion.Action != sdk.Reject || !strings.Contains(got, "dkim=temperror") || !strings.Contains(got, "spf=temperror") {
		t.Errorf("%s after %s: %s", m.Recipients[0].Opinion.Action, time.Since(start), got)
	}
}

// TestSlowAuthor: an author beside the others whose policy never comes spares none of them.
func TestSlowAuthor(t *testing.T) {
	for _, from := range []string{"a@slow.test, b@reject.test", "b@reject.test, a@slow.test"} {
		t.Run(from, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, "")
			f.zone.Break("_dmarc.slow.test.", resolvertest.Fault{Silent: true})
			m := f.message("a@evil.test", "From: "+from+"\nSubject: x\n\nbody\n")
			f.process(m)
			if m.Recipients[0].Opinion.Action != sdk.Reject {
				t.Errorf("%s, %s", m.Recipients[0].Opinion.Action, field(t, m))
			}
		})
	}
}

// TestExamples7489 has those of RFC 7489 appendix B.1.
func TestExamples7489(t *testing.T) {
	const zone = `
_dmarc.example.com. TXT "v=DMARC1; p=reject"
example.com. TXT "v=spf1 ip4:192.0.2.10 -all"
child.example.com. TXT "v=spf1 ip4:192.0.2.10 -all"
sample.net. TXT "v=spf1 ip4:192.0.2.10 -all"
`
	for _, test := range []struct {
		what, sender, signs, from string
		relaxed, strict           string
	}{
		{"B.1.1 example 1: SPF in alignment", "sender@example.com", "", "sender@example.com", "pass", "pass"},
		{"B.1.1 example 2: SPF in alignment (parent)", "sender@child.example.com", "", "sender@example.com", "pass", "fail"},
		{"B.1.1 example 3: SPF not in alignment", "sender@sample.net", "", "sender@child.example.com", "fail", "fail"},
		{"B.1.2 example 1: DKIM in alignment", "sender@sample.net", "example.com", "sender@example.com", "pass", "pass"},
		{"B.1.2 example 2: DKIM in alignment (parent)", "sender@sample.net", "example.com", "sender@child.example.com", "pass", "fail"},
		{"B.1.2 example 3: DKIM not in alignment", "sender@sample.net", "sample.net", "sender@child.example.com", "fail", "fail"},
	} {
		for _, mode := range []Discovery{TreeWalk, ListOnly} {
			for tags, want := range map[string]string{"": test.relaxed, "; adkim=s; aspf=s": test.strict} {
				f := newFixture(t, strings.Replace(zone, "p=reject", "p=reject"+tags, 1))
				f.stage.Config.Discovery = mode
				raw := "From: " + test.from + "\nSubject: x\n\nbody\n"
				if test.signs != "" {
					raw = newSigner(f, "s._domainkey."+test.signs, "").sign(test.signs, "", raw)
				}
				m := f.message(test.sender, raw)
				f.process(m)
				if m.Auth.DMARC != want {
					t.Errorf("%s, %s%s: %s, want %s", test.what, mode, tags, m.Auth.DMARC, want)
				}
			}
		}
	}
}

func FuzzWalk(f *testing.F) {
	f.Add("a.mail.example.com", "example.com", "psd=y", "mail.example.com", "psd=n")
	f.Fuzz(func(t *testing.T, domain, one, first, two, second string) {
		domain, ok := asciiDomain(domain)
		if !ok {
			return
		}
		w := &walker{}
		for _, place := range [][2]string{{one, first}, {two, second}} {
			if name, ok := asciiDomain(place[0]); ok {
				record, found := parseDMARC("v=DMARC1; p=none; " + place[1])
				w.seen = append(w.seen, placeOf(name, record, found))
			}
		}
		for name := domain; name != ""; _, name, _ = strings.Cut(name, ".") { // all others have nothing
			w.seen = append(w.seen, placeOf(name, dmarcRecord{}, false))
		}
		org, suffix, err := w.walk(t.Context(), domain)
		if err != nil || org != domain && !strings.HasSuffix(domain, "."+org) || suffix != "" && !strings.HasSuffix(org, "."+suffix) {
			t.Errorf("%s: organisation %q, suffix %q, %v", domain, org, suffix, err)
		}
	})
}

func placeOf(name string, record dmarcRecord, found bool) place {
	return place{name: name, record: record, found: found}
}
