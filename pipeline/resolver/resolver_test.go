package resolver_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
	"github.com/sluicemail/sluice/pipeline/units"
)

const zone = `
example.test.            300 SOA ns.example.test. hostmaster.example.test. 1 3600 600 86400 120
example.test.            300 TXT "v=spf1 " "ip4:192.0.2.0/24 -all"
example.test.            300 MX  20 mx2.example.test.
example.test.            300 MX  10 mx1.example.test.
mx1.example.test.        300 A   192.0.2.1
mx1.example.test.        300 AAAA 2001:db8::1
mx2.example.test.        300 A   192.0.2.2
six.example.test.        300 AAAA 2001:db8::6
null.example.test.       300 MX  0 .
alias.example.test.       30 CNAME alias2.example.test.
alias2.example.test.     300 CNAME mx1.example.test.
loop.example.test.       300 CNAME loop2.example.test.
loop2.example.test.      300 CNAME loop.example.test.
odd.example.test.        300 TXT "quote \" backslash \\ octet \200 semicolon \;"
odd.example.test.        300 MX  10 bad\.label.example.test.
odd.example.test.        300 MX  20 mx1.example.test.
zero.example.test.         0 A   192.0.2.9
*.wild.example.test.     300 A   192.0.2.77
forever.example.test. 999999 A   192.0.2.78
1.2.0.192.in-addr.arpa.  300 PTR mx1.example.test.
1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 300 PTR mx1.example.test.
`

func TestLookups(t *testing.T) {
	server, err := resolvertest.StartServer(resolvertest.MustParse(zone))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	config := resolver.DefaultConfig()
	config.Servers = []string{server.Addr}
	overSockets, err := resolver.New(config, resolver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*resolver.Resolver{"sockets": overSockets, "memory": resolvertest.New(resolvertest.MustParse(zone))} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // the second time from the cache
				lookups(t, r)
			}
		})
	}
}

