package authenticate

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/sdk"
)

// TestDMARC (DRILLS E4.4) sends from 192.0.2.10; evil.test is a stranger's own domain whose SPF passes for everybody.
func TestDMARC(t *testing.T) {
	const refused = "550 5.7.1 The DMARC policy of %s does not allow this message (RFC 7489)"
	tests := []struct {
		what, sender, from string
		want               string // result, policy, disposition, domain
		action             sdk.Action
	}{
		{"no policy", "a@evil.test", "a@nothing.test", "none  none nothing.test", sdk.Accept},
		{"aligned SPF", "a@reject.test", "b@reject.test", "pass reject none reject.test", sdk.Accept},
		{"relaxed: sender in a subdomain", "a@bounces.reject.test", "b@reject.test", "pass reject none reject.test", sdk.Accept},
		{"relaxed: author in a subdomain", "a@reject.test", "b@news.reject.test", "pass reject none news.reject.test", sdk.Accept},
		{"SPF passes for another domain", "a@evil.test", "b@reject.test", "fail reject reject reject.test", sdk.Reject},
		{"another domain that ends the same", "a@evilreject.test", "b@reject.test", "fail reject reject reject.test", sdk.Reject},
		{"subdomain inherits", "a@evil.test", "b@x.y.reject.test", "fail reject reject x.y.reject.test", sdk.Reject},
		{"sp", "a@evil.test", "b@x.example.org", "fail quarantine quarantine x.example.org", sdk.Junk},
		{"strict refuses a subdomain", "a@sub.strict.test", "b@strict.test", "fail reject reject strict.test", sdk.Reject},
		{"strict", "a@strict.test", "b@strict.test", "pass reject none strict.test", sdk.Accept},
		{"p=quarantine is junk", "a@evil.test", "b@quarantine.test", "fail quarantine quarantine quarantine.test", sdk.Junk},
		{"p=none", "a@evil.test", "b@none.test", "fail none none none.test", sdk.Accept},
		{"pct: sampled out, one step down", "a@evil.test", "b@half.test", "fail reject quarantine half.test", sdk.Junk},
		{"t=y, one step down", "a@evil.test", "b@trial.test", "fail quarantine none trial.test", sdk.Accept},
		{"np for a subdomain that is not there", "a@evil.test", "b@gone.np.test", "fail reject reject gone.np.test", sdk.Reject},
		{"sp for one that is", "a@evil.test", "b@there.np.test", "fail none none there.np.test", sdk.Accept},
		{"two records are none", "a@evil.test", "b@two.test", "none  none two.test", sdk.Accept},
		{"bad p with rua is none", "a@evil.test", "b@rua.test", "fail none none rua.test", sdk.Accept},
		{"bad p without rua is no record", "a@evil.test", "b@broken.test", "none  none broken.test", sdk.Accept},
		{"v is exact", "a@evil.test", "b@upper.test", "none  none upper.test", sdk.Accept},
		{"case and rubbish elsewhere do not matter", "a@evil.test", "b@case.test", "fail reject reject case.test", sdk.Reject},
		{"siblings below a public suffix", "a@other.co.uk", "b@bank.co.uk", "none  none bank.co.uk", sdk.Accept},
		{"U-label author", "a@evil.test", "b@bücher.test", "fail reject reject xn--bcher-kva.test", sdk.Reject},
		{"A-label author, U-label sender", "a@BÜCHER.test", "b@XN--BCHER-KVA.test", "pass reject none xn--bcher-kva.test", sdk.Accept},
		{"final dot", "a@evil.test", "b@reject.test.", "fail reject reject reject.test", sdk.Reject},
		{"ideographic full stop", "a@evil.test", "b@reject。test", "fail reject reject reject.test", sdk.Reject},
		{"full-width letters", "a@evil.test", "b@ｒｅｊｅｃｔ.test", "fail reject reject reject.test", sdk.Reject},
		{"address literal", "a@evil.test", "b@[192.0.2.1]", "none  none ", sdk.Accept},
		{"single label", "a@evil.test", "root@localhost", "none  none localhost", sdk.Accept},
	}
	for _, test := range tests {
		f := newFixture(t, "")
		m := f.message(test.sender, "From: Somebody <"+test.from+">\n\nbody\n")
		r := &results{}
		if err := f.stage.verify(t.Context(), m, r); err != nil {
			t.Fatal(err)
		}
		f.stage.decide(m, r)
		got := ""
		if d := strictest(r.dmarc); d != nil {
			got = fmt.Sprintf("%s %s %s %s", d.result, d.policy, d.disposition, d.domain)
		}
		o := m.Recipients[1].Opinion
		if got != test.want || o.Action != test.action {
			t.Errorf("%s: got %q and %s, want %q and %s", test.what, got, o.Action, test.want, test.action)
		}
		if test.action == sdk.Reject {
			if want := fmt.Sprintf(refused, r.dmarc[0].domain); o.Reply.String() != want || o.Stage != "authenticate" {
				t.Errorf("%s: %+v, want %q", test.what, o, want)
			}
		}
	}
}

