package mx_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/pipeline/resolver/resolvertest"
)

const zone = `
one.test.          MX 10 mx.one.test.
mx.one.test.       A    203.0.113.1
mx.one.test.       AAAA 2600::1
order.test.        MX 20 c.order.test.
order.test.        MX 10 a.order.test.
order.test.        MX 10 b.order.test.
implicit.test.     A  203.0.113.2
nothing.test.      TXT "no address"
null.test.         MX 0 .
nullandmore.test.  MX 0 .
nullandmore.test.  MX 10 mx.one.test.
literal.test.      MX 10 127.0.0.1.
literal.test.      MX 20 mx.one.test.
onlyliteral.test.  MX 10 10.0.0.1.
local.test.        MX 10 localhost.
local.test.        MX 20 evil.localhost.
digits.test.       MX 10 2130706433.
twice.test.        MX 10 mx.one.test.
twice.test.        MX 20 MX.One.Test.
backup.test.       MX 10 first.backup.test.
backup.test.       MX 20 us.test.
backup.test.       MX 20 equal.backup.test.
backup.test.       MX 30 last.backup.test.
loop.test.         MX 10 us.test.
loop.test.         MX 20 mx.one.test.
us.test.           A 203.0.113.9
alias.test.        CNAME one.test.
cnamemx.test.      MX 10 cname.one.test.
cname.one.test.    CNAME mx.one.test.
odd.test.          MX 10 a\032b.test.
signed.test.       MX 10 mx.signed.test.
mx.signed.test.    A 203.0.113.3
byaddr.test.       MX 10 first.byaddr.test.
byaddr.test.       MX 20 self.byaddr.test.
byaddr.test.       MX 30 last.byaddr.test.
self.byaddr.test.  A 203.0.113.9
`

func finder(t *testing.T, z *resolvertest.Zone) *mx.Finder {
	t.Helper()
	config := resolver.DefaultConfig()
	config.TrustAD = true
	return mx.New(mx.Options{
		DNS: resolvertest.NewWith(z, config, nil), Hostname: "us.test.", Shuffle: func(int, func(i, j int)) {},
	})
}

// TestFind: DRILLS E5.4.
func TestFind(t *testing.T) {
	z := resolvertest.MustParse(zone)
	z.Sign("signed.test")
	z.Break("broken.test", resolvertest.Fault{Rcode: dns.RcodeServerFailure})
	f := finder(t, z)
	for _, c := range []struct {
		domain string
		want   string // hosts
		err    error
	}{
		{"one.test", "mx.one.test", nil},
		{"One.Test.", "mx.one.test", nil},
		{"order.test", "a.order.test b.order.test c.order.test", nil},
		{"implicit.test", "implicit.test", nil},
		{"nothing.test", "nothing.test", nil},
		{"null.test", "", nil},
		{"nullandmore.test", "mx.one.test", nil}, // RFC 7505 section 3: only alone it means something
		{"literal.test", "mx.one.test", nil},
		{"onlyliteral.test", "", mx.ErrBadMX},
		{"local.test", "", mx.ErrBadMX},
		{"digits.test", "", mx.ErrBadMX},
		{"odd.test", "", mx.ErrBadMX},
		{"twice.test", "mx.one.test", nil},
		{"backup.test", "first.backup.test", nil},
		{"loop.test", "", mx.ErrLoop},
		{"us.test", "", mx.ErrLoop},
		{"alias.test", "mx.one.test", nil},
		{"cnamemx.test", "cname.one.test", nil},
		{"absent.test", "", mx.ErrNoDomain},
		{"127.0.0.1", "", mx.ErrNoDomain},
		{"localhost", "", mx.ErrNoDomain},
		{"a..test", "", mx.ErrNoDomain},
		{"", "", mx.ErrNoDomain},
		{strings.Repeat("a", 64) + ".test", "", mx.ErrNoDomain},
		{"[203.0.113.7]", "[203.0.113.7]", nil},
		{"[IPv6:2600::7]", "[ipv6:2600::7]", nil},
		{"[2600::7]", "", mx.ErrNoDomain},
		{"[IPv6:203.0.113.7]", "", mx.ErrNoDomain},
		{"[203.0.113.7", "", mx.ErrNoDomain},
		{"[fe80::1%eth0]", "", mx.ErrNoDomain},
	} {
		x, err := f.Find(t.Context(), c.domain)
		var names []string
		for _, h := range x.Hosts {
			names = append(names, h.Name)
		}
		if got := strings.Join(names, " "); got != c.want || !errors.Is(err, c.err) || err != nil && mx.Temporary(err) {
			t.Errorf("%s: got %q, %v; want %q, %v", c.domain, got, err, c.want, c.err)
		}
		if x.Null != (c.domain == "null.test") {
			t.Errorf("%s: null is %t", c.domain, x.Null)
		}
	}
	if _, err := f.Find(t.Context(), "broken.test"); !mx.Temporary(err) {
		t.Errorf("SERVFAIL: %v", err)
	}
	x, err := f.Find(t.Context(), "signed.test")
	if err != nil || !x.Secure || !x.Hosts[0].Secure || x.Hosts[0].Port != 25 {
		t.Errorf("signed: %+v, %v", x, err)
	}
	if x, _ := f.Find(t.Context(), "one.test"); x.Secure || x.Hosts[0].Secure {
		t.Errorf("unsigned: %+v", x)
	}
	if x, _ := f.Find(t.Context(), "alias.test"); x.Expanded != "one.test" || x.Domain != "alias.test" {
		t.Errorf("alias: %+v", x)
	}
}

