package dnsrecords_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/cmd/internal/dnsrecords"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

var update = flag.Bool("update", false, "write the golden files anew")

const key = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA" // any base64: nothing here looks inside

func site() dnsrecords.Site {
	return dnsrecords.Site{
		Domain: "example.test", Hostname: "mx.example.test",
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.25"), netip.MustParseAddr("2001:db8::25")},
		Services:  []dnsrecords.Service{{Name: "imaps", Port: 993}, {Name: "submissions", Port: 465}},
		Keys: []dnsrecords.Key{
			{Name: "s1._domainkey.example.test", Text: "v=DKIM1; k=rsa; p=" + key + strings.Repeat("A", 300), State: "active"},
			{Name: "s2._domainkey.example.test", Text: "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=", State: "next"},
		},
		Postmaster: "postmaster@example.test",
	}
}

// TestText compares with the golden files, which are what a person sees, and reads them as zone files.
func TestText(t *testing.T) {
	bare := dnsrecords.Site{Domain: "mail.example", Hostname: "mail.example", SmartHost: true, Certified: "is signed by itself"}
	for name, s := range map[string]dnsrecords.Site{"full": site(), "bare": bare} {
		p := dnsrecords.Make(s)
		got := p.Text()
		golden := "testdata/" + name + ".zone"
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil || !bytes.Equal(want, []byte(got)) {
			t.Errorf("%s differs (%v); go test -update writes it anew. Got:\n%s", golden, err, got)
		}
		z := dns.NewZoneParser(strings.NewReader(got), ".", "")
		records := 0
		for _, ok := z.Next(); ok; _, ok = z.Next() {
			records++
		}
		known := 0
		for _, r := range p.Records {
			if r.Value != "" {
				known++
			}
		}
		if z.Err() != nil || records != known {
			t.Errorf("%s: %d records of %d: %v", name, records, known, z.Err())
		}
	}
}

