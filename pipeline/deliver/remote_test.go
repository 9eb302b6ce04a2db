package deliver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy"
	"github.com/sluicemail/sluice/pipeline/deliver/wire"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
	"github.com/sluicemail/sluice/pipeline/units"
)

// asking returns a Remote for a zone, as o changes it.
func asking(t testing.TB, zone *resolvertest.Zone, change func(o *Options, c *Config)) *Remote {
	t.Helper()
	lookup := resolvertest.New(zone)
	config := DefaultConfig()
	config.AllowPrivate = []string{"127.0.0.0/8"}
	o := Options{
		Hostname: "client.example.org", Finder: mx.New(mx.Options{DNS: lookup, Hostname: "client.example.org"}),
		Policies: tlspolicy.New(tlspolicy.Options{DNS: lookup}),
	}
	if change != nil {
		change(&o, &config)
	}
	o.Config = func(string) Config { return config }
	r := New(o)
	t.Cleanup(func() { r.Close() })
	return r
}

func parcelTo(domain string) *pipeline.Parcel {
	return &pipeline.Parcel{
		Pipeline: "outbound", Domain: domain, Sender: "sender@example.org", Size: int64(len(plainMessage)),
		Recipients: []pipeline.ParcelRecipient{{Address: "bob@" + domain}},
		Open:       func(context.Context) (pipeline.Octets, error) { return octets{strings.NewReader(plainMessage)}, nil },
	}
}

const zoneText = `
many.test. MX 10 b.many.test.
many.test. MX 10 a.many.test.
many.test. MX 5 z.many.test.
null.test. MX 0 .
host.null.test. MX 10 null.test.
ours.test. MX 10 client.example.org.
implicit.test. A 127.0.0.1
empty.test. MX 10 nowhere.empty.test.
temporary.test. MX 10 mx.temporary.test.
inside.test. MX 10 mx.inside.test.
mx.inside.test. A 10.1.2.3
own.test. MX 10 mx.own.test.
behind.test. MX 10 mx.own.test.
behind.test. MX 20 mx.own2.test.
mx.own2.test. A 127.0.7.10
mx.own.test. A 127.0.7.9
`

func TestNextHop(t *testing.T) {
	zone := resolvertest.MustParse(zoneText)
	zone.Break("temporary.test.", resolvertest.Fault{Rcode: dns.RcodeServerFailure})
	relay := pipeline.Transport{Name: "relay", Hosts: []string{"Relay.Test", "[::1]:2525", "unix:/run/lmtp"}}
	r := asking(t, zone, func(o *Options, _ *Config) {
		o.Transport = func(domain string) pipeline.Transport {
			if domain == "relayed.test" {
				return relay
			}
			return pipeline.Transport{}
		}
	})
	for _, c := range []struct{ domain, via, want string }{
		{"many.test", "", "z.many.test,a.many.test,b.many.test"},
		{"null.test", "", "none:null.test"},
		{"host.null.test", "", "null.test"}, // the same name as that of a server
		{"ours.test", "", "none:ours.test"},
		{"absent.test", "", "none:absent.test"},
		{"implicit.test", "", "implicit.test"},
		{"relayed.test", "", "relay.test:25,[::1]:2525,unix:/run/lmtp"},
		{"relayed.test", "smtp://Host.test:26", "host.test:26"},
		{"relayed.test", "smtp://host.test", "host.test:25"},
		{"many.test", "lmtp://127.0.0.1:24", "127.0.0.1:24"},
		{"many.test", "lmtp://store.test", "store.test:24"},
		{"many.test", "lmtp:///run/store.sock", "unix:/run/store.sock"},
		{"implicit.test", "gopher://x", "none:gopher://x"},
	} {
		for range 3 { // from memory too, and whatever the order of the look-up
			if hop, err := r.NextHop(t.Context(), c.domain, c.via); err != nil || hop.Key != c.want {
				t.Errorf("%s by %q: %q, %v; expected %q", c.domain, c.via, hop.Key, err, c.want)
			}
		}
	}
	if hop, err := r.NextHop(t.Context(), "temporary.test", ""); err == nil {
		t.Errorf("a domain that nobody can tell about has the next hop %q", hop.Key)
	}
}

