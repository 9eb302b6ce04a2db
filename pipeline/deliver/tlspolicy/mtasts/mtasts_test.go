package mtasts

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy/policytest"
	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

const enforce = "version: STSv1\nmode: enforce\nmx: mx.example.test\nmax_age: 604800\n"

// world is a domain with a policy, and a Store that asks for it.
type world struct {
	zone    *resolvertest.Zone
	clock   *policytest.Clock
	cache   *policytest.Cache
	ca      *policytest.Cert
	port    uint16
	rules   mx.Rules
	fetches atomic.Int64

	mu     sync.Mutex
	answer http.HandlerFunc
	leaf   *policytest.Cert
}

func newWorld(t *testing.T) *world {
	t.Helper()
	clock := policytest.NewClock(time.Now())
	w := &world{
		clock: clock, cache: &policytest.Cache{Now: clock.Now}, ca: policytest.NewCA("web authority", time.Now()),
		rules: mx.Rules{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
	}
	w.zone = resolvertest.MustParse("_mta-sts.example.test. TXT \"v=STSv1; id=one;\"\nmta-sts.example.test. A 127.0.0.1\n")
	w.leaf = w.ca.Leaf("mta-sts.example.test")
	w.says(enforce)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.port = netip.MustParseAddrPort(listener.Addr().String()).Port()
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			w.fetches.Add(1)
			if r.URL.Path != "/.well-known/mta-sts.txt" || !strings.HasPrefix(r.Host, "mta-sts.") || r.TLS == nil {
				http.NotFound(rw, r)
				return
			}
			w.mu.Lock()
			answer := w.answer
			w.mu.Unlock()
			answer(rw, r)
		}),
		TLSConfig: &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			c := w.leaf.TLS()
			return &c, nil
		}},
		ErrorLog: nil,
	}
	go func() { _ = server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() { server.Close() })
	return w
}

func (w *world) answers(f http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = f
}

func (w *world) says(text string) {
	w.answers(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprint(rw, text)
	})
}

func (w *world) id(id string) {
	w.zone.Remove("_mta-sts.example.test")
	_ = w.zone.Add("_mta-sts.example.test. TXT \"v=STSv1; id=" + id + ";\"")
}

// store returns a Store whose resolver remembers nothing.
func (w *world) store(t *testing.T) *Store {
	t.Helper()
	config := resolver.DefaultConfig()
	config.CacheEntries, config.MaxTTL, config.NegativeTTL = 0, 0, 0
	r := resolvertest.NewWith(w.zone, config, w.clock.Now)
	s := New(Options{
		DNS: r, Finder: mx.New(mx.Options{DNS: r}), Rules: w.rules, Port: w.port, Roots: w.ca.Pool(), Cache: w.cache, Now: w.clock.Now,
	})
	t.Cleanup(s.Close)
	return s
}

func (w *world) get(t *testing.T, s *Store) (*Policy, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return s.Get(ctx, "example.test")
}

func TestGet(t *testing.T) {
	w := newWorld(t)
	s := w.store(t)
	for range 3 {
		p, err := w.get(t, s)
		if err != nil || p == nil || p.Mode != Enforce || p.ID != "one" || !p.Match("mx.example.test") {
			t.Fatalf("got %+v, %v", p, err)
		}
	}
	if n := w.fetches.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
	if p, err := s.Get(t.Context(), "without.test"); p != nil || err != nil {
		t.Errorf("without a policy: %+v, %v", p, err)
	}
	// Many at once ask once.
	w.id("two")
	w.says(strings.Replace(enforce, "mx.", "*.", 1))
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if p, err := w.get(t, s); err != nil || p == nil || p.ID != "two" || !p.Match("other.example.test") {
				t.Errorf("the new policy: %+v, %v", p, err)
			}
		})
	}
	group.Wait()
	if n := w.fetches.Load(); n != 2 {
		t.Errorf("%d fetches", n)
	}
}

