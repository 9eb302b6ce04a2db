package report

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/kv/kvtest"
)

// site is a collector and a sender over one engine, with a clock that the test moves.
type site struct {
	t       *testing.T
	engine  kv.Engine
	zone    *resolvertest.Zone
	collect *Collector
	send    *Sender
	config  Config
	from    string

	mu      sync.Mutex
	now     time.Time
	letters []*Letter
	refuse  error
	tls     []tlsrpt.Summary
	taken   int   // times that Take was called
	broken  error // what Take returns with what it has
}

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const testZone = `
example.net._report._dmarc.agent.test. TXT "v=DMARC1"
_smtp._tls.example.net.                TXT "v=TLSRPTv1; rua=mailto:tls@example.net"
`

func newSite(t *testing.T, engine kv.Engine) *site {
	s := &site{t: t, engine: engine, now: noon, config: DefaultConfig(), from: "postmaster@example.test", zone: resolvertest.MustParse(testZone)}
	s.config.DMARC, s.config.TLS = true, true
	quiet := slog.New(slog.DiscardHandler)
	clock := func() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return s.now }
	s.collect = NewCollector(CollectorOptions{Engine: engine, Logger: quiet, Now: clock, Own: func(d string) bool { return d == "example.test" }})
	s.send = NewSender(SenderOptions{
		Config: func() Config { return s.config }, Hostname: "mx.example.test", Engine: engine, DNS: resolvertest.NewWith(s.zone, resolver.DefaultConfig(), clock), Logger: quiet, Now: clock,
		From: func() string { return s.from },
		Submit: func(_ context.Context, l *Letter) error {
			if s.refuse != nil {
				return s.refuse
			}
			s.letters = append(s.letters, l)
			return nil
		},
		TLS: s,
	})
	return s
}

// Take and Forget make it a TLSSource.
func (s *site) Take(_ context.Context, day time.Time) (out []tlsrpt.Summary, err error) {
	s.taken++
	for _, one := range s.tls {
		if one.Day.Equal(day) {
			out = append(out, one)
		}
	}
	return out, s.broken
}

func (s *site) Forget(_ context.Context, day time.Time) error {
	s.tls = slices.DeleteFunc(s.tls, func(one tlsrpt.Summary) bool { return one.Day.Equal(day) })
	return nil
}

func (s *site) pass(d time.Duration) { s.mu.Lock(); defer s.mu.Unlock(); s.now = s.now.Add(d) }

// observation is one that fails everything.
func observation(domain string, rua ...string) *pipeline.DMARCObservation {
	return &pipeline.DMARCObservation{
		Time: noon, Source: netip.MustParseAddr("192.0.2.1"), HeaderFrom: domain, EnvelopeFrom: "bounce." + domain, EnvelopeTo: []string{"example.test"},
		Policy:      pipeline.DMARCPolicy{Domain: domain, Discovery: "psl", P: "reject", ADKIM: "r", ASPF: "r", Percent: 100, RUA: rua},
		Disposition: "reject", SPF: pipeline.DMARCSPF{Domain: "bounce." + domain, Scope: "mfrom", Result: "fail"},
	}
}

// look lets everything that was observed be kept, and the sender look.
func (s *site) look() {
	s.t.Helper()
	if err := s.collect.flush(context.Background()); err != nil {
		s.t.Fatal(err)
	}
	s.send.Look(context.Background())
}