func TestVia(t *testing.T) {
	for _, via := range []string{
		"", "host", "smtp:", "smtp://", "smtp:///path", "lmtp:///", "smtp://user:pass@host", "smtp://host/path", "smtp://host?x", "smtp://host#x", "http://host", "smtp://host:99999", "smtp://host:0", "smtp://[::1", "smtp://a%0d%0ab", "lmtp:///a%0d%0ab", "lmtp:///run/\u00e4", "smtp://\u00e4.test",
	} {
		tr, err := parseVia(via)
		if err == nil {
			_, err = fixed(&tr)
		}
		if !errors.Is(err, errVia) {
			t.Errorf("%q: %+v, %v", via, tr, err)
		}
	}
}

func TestKeyIsBounded(t *testing.T) {
	one, two := strings.Repeat("a", 300)+"1", strings.Repeat("a", 300)+"2"
	if a, b := clipKey(one), clipKey(two); len(a) > 255 || len(b) > 255 || a == b {
		t.Errorf("%d, %d: %s %s", len(a), len(b), a, b)
	}
}

// TestNowhere (DRILLS E5.4): domains that have no server for us. None of them is connected to.
func TestNowhere(t *testing.T) {
	zone := resolvertest.MustParse(zoneText)
	zone.Break("temporary.test.", resolvertest.Fault{Rcode: dns.RcodeServerFailure})
	r := asking(t, zone, func(o *Options, _ *Config) {
		o.Own = func(a netip.AddrPort) bool { return a == netip.MustParseAddrPort("127.0.7.9:25") }
	})
	for _, c := range []struct {
		domain, via string
		kind        pipeline.OutcomeKind
		status      string
		pace        pipeline.Pace
	}{
		{"null.test", "", pipeline.Failed, "5.1.10", pipeline.PaceNever}, // RFC 7505 section 4.2
		{"absent.test", "", pipeline.Failed, "5.1.2", pipeline.PaceNever},
		{"ours.test", "", pipeline.Failed, "5.4.6", pipeline.PaceNever},
		{"empty.test", "", pipeline.Failed, "5.4.4", pipeline.PaceNever},
		{"inside.test", "", pipeline.Failed, "5.4.4", pipeline.PaceSame}, // another pipeline may be allowed to go there
		{"own.test", "", pipeline.Failed, "5.4.6", pipeline.PaceNever},
		{"behind.test", "", pipeline.Failed, "5.4.6", pipeline.PaceNever}, // who is behind us would send it back
		{"temporary.test", "", pipeline.Delayed, "4.4.3", pipeline.PaceWait},
		{"many.test", "gopher://x", pipeline.Failed, "5.3.5", pipeline.PaceNever},
		{"many.test", "smtp://127.0.7.9:25", pipeline.Failed, "5.4.6", pipeline.PaceNever},
		{"many.test", "lmtp:///nowhere/at/all", pipeline.Delayed, "4.4.1", pipeline.PaceWait},
	} {
		p := parcelTo(c.domain)
		p.Via = c.via
		sent, done, err := r.Send(t.Context(), pipeline.NextHop{}, p)
		done()
		if err != nil {
			t.Errorf("%s: %v", c.domain, err)
			continue
		}
		o := sent.Outcomes[0]
		if o.Kind != c.kind || o.Status != c.status || sent.Pace != c.pace || o.Text == "" || sent.Why == "" && c.pace != pipeline.PaceSame {
			t.Errorf("%s %s: %+v", c.domain, c.via, sent)
		}
	}
}

// TestSocketInTheFileSystem: LMTP to a store beside us.
func TestSocketInTheFileSystem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lmtp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	said := make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		said <- converse(conn)
	}()
	r := asking(t, resolvertest.MustParse(zoneText), nil)
	p := parcelTo("many.test")
	p.Via = "lmtp://" + path
	sent, done, err := r.Send(t.Context(), pipeline.NextHop{}, p)
	done()
	if err != nil || sent.Outcomes[0].Kind != pipeline.Delivered || sent.Outcomes[0].Relayed || !strings.HasPrefix(sent.Outcomes[0].Text, "unix:"+path+": 250") {
		t.Fatalf("%+v, %v", sent, err)
	}
	r.Close()
	if got := <-said; !strings.HasPrefix(got, "LHLO client.example.org\r\nMAIL") || !strings.HasSuffix(got, "\r\n.\r\nQUIT\r\n") {
		t.Errorf("it said %q", got)
	}
}