// TestManyMX (DRILLS E5.4): a thousand servers, each as good as the next.
func TestManyMX(t *testing.T) {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "many.test. MX %d h%d.many.test.\n", 10+i%2, i)
	}
	config := resolver.DefaultConfig()
	config.MaxTTL = 0 // TTL 0: nothing is kept
	z := resolvertest.MustParse(b.String())
	z.Break("many.test", resolvertest.Fault{Truncate: true})
	f := mx.New(mx.Options{DNS: resolvertest.NewWith(z, config, nil), Hostname: "us.test"})
	firsts := make(map[string]bool)
	for range 20 {
		x, err := f.Find(t.Context(), "many.test")
		if err != nil || len(x.Hosts) != 20 {
			t.Fatalf("got %d, %v", len(x.Hosts), err)
		}
		for _, h := range x.Hosts {
			if h.Preference != 10 {
				t.Errorf("%+v is not of the best", h)
			}
		}
		firsts[x.Hosts[0].Name] = true
	}
	if len(firsts) < 5 {
		t.Errorf("20 times, and only %d different first ones", len(firsts))
	}
}

func TestSelfByAddress(t *testing.T) {
	f := finder(t, resolvertest.MustParse(zone))
	rules := mx.Rules{Families: mx.IP4, Own: func(a netip.AddrPort) bool { return a == netip.MustParseAddrPort("203.0.113.9:25") }}
	x, err := f.Find(t.Context(), "byaddr.test")
	if err != nil || len(x.Hosts) != 3 {
		t.Fatalf("got %+v, %v", x, err)
	}
	if _, _, err := f.Addresses(t.Context(), x.Hosts[1], rules); !errors.Is(err, mx.ErrSelf) || !errors.Is(err, mx.ErrForbidden) {
		t.Errorf("got %v", err)
	}
	if x, err = f.Find(t.Context(), "byaddr.test"); err != nil || len(x.Hosts) != 1 || x.Hosts[0].Name != "first.byaddr.test" {
		t.Errorf("afterwards: %+v, %v", x, err)
	}
	rules.Trusted = true // also what the administrator wrote must not lead to ourselves
	if err := rules.Check(netip.MustParseAddrPort("203.0.113.9:25")); !errors.Is(err, mx.ErrSelf) {
		t.Errorf("trusted: %v", err)
	}
	if err := rules.Check(netip.MustParseAddrPort("203.0.113.9:26")); err != nil {
		t.Errorf("another port of ours: %v", err)
	}
}