// published is the plan itself as a zone: what was printed is what is compared with.
func published(t *testing.T) *resolvertest.Zone {
	t.Helper()
	z, err := resolvertest.ParseZone(dnsrecords.Make(site()).Text())
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func check(z *resolvertest.Zone, s dnsrecords.Site, fetch func(context.Context, string) (string, func(string) bool, error)) []dnsrecords.Result {
	c := &dnsrecords.Checker{DNS: resolvertest.New(z), Fetch: fetch}
	return c.Check(context.Background(), dnsrecords.Make(s))
}

// TestPublished: with exactly what was printed nothing is wrong.
func TestPublished(t *testing.T) {
	for _, r := range check(published(t), site(), nil) {
		if r.State != dnsrecords.OK || r.Wrong() {
			t.Errorf("%s %s: %s %q %q", r.Kind, r.Name, r.State, r.Found, r.Notes)
		}
	}
	unknown := site()
	unknown.Addresses = nil
	for _, r := range check(published(t), unknown, nil) {
		if r.State != dnsrecords.OK {
			t.Errorf("%s %s: %s %q %q", r.Kind, r.Name, r.State, r.Found, r.Notes)
		}
	}
}

// TestNothing: with an empty DNS what is needed is missing, and everything is listed.
func TestNothing(t *testing.T) {
	for _, r := range check(resolvertest.MustParse(""), site(), nil) {
		if r.State != dnsrecords.Missing || r.Wrong() != (r.Need == dnsrecords.Needed) {
			t.Errorf("%s %s: %s, wrong %v", r.Kind, r.Name, r.State, r.Wrong())
		}
	}
}

// change is one difference from what was printed, and what is to be said about it.
type change struct {
	what   string
	remove string   // a name
	add    []string // records
	broken string   // a name that DNS can't answer about
	kind   string
	name   string // of the record, where there are several of the kind
	want   dnsrecords.State
	note   string
}

func TestDifferences(t *testing.T) {
	const domain, host = "example.test", "mx.example.test"
	spfOnly := func(text string) []string {
		return []string{fmt.Sprintf("example.test. TXT %q", text), "example.test. MX 10 mx.example.test."}
	}
	long := "v=DKIM1; p=" + key + strings.Repeat("A", 300)
	for _, c := range []change{
		{what: "MX elsewhere", remove: domain, add: []string{"example.test. MX 10 mx.other.test.", `example.test. TXT "v=spf1 mx -all"`}, kind: "mx", want: dnsrecords.Differs, note: "other servers"},
		{what: "MX under another name", remove: domain, add: []string{"example.test. MX 10 alias.other.test.", "alias.other.test. A 192.0.2.25"}, kind: "mx", want: dnsrecords.OK, note: "under the name"},
		{what: "MX behind another", add: []string{"example.test. MX 5 first.other.test."}, kind: "mx", want: dnsrecords.OK, note: "tried first"},
		{what: "null MX", remove: domain, add: []string{"example.test. MX 0 ."}, kind: "mx", want: dnsrecords.Differs, note: "no mail at all"},
		{what: "implicit MX", remove: domain, add: []string{"example.test. A 192.0.2.25"}, kind: "mx", want: dnsrecords.Missing, note: "own address"},
		{what: "MX unknown", broken: domain, kind: "mx", want: dnsrecords.Unknown},
		{what: "another address", remove: host, add: []string{"mx.example.test. A 192.0.2.99"}, kind: "address", name: "A", want: dnsrecords.Differs},
		{what: "an address more", add: []string{"mx.example.test. A 192.0.2.99"}, kind: "address", name: "A", want: dnsrecords.OK},
		{what: "PTR elsewhere", remove: "25.2.0.192.in-addr.arpa", add: []string{"25.2.0.192.in-addr.arpa. PTR other.test."}, kind: "ptr", want: dnsrecords.Differs, note: "leads back"},
		{what: "PTR by another name", remove: "25.2.0.192.in-addr.arpa", add: []string{"25.2.0.192.in-addr.arpa. PTR other.test.", "other.test. A 192.0.2.25"}, kind: "ptr", want: dnsrecords.OK, note: "under the name other.test"},
		{what: "PTR missing", remove: "25.2.0.192.in-addr.arpa", kind: "ptr", want: dnsrecords.Missing},
		{what: "SPF without us", remove: domain, add: spfOnly("v=spf1 ip4:198.51.100.0/24 -all"), kind: "spf", want: dnsrecords.Differs, note: "192.0.2.25 gets"},
		{what: "SPF by address", remove: domain, add: spfOnly("v=spf1 ip4:192.0.2.0/28 ip4:192.0.2.25 ip6:2001:db8::/64 ~all"), kind: "spf", want: dnsrecords.OK},
		{what: "SPF by include", remove: domain, add: append(spfOnly("v=spf1 include:spf.other.test -all"), `spf.other.test. TXT "v=spf1 a:mx.example.test -all"`), kind: "spf", want: dnsrecords.OK},
		{what: "SPF for everybody", remove: domain, add: spfOnly("v=spf1 +all"), kind: "spf", want: dnsrecords.Differs, note: "everybody"},
		{what: "SPF twice", add: []string{`example.test. TXT "v=spf1 mx ~all"`}, kind: "spf", want: dnsrecords.Differs, note: "2 such records"},
		{what: "SPF with a fault", remove: domain, add: spfOnly("v=spf1 mx includ:x -all"), kind: "spf", want: dnsrecords.OK}, // mx comes first
		{what: "SPF beside others", add: []string{`example.test. TXT "google-site-verification=x"`}, kind: "spf", want: dnsrecords.OK},
		{what: "HELO", remove: host, add: []string{"mx.example.test. A 192.0.2.25", "mx.example.test. AAAA 2001:db8::25"}, kind: "helo-spf", want: dnsrecords.Missing},
		{what: "DKIM other tags", remove: "s1._domainkey.example.test", add: []string{`s1._domainkey.example.test. TXT "p=` + long[11:200] + `" " ` + long[200:] + `; n=hello; t=s"`}, kind: "dkim", name: "s1._domainkey.example.test", want: dnsrecords.OK},
		{what: "DKIM other key", remove: "s1._domainkey.example.test", add: []string{`s1._domainkey.example.test. TXT "v=DKIM1; p=AAAA"`}, kind: "dkim", name: "s1._domainkey.example.test", want: dnsrecords.Differs, note: "another key"},
		{what: "DKIM revoked", remove: "s1._domainkey.example.test", add: []string{`s1._domainkey.example.test. TXT "v=DKIM1; p="`}, kind: "dkim", name: "s1._domainkey.example.test", want: dnsrecords.Differs, note: "revoked"},
		{what: "DKIM no tags", remove: "s1._domainkey.example.test", add: []string{`s1._domainkey.example.test. TXT "hello"`}, kind: "dkim", name: "s1._domainkey.example.test", want: dnsrecords.Differs},
		{what: "DKIM SHA-1", remove: "s2._domainkey.example.test", add: []string{`s2._domainkey.example.test. TXT "v=DKIM1; k=ed25519; h=sha1; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="`}, kind: "dkim", name: "s2._domainkey.example.test", want: dnsrecords.Differs, note: "SHA-256"},
		{what: "DKIM as RSA", remove: "s2._domainkey.example.test", add: []string{`s2._domainkey.example.test. TXT "v=DKIM1; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="`}, kind: "dkim", name: "s2._domainkey.example.test", want: dnsrecords.Differs, note: "another key"},
		{what: "DKIM test", remove: "s2._domainkey.example.test", add: []string{`s2._domainkey.example.test. TXT "v=DKIM1; k=ed25519; t=y; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="`}, kind: "dkim", name: "s2._domainkey.example.test", want: dnsrecords.OK, note: "t=y"},
		{what: "DMARC strict", remove: "_dmarc.example.test", add: []string{`_dmarc.example.test. TXT "v=DMARC1;p=reject; rua=mailto:d@example.test"`}, kind: "dmarc", want: dnsrecords.OK},
		{what: "DMARC typo", remove: "_dmarc.example.test", add: []string{`_dmarc.example.test. TXT "v=DMARC1; p=rejekt"`}, kind: "dmarc", want: dnsrecords.Differs, note: "none of none"},
		{what: "DMARC reports elsewhere", remove: "_dmarc.example.test", add: []string{`_dmarc.example.test. TXT "v=DMARC1; p=none; rua=mailto:d@agent.test"`}, kind: "dmarc", want: dnsrecords.OK, note: "does not say that it wants"},
		{what: "TLSRPT for nobody", remove: "_smtp._tls.example.test", add: []string{`_smtp._tls.example.test. TXT "v=TLSRPTv1"`}, kind: "tlsrpt", want: dnsrecords.Differs, note: "rua"},
		{what: "MTA-STS broken", remove: "_mta-sts.example.test", add: []string{`_mta-sts.example.test. TXT "v=STSv1"`}, kind: "mta-sts", want: dnsrecords.Differs},
		{what: "SRV port", remove: "_imaps._tcp.example.test", add: []string{"_imaps._tcp.example.test. SRV 0 1 1993 mx.example.test."}, kind: "srv", name: "_imaps._tcp.example.test", want: dnsrecords.Differs},
		{what: "SRV none", remove: "_imaps._tcp.example.test", add: []string{"_imaps._tcp.example.test. SRV 0 0 0 ."}, kind: "srv", name: "_imaps._tcp.example.test", want: dnsrecords.Differs},
	} {
		z := published(t)
		if c.remove != "" {
			z.Remove(c.remove)
		}
		for _, record := range c.add {
			if err := z.Add(record); err != nil {
				t.Fatalf("%s: %v", c.what, err)
			}
		}
		if c.broken != "" {
			z.Break(c.broken, resolvertest.Fault{Rcode: dns.RcodeServerFailure})
		}
		seen := false
		for _, r := range check(z, site(), nil) {
			if seen || r.Kind != c.kind || c.name != "" && c.name != r.Name && c.name != r.Type {
				continue
			}
			seen = true
			if r.State != c.want || !strings.Contains(strings.Join(r.Notes, "; "), c.note) {
				t.Errorf("%s: %s, found %q, notes %q; want %s with %q", c.what, r.State, r.Found, r.Notes, c.want, c.note)
			}
			if wrong := c.want == dnsrecords.Differs || c.want != dnsrecords.OK && r.Need == dnsrecords.Needed; r.Wrong() != wrong {
				t.Errorf("%s: wrong is %v", c.what, r.Wrong())
			}
		}
		if !seen {
			t.Errorf("%s: there is no such record", c.what)
		}
	}
}

// TestAbove: the policy of the organisation holds for its subdomains.
func TestAbove(t *testing.T) {
	z := resolvertest.MustParse(`_dmarc.example.test. TXT "v=DMARC1; p=reject; rua=mailto:d@example.test"`)
	for _, r := range check(z, dnsrecords.Site{Domain: "sub.example.test", Hostname: "mx.example.test"}, nil) {
		if r.Kind == "dmarc" && (r.State != dnsrecords.OK || !strings.Contains(r.Notes[0], "example.test")) {
			t.Errorf("%+v", r)
		}
	}
}

// TestPolicy: what is served by https has to fit the MX records and the certificate.
func TestPolicy(t *testing.T) {
	ours := func(host string) bool { return host == "mx.example.test" }
	for name, c := range map[string]struct {
		mode      string
		matches   func(string) bool
		err       error
		certified string
		mx        string
		want      dnsrecords.State
		note      string
	}{
		"good":            {mode: "enforce", matches: ours, want: dnsrecords.OK},
		"not served":      {err: errors.New("404"), want: dnsrecords.Differs, note: "404"},
		"other names":     {mode: "enforce", matches: func(string) bool { return false }, want: dnsrecords.Differs, note: "does not come"},
		"testing":         {mode: "testing", matches: func(string) bool { return false }, want: dnsrecords.Differs, note: "only reported"},
		"another MX":      {mode: "enforce", matches: ours, mx: "example.test. MX 20 backup.test.", want: dnsrecords.Differs, note: "backup.test"},
		"bad certificate": {mode: "enforce", matches: ours, certified: "has ended on 2020-01-01", want: dnsrecords.Differs, note: "has ended"},
		"none":            {mode: "none", matches: func(string) bool { return false }, want: dnsrecords.OK, note: "mode: none"},
	} {
		z := published(t)
		if c.mx != "" {
			if err := z.Add(c.mx); err != nil {
				t.Fatal(err)
			}
		}
		s := site()
		s.Certified = c.certified
		for _, r := range check(z, s, func(context.Context, string) (string, func(string) bool, error) { return c.mode, c.matches, c.err }) {
			if r.Kind == "mta-sts" && (r.State != c.want || !strings.Contains(strings.Join(r.Notes, ";"), c.note)) {
				t.Errorf("%s: %s %q", name, r.State, r.Notes)
			}
		}
	}
}