// TestTakenIsDurableFirst: what was taken has to be durable before the connection has another transaction (RULES B8). Those who are
// left are to come again.
func TestTakenIsDurableFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lmtp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	said := make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		said <- converse(conn)
	}()
	r := asking(t, resolvertest.MustParse(zoneText), func(_ *Options, c *Config) { c.MaxRecipients = 1 })
	p := parcelTo("many.test")
	p.Via = "lmtp://" + path
	p.Recipients = append(p.Recipients, pipeline.ParcelRecipient{Address: "alice@many.test"})
	sent, done, err := r.Send(t.Context(), pipeline.NextHop{}, p)
	if err != nil || sent.Outcomes[0].Kind != pipeline.Delivered || sent.Outcomes[0].Again ||
		sent.Outcomes[1].Kind != pipeline.Delayed || !sent.Outcomes[1].Again || sent.Pace != pipeline.PaceFine {
		t.Fatalf("%+v, %v", sent, err)
	}
	done()
	p.Recipients = p.Recipients[1:]
	if sent, done, err = r.Send(t.Context(), pipeline.NextHop{}, p); err != nil || sent.Outcomes[0].Kind != pipeline.Delivered {
		t.Fatalf("%+v, %v", sent, err)
	}
	done()
	r.Close()
	if got := <-said; strings.Count(got, "LHLO") != 1 || strings.Count(got, "MAIL FROM") != 2 {
		t.Errorf("it said %q", got)
	}
}

// converse answers whatever is said, and returns it.
func converse(conn net.Conn) string {
	var all strings.Builder
	buffer := make([]byte, 64<<10)
	fmt.Fprint(conn, "220 store\r\n")
	for {
		n, err := conn.Read(buffer)
		all.Write(buffer[:n])
		if err != nil {
			return all.String()
		}
		for line := range strings.Lines(string(buffer[:n])) {
			switch {
			case strings.HasPrefix(line, "LHLO"), strings.HasPrefix(line, "EHLO"):
				fmt.Fprint(conn, "250-store\r\n250 PIPELINING\r\n")
			case strings.HasPrefix(line, "MAIL"), strings.HasPrefix(line, "RCPT"), line == ".\r\n":
				fmt.Fprint(conn, "250 2.0.0 ok\r\n")
			case line == "DATA\r\n":
				fmt.Fprint(conn, "354 go\r\n")
			case line == "QUIT\r\n":
				fmt.Fprint(conn, "221 2.0.0 bye\r\n")
			}
		}
	}
}

// TestGivenUp: when the server stops, an attempt ends soon, and counts for nothing.
func TestGivenUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := asking(t, resolvertest.MustParse(zoneText), nil)
	p := parcelTo("many.test")
	p.Via = "smtp://" + l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	start := time.Now()
	_, done, err := r.Send(ctx, pipeline.NextHop{}, p)
	done()
	if !errors.Is(err, context.Canceled) || time.Since(start) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