// TestSurvives: a policy that is known holds until it expires, whatever DNS and the web server say (DRILLS E5.1).
func TestSurvives(t *testing.T) {
	w := newWorld(t)
	if p, err := w.get(t, w.store(t)); err != nil || p == nil {
		t.Fatalf("got %+v, %v", p, err)
	}
	broken := func(rw http.ResponseWriter, _ *http.Request) {
		http.Error(rw, "broken", http.StatusInternalServerError)
	}
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"DNS fails", func() { w.zone.Break("_mta-sts.example.test", resolvertest.Fault{Rcode: dns.RcodeServerFailure}) }},
		{"the record is gone", func() {
			w.zone.Break("_mta-sts.example.test", resolvertest.Fault{})
			w.zone.Remove("_mta-sts.example.test")
		}},
		{"two records", func() { w.id("one"); _ = w.zone.Add(`_mta-sts.example.test. TXT "v=STSv1; id=three"`) }},
		{"another id, and no policy", func() { w.id("four"); w.answers(broken) }},
		{"another id, and rubbish", func() { w.id("five"); w.says("<html>") }},
	} {
		c.do()
		for _, s := range []*Store{w.store(t), w.store(t)} { // as after restarts
			p, err := w.get(t, s)
			if err != nil || p == nil || p.ID != "one" {
				t.Errorf("%s: %+v, %v", c.name, p, err)
			}
		}
	}
	w.clock.Move(8 * 24 * time.Hour)
	w.zone.Remove("_mta-sts.example.test")
	if p, err := w.get(t, w.store(t)); p != nil || err != nil {
		t.Errorf("after it has expired: %+v, %v", p, err)
	}
}

// TestFetchFailures: DRILLS E5.1.
func TestFetchFailures(t *testing.T) {
	w := newWorld(t)
	text := func(kind, body string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", kind)
			fmt.Fprint(rw, body)
		}
	}
	good := w.leaf
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		leaf   *policytest.Cert
		zone   string
		want   tlsrpt.ResultType
	}{
		{"not found", http.NotFound, nil, "", tlsrpt.STSPolicyFetchError},
		{"redirect", func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, "https://mta-sts.example.test/.well-known/mta-sts.txt?", http.StatusFound)
		}, nil, "", tlsrpt.STSPolicyFetchError},
		{"HTML", text("text/html", enforce), nil, "", tlsrpt.STSPolicyInvalid},
		{"no type", text("", enforce), nil, "", tlsrpt.STSPolicyInvalid},
		{"rubbish", text("text/plain", "hello"), nil, "", tlsrpt.STSPolicyInvalid},
		{"endless", text("text/plain", enforce+strings.Repeat("x: y\n", MaxPolicySize)), nil, "", tlsrpt.STSPolicyFetchError},
		{"large header", func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("X-Large", strings.Repeat("x", 100<<10))
			text("text/plain", enforce)(rw, nil)
		}, nil, "", tlsrpt.STSPolicyFetchError},
		{"broken off", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, nil, "", tlsrpt.STSPolicyFetchError},
		{"another name", text("text/plain", enforce), w.ca.Leaf("www.example.test"), "", tlsrpt.STSWebPKIInvalid},
		{"expired", text("text/plain", enforce), w.ca.LeafAt(time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour), "mta-sts.example.test"), "", tlsrpt.STSWebPKIInvalid},
		{"unknown authority", text("text/plain", enforce), policytest.NewCA("other", time.Now()).Leaf("mta-sts.example.test"), "", tlsrpt.STSWebPKIInvalid},
		{"no address", text("text/plain", enforce), nil, "mta-sts.example.test. TXT x", tlsrpt.STSPolicyFetchError},
		{"a private address", text("text/plain", enforce), nil, "mta-sts.example.test. A 10.0.0.1", tlsrpt.STSPolicyFetchError},
	} {
		w.mu.Lock()
		w.leaf = good
		if c.leaf != nil {
			w.leaf = c.leaf
		}
		w.mu.Unlock()
		w.answers(c.answer)
		w.zone.Remove("mta-sts.example.test")
		if c.zone == "" {
			c.zone = "mta-sts.example.test. A 127.0.0.1"
		}
		if err := w.zone.Add(c.zone); err != nil {
			t.Fatal(err)
		}
		s := w.store(t)
		p, err := w.get(t, s)
		var failed *Error
		if p != nil || !errors.As(err, &failed) || failed.Type != c.want {
			t.Errorf("%s: got %+v, %v; want %s", c.name, p, err, c.want)
		}
		before := w.fetches.Load()
		if p, err := w.get(t, s); p != nil || err == nil || w.fetches.Load() != before {
			t.Errorf("%s: asked again at once: %+v, %v", c.name, p, err)
		}
	}
	// After five minutes it may be asked for again, and is there.
	s := w.store(t)
	w.answers(http.NotFound)
	w.zone.Remove("mta-sts.example.test")
	_ = w.zone.Add("mta-sts.example.test. A 127.0.0.1")
	w.mu.Lock()
	w.leaf = good
	w.mu.Unlock()
	if _, err := w.get(t, s); err == nil {
		t.Error("not found, and no error")
	}
	w.says(enforce)
	w.clock.Move(failureTime)
	if p, err := w.get(t, s); err != nil || p == nil {
		t.Errorf("five minutes later: %+v, %v", p, err)
	}
}