// keys counts what is in the store.
func (s *site) keys() (n int) {
	s.t.Helper()
	err := s.engine.Scan(context.Background(), []byte("system/report/"), []byte("system/report0"), false, func(_, _ []byte) (bool, error) { n++; return true, nil })
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// TestDMARC: what is observed is added up, is told once after the day has ended, as a mail that other programs can read, and is gone then.
func TestDMARC(t *testing.T) {
	s := newSite(t, kvtest.NewMemory())
	o := observation("example.net", "mailto:dmarc@example.net!10m", "mailto:a@agent.test", "mailto:a@victim.test", "https://example.net/r")
	o.Policy.Percent, o.Overrides = 50, []pipeline.DMARCOverride{{Type: "sampled_out"}}
	for range 3 {
		s.collect.ObserveDMARC(o)
	}
	s.look()
	o.Policy.P = "quarantine" // the last policy counts
	for range 2 {
		s.collect.ObserveDMARC(o)
	}
	good := observation("example.net", "mailto:dmarc@example.net")
	good.Disposition, good.DKIMAligned, good.EnvelopeTo = "none", true, []string{"a.test", "b.test"}
	good.DKIM = []pipeline.DMARCDKIM{{Domain: "list.test", Selector: "x", Result: "pass"}, {Domain: "other.test", Selector: "f", Result: "fail"}, {Domain: "example.net", Selector: "s", Result: "pass"}}
	good.Source, good.Policy.P = netip.MustParseAddr("::ffff:192.0.2.2"), "quarantine"
	good.Policy.RUA = o.Policy.RUA
	s.collect.ObserveDMARC(good)
	own := observation("example.test", "mailto:x@example.test")
	s.collect.ObserveDMARC(own)
	about := observation("example.org", "mailto:x@example.org")
	about.Report = true
	s.collect.ObserveDMARC(about)
	s.look()
	s.pass(12 * time.Hour) // midnight: the period is over, its time has not come
	s.look()
	if len(s.letters) != 0 {
		t.Fatal("a report was sent at midnight")
	}
	s.pass(settle + spread)
	s.look()
	if len(s.letters) != 2 || s.letters[0].To != "dmarc@example.net" || s.letters[1].To != "a@agent.test" {
		t.Fatalf("letters %+v", s.letters)
	}
	if n := s.keys(); n != 0 {
		t.Errorf("%d keys are left", n)
	}
	l := s.letters[0]
	m, err := mail.ReadMessage(bytes.NewReader(l.Text))
	if err != nil {
		t.Fatal(err)
	}
	if subject := m.Header.Get("Subject"); subject != "Report Domain: example.net Submitter: example.test Report-ID: <"+l.ID+">" {
		t.Errorf("subject %q", subject)
	}
	if !strings.Contains(string(l.Text), `filename="example.test!example.net!1795219200!1795305599!`) || m.Header.Get("Auto-Submitted") != "auto-generated" {
		t.Errorf("letter\n%s", l.Text)
	}
	if !pipeline.IsReport(m.Header.Get("Subject"), "") {
		t.Error("it does not look like a report to ourselves")
	}
	found, err := Find(bytes.NewReader(l.Text), int64(len(l.Text)))
	if err != nil || len(found) != 1 || found[0].DMARC == nil {
		t.Fatalf("%v %+v", err, found)
	}
	f := found[0].DMARC
	if f.Policy.P != "quarantine" || f.Policy.Percent != "50" && f.Policy.Percent != "100" || len(f.Records) != 2 || f.Metadata.Email != "postmaster@example.test" || f.Metadata.OrgName != "mx.example.test" {
		t.Errorf("%+v", f)
	}
	for _, r := range f.Records {
		switch r.Row.SourceIP {
		case "192.0.2.1":
			if r.Row.Count != 5 || r.Row.Evaluated.Disposition != "reject" || r.Row.Evaluated.Reasons[0].Type != "sampled_out" || r.Identifiers.EnvelopeTo != "example.test" {
				t.Errorf("%+v", r)
			}
		case "192.0.2.2":
			if r.Row.Count != 1 || r.Row.Evaluated.DKIM != "pass" || r.Identifiers.EnvelopeTo != "" || len(r.Results.DKIM) != 3 ||
				r.Results.DKIM[0].Domain != "example.net" || r.Results.DKIM[2].Result != "fail" {
				t.Errorf("%+v", r)
			}
		default:
			t.Errorf("%+v", r)
		}
	}
	s.look()
	if len(s.letters) != 2 {
		t.Error("it was sent again")
	}
}

// TestRetry: what DNS or the queue cannot do now is done later, with the same ID, and given up after a day.
func TestRetry(t *testing.T) {
	s := newSite(t, kvtest.NewMemory())
	const name = "example.net._report._dmarc.agent.test"
	s.zone.Break(name, resolvertest.Fault{Rcode: dns.RcodeServerFailure})
	s.collect.ObserveDMARC(observation("example.net", "mailto:a@agent.test"))
	s.look()
	s.pass(12*time.Hour + settle + spread)
	s.look()
	if len(s.letters) != 0 || s.keys() == 0 {
		t.Fatal("it was sent, or forgotten, although nobody knows whether it is wanted")
	}
	s.zone.Break(name, resolvertest.Fault{})
	s.look()
	if len(s.letters) != 0 {
		t.Fatal("it was tried again at once")
	}
	s.refuse = errors.New("disk full")
	s.pass(retryAfter)
	s.look()
	s.refuse = nil
	s.pass(retryAfter)
	s.look()
	if len(s.letters) != 1 || s.keys() != 0 {
		t.Fatalf("%d letters, %d keys", len(s.letters), s.keys())
	}

	s.collect.ObserveDMARC(observation("example.net", "mailto:a@agent.test"))
	s.look()
	s.refuse = errors.New("disk full")
	s.pass(50 * time.Hour)
	s.look()
	if s.keys() != 0 {
		t.Error("what could not be sent for a day is still there")
	}
}

// TestCrash: a new process goes on with what was kept; the same report has the same ID in both.
func TestCrash(t *testing.T) {
	engine := kvtest.NewMemory()
	s := newSite(t, engine)
	s.collect.ObserveDMARC(observation("example.net", "mailto:d@example.net"))
	s.look()
	s.collect.ObserveDMARC(observation("example.net", "mailto:d@example.net")) // is lost
	again := newSite(t, engine)
	again.collect.ObserveDMARC(observation("example.net", "mailto:d@example.net"))
	again.look()
	job := func(s *site) string {
		return s.send.reportID(kindDMARC, job{period: "202611210000", domain: "example.net"})
	}
	again.pass(24 * time.Hour)
	again.look()
	if len(again.letters) != 1 || again.letters[0].ID != job(s) {
		t.Fatalf("letters %+v, want ID %s", again.letters, job(s))
	}
	found, err := Find(bytes.NewReader(again.letters[0].Text), int64(len(again.letters[0].Text)))
	if err != nil || found[0].DMARC.Records[0].Row.Count != 2 {
		t.Errorf("%v %+v", err, found)
	}
}

// TestFailing: with an engine that fails at the n-th call nothing is lost and nothing is sent that is not right.
func TestFailing(t *testing.T) {
	boom := errors.New("boom")
	for n := int64(1); n < 12; n++ {
		engine := kvtest.Fail(kvtest.NewMemory(), n, boom)
		s := newSite(t, engine)
		s.collect.ObserveDMARC(observation("example.net", "mailto:d@example.net"))
		_ = s.collect.flush(context.Background())
		s.collect.ObserveDMARC(observation("example.net", "mailto:d@example.net"))
		_ = s.collect.flush(context.Background())
		_ = s.collect.flush(context.Background())
		s.pass(20 * time.Hour)
		for range 3 {
			s.send.Look(context.Background())
			s.pass(retryAfter)
		}
		if len(s.letters) == 0 {
			t.Errorf("call %d failed: no report", n)
			continue
		}
		found, err := Find(bytes.NewReader(s.letters[0].Text), int64(len(s.letters[0].Text)))
		if err != nil || found[0].DMARC.Records[0].Row.Count != 2 {
			t.Errorf("call %d failed: %v %+v", n, err, found)
		}
	}
}

// TestBounds: rows, domains and memory have an end, and what is left out is told.
func TestBounds(t *testing.T) {
	s := newSite(t, kvtest.NewMemory())
	for i := range maxRows + 50 {
		o := observation("example.net", "mailto:d@example.net")
		o.HeaderFrom = fmt.Sprintf("x%d.example.net", i)
		s.collect.ObserveDMARC(o)
		if i%777 == 0 {
			if err := s.collect.flush(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.collect.flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := s.keys(); n > maxRows+1 {
		t.Errorf("%d keys", n)
	}
	s.pass(24 * time.Hour)
	s.look()
	found, err := Find(bytes.NewReader(s.letters[0].Text), int64(len(s.letters[0].Text)))
	if err != nil || len(found[0].DMARC.Records) > maxRows || len(found[0].DMARC.Metadata.Errors) != 1 || !strings.HasPrefix(found[0].DMARC.Metadata.Errors[0], "50 messages") {
		t.Errorf("%v: %d records, %q", err, len(found[0].DMARC.Records), found[0].DMARC.Metadata.Errors)
	}

	for i := range maxPending + 7 {
		o := observation("example.org", "mailto:d@example.org")
		o.HeaderFrom = "h" + strconv.Itoa(i) + ".example.org"
		s.collect.ObserveDMARC(o)
	}
	if n := s.collect.Dropped(); n != 7 {
		t.Errorf("%d dropped, want 7", n)
	}
	for _, bad := range []string{"", "a/b.test", "x\r\ny.test", "..", strings.Repeat("a.", 200) + "test", "192.0.2.1"} {
		before := len(s.collect.heads)
		o := observation(bad, "mailto:d@example.org")
		s.collect.ObserveDMARC(o)
		if len(s.collect.heads) != before {
			t.Errorf("%q is a domain", bad)
		}
	}
}

// TestSizeLimit: who takes less than the report gets none.
func TestSizeLimit(t *testing.T) {
	s := newSite(t, kvtest.NewMemory())
	s.collect.ObserveDMARC(observation("example.net", "mailto:small@example.net!1k", "mailto:large@example.net!1m"))
	s.look()
	s.pass(24 * time.Hour)
	s.look()
	if len(s.letters) != 1 || s.letters[0].To != "large@example.net" {
		t.Errorf("letters %+v", s.letters)
	}
}

// TestOff: what was collected before reports were switched off goes nowhere, and does not stay.
func TestOff(t *testing.T) {
	for name, change := range map[string]func(s *site){
		"dmarc = false": func(s *site) { s.config.DMARC = false },
		"no postmaster": func(s *site) { s.from = "" },
	} {
		s := newSite(t, kvtest.NewMemory())
		s.collect.ObserveDMARC(observation("example.net", "mailto:d@example.net"))
		s.look()
		change(s)
		s.pass(24 * time.Hour)
		s.look()
		if len(s.letters) != 0 || s.keys() != 0 {
			t.Errorf("%s: %d letters, %d keys", name, len(s.letters), s.keys())
		}
	}
}

func summary(domain string, day time.Time) tlsrpt.Summary {
	return tlsrpt.Summary{Day: day, Domain: domain, Policies: []tlsrpt.PolicyResult{{
		Policy: tlsrpt.Policy{Type: tlsrpt.TypeNoPolicy, Domain: domain}, Totals: tlsrpt.Totals{Success: 7, Failure: 1},
		Details: []tlsrpt.Detail{{Failure: tlsrpt.Failure{Type: tlsrpt.CertificateExpired, MXHostname: "mx." + domain}, Count: 1}},
	}}}
}

func TestTLSByMail(t *testing.T) {
	s := newSite(t, kvtest.NewMemory())
	day := noon.Truncate(24 * time.Hour)
	s.tls = []tlsrpt.Summary{summary("example.net", day), summary("nobody.test", day), summary("bad/name.test", day)}
	s.pass(12*time.Hour + settle + spread)
	s.look()
	if len(s.letters) != 1 || s.keys() != 0 || len(s.tls) != 0 {
		t.Fatalf("%d letters, %d keys, %d summaries", len(s.letters), s.keys(), len(s.tls))
	}
	l := s.letters[0]
	m, err := mail.ReadMessage(bytes.NewReader(l.Text))
	if err != nil {
		t.Fatal(err)
	}
	h := m.Header
	if h.Get("TLS-Report-Domain") != "example.net" || h.Get("TLS-Report-Submitter") != "example.test" || h.Get("TLS-Required") != "No" ||
		!strings.Contains(h.Get("Content-Type"), `multipart/report; report-type="tlsrpt"`) || !pipeline.IsReport("", h.Get("Content-Type")) {
		t.Errorf("%v", h)
	}
	if !strings.Contains(string(l.Text), "application/tlsrpt+gzip") || !strings.Contains(string(l.Text), `"example.test!example.net!1795219200!1795305599!`) {
		t.Errorf("%s", l.Text)
	}
	found, err := Find(bytes.NewReader(l.Text), int64(len(l.Text)))
	if err != nil || len(found) != 1 || found[0].TLS == nil || found[0].TLS.Policies[0].Summary.Success != 7 || found[0].TLS.ID != l.ID {
		t.Errorf("%v %+v", err, found)
	}
}

// TestTLSBroken: a day that cannot be read whole is asked for again, and then what there is of it is sent.
func TestTLSBroken(t *testing.T) {
	s := newSite(t, kvtest.NewMemory())
	s.tls, s.broken = []tlsrpt.Summary{summary("example.net", noon.Truncate(24*time.Hour))}, errors.New("damaged")
	s.pass(12*time.Hour + settle + spread)
	for range takeTries - 1 {
		s.look()
	}
	if len(s.letters) != 0 || s.taken != takeTries-1 {
		t.Fatalf("%d letters after %d tries", len(s.letters), s.taken)
	}
	s.look()
	if len(s.letters) != 1 || len(s.tls) != 0 {
		t.Errorf("%d letters, %d summaries", len(s.letters), len(s.tls))
	}
}

// TestTLSByPost (DRILLS E5.3): reports are posted to https servers of the Internet, here to one that is allowed by the rules, and nowhere else.
func TestTLSByPost(t *testing.T) {
	var got []byte
	status := http.StatusCreated
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, _ = io.ReadAll(r.Body)
		if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/tlsrpt+gzip" {
			t.Errorf("%s %v", r.Method, r.Header)
		}
		w.Header().Set("Location", "https://127.0.0.1/")
		w.WriteHeader(status)
	}))
	defer server.Close()
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseUint(at.Port(), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	z := resolvertest.MustParse("example.com. A 127.0.0.1\nmeta.test. A 169.254.169.254\nsix.test. AAAA ::1\nmapped.test. AAAA ::ffff:10.0.0.1\n")
	p := newPoster(resolvertest.New(z), mx.Rules{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	p.port = uint16(port)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	p.client.Transport.(*http.Transport).TLSClientConfig.RootCAs = roots
	if err := p.send(context.Background(), "https://example.com:"+at.Port()+"/r", []byte("packed")); err != nil || string(got) != "packed" {
		t.Errorf("%v %q", err, got)
	}
	for _, status = range []int{302, 307, 404, 500} {
		if err := p.send(context.Background(), "https://example.com:"+at.Port()+"/r", nil); err == nil {
			t.Errorf("status %d is taken for success", status)
		}
	}
	strict := newPoster(resolvertest.New(z), mx.Rules{})
	strict.port = uint16(port)
	strict.client.Transport.(*http.Transport).TLSClientConfig.RootCAs = roots
	for _, host := range []string{"example.com", "meta.test", "six.test", "mapped.test", "127.0.0.1", "[::1]", "nowhere.test", "localhost"} {
		err := strict.send(context.Background(), "https://"+host+":"+at.Port()+"/r", nil)
		if err == nil {
			t.Errorf("%s was posted to", host)
		} else if host != "nowhere.test" && host != "localhost" && !errors.Is(err, mx.ErrForbidden) {
			t.Errorf("%s: %v", host, err)
		}
	}
	if err := p.send(context.Background(), "https://example.com:22/r", nil); err == nil || !strings.Contains(err.Error(), "port 22") {
		t.Errorf("another port: %v", err)
	}
	untrusted := newPoster(resolvertest.New(z), mx.Rules{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	untrusted.port = uint16(port)
	if err := untrusted.send(context.Background(), "https://example.com:"+at.Port()+"/r", nil); err == nil {
		t.Error("a certificate that nobody signed was believed")
	}
}

// TestGolden holds a letter still, as other programs get to see it.
func TestGolden(t *testing.T) {
	p := paper{
		kind: kindTLS, about: "example.net", id: "202611210000.0a1b2c3d4e5f@mx.example.test", from: "postmaster@example.test", to: "tls@example.net",
		hostname: "mx.example.test", at: noon, begin: 1795219200, end: 1795305599, packed: bytes.Repeat([]byte("sluice"), 20),
	}
	got := p.write().Text
	const golden = "testdata/tls.eml"
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v\n%s", err, got)
	}
	for _, line := range strings.Split(strings.TrimSuffix(string(got), "\r\n"), "\r\n") {
		if len(line) > 78 && !strings.HasPrefix(line, " filename=") || strings.ContainsAny(line, "\r\n") {
			t.Errorf("line %q", line)
		}
	}
}

func TestValidate(t *testing.T) {
	c := DefaultConfig()
	if err := c.Validate(); err != nil {
		t.Errorf("the default is refused: %v", err)
	}
	c.From, c.Email, c.Contact, c.OrgName = "Reports <x@example.test>", "nobody", "two\nlines", strings.Repeat("x", 300)
	c.Interval = 5 * 3600 * 1e9
	err := c.Validate()
	for _, key := range []string{"from", "email", "contact", "org_name", "interval"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("nothing about %s: %v", key, err)
		}
	}
}

// TestStartStop: the goroutines end, and what was observed last is kept.
func TestStartStop(t *testing.T) {
	s := newSite(t, kvtest.NewMemory())
	s.collect.Start(context.Background())
	s.send.Start(context.Background())
	s.collect.ObserveDMARC(observation("example.net", "mailto:d@example.net"))
	s.send.Stop()
	s.collect.Stop(context.Background())
	s.collect.ObserveDMARC(observation("example.org", "mailto:d@example.org"))
	if n := s.keys(); n != 2 {
		t.Errorf("%d keys, want a head and a row", n)
	}
}