// TestOurOwnFault: content that can't be read is no attempt.
func TestOurOwnFault(t *testing.T) {
	r := asking(t, resolvertest.MustParse(zoneText), nil)
	p := parcelTo("null.test")
	p.Open = func(context.Context) (pipeline.Octets, error) { return nil, os.ErrNotExist }
	_, done, err := r.Send(t.Context(), pipeline.NextHop{}, p)
	done()
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// rotten can be read once: as if the disk broke between two reads.
type rotten struct {
	octets
	reads *int
}

func (r rotten) ReadAt(b []byte, at int64) (int, error) {
	if *r.reads++; *r.reads > 1 {
		return 0, os.ErrInvalid
	}
	return r.octets.ReadAt(b, at)
}

func TestContentThatRots(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	said := make(chan string, 1)
	go func() {
		if conn, err := l.Accept(); err == nil {
			said <- converse(conn)
		}
	}()
	r := asking(t, resolvertest.MustParse(zoneText), nil)
	p := parcelTo("many.test")
	p.Via = "smtp://" + l.Addr().String()
	p.Open = func(context.Context) (pipeline.Octets, error) {
		return rotten{octets{strings.NewReader(plainMessage)}, new(int)}, nil
	}
	_, done, err := r.Send(t.Context(), pipeline.NextHop{}, p)
	done()
	if !errors.Is(err, os.ErrInvalid) {
		t.Errorf("%v", err)
	}
	if got := <-said; strings.Contains(got, "\r\n.\r\n") || !strings.HasSuffix(got, "DATA\r\n") {
		t.Errorf("it said %q", got)
	}
}

// TestPoolIsBounded: the oldest goes, and what waits too long.
func TestPoolIsBounded(t *testing.T) {
	var mu sync.Mutex
	open := 0
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open++
			mu.Unlock()
			go func() {
				converse(conn)
				conn.Close()
				mu.Lock()
				open--
				mu.Unlock()
			}()
		}
	}()
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return open
	}
	r := asking(t, resolvertest.MustParse(zoneText), func(o *Options, c *Config) {
		o.MaxIdle = 2
		c.Keep = units.Of(400 * time.Millisecond)
		times := wire.DefaultTimes()
		times.Quit = 20 * time.Millisecond
		o.Times = &times
	})
	var dones []func()
	for range 5 { // none is given back before the last one is there
		p := parcelTo("many.test")
		p.Via = "smtp://" + l.Addr().String()
		sent, done, err := r.Send(t.Context(), pipeline.NextHop{}, p)
		if err != nil || sent.Outcomes[0].Kind != pipeline.Delivered {
			t.Fatalf("%+v, %v", sent, err)
		}
		dones = append(dones, done)
	}
	if n := count(); n != 5 {
		t.Errorf("%d connections, expected 5", n)
	}
	for _, done := range dones {
		done()
		done() // once more changes nothing
	}
	within(t, "two connections are kept", func() bool { return count() == 2 })
	within(t, "none is kept for long", func() bool { return count() == 0 })
	r.pool.mu.Lock()
	defer r.pool.mu.Unlock()
	if r.pool.size != 0 || len(r.pool.idle) != 0 || len(r.pool.hosts) != 0 || r.pool.oldest != nil || r.pool.newest != nil {
		t.Errorf("the pool is not empty: %+v", r.pool)
	}
}

func within(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Errorf("not so within 5 s: %s", what)
}

func TestMixed(t *testing.T) {
	six := func(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", n)) }
	four := func(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", n)) }
	got := mixed([]netip.Addr{six(1), six(2), six(3), six(4), six(5), six(6), four(1), four(2)}, 5)
	if want := []netip.Addr{six(1), four(1), six(2), four(2), six(3)}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, expected %v", got, want)
	}
}

func TestConfig(t *testing.T) {
	c := DefaultConfig()
	if err := c.Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	c = Config{TLS: "x", Families: "y", Source: []string{"z"}, AllowPrivate: []string{"10.0.0.1", "0.0.0.0/0"}, Keep: units.Of(time.Hour)}
	err := c.Validate()
	for _, key := range []string{"tls", "families", "source", "allow_private", "port", "connect_timeout", "timeout", "max_recipients", "max_messages", "keep"} {
		if err == nil || !strings.Contains(err.Error(), key+": ") {
			t.Errorf("%s is not complained about: %v", key, err)
		}
	}
	var d Destination
	if err := d.Validate(); err != nil {
		t.Errorf("an empty destination: %v", err)
	}
	d = Destination{TLS: "x", Families: "y", MaxRecipients: -1, MaxMessages: -1}
	if err := d.Validate(); err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("%v", err)
	}
	c = DefaultConfig()
	d = Destination{TLS: "verify", Families: "ip4", MaxRecipients: 7, MaxMessages: 8}
	if d.over(&c); c.TLS != "verify" || c.Families != "ip4" || c.MaxRecipients != 7 || c.MaxMessages != 8 {
		t.Errorf("%+v", c)
	}
	c.Source = []string{"2001:db8::1", "192.0.2.1"}
	if c.source(netip.MustParseAddr("198.51.100.1")) != netip.MustParseAddr("192.0.2.1") || c.source(netip.MustParseAddr("2001:db8::2")) != netip.MustParseAddr("2001:db8::1") {
		t.Error("the source is of the wrong kind")
	}
}