func TestAddresses(t *testing.T) {
	z := resolvertest.MustParse(zone + `
mixed.test.    A 203.0.113.5
mixed.test.    A 127.0.0.1
inside.test.   A 10.0.0.5
half.test.     A 203.0.113.6
lots.test.     A 203.0.113.0
`)
	for i := range 100 {
		_ = z.Add(fmt.Sprintf("lots.test. A 203.0.113.%d", i+1))
	}
	z.Sign("signed.test")
	z.Break("broken.test", resolvertest.Fault{Rcode: dns.RcodeServerFailure})
	f := finder(t, z)
	for _, c := range []struct {
		host  string
		rules mx.Rules
		want  string
		err   error
	}{
		{"mx.one.test", mx.Rules{}, "2600::1 203.0.113.1", nil},
		{"mx.one.test", mx.Rules{Families: mx.IP4}, "203.0.113.1", nil},
		{"mx.one.test", mx.Rules{Families: mx.IP6}, "2600::1", nil},
		{"mx.one.test", mx.Rules{Families: mx.PreferIP4}, "203.0.113.1 2600::1", nil},
		{"cname.one.test", mx.Rules{Families: mx.IP4}, "203.0.113.1", nil},
		{"us.test", mx.Rules{Families: mx.IP6}, "", mx.ErrNoAddress},
		{"mixed.test", mx.Rules{}, "203.0.113.5", nil},
		{"inside.test", mx.Rules{}, "", mx.ErrForbidden},
		{"inside.test", mx.Rules{Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}, "10.0.0.5", nil},
		{"inside.test", mx.Rules{Trusted: true}, "10.0.0.5", nil},
		{"nothing.test", mx.Rules{}, "", mx.ErrNoAddress},
	} {
		got, _, err := f.Addresses(t.Context(), mx.Host{Name: c.host, Port: 25}, c.rules)
		if text := strings.Trim(fmt.Sprint(got), "[]"); text != c.want || !errors.Is(err, c.err) || err != nil && mx.Temporary(err) {
			t.Errorf("%s %+v: got %q, %v; want %q, %v", c.host, c.rules, text, err, c.want, c.err)
		}
	}
	if _, _, err := f.Addresses(t.Context(), mx.Host{Name: "broken.test", Port: 25}, mx.Rules{}); !mx.Temporary(err) {
		t.Errorf("SERVFAIL: %v", err)
	}
	if got, _, err := f.Addresses(t.Context(), mx.Host{Name: "lots.test", Port: 25}, mx.Rules{}); err != nil || len(got) != 16 {
		t.Errorf("lots: %d, %v", len(got), err)
	}
	for host, want := range map[string]bool{"mx.signed.test": true, "mx.one.test": false} {
		if _, secure, err := f.Addresses(t.Context(), mx.Host{Name: host, Port: 25}, mx.Rules{}); err != nil || secure != want {
			t.Errorf("%s: secure %t, %v", host, secure, err)
		}
	}
	for literal, want := range map[string]error{"[203.0.113.7]": nil, "[127.0.0.1]": mx.ErrForbidden, "[IPv6:::ffff:10.0.0.1]": mx.ErrForbidden} {
		x, err := f.Find(t.Context(), literal)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := f.Addresses(t.Context(), x.Hosts[0], mx.Rules{}); !errors.Is(err, want) {
			t.Errorf("%s: %v", literal, err)
		}
	}
}

// TestForbidden (DRILLS E5.3) is the table of addresses to which nobody may send us (SSRF).
func TestForbidden(t *testing.T) {
	for _, text := range []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254",
		"169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.170", "192.168.1.1", "198.18.0.1", "198.19.255.255",
		"224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::10.0.0.1", "::2",
		"64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1",
		"fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%eth0", "febf::1", "fec0::1", "ff02::1", "ff0e::1",
		"2002:7f00:1::1", "2002:a00:1::", "2002:c0a8:101::1", "2001:0:53aa:64c:0:fbff:ad7f:1", "2600::5efe:7f00:1", "2600::200:5efe:a00:1",
		"::ffff:0:7f00:1", "::ffff:0:a9fe:a9fe",
	} {
		addr := netip.MustParseAddr(text)
		if mx.Forbidden(addr) == "" {
			t.Errorf("%s is let through", text)
		}
		if err := (mx.Rules{}).Check(netip.AddrPortFrom(addr, 25)); !errors.Is(err, mx.ErrForbidden) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{
		"1.1.1.1", "9.255.255.255", "11.0.0.1", "100.63.255.255", "100.128.0.1", "126.255.255.255", "128.0.0.1", "169.253.1.1", "172.15.255.255",
		"172.32.0.1", "192.0.1.1", "192.167.1.1", "198.17.255.255", "198.20.0.1", "223.255.255.255", "203.0.113.1",
		"2600::1", "2a00:1450::1", "::ffff:203.0.113.1", "64:ff9b::cb00:7101", "2002:cb00:7101::1",
	} {
		if why := mx.Forbidden(netip.MustParseAddr(text)); why != "" {
			t.Errorf("%s is refused: %s", text, why)
		}
	}
	if mx.Forbidden(netip.Addr{}) == "" {
		t.Error("no address is let through")
	}
}