// TestFrom: DRILLS E3.5. The zone's reject.test must not be shown as an author whatever the shape of the field.
func TestFrom(t *testing.T) {
	tests := []struct {
		what, header string
		want         sdk.Action
		domains      string
	}{
		{"none", "Subject: x", sdk.Reject, ""},
		{"none, but a reader may go by Sender", "Sender: b@reject.test\nReply-To: b@reject.test", sdk.Reject, ""},
		{"none but one of a resender", "Resent-From: a@evil.test", sdk.Reject, ""},
		{"none, and a line that looks like one in the end", "Subject: x\nFrom a@evil.test", sdk.Reject, ""},
		{"two fields", "From: a@evil.test\nFrom: b@reject.test", sdk.Reject, "evil.test"},
		{"two equal fields", "From: a@evil.test\nFROM : a@evil.test", sdk.Reject, "evil.test"},
		{"two authors", "From: a@evil.test, b@reject.test", sdk.Reject, "evil.test reject.test"},
		{"two authors with brackets", "From: A <a@evil.test>, B <b@reject.test>", sdk.Reject, "evil.test reject.test"},
		{"group", "From: Us: a@evil.test, b@reject.test;", sdk.Reject, "evil.test reject.test"},
		{"empty group", "From: Undisclosed:;", sdk.Junk, ""},
		{"folded", "From: B\n <b\n @ reject . test>", sdk.Reject, "reject.test"},
		{"comments", "From: b@(x@evil.test)reject(\\)).test", sdk.Reject, "reject.test"},
		{"quoted display name is only a name", "From: \"b@reject.test\" <a@evil.test>", sdk.Accept, "evil.test"},
		{"so is a bare one beside brackets", "From: b@reject.test <a@evil.test>", sdk.Accept, "evil.test"},
		{"two pairs of brackets", "From: <a@evil.test> <b@reject.test>", sdk.Reject, "evil.test reject.test"},
		{"brackets left open", "From: X <b@reject.test", sdk.Reject, "reject.test"},
		{"quote left open", "From: \"X <b@reject.test>", sdk.Junk, ""},
		{"source route", "From: <@evil.test,@evil.test:b@reject.test>", sdk.Reject, "reject.test"},
		{"quoted local part", "From: <\"a@evil.test>\"@reject.test>", sdk.Reject, "reject.test"},
		{"two at signs", "From: <b@evil.test@reject.test>", sdk.Reject, "evil.test reject.test"},
		{"no domain", "From: root", sdk.Junk, ""},
		{"empty", "From: ", sdk.Junk, ""},
		{"null", "From: <>", sdk.Junk, ""},
		{"NUL in the domain", "From: b@reject.test\x00.evil.test", sdk.Junk, ""},
		{"encoded word for an address", "From: =?utf-8?q?b=40reject.test?=", sdk.Junk, ""},
		{"too many domains", "From: a@1.test, a@2.test, a@3.test, a@4.test, a@5.test", sdk.Junk, "1.test 2.test 3.test 4.test"},
		{"too many addresses", "From: " + strings.Repeat("a@evil.test, ", 200), sdk.Junk, "evil.test"},
		{"white space in front", "From: \t a@evil.test", sdk.Accept, "evil.test"},
	}
	for _, test := range tests {
		f := newFixture(t, "")
		m := f.message("a@evil.test", test.header+"\nTo: x@sluice.test\n\nbody\n")
		if got := strings.Join(authorsOf(m.Arrived()).domains, " "); got != test.domains {
			t.Errorf("%s: domains %q, want %q", test.what, got, test.domains)
		}
		f.process(m)
		if got := m.Recipients[0].Opinion.Action; got != test.want {
			t.Errorf("%s: %s, want %s; %s", test.what, got, test.want, field(t, m))
		}
		if test.want == sdk.Accept == (m.Recipients[0].Opinion.Why != "") {
			t.Errorf("%s: why %q", test.what, m.Recipients[0].Opinion.Why)
		}
	}
}

