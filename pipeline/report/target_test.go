package report

import (
	"context"
	"reflect"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

func TestParseTarget(t *testing.T) {
	for _, c := range []struct {
		text string
		want target
		bad  string
	}{
		{text: "mailto:dmarc@example.net", want: target{address: "dmarc@example.net", host: "example.net"}},
		{text: " MAILTO:d%2bx@Example.NET.!10m", want: target{address: "d+x@example.net", host: "example.net", limit: 10 << 20}},
		{text: "mailto:d@example.net!5K", want: target{address: "d@example.net", host: "example.net", limit: 5 << 10}},
		{text: "mailto:d@example.net!512", want: target{address: "d@example.net", host: "example.net", limit: 512}},
		{text: "mailto:d%21x@example.net", want: target{address: "d!x@example.net", host: "example.net"}},
		{text: "mailto:d@example.net?bcc=victim@example.org", want: target{address: "d@example.net", host: "example.net"}},
		{text: "mailto:d@bücher.example", want: target{address: "d@xn--bcher-kva.example", host: "xn--bcher-kva.example"}},
		{text: "https://example.net/r?x=1#f", want: target{url: "https://example.net/r?x=1", host: "example.net"}},
		{text: "mailto:d@example.net!many", bad: "size limit"},
		{text: "mailto:d@example.net!0", bad: "size limit"},
		{text: "mailto:d@example.net!99999999999t", bad: "size limit"},
		{text: "mailto:", bad: "no address"},
		{text: "mailto:d", bad: "no address"},
		{text: "mailto:d@localhost", bad: "domain"},
		{text: "mailto:d@[192.0.2.1]", bad: "domain"},
		{text: "mailto:d@192.0.2.1", bad: "domain"},
		{text: "mailto:d@example.net%0d%0aBcc:%20x@example.org", bad: "dot-atom"},
		{text: "mailto:d%0d%0aBcc@example.net", bad: "dot-atom"},
		{text: "mailto:%22a%20b%22@example.net", bad: "dot-atom"},
		{text: "mailto:a,b@example.net", bad: "dot-atom"},
		{text: "mailto:%zz@example.net", bad: "escaped"},
		{text: "mailto:" + strings.Repeat("a", 65) + "@example.net", bad: "no address"},
		{text: "mailto:a@" + strings.Repeat("a.", 2000) + "net", bad: "too long"},
		{text: "http://example.net/", bad: "scheme"},
		{text: "https://user:secret@example.net/", bad: "https"},
		{text: "https:example.net", bad: "https"},
		{text: "file:///etc/passwd", bad: "scheme"},
	} {
		got, err := parseTarget(c.text, true)
		switch {
		case c.bad != "" && (err == nil || !strings.Contains(err.Error(), c.bad)):
			t.Errorf("%s: %+v, %v; want an error with %q", c.text, got, err, c.bad)
		case c.bad == "" && (err != nil || got != c.want):
			t.Errorf("%s: %+v, %v; want %+v", c.text, got, err, c.want)
		}
	}
}

// TestExternal (DRILLS E2.6): who is outside of the domain's organisation gets reports only if it says so (RFC 7489 section 7.1).
func TestExternal(t *testing.T) {
	z := resolvertest.MustParse(`
example.net._report._dmarc.agent.test.       TXT "v=DMARC1"
example.net._report._dmarc.moved.test.       TXT "v=DMARC1; rua=mailto:new@moved.test"
example.net._report._dmarc.away.test.        TXT "v=DMARC1; rua=mailto:x@victim.test"
example.net._report._dmarc.other.test.       TXT "hello" "v=DMARC1"
*._report._dmarc.any.test.                   TXT "v=DMARC1;"
example.net._report._dmarc.late.test.        TXT "p=none; v=DMARC1"
`)
	z.Break("example.net._report._dmarc.broken.test", resolvertest.Fault{Rcode: dns.RcodeServerFailure})
	lookup := resolvertest.New(z)
	for rua, want := range map[string]string{
		"mailto:a@example.net":                      "a@example.net",
		"mailto:a@sub.example.net":                  "a@sub.example.net",
		"mailto:a@agent.test":                       "a@agent.test",
		"mailto:a@sub.agent.test":                   "",
		"mailto:a@moved.test":                       "new@moved.test",
		"mailto:a@away.test":                        "",
		"mailto:a@other.test":                       "",
		"mailto:a@late.test":                        "",
		"mailto:a@any.test":                         "a@any.test",
		"mailto:victim@victim.test":                 "",
		"https://example.net/r":                     "",
		"nonsense":                                  "",
		"mailto:a@broken.test":                      "temporary",
		"mailto:a@example.net,mailto:a@example.net": "a@example.net",
		"mailto:1@example.net,mailto:2@example.net,mailto:3@example.net,mailto:4@example.net,mailto:5@example.net": "1@example.net 2@example.net 3@example.net 4@example.net",
	} {
		targets, left, err := dmarcTargets(context.Background(), lookup, "example.net", strings.Split(rua, ","))
		var got []string
		for _, x := range targets {
			got = append(got, x.address)
		}
		if err != nil {
			got = []string{"temporary"}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, left %q, %v; want %q", rua, got, left, err, want)
		}
	}
	long := strings.Repeat("a", 60) + "." + strings.Repeat("b", 60) + "." + strings.Repeat("c", 60) + ".example.net"
	if targets, _, err := dmarcTargets(context.Background(), lookup, long, []string{"mailto:a@" + strings.Repeat("d", 60) + ".any.test"}); err != nil || len(targets) > 0 {
		t.Errorf("a name that is too long: %v, %v", targets, err)
	}
}

func TestTLSTargets(t *testing.T) {
	z := resolvertest.MustParse(`
_smtp._tls.one.test.     TXT "v=TLSRPTv1; rua=mailto:tls@one.test,https://one.test/r"
_smtp._tls.two.test.     TXT "v=TLSRPTv1;rua=mailto:tls@two.test"
_smtp._tls.two.test.     TXT "v=TLSRPTv1;rua=mailto:tls@two.test"
_smtp._tls.beside.test.  TXT "v=spf1 -all"
_smtp._tls.beside.test.  TXT "v=TLSRPTv1 ; rua = mailto:tls@beside.test!10m , ftp://x ; rua=mailto:no@beside.test"
_smtp._tls.typo.test.    TXT "v=TSLRPTv1; rua=mailto:tls@typo.test"
`)
	z.Break("_smtp._tls.broken.test", resolvertest.Fault{Rcode: dns.RcodeServerFailure})
	lookup := resolvertest.New(z)
	for domain, want := range map[string][]string{
		"one.test": {"tls@one.test", "https://one.test/r"}, "two.test": nil, "typo.test": nil, "none.test": nil, "broken.test": {"temporary"},
		"beside.test": nil,
	} {
		targets, _, err := tlsTargets(context.Background(), lookup, domain)
		var got []string
		for _, x := range targets {
			got = append(got, x.address+x.url)
		}
		if err != nil {
			got = []string{"temporary"}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %q, %v; want %q", domain, got, err, want)
		}
	}
}

// FuzzTarget: whatever stands in a rua, an address that comes out of it is harmless in a field and in an envelope.
func FuzzTarget(f *testing.F) {
	for _, seed := range []string{"mailto:d@example.net!10m", "https://example.net/r", "v=DMARC1; rua=mailto:a@b.test", "mailto:%0d%0a@x.test", "mailto:a@xn--.test"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = reportRecord(text)
		for _, size := range []bool{false, true} {
			x, err := parseTarget(text, size)
			if err != nil {
				continue
			}
			if (x.address == "") == (x.url == "") || x.host == "" || x.limit < 0 {
				t.Fatalf("%q: %+v", text, x)
			}
			if strings.ContainsAny(x.address, "\r\n\x00 <>\",;:") || strings.Count(x.address, "@") > 1 || len(x.address) > 64+1+253 {
				t.Fatalf("%q: address %q", text, x.address)
			}
			if x.url != "" && !strings.HasPrefix(strings.ToLower(x.url), "https://") {
				t.Fatalf("%q: %q", text, x.url)
			}
		}
	})
}
