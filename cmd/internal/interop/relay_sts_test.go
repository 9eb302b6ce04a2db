package interop

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/memo"
)

// policyServer serves policies of MTA-STS by HTTPS at an address (RFC 8461 section 3.3).
type policyServer struct {
	mu       sync.Mutex
	policies map[string]string // host to text
	asked    map[string]int
	server   *http.Server
}

func startPolicyServer(t testing.TB, addr string, cert tls.Certificate) *policyServer {
	t.Helper()
	p := &policyServer{policies: make(map[string]string), asked: make(map[string]int)}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p.server = &http.Server{Handler: p, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, ReadHeaderTimeout: time.Minute}
	go p.server.ServeTLS(l, "", "")
	t.Cleanup(func() { p.server.Close() })
	return p
}

// ServeHTTP implements http.Handler.
func (p *policyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked[r.Host]++
	text, found := p.policies[r.Host]
	if !found || r.URL.Path != "/.well-known/mta-sts.txt" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprint(w, strings.ReplaceAll(text, "\n", "\r\n"))
}

// TestMTASTS: policies come by HTTPS from an authority that the server knows, and are obeyed (RFC 8461): enforce
// keeps mail from servers that are not listed or not certified, testing only counts; a policy
// holds on after a restart, without DNS and without the web server. What went wrong
// is kept for the reports (RFC 8460). DRILLS E5.1.
func TestMTASTS(t *testing.T) {
	t.Parallel()
	if !inside(t) {
		return
	}
	cases := []struct {
		name, mode string
		mx         string // in the policy; "": its own server
		cert       string // of the mail server: good, other (name), self, none (no STARTTLS)
		how        string // it arrives, and the trace has it
		why        string // it waits, and the trace has it
		report     tlsrpt.ResultType
	}{
		{name: "good", mode: "enforce", cert: "good", how: "mta-sts"},
		{name: "wild", mode: "enforce", mx: "*.wild.sts.test", cert: "good", how: "mta-sts"},
		{name: "self", mode: "enforce", cert: "self", why: "unknown authority", report: tlsrpt.CertificateNotTrusted},
		{name: "other", mode: "enforce", cert: "other", why: "other names", report: tlsrpt.CertificateHostMismatch},
		{name: "unlisted", mode: "enforce", mx: "mx.elsewhere.test", cert: "good", why: "does not list the server", report: tlsrpt.ValidationFailure},
		{name: "clear", mode: "enforce", cert: "none", why: "not offered", report: tlsrpt.STARTTLSNotSupported},
		{name: "trial", mode: "testing", cert: "self", how: "delivered", report: tlsrpt.CertificateNotTrusted},
		{name: "trialclear", mode: "testing", cert: "none", how: "delivered", report: tlsrpt.STARTTLSNotSupported},
		{name: "lost", mode: "", cert: "self", how: "unverified", report: tlsrpt.STSPolicyFetchError}, // it says that it has a policy, and has none
	}
	ca := newCA(t)
	zone, sinks := "", make(map[string]*scripted)
	var names []string
	for i, c := range cases {
		domain := c.name + ".sts.test"
		names = append(names, "mta-sts."+domain)
		addr := fmt.Sprintf("127.0.1.%d", 60+i)
		zone += strings.NewReplacer("DOMAIN", domain, "ADDR", addr).Replace(`DOMAIN. IN MX 10 mx.DOMAIN.
mx.DOMAIN. IN A ADDR
_mta-sts.DOMAIN. IN TXT "v=STSv1; id=one"
mta-sts.DOMAIN. IN A 127.0.1.59
`)
		sinks[c.name] = startScripted(t, addr+":25", func(s *scripted) {
			from := map[string]tls.Certificate{"good": ca.Leaf("mx." + domain).TLS(), "other": ca.Leaf("mx.elsewhere.test").TLS(), "self": newCA(t).Leaf("mx." + domain).TLS()}
			if cert, found := from[c.cert]; found {
				s.cert = &cert
			}
		})
	}
	web := startPolicyServer(t, "127.0.1.59:443", ca.Leaf(names...).TLS())
	for _, c := range cases {
		if c.mode != "" {
			mx := c.mx
			if mx == "" {
				mx = "mx." + c.name + ".sts.test"
			}
			web.policies["mta-sts."+c.name+".sts.test"] = "version: STSv1\nmode: " + c.mode + "\nmx: " + mx + "\nmax_age: 86400\n"
		}
	}
	w := newWorld(t, quickRetry, zone)
	w.trustCA(ca)
	w.start()
	day := time.Now()
	round := func(n int) {
		for _, c := range cases {
			w.post([]string{"a@" + c.name + ".sts.test"}, fmt.Sprintf("%s.%d@example.test", c.name, n), "mta-sts", 1000)
		}
		for _, c := range cases {
			id := fmt.Sprintf("%s.%d@example.test", c.name, n)
			if c.why != "" {
				w.awaitTrace(id, "delayed", c.why)
				continue
			}
			sinks[c.name].await(id)
			w.awaitTrace(id, "delivered", c.how)
		}
		for _, c := range cases {
			if c.why != "" && len(sinks[c.name].took(fmt.Sprintf("%s.%d@example.test", c.name, n))) > 0 {
				t.Errorf("%s arrived", c.name)
			}
		}
	}
	round(1)
	// Without the web server, and without the TXT records, what was learned holds.
	w.stop()
	web.server.Close()
	for _, c := range cases {
		if c.mode != "" {
			w.dns.Zone.Remove("_mta-sts." + c.name + ".sts.test.")
		}
	}
	w.start()
	round(2)
	w.stop()

	all := tlsResults(t, filepath.Join(w.dir, "data"), day)
	for _, c := range cases {
		found := false
		for _, p := range all[c.name+".sts.test"] {
			for _, f := range p.Details {
				found = found || f.Type == c.report && f.Count > 0
			}
			if c.report == "" && (p.Totals.Failure > 0 || p.Totals.Success == 0 || p.Policy.Type != tlsrpt.TypeSTS) {
				t.Errorf("%s: kept for the report: %+v", c.name, p)
			}
		}
		if c.report != "" && !found {
			t.Errorf("%s: no %s kept for the report, but %+v", c.name, c.report, all[c.name+".sts.test"])
		}
	}
}

// tlsResults reads what a server that has ended kept of a day for its reports about TLS.
func tlsResults(t testing.TB, data string, day time.Time) map[string][]tlsrpt.PolicyResult {
	t.Helper()
	store, err := storage.Open(context.Background(), storage.Options{Dir: data, Config: storage.DefaultConfig()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close(context.Background())
	c := tlsrpt.New(tlsrpt.Options{Cache: memo.New(store.KV(), "tls", 1000, time.Now)})
	defer c.Close()
	list, err := c.Take(context.Background(), day)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string][]tlsrpt.PolicyResult)
	for _, s := range list {
		all[s.Domain] = s.Policies
	}
	return all
}