// TestDial: DRILLS E5.3.
func TestDial(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	accepted := make(chan string, 8)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- conn.RemoteAddr().String()
			conn.Close()
		}
	}()
	addr := netip.MustParseAddrPort(listener.Addr().String())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := mx.Dial(ctx, addr, mx.DialOptions{}); !errors.Is(err, mx.ErrForbidden) {
		t.Errorf("loopback: %v", err)
	}
	if len(accepted) != 0 {
		t.Error("and it was connected to")
	}
	allowed := mx.Rules{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	conn, err := mx.Dial(ctx, addr, mx.DialOptions{Rules: allowed, Source: netip.MustParseAddr("127.0.0.3")})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if from := <-accepted; !strings.HasPrefix(from, "127.0.0.3:") {
		t.Errorf("connected from %s", from)
	}
	allowed.Own = func(a netip.AddrPort) bool { return a == addr }
	if _, err := mx.Dial(ctx, addr, mx.DialOptions{Rules: allowed}); !errors.Is(err, mx.ErrSelf) {
		t.Errorf("ourselves: %v", err)
	}
}

// TestDialLooksAgain (DRILLS E5.3): the last look is at the socket. What was looked at before may be another thing then.
func TestDialLooksAgain(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	looks := 0
	rules := mx.Rules{Trusted: true, Own: func(netip.AddrPort) bool { looks++; return looks > 1 }}
	if _, err := mx.Dial(t.Context(), netip.MustParseAddrPort(listener.Addr().String()), mx.DialOptions{Rules: rules}); !errors.Is(err, mx.ErrSelf) {
		t.Errorf("got %v after %d looks", err, looks)
	}
	_ = listener.(*net.TCPListener).SetDeadline(time.Now().Add(50 * time.Millisecond))
	if conn, err := listener.Accept(); err == nil {
		conn.Close()
		t.Error("it was connected to before the second look")
	}
}

// FuzzFind: whatever stands in MX records, no server comes out that is none.
func FuzzFind(f *testing.F) {
	for _, name := range []string{"mx.example.test.", ".", "127.0.0.1.", "a\\.b.test.", "localhost.", "[192.0.2.1].", "_x.test.", "xn--a.test."} {
		f.Add("example.test", name, uint16(10))
	}
	f.Add("[IPv6:::1]", "x.", uint16(0))
	f.Fuzz(func(t *testing.T, domain, host string, preference uint16) {
		config := resolver.DefaultConfig()
		config.Servers = []string{"192.0.2.53:53"}
		r, err := resolver.New(config, resolver.Options{Exchange: func(_ context.Context, _, _ string, q *dns.Msg) (*dns.Msg, error) {
			m := new(dns.Msg)
			m.SetReply(q)
			for _, h := range []string{host, "good.test."} {
				m.Answer = append(m.Answer, &dns.MX{
					Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeMX, Class: dns.ClassINET, Ttl: 60}, Mx: h, Preference: preference,
				})
			}
			return m, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		x, err := mx.New(mx.Options{DNS: r, Hostname: "us.test"}).Find(t.Context(), domain)
		if err != nil {
			return
		}
		for _, h := range x.Hosts {
			if _, err := netip.ParseAddr(h.Name); err == nil || h.Name == "" || len(h.Name) > 253 || strings.ContainsAny(h.Name, " \\\r\n\x00") {
				t.Errorf("host %q", h.Name)
			}
		}
		if !strings.HasPrefix(domain, "[") && !slices.ContainsFunc(x.Hosts, func(h mx.Host) bool { return h.Name == "good.test" }) {
			t.Errorf("the good one is missing: %+v", x)
		}
	})
}

func TestOwn(t *testing.T) {
	listening := []netip.AddrPort{
		netip.MustParseAddrPort("0.0.0.0:25"), netip.MustParseAddrPort("203.0.113.1:26"), netip.MustParseAddrPort("[::ffff:203.0.113.2]:27"),
	}
	own := mx.Own(func() []netip.AddrPort { return listening })
	for text, want := range map[string]bool{
		"127.0.0.1:25": true, "[::1]:25": true, "0.0.0.0:25": true, "[::ffff:127.0.0.1]:25": true, "203.0.113.77:25": false, "127.0.0.1:26": false,
		"203.0.113.1:26": true, "203.0.113.1:27": false, "203.0.113.2:27": true,
	} {
		if got := own(netip.MustParseAddrPort(text)); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, _ := netip.AddrFromSlice(n.IP); !own(netip.AddrPortFrom(ip, 25)) {
				t.Errorf("%s is not ours", ip)
			}
		}
	}
}