// TestLoopbackIsRefused: DRILLS E5.3.
func TestLoopbackIsRefused(t *testing.T) {
	w := newWorld(t)
	w.rules = mx.Rules{}
	p, err := w.get(t, w.store(t))
	if p != nil || !errors.Is(err, mx.ErrForbidden) || w.fetches.Load() != 0 {
		t.Errorf("got %+v, %v, %d fetches", p, err, w.fetches.Load())
	}
}

func TestModes(t *testing.T) {
	w := newWorld(t)
	w.says(strings.Replace(enforce, "enforce", "testing", 1))
	s := w.store(t)
	if p, err := w.get(t, s); err != nil || p == nil || p.Mode != Testing {
		t.Errorf("testing: %+v, %v", p, err)
	}
	w.says("version: STSv1\nmode: none\nmax_age: 600\n")
	w.id("none")
	for range 2 {
		if p, err := w.get(t, s); p != nil || err != nil {
			t.Errorf("none: %+v, %v", p, err)
		}
	}
	if n := w.fetches.Load(); n != 2 {
		t.Errorf("%d fetches", n)
	}
	// max_age 0 does not mean a fetch for each message.
	w.says(strings.Replace(enforce, "604800", "0", 1))
	w.id("zero")
	for range 3 {
		if p, err := w.get(t, s); p == nil || err != nil {
			t.Errorf("max_age 0: %+v, %v", p, err)
		}
	}
	if n := w.fetches.Load(); n != 3 {
		t.Errorf("%d fetches", n)
	}
}

// TestRefresh: a policy is fetched again after a day without anybody waiting, also where the record says nothing new.
func TestRefresh(t *testing.T) {
	w := newWorld(t)
	s := w.store(t)
	first, err := w.get(t, s)
	if err != nil {
		t.Fatal(err)
	}
	s.refreshOld()
	if n := w.fetches.Load(); n != 1 {
		t.Errorf("%d fetches at once", n)
	}
	w.clock.Move(25 * time.Hour)
	s.refreshOld()
	waitFor(t, func() bool { p := s.Known("example.test"); return p != nil && p.Expires.After(first.Expires) })
	if p := s.Known("example.test"); p.ID != "one" {
		t.Errorf("the id has become %q", p.ID)
	}
	w.clock.Move(25 * time.Hour)
	if p, err := w.get(t, s); err != nil || p == nil { // in use, it is refreshed as well
		t.Errorf("got %+v, %v", p, err)
	}
	waitFor(t, func() bool { return s.Known("example.test").Fetched.Equal(w.clock.Now()) })
	s.mu.Lock()
	flight := s.entries["example.test"].flight
	s.mu.Unlock()
	if flight != nil {
		<-flight
	}
	if n := w.fetches.Load(); n != 3 {
		t.Errorf("%d fetches", n)
	}
	w.clock.Move(40 * 24 * time.Hour)
	s.refreshOld()
	if p := s.Known("example.test"); p != nil {
		t.Error("nobody has asked for 40 days, and it is still in memory")
	}
}

func waitFor(t *testing.T, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come")
		}
	}
}

// TestBrokenCache: nothing depends on it.
func TestBrokenCache(t *testing.T) {
	w := newWorld(t)
	w.cache.Break(true)
	s := w.store(t)
	for range 2 {
		if p, err := w.get(t, s); err != nil || p == nil {
			t.Errorf("got %+v, %v", p, err)
		}
	}
}

func TestCancel(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	w.answers(func(rw http.ResponseWriter, _ *http.Request) {
		<-release
		rw.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(rw, enforce)
	})
	s := w.store(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Get(ctx, "example.test"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	close(release)
	if p, err := w.get(t, s); err != nil || p == nil || w.fetches.Load() != 1 {
		t.Errorf("the next one: %+v, %v, %d fetches", p, err, w.fetches.Load())
	}
}

func TestBounds(t *testing.T) {
	w := newWorld(t)
	s := w.store(t)
	for i := range maxPolicies + 100 {
		if p, err := s.Get(t.Context(), fmt.Sprintf("d%d.test", i)); p != nil || err != nil {
			t.Fatalf("got %+v, %v", p, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.entries) > maxPolicies {
		t.Errorf("%d entries", len(s.entries))
	}
}
