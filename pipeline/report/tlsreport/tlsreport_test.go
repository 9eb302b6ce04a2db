package tlsreport_test

import (
	"bytes"
	"flag"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
	"github.com/sluicemail/sluice/pipeline/report/tlsreport"
)

var update = flag.Bool("update", false, "write the golden file anew")

func sample() *tlsreport.Report {
	r := tlsreport.From(&tlsrpt.Summary{
		Day: time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC), Domain: "example.net",
		Policies: []tlsrpt.PolicyResult{
			{
				Policy: tlsrpt.Policy{
					Type: tlsrpt.TypeSTS, Domain: "example.net", MXHost: []string{"*.mail.example.net"},
					String: []string{"version: STSv1", "mode: testing", "mx: *.mail.example.net", "max_age: 86400"},
				},
				Totals: tlsrpt.Totals{Success: 5326, Failure: 303},
				Details: []tlsrpt.Detail{
					{Failure: tlsrpt.Failure{Type: tlsrpt.CertificateExpired, SendingIP: "2001:db8::1", MXHostname: "mx1.mail.example.net"}, Count: 100},
					{Failure: tlsrpt.Failure{Type: tlsrpt.ValidationFailure, IP: "203.0.113.56", Code: "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED", Info: "see log"}, Count: 203},
				},
			},
			{Policy: tlsrpt.Policy{Type: tlsrpt.TypeTLSA, Domain: "mx1.example.net", String: []string{"3 0 1 1F85"}}, Totals: tlsrpt.Totals{Success: 2}},
		},
	})
	r.Organization, r.Contact, r.ID = "Example", "mailto:postmaster@example.test", "20261121.example.net@mx.example.test"
	return r
}

func TestWrite(t *testing.T) {
	got, err := tlsreport.Write(sample())
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/full.json"
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
	back, err := tlsreport.Read(got)
	if err != nil || !reflect.DeepEqual(back, sample()) {
		t.Errorf("read back: %v\n%+v", err, back)
	}
	if _, err := tlsreport.Write(&tlsreport.Report{}); err == nil {
		t.Error("an empty report was written")
	}
}

// TestRFC reads the example of RFC 8460 appendix B, and the liberties that senders take.
func TestRFC(t *testing.T) {
	text, err := os.ReadFile("testdata/rfc8460.json")
	if err != nil {
		t.Fatal(err)
	}
	r, err := tlsreport.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	p := r.Policies[0]
	if r.Organization != "Company-X" || r.Range.Start.IsZero() || p.Summary.Success != 5326 || p.Summary.Failure != 303 || len(p.Details) != 3 ||
		p.Details[0].Count != 100 || p.Details[2].Code == "" {
		t.Errorf("%+v", r)
	}
	r, err = tlsreport.Read([]byte(`{"policies":[{"policy":{"mx-host":"mx.example.net","policy-string":null},"summary":{"total-successful-session-count":"7",
		"total-failure-session-count":-3}, "failure-details":[{"failed-session-count":1e99}]}],"date-range":{"start-datetime":"yesterday"}}`))
	if err != nil || r.Policies[0].Policy.MXHost[0] != "mx.example.net" || r.Policies[0].Summary.Success != 7 || r.Policies[0].Summary.Failure != 0 ||
		r.Policies[0].Details[0].Count != 0 || !r.Range.Start.IsZero() {
		t.Errorf("%v %+v", err, r)
	}
}

func TestHostile(t *testing.T) {
	for name, text := range map[string]string{
		"empty":       "",
		"no JSON":     "hello",
		"no policies": `{"policies":[]}`,
		"a list":      `[{"policies":1}]`,
		"other type":  `{"policies":"x"}`,
		"deep":        `{"policies":` + strings.Repeat("[", 10_000_000),
		"wide":        `{"policies":[` + strings.Repeat("{},", 8_000_000) + "{}]}",
		"many":        `{"policies":[{"policy":{"mx-host":["` + strings.Repeat(`","`, 5_000_000) + `"]}}]}`,
		"cut off":     `{"policies":[{"policy":{"policy-type":"sts"}`,
		"open string": `{"policies":"` + strings.Repeat(`\`, 1001),
	} {
		if r, err := tlsreport.Read([]byte(text)); err == nil {
			t.Errorf("%s was read: %+v", name, r)
		}
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r, err := tlsreport.Read([]byte(`{"policies":[` + strings.Repeat(`{"failure-details":[{},{},{}]},`, 15_000) + `{"policy":{"policy-domain":"a\u0000b` + strings.Repeat("c", 1000) + `"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if len(r.Policies) != 1000 || r.Left != 15_001-1000 || int64(after.HeapAlloc)-int64(before.HeapAlloc) > 30<<20 {
		t.Errorf("%d policies, %d left out, %d octets", len(r.Policies), r.Left, int64(after.HeapAlloc)-int64(before.HeapAlloc))
	}
	runtime.KeepAlive(r)
}

// FuzzRead: whatever comes, what is read is bounded, and reads back as it was written.
func FuzzRead(f *testing.F) {
	for _, name := range []string{"full", "rfc8460"} {
		text, err := os.ReadFile("testdata/" + name + ".json")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := tlsreport.Read(text)
		if err != nil {
			return
		}
		written, err := tlsreport.Write(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := tlsreport.Read(written)
		if err != nil || len(again.Policies) != len(r.Policies) {
			t.Fatalf("%v\n%s", err, written)
		}
	})
}
