package dmarc_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/pipeline/report/dmarc"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sample is a report with everything that can stand in one.
func sample() *dmarc.Feedback {
	return &dmarc.Feedback{
		Metadata: dmarc.Metadata{
			OrgName: "Example <&> Söhne", Email: "postmaster@example.test", Contact: "https://example.test/dmarc", ReportID: "20261121.example.net@mx.example.test",
			Range: dmarc.DateRange{Begin: 1795219200, End: 1795305599}, Errors: []string{"3 records were left out"},
		},
		Policy: dmarc.Policy{Domain: "example.net", ADKIM: "r", ASPF: "s", P: "reject", SP: "quarantine", Percent: "50", FO: "1:d"},
		Records: []dmarc.Record{
			{
				Row:         dmarc.Row{SourceIP: "192.0.2.1", Count: 3, Evaluated: dmarc.Evaluated{Disposition: "none", DKIM: "pass", SPF: "fail"}},
				Identifiers: dmarc.Identifiers{EnvelopeTo: "example.test", EnvelopeFrom: "bounce.example.net", HeaderFrom: "example.net"},
				Results: dmarc.Results{
					DKIM: []dmarc.DKIM{{Domain: "example.net", Selector: "s1", Result: "pass"}, {Domain: "other.test", Selector: "x", Result: "fail", Human: "body hash"}},
					SPF:  []dmarc.SPF{{Domain: "bounce.example.net", Scope: "mfrom", Result: "softfail"}},
				},
			},
			{
				Row: dmarc.Row{SourceIP: "2001:db8::7", Count: 1, Evaluated: dmarc.Evaluated{
					Disposition: "quarantine", DKIM: "fail", SPF: "fail", Reasons: []dmarc.Reason{{Type: "sampled_out", Comment: "pct"}, {Type: "other"}},
				}},
				Identifiers: dmarc.Identifiers{HeaderFrom: "news.example.net"},
				Results:     dmarc.Results{SPF: []dmarc.SPF{{Domain: "mail.example.net", Scope: "helo", Result: "temperror"}}},
			},
		},
	}
}

// odd is one that RFC 7489 has no words for.
func odd() *dmarc.Feedback {
	f := sample()
	f.Policy = dmarc.Policy{Domain: "example.net", ADKIM: "x", P: "monitor", NP: "reject", Testing: "y", Discovery: "treewalk"}
	r := &f.Records[0]
	r.Row.Evaluated = dmarc.Evaluated{Disposition: "pass", DKIM: "neutral", Reasons: []dmarc.Reason{{Type: "policy_test_mode"}}}
	r.Results = dmarc.Results{DKIM: []dmarc.DKIM{{Domain: "example.net", Result: "softfail"}}}
	return f
}

// TestWrite compares with the golden files and lets xmllint say whether they are what RFC 7489 appendix C asks for.
func TestWrite(t *testing.T) {
	for name, f := range map[string]*dmarc.Feedback{"full": sample(), "odd": odd()} {
		got, err := dmarc.Write(f)
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", name+".xml")
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs; go test -update writes it anew. Got:\n%s", golden, got)
		}
		validate(t, golden, true)
	}
}