func lookups(t *testing.T, r *resolver.Resolver) {
	ctx := t.Context()
	addr := netip.MustParseAddr
	tests := []struct {
		what string
		ask  func() (any, error)
		want any // or "absent"
	}{
		{"TXT strings are joined", func() (any, error) { return r.LookupTXT(ctx, "Example.TEST.") }, []string{"v=spf1 ip4:192.0.2.0/24 -all"}},
		{"MX by preference", func() (any, error) { return hosts(r.LookupMX(ctx, "example.test")) }, []string{"10 mx1.example.test", "20 mx2.example.test"}},
		{"null MX", func() (any, error) { return hosts(r.LookupMX(ctx, "null.example.test")) }, []string{"0 ."}},
		{"odd octets come as they are", func() (any, error) { return r.LookupTXT(ctx, "odd.example.test") }, []string{"quote \" backslash \\ octet \xc8 semicolon ;"}},
		{"odd names are dropped", func() (any, error) { return hosts(r.LookupMX(ctx, "odd.example.test")) }, []string{"20 mx1.example.test"}},
		{"both families", func() (any, error) { return r.LookupIP(ctx, "ip", "mx1.example.test") }, []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")}},
		{"one family of two", func() (any, error) { return r.LookupIP(ctx, "ip", "six.example.test") }, []netip.Addr{addr("2001:db8::6")}},
		{"A only", func() (any, error) { return r.LookupIP(ctx, "ip4", "mx1.example.test") }, []netip.Addr{addr("192.0.2.1")}},
		{"no A", func() (any, error) { return r.LookupIP(ctx, "ip4", "six.example.test") }, "absent"},
		{"CNAME chain", func() (any, error) { return r.LookupIP(ctx, "ip4", "alias.example.test") }, []netip.Addr{addr("192.0.2.1")}},
		{"CNAME to nothing of that type", func() (any, error) { return r.LookupTXT(ctx, "alias.example.test") }, "absent"},
		{"CNAME loop", func() (any, error) { return r.LookupIP(ctx, "ip4", "loop.example.test") }, "absent"},
		{"wildcard", func() (any, error) { return r.LookupIP(ctx, "ip4", "a.b.wild.example.test") }, []netip.Addr{addr("192.0.2.77")}},
		{"empty non-terminal", func() (any, error) { return r.LookupIP(ctx, "ip4", "wild.example.test") }, "absent"},
		{"PTR", func() (any, error) { return r.LookupPTR(ctx, addr("192.0.2.1")) }, []string{"mx1.example.test"}},
		{"PTR of a mapped address", func() (any, error) { return r.LookupPTR(ctx, addr("::ffff:192.0.2.1")) }, []string{"mx1.example.test"}},
		{"PTR of IPv6", func() (any, error) { return r.LookupPTR(ctx, addr("2001:db8::1")) }, []string{"mx1.example.test"}},
		{"PTR of nobody", func() (any, error) { return r.LookupPTR(ctx, netip.Addr{}) }, "absent"},
		{"NXDOMAIN", func() (any, error) { return r.LookupTXT(ctx, "nobody.test") }, "absent"},
		{"empty name", func() (any, error) { return r.LookupTXT(ctx, "") }, "absent"},
		{"root", func() (any, error) { return r.LookupIP(ctx, "ip4", ".") }, "absent"},
		{"empty label", func() (any, error) { return r.LookupTXT(ctx, "a..test") }, "absent"},
		{"long label", func() (any, error) { return r.LookupTXT(ctx, strings.Repeat("a", 64)+".test") }, "absent"},
		{"long name", func() (any, error) { return r.LookupTXT(ctx, strings.Repeat("abcdefg.", 32)+"test") }, "absent"},
		{"backslash", func() (any, error) { return r.LookupTXT(ctx, `example\.test`) }, "absent"},
		{"control", func() (any, error) { return r.LookupTXT(ctx, "exam\x00ple.test") }, "absent"},
		{"U-label", func() (any, error) { return r.LookupTXT(ctx, "exämple.test") }, "absent"},
		{"signs of the zone file", func() (any, error) { return r.LookupTXT(ctx, `a b"(c);@'.test`) }, "absent"},
	}
	for _, test := range tests {
		got, err := test.ask()
		if test.want == "absent" {
			var e *net.DNSError
			if !errors.As(err, &e) || !e.IsNotFound || e.IsTemporary {
				t.Errorf("%s: got %v, %v; want a *net.DNSError with IsNotFound", test.what, got, err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %v, %v; want %v", test.what, got, err, test.want)
		}
	}
	if _, err := r.LookupIP(ctx, "tcp", "example.test"); err == nil {
		t.Error("an unknown network is not an error")
	}
}

func hosts(mxs []*net.MX, err error) ([]string, error) {
	var out []string
	for _, mx := range mxs {
		out = append(out, fmt.Sprint(mx.Pref, " ", mx.Host))
	}
	return out, err
}

// TestTruncatedAnswersComeByTCP: DRILLS E5.4.
func TestTruncatedAnswersComeByTCP(t *testing.T) {
	z := resolvertest.MustParse(zone)
	for i := range 200 {
		if err := z.Add(fmt.Sprintf(`big.test. 300 TXT "%03d %s"`, i, strings.Repeat("x", 100))); err != nil {
			t.Fatal(err)
		}
	}
	server, err := resolvertest.StartServer(z)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	config := resolver.DefaultConfig()
	config.Servers = []string{server.Addr}
	r, err := resolver.New(config, resolver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.LookupTXT(t.Context(), "big.test")
	if err != nil || len(got) != 200 {
		t.Fatalf("got %d texts, %v; want 200", len(got), err)
	}
	if n := z.Asked("big.test"); n != 2 {
		t.Errorf("asked %d times, want once by UDP and once by TCP", n)
	}
}

// TestFaults: DRILLS E5.4.
func TestFaults(t *testing.T) {
	tests := []struct {
		name  string
		fault resolvertest.Fault
	}{
		{"SERVFAIL", resolvertest.Fault{Rcode: dns.RcodeServerFailure}},
		{"REFUSED", resolvertest.Fault{Rcode: dns.RcodeRefused}},
		{"silence", resolvertest.Fault{Silent: true}},
		{"forged question", resolvertest.Fault{Forge: true}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			z := resolvertest.MustParse(zone)
			z.Break("mx1.example.test", test.fault)
			now := time.Unix(1_800_000_000, 0)
			config := resolver.DefaultConfig()
			config.Timeout, config.Deadline = units.Of(20*time.Millisecond), units.Of(100*time.Millisecond)
			r := resolvertest.NewWith(z, config, func() time.Time { return now })
			_, err := r.LookupIP(t.Context(), "ip4", "mx1.example.test")
			var e *net.DNSError
			if !errors.As(err, &e) || !e.IsTemporary || e.IsNotFound {
				t.Fatalf("got %v, want a temporary error", err)
			}
			asked := z.Asked("mx1.example.test")
			if asked != 2 {
				t.Errorf("asked %d times, want 2", asked)
			}
			// A failure is remembered for a moment, then asked about again.
			z.Break("mx1.example.test", resolvertest.Fault{})
			if _, err := r.LookupIP(t.Context(), "ip4", "mx1.example.test"); err == nil || z.Asked("mx1.example.test") != asked {
				t.Errorf("at once: %v, asked %d times; want the same failure from the cache", err, z.Asked("mx1.example.test"))
			}
			now = now.Add(5 * time.Second)
			if _, err := r.LookupIP(t.Context(), "ip4", "mx1.example.test"); err != nil {
				t.Errorf("later: %v", err)
			}
			if s := r.Stats(); s.Failures != 1 {
				t.Errorf("counted %d failures, want 1", s.Failures)
			}
		})
	}
}

func TestNextServer(t *testing.T) {
	dead, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	addr, stop, err := resolvertest.Start(zone)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	config := resolver.DefaultConfig()
	config.Timeout = units.Of(50 * time.Millisecond)
	config.Servers = []string{dead.LocalAddr().String(), addr}
	r, err := resolver.New(config, resolver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.LookupTXT(t.Context(), "example.test"); err != nil {
		t.Fatal(err)
	}
	before := r.Stats().Queries
	if _, err := r.LookupMX(t.Context(), "example.test"); err != nil {
		t.Fatal(err)
	}
	if n := r.Stats().Queries - before; n != 1 {
		t.Errorf("the second look-up took %d queries, want 1: the server that answered is asked first", n)
	}
}

// TestTTL: DRILLS E5.4.
func TestTTL(t *testing.T) {
	z := resolvertest.MustParse(zone)
	now := time.Unix(1_800_000_000, 0)
	config := resolver.DefaultConfig()
	config.MaxTTL = units.Of(time.Hour)
	r := resolvertest.NewWith(z, config, func() time.Time { return now })
	tests := []struct {
		name    string
		seconds int // until it is asked again; 0: each time
	}{
		{"mx1.example.test", 300},
		{"alias.example.test", 30},     // the shortest of the chain
		{"forever.example.test", 3600}, // MaxTTL
		{"nobody.example.test", 120},   // the SOA's minimum
		{"nobody.test", 60},            // of the made-up SOA
		{"zero.example.test", 0},
	}
	for _, test := range tests {
		ask := func() int {
			_, _ = r.LookupIP(t.Context(), "ip4", test.name)
			return z.Asked(test.name)
		}
		first := ask()
		now = now.Add(time.Duration(test.seconds)*time.Second - time.Millisecond)
		if n := ask(); test.seconds > 0 && n != first {
			t.Errorf("%s: asked again before %d seconds", test.name, test.seconds)
		}
		now = now.Add(time.Millisecond)
		if n := ask(); n == first {
			t.Errorf("%s: not asked again after %d seconds", test.name, test.seconds)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	z := resolvertest.MustParse(zone)
	config := resolver.DefaultConfig()
	config.CacheEntries, config.CacheSize = 160, 1<<20
	r := resolvertest.NewWith(z, config, nil)
	for i := range 5000 {
		_, _ = r.LookupIP(t.Context(), "ip4", fmt.Sprintf("h%d.wild.example.test", i))
	}
	if s := r.Stats(); s.Entries > 160 || s.Entries < 100 || s.Evicted < 4000 {
		t.Errorf("entries bound: %+v", s)
	}

	config.CacheEntries, config.CacheSize = 100_000, 64<<10
	r = resolvertest.NewWith(z, config, nil)
	if err := z.Add(`*.text.test. 300 TXT "` + strings.Repeat("x", 255) + `"`); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		_, _ = r.LookupTXT(t.Context(), fmt.Sprintf("h%d.text.test", i))
	}
	if s := r.Stats(); s.Bytes > 64<<10 || s.Bytes < 32<<10 {
		t.Errorf("octets bound: %+v", s)
	}
}

func TestOneQuestionForMany(t *testing.T) {
	z := resolvertest.MustParse(zone)
	z.Break("example.test", resolvertest.Fault{Delay: 500 * time.Millisecond})
	r := resolvertest.New(z)
	impatient, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { // the leader, most likely; its leaving must not disturb the others
		if _, err := r.LookupTXT(impatient, "example.test"); err == nil {
			t.Error("no error although the time was over")
		} else if e := (*net.DNSError)(nil); !errors.As(err, &e) || !e.IsTemporary || !e.IsTimeout || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want a temporary time-out", err)
		}
	})
	time.Sleep(time.Millisecond)
	for range 50 {
		wg.Go(func() {
			if _, err := r.LookupTXT(t.Context(), "example.test"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := z.Asked("example.test"); n != 1 {
		t.Errorf("asked %d times, want 1", n)
	}
}

func TestNoGoroutinesLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	z := resolvertest.MustParse(zone)
	z.Break("example.test", resolvertest.Fault{Silent: true})
	config := resolver.DefaultConfig()
	config.Timeout, config.Deadline = units.Of(10*time.Millisecond), units.Of(20*time.Millisecond)
	r := resolvertest.NewWith(z, config, nil)
	for range 100 {
		_, _ = r.LookupTXT(t.Context(), "example.test")
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

func TestHitsDoNotAllocate(t *testing.T) {
	r := resolvertest.New(resolvertest.MustParse(zone))
	ctx := t.Context()
	for name, ask := range map[string]func(){
		"TXT":    func() { _, _ = r.LookupTXT(ctx, "example.test") },
		"MX":     func() { _, _ = r.LookupMX(ctx, "example.test") },
		"A":      func() { _, _ = r.LookupIP(ctx, "ip4", "mx1.example.test") },
		"absent": func() { _, _ = r.LookupTXT(ctx, "nobody.test") },
	} {
		ask()
		if n := testing.AllocsPerRun(100, ask); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestSystemServers(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(file, []byte("# system\nnameserver 192.0.2.53\nnameserver rubbish\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var asked string
	exchange := func(_ context.Context, _, server string, _ *dns.Msg) (*dns.Msg, error) {
		asked = server
		return nil, errors.New("nobody")
	}
	for path, want := range map[string]string{file: "192.0.2.53:53", filepath.Join(dir, "none"): "127.0.0.1:53"} {
		r, err := resolver.New(resolver.DefaultConfig(), resolver.Options{Exchange: exchange, ResolvConf: path})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.LookupTXT(t.Context(), "example.test"); err == nil || asked != want {
			t.Errorf("%s: asked %s, want %s", path, asked, want)
		}
	}
}

func TestValidate(t *testing.T) {
	config := resolver.DefaultConfig()
	if err := config.Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	config = resolver.Config{
		Servers: []string{"dns.example.test:53", "192.0.2.1", "[2001:db8::1]:53"},
		Timeout: units.Of(time.Hour), Deadline: units.Of(time.Second), CacheEntries: -1, CacheSize: -1,
		MaxTTL: units.Of(365 * 24 * time.Hour), NegativeTTL: units.Of(8 * 24 * time.Hour),
	}
	keys := map[string]int{}
	joined, ok := config.Validate().(interface{ Unwrap() []error })
	if !ok {
		t.Fatal("not joined errors")
	}
	for _, err := range joined.Unwrap() {
		var f *pipeline.FieldError
		if !errors.As(err, &f) {
			t.Fatalf("%v is no FieldError", err)
		}
		keys[f.Key]++
	}
	want := map[string]int{"servers": 2, "timeout": 1, "deadline": 1, "cache_entries": 1, "cache_size": 1, "max_ttl": 1, "negative_ttl": 1}
	if !reflect.DeepEqual(keys, want) {
		t.Errorf("problems with %v, want %v", keys, want)
	}
}

// TestForSPF: DRILLS E4.1.
func TestForSPF(t *testing.T) {
	z := resolvertest.MustParse(zone)
	r := resolvertest.New(z)
	four := resolver.ForSPF{Lookup: r, Client: netip.MustParseAddr("::ffff:192.0.2.1")}
	got, err := four.LookupIPAddr(t.Context(), "mx1.example.test")
	if err != nil || len(got) != 1 || !got[0].IP.Equal(net.IPv4(192, 0, 2, 1)) {
		t.Errorf("IPv4 client: %v, %v", got, err)
	}
	six := resolver.ForSPF{Lookup: r, Client: netip.MustParseAddr("2001:db8::1")}
	if got, err := six.LookupIPAddr(t.Context(), "mx1.example.test"); err != nil || len(got) != 2 {
		t.Errorf("IPv6 client: %v, %v", got, err)
	}
	if got, err := six.LookupAddr(t.Context(), "192.0.2.1"); err != nil || len(got) != 1 {
		t.Errorf("LookupAddr: %v, %v", got, err)
	}
	long := strings.Repeat("label.", 45) + "x.wild.example.test" // 289 octets, as macros can make them
	if got, err := four.LookupIPAddr(t.Context(), long); err != nil || len(got) != 1 {
		t.Errorf("a long name is not cut from the left: %v, %v", got, err)
	}
	if got, err := resolver.TXTFunc(t.Context(), r)("example.test"); err != nil || len(got) != 1 {
		t.Errorf("TXTFunc: %v, %v", got, err)
	}
}

func BenchmarkHit(b *testing.B) {
	r := resolvertest.New(resolvertest.MustParse(zone))
	ctx := b.Context()
	b.Run("TXT", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = r.LookupTXT(ctx, "example.test")
		}
	})
	b.Run("PTR", func(b *testing.B) {
		addr := netip.MustParseAddr("192.0.2.1")
		b.ReportAllocs()
		for b.Loop() {
			_, _ = r.LookupPTR(ctx, addr)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				_, _ = r.LookupTXT(ctx, "example.test")
			}
		})
	})
}

func BenchmarkMiss(b *testing.B) {
	addr, stop, err := resolvertest.Start(zone)
	if err != nil {
		b.Fatal(err)
	}
	defer stop()
	config := resolver.DefaultConfig()
	config.Servers, config.CacheEntries, config.CacheSize = []string{addr}, 0, 0
	r, err := resolver.New(config, resolver.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.LookupTXT(b.Context(), "example.test"); err != nil {
			b.Fatal(err)
		}
	}
}