// TestNoAuthor: what is said of messages that have no author's domain, or too many, and what becomes of them (RFC 7489 section
// 6.6.1, RFC 9989 section 11.5).
func TestNoAuthor(t *testing.T) {
	const refused = "550 5.7.1 A message must have exactly one From field (RFC 5322)"
	tests := []struct{ what, header, results, plugins, reply string }{
		{"no From", "Sender: b@reject.test", `dmarc=permerror reason="no From field ?RFC 5322 section 3.6?"`, "permerror", refused},
		{"two", "From: a@evil.test\nFrom: b@reject.test", `dmarc=permerror reason="more than one From field ?RFC 5322 section 3.6?"`, "permerror", refused},
		{"one, and one for lenient readers", "From: a@evil.test\nFr\x7fom: b@reject.test",
			`dmarc=permerror reason="more than one From field ?RFC 5322 section 3.6?"`, "permerror", refused},
		{"a literal", "From: a@[192.0.2.1]", `dmarc=none reason="the author's address has no domain"`, "none", ""},
		{"no domain", "From: root", `dmarc=permerror reason="the From field names no readable domain"`, "permerror", ""},
		{"several authors, of whom one is faked", "From: a@evil.test, b@none.test",
			"dmarc=none header.from=evil.test; dmarc=fail (p=none dis=none) header.from=none.test", "fail", ""},
	}
	for _, test := range tests {
		for _, mode := range []DMARCMode{DMARCEnforce, DMARCReport} {
			f := newFixture(t, "")
			f.stage.Config.DMARC = mode
			m := f.message("a@evil.test", test.header+"\nTo: x@sluice.test\n\nbody\n")
			f.process(m)
			if _, got, _ := strings.Cut(field(t, m), "dkim=none; "); got != test.results || m.Auth.DMARC != test.plugins {
				t.Errorf("%s, %s: %s (%s), want %s (%s)", test.what, mode, got, m.Auth.DMARC, test.results, test.plugins)
			}
			if failed := len(m.Auth.DMARCFailed) > 0; failed != (test.plugins == "fail") {
				t.Errorf("%s, %s: failed for %q", test.what, mode, m.Auth.DMARCFailed)
			}
			o, want := m.Recipients[1].Opinion, test.reply
			if mode == DMARCReport {
				want = ""
			}
			if got := o.Reply.String(); want != "" && got != want || (o.Action == sdk.Reject) != (want != "") {
				t.Errorf("%s, %s: %s %q, want %q", test.what, mode, o.Action, got, want)
			}
		}
	}
}