// TestSchemaBites: a document that the schema should refuse is refused, so the schema is looked at.
func TestSchemaBites(t *testing.T) {
	text, err := os.ReadFile("testdata/full.xml")
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{{"<fo>1:d</fo>", ""}, {"<scope>helo</scope>", ""}, {"<envelope_from></envelope_from>", ""}, {">quarantine</d", ">junk</d"}, {"192.0.2.1", "host"}} {
		bad := strings.Replace(string(text), change[0], change[1], 1)
		if bad == string(text) {
			t.Fatalf("%q is not in the golden report", change[0])
		}
		name := filepath.Join(t.TempDir(), "bad.xml")
		if err := os.WriteFile(name, []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		validate(t, name, false)
	}
}

func validate(t *testing.T, file string, valid bool) {
	t.Helper()
	lint, err := exec.LookPath("xmllint")
	if err != nil {
		if os.Getenv("INTEROP") == "require" {
			t.Fatal("xmllint is missing: apt-get install libxml2-utils")
		}
		t.Skip("xmllint is missing: apt-get install libxml2-utils")
	}
	out, err := exec.Command(lint, "--noout", "--nonet", "--schema", "testdata/rfc7489.xsd", file).CombinedOutput()
	if (err == nil) != valid {
		t.Errorf("xmllint on %s: %v\n%s", file, err, out)
	}
}

func TestNoRecords(t *testing.T) {
	f := sample()
	f.Records = nil
	if _, err := dmarc.Write(f); err == nil {
		t.Error("a report without records was written")
	}
}

func TestRoundTrip(t *testing.T) {
	f := sample()
	text, err := dmarc.Write(f)
	if err != nil {
		t.Fatal(err)
	}
	got, err := dmarc.Read(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	f.Version, got.XMLName = "1.0", f.XMLName
	if !reflect.DeepEqual(got, f) {
		t.Errorf("read back:\n%+v\nwritten:\n%+v", got, f)
	}
	asJSON, err := json.Marshal(f)
	if err != nil || !bytes.Contains(asJSON, []byte(`"begin":"2026-11-21T00:00:00Z"`)) {
		t.Errorf("%v %s", err, asJSON)
	}
	var again dmarc.Feedback
	if err := json.Unmarshal(asJSON, &again); err != nil || !reflect.DeepEqual(&again, f) {
		t.Errorf("%v\nfrom JSON:\n%+v\nwritten:\n%+v", err, again, f)
	}
}

// TestReadForms reads what others write: namespaces, prefixes, the elements of RFC 9990, charsets, white space.
func TestReadForms(t *testing.T) {
	const inside = `<report_metadata><org_name> r </org_name><report_id>1</report_id><date_range><begin> 10 </begin><end>x</end></date_range></report_metadata>
<policy_published><domain>example.net</domain><p>none</p><np>reject</np><testing>y</testing><discovery_method>treewalk</discovery_method></policy_published>
<extension><x:y xmlns:x="urn:x"/></extension>
<record><row><source_ip>192.0.2.1</source_ip><count> 7 </count><policy_evaluated><disposition>pass</disposition><dkim>pass</dkim><spf>fail</spf></policy_evaluated></row>
<identifiers><header_from>example.net</header_from></identifiers><auth_results/></record>`
	for name, text := range map[string]string{
		"plain":      "<feedback>" + inside + "</feedback>",
		"RFC 9990":   `<?xml version="1.0"?><feedback xmlns="urn:ietf:params:xml:ns:dmarc-2.0"><version>1.0</version>` + inside + "</feedback>",
		"prefixed":   `<d:feedback xmlns:d="http://dmarc.org/dmarc-xml/0.1">` + inside + "</d:feedback>",
		"Latin-1":    `<?xml version="1.0" encoding="iso-8859-1"?><feedback><!-- ` + "\xe4 -->" + inside + "</feedback>",
		"with a BOM": "\ufeff<feedback>" + inside + "</feedback>",
	} {
		f, err := dmarc.Read(strings.NewReader(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if f.Metadata.OrgName != "r" || f.Metadata.Range != (dmarc.DateRange{Begin: 10}) || f.Policy.NP != "reject" || f.Policy.Testing != "y" ||
			len(f.Records) != 1 || f.Records[0].Row.Count != 7 || f.Records[0].Row.Evaluated.Disposition != "pass" {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// TestHostile (DRILLS E2.6): none of these is a report, none costs more than a moment, and the error says what is wrong.
func TestHostile(t *testing.T) {
	record := "<record><row><source_ip>192.0.2.1</source_ip><count>1</count></row></record>"
	head := "<feedback><policy_published><domain>example.net</domain></policy_published>"
	for name, c := range map[string]struct{ text, want string }{
		"empty":         {"", "not a DMARC"},
		"no XML":        {"hello", "not a DMARC"},
		"other root":    {"<html/>", "its root is"},
		"no domain":     {"<feedback/>", "names no domain"},
		"laughs":        {`<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><feedback><version>&b;</version></feedback>`, "document type"},
		"entity":        {"<feedback><version>&xxe;</version></feedback>", "invalid character entity"},
		"deep":          {head + strings.Repeat("<a>", 100_000), "too deep"},
		"wide metadata": {head + "<report_metadata>" + strings.Repeat("<error/>", 100_000), "too large"},
		"wide record":   {head + "<record><auth_results>" + strings.Repeat("<dkim/>", 100_000), "too large"},
		"attributes":    {head + "<record " + strings.Repeat(`a="1" `, 200) + "/>", "too many attributes"},
		"many elements": {head + strings.Repeat("<a/>", 201_000), "too many elements"},
		"cut off":       {head + record, "EOF"},
		"charset":       {`<?xml version="1.0" encoding="ebcdic-xx"?><feedback/>`, "charset"},
	} {
		_, err := dmarc.Read(strings.NewReader(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
}

// TestBounds: what is kept is bounded, what is left out is counted.
func TestBounds(t *testing.T) {
	var b strings.Builder
	b.WriteString("<feedback><policy_published><domain>" + strings.Repeat("d", 10_000) + "</domain><p>no\x7fne\n</p></policy_published>")
	for range dmarc.MaxRecords + 5 {
		b.WriteString("<record><row><source_ip>192.0.2.1</source_ip><count>1</count></row></record>")
	}
	for _, count := range []string{"-1", "one", "99999999999999999999", ""} {
		fmt.Fprintf(&b, "<record><row><source_ip>192.0.2.1</source_ip><count>%s</count></row></record>", count)
	}
	b.WriteString("</feedback>")
	f, err := dmarc.Read(strings.NewReader(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Records) != dmarc.MaxRecords || f.Left != 9 || len(f.Policy.Domain) != 300 || f.Policy.P != "no ne" {
		t.Errorf("%d records, %d left out, domain of %d octets, p %q", len(f.Records), f.Left, len(f.Policy.Domain), f.Policy.P)
	}
}

// TestMemory: 8 MB of the smallest elements that a record may hold do not become a multiple of it.
func TestMemory(t *testing.T) {
	one := "<record><row><source_ip>1</source_ip><count>1</count></row><auth_results>" + strings.Repeat("<spf/>", 1900) + "</auth_results></record>"
	text := "<feedback><policy_published><domain>d</domain></policy_published>" + strings.Repeat(one, 8_000_000/len(one)) + "</feedback>"
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f, err := dmarc.Read(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 50<<20 {
		t.Errorf("%d MB are held for 8 MB", grown>>20)
	}
	runtime.KeepAlive(f)
	runtime.KeepAlive(text)
}

// FuzzRead: whatever comes, what is read is bounded, and what is written of it reads back.
func FuzzRead(f *testing.F) {
	for _, name := range []string{"full", "odd"} {
		text, err := os.ReadFile("testdata/" + name + ".xml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		report, err := dmarc.Read(bytes.NewReader(text))
		if err != nil {
			return
		}
		if len(report.Records) > dmarc.MaxRecords || len(report.Policy.Domain) > 400 {
			t.Fatal("it is beyond the bounds")
		}
		if len(report.Records) == 0 {
			return
		}
		written, err := dmarc.Write(report)
		if err != nil {
			t.Fatalf("what was read can't be written: %v", err)
		}
		again, err := dmarc.Read(bytes.NewReader(written))
		if err != nil || len(again.Records) != len(report.Records) {
			t.Fatalf("what was written can't be read: %v\n%s", err, written)
		}
	})
}