// TestDMARCNeedsNoSPF: DRILLS E4.4, evaluated although SPF cannot be checked.
func TestDMARCNeedsNoSPF(t *testing.T) {
	f := newFixture(t, "")
	m := f.message("", "From: b@reject.test\n\n")
	m.Peer.Helo, m.Peer.Addr = "[203.0.113.1]", netip.MustParseAddr("203.0.113.1")
	f.process(m)
	if got := m.Recipients[0].Opinion.Action; got != sdk.Reject {
		t.Errorf("%s: %s", got, field(t, m))
	}
}

func FuzzDMARCRecord(f *testing.F) {
	for _, s := range []string{
		"v=DMARC1; p=reject; sp=none; adkim=s; pct=50; rua=mailto:a@b.test", "v=DMARC1;p=bogus", "v = DMARC1 ; np=reject; t=y; p=none", "v=DMARC1", ";;=;",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, ok := parseDMARC(s)
		if !ok {
			return
		}
		for _, p := range []string{r.policy, r.subdomain, r.nonexistent} {
			if policyOr(p, "") == "" {
				t.Errorf("policy %q", p)
			}
		}
		if r.percent < 0 || r.percent > 100 || !isDMARC(s) {
			t.Errorf("%+v", r)
		}
	})
}

func FuzzFrom(f *testing.F) {
	for _, s := range []string{
		"A <a@b.test>, \"c@d\" <e@f.test>", "g: a@b, c@d;", "<@a,@b:c@d.test>", "a@(c(d))b . test", "a@bücher.test", "\"\\\"@x.test", "a@[1.2.3.4]",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var a authors
		a.read(s)
		if len(a.domains) == 0 && !a.unreadable && !strings.ContainsAny(s, "[0123456789") {
			t.Errorf("%q: neither domains nor unreadable", s)
		}
		for _, d := range a.domains {
			if again, ok := asciiDomain(d); !ok || again != d || len(a.domains) > maxAuthors {
				t.Errorf("%q: domain %q", s, d)
			}
		}
	})
}

func FuzzAuthservID(f *testing.F) {
	for _, s := range []string{"mx.sluice.test; spf=pass", "(c) \"mx.sluice.test\" 1;", "\"\\", "((", "mx.sluice.test(x)"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, ok := authservID(s)
		if ok && id == "" && !strings.Contains(s, `"`) {
			t.Errorf("%q: empty and valid", s)
		}
		// What a careless reader would take for ours is ours.
		if strings.HasPrefix(strings.TrimLeft(s, " \t"), "mx.sluice.test;") && !sameAuthserv(id, "mx.sluice.test") {
			t.Errorf("%q: read as %q", s, id)
		}
	})
}

// FuzzResultsField: nothing that a stranger chooses breaks out of its place in our field.
func FuzzResultsField(f *testing.F) {
	f.Add("evil\"; dmarc=pass (", "a b", "x\r\nX-Injected: 1", "a@\u2028b")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		w := writer{}
		w.method("spf", resultNone)
		w.reason(a)
		w.property("smtp.helo", b)
		w.comment(c)
		w.property("smtp.mailfrom", d)
		s := string(w.b)
		unfolded := strings.ReplaceAll(s, "\r\n\t", " ")
		if strings.ContainsAny(unfolded, "\r\n\x00") {
			t.Fatalf("%q", s)
		}
		for i := range len(unfolded) {
			if c := unfolded[i]; c > '~' || c < ' ' || c == '\\' {
				t.Fatalf("octet %#x in %q", c, s)
			}
		}
		// However simply one reads it: one semicolon, quotes and parentheses in pairs.
		for sign, n := range map[string]int{";": 1, "(": 1, ")": 1} {
			if strings.Count(unfolded, sign) != n {
				t.Fatalf("%d %s in %q", strings.Count(unfolded, sign), sign, s)
			}
		}
		if strings.Count(unfolded, `"`)%2 != 0 {
			t.Fatalf("quotes in %q", s)
		}
	})
}
