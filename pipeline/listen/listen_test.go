package listen

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/sluicemail/sluice/pipeline/units"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// echo serves a listener: it says who the client is, and then what it sends.
func echo(t testing.TB, change func(*Options)) *Listener {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return echoOn(t, inner, change)
}

func echoOn(t testing.TB, inner net.Listener, change func(*Options)) *Listener {
	o := Options{Name: "mx", Protocol: "smtp", Hostname: "mx.example.test", Config: DefaultConfig(), Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&o)
	}
	l := Wrap(inner, o)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				k := c.(*Conn)
				trust := ""
				if k.Trusted() {
					trust = " trusted"
				}
				_, _ = io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().String()+" "+k.Client().String()+trust+"\n")
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		l.CloseConns()
		l.Wait()
	})
	return l
}

// talk connects, sends, and returns the lines that come back until the server closes or 300 ms after the last one wanted.
func talk(t testing.TB, l *Listener, send string, lines int) (string, net.Conn) {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	out := ""
	for range lines {
		line, err := in.ReadString('\n')
		out += line
		if err != nil {
			return out + "closed", c
		}
	}
	return out, c
}

func v2(t testing.TB, local bool) string {
	t.Helper()
	h := proxyproto.HeaderProxyFromAddrs(2, &net.TCPAddr{IP: net.ParseIP("2001:db8::7"), Port: 5}, &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 25})
	if local {
		h = &proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}
	}
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestProxy: whose header is believed, and whose is not (RULES D3).
func TestProxy(t *testing.T) {
	for _, c := range []struct {
		name           string
		proxy, trusted []netip.Prefix
		send, want     string
	}{
		{"none", nil, nil, "hi\n", "127.0.0.1 127.0.0.1\nhi\n"},
		{"trusted peer", nil, loopback, "hi\n", "127.0.0.1 127.0.0.1 trusted\nhi\n"},
		{"v1", loopback, nil, "PROXY TCP4 192.0.2.9 192.0.2.1 5 25\r\nhi\n", "192.0.2.9 192.0.2.9\nhi\n"},
		{"v1, proxy trusted", loopback, loopback, "PROXY TCP4 192.0.2.9 192.0.2.1 5 25\r\nhi\n", "192.0.2.9 192.0.2.9\nhi\n"},
		{"v1, client trusted", loopback, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, "PROXY TCP4 192.0.2.9 192.0.2.1 5 25\r\nhi\n",
			"192.0.2.9 192.0.2.9 trusted\nhi\n"},
		{"v1 unknown", loopback, loopback, "PROXY UNKNOWN\r\nhi\n", "127.0.0.1 127.0.0.1\nhi\n"},
		{"v2", loopback, nil, v2(t, false) + "hi\n", "2001:db8::7 2001:db8::7\nhi\n"},
		{"v2 local", loopback, loopback, v2(t, true) + "hi\n", "127.0.0.1 127.0.0.1\nhi\n"},
		{"required", loopback, nil, "EHLO x\r\n", "closed"},
		{"malformed", loopback, nil, "PROXY TCP4 192.0.2.999 192.0.2.1 5 25\r\nhi\n", "closed"},
		{"not believed, v1", nil, nil, "PROXY TCP4 192.0.2.9 192.0.2.1 5 25\r\nhi\n", "127.0.0.1 127.0.0.1\nclosed"},
		{"not believed, v2", nil, nil, v2(t, false) + "hi\n", "127.0.0.1 127.0.0.1\nclosed"},
		{"like a header", nil, nil, "PROXIMITY\n", "127.0.0.1 127.0.0.1\nPROXIMITY\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := echo(t, func(o *Options) { o.Config.ProxyFrom, o.Config.Trusted = c.proxy, c.trusted })
			if have, _ := talk(t, l, c.send, 2); have != c.want {
				t.Errorf("%q, expected %q", have, c.want)
			}
		})
	}
}

// TestProxyNotBelievedInPieces: the header comes octet by octet.
func TestProxyNotBelievedInPieces(t *testing.T) {
	l := echo(t, nil)
	_, c := talk(t, l, "", 1)
	for _, octet := range "PROXY " {
		_, _ = c.Write([]byte(string(octet)))
		time.Sleep(2 * time.Millisecond)
	}
	rest, err := io.ReadAll(c)
	if err != nil || strings.Contains(string(rest), " ") {
		t.Errorf("%q, %v", rest, err)
	}
}

// TestProxyDoesNotBlock: a proxy that says nothing holds up nobody else.
func TestProxyDoesNotBlock(t *testing.T) {
	l := echo(t, func(o *Options) { o.Config.ProxyFrom = loopback })
	if _, err := net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if have, _ := talk(t, l, "PROXY TCP4 192.0.2.9 192.0.2.1 5 25\r\nhi\n", 2); have != "192.0.2.9 192.0.2.9\nhi\n" {
		t.Errorf("%q", have)
	}
}

// TestLimits: of all connections, and of those from one address; loopback and trusted are exempt from the second; a place
// that becomes free is free.
func TestLimits(t *testing.T) {
	proxied := "PROXY TCP4 192.0.2.9 192.0.2.1 5 25\r\n"
	l := echo(t, func(o *Options) {
		o.Config.ProxyFrom, o.Config.MaxConnectionsPerAddress, o.Config.MaxConnections = loopback, 2, 6
	})
	_, first := talk(t, l, proxied, 1)
	talk(t, l, proxied, 1)
	if have, _ := talk(t, l, proxied, 1); !strings.HasPrefix(have, "421 4.3.2 mx.example.test Too many") {
		t.Errorf("the third from one address: %q", have)
	}
	if have, _ := talk(t, l, "PROXY TCP4 192.0.2.10 192.0.2.1 5 25\r\n", 1); !strings.HasPrefix(have, "192.0.2.10") {
		t.Errorf("another address: %q", have)
	}
	for range 3 {
		if have, _ := talk(t, l, "PROXY UNKNOWN\r\n", 1); !strings.HasPrefix(have, "127.0.0.1") {
			t.Errorf("loopback: %q", have)
		}
	}
	if have, _ := talk(t, l, "", 1); !strings.HasPrefix(have, "421 ") {
		t.Errorf("one more than all: %q", have)
	}
	first.Close()
	for end := time.Now().Add(5 * time.Second); l.Stats().Open > 5; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the place does not become free")
		}
	}
	if have, _ := talk(t, l, proxied, 1); !strings.HasPrefix(have, "192.0.2.9") {
		t.Errorf("after one has gone: %q", have)
	}
	if st := l.Stats(); st.Open != 6 || st.Refused != 2 {
		t.Errorf("%+v", st)
	}
}

func TestRefusals(t *testing.T) {
	for protocol, want := range map[string]string{"imap": "* BYE ", "pop3": "-ERR [SYS/TEMP] ", "lmtp": "421 4.3.2 "} {
		if have := refusal(Options{Protocol: protocol}); !strings.HasPrefix(have, want) || !strings.HasSuffix(have, "\r\n") {
			t.Errorf("%s: %q", protocol, have)
		}
	}
	if have := refusal(Options{Implicit: true}); have != "" {
		t.Errorf("implicit TLS: %q", have)
	}
}

// flaky fails its first accepts as a process without descriptors does.
type flaky struct {
	net.Listener
	left  atomic.Int32
	calls atomic.Int32
}

func (f *flaky) Accept() (net.Conn, error) {
	f.calls.Add(1)
	if f.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	return f.Listener.Accept()
}

// TestStarved: no spin while descriptors are short, and on it goes by itself (E1.12).
func TestStarved(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &flaky{Listener: inner}
	f.left.Store(4)
	l := echoOn(t, f, nil)
	start := time.Now()
	if have, _ := talk(t, l, "", 1); !strings.HasPrefix(have, "127.0.0.1") {
		t.Errorf("%q", have)
	}
	if took := time.Since(start); took < 60*time.Millisecond { // 5 + 10 + 20 + 40
		t.Errorf("took %s, with %d calls", took, f.calls.Load())
	}
	if st := l.Stats(); st.Starved || st.Failed != 4 {
		t.Errorf("%+v", st)
	}
}

type broken struct{ net.Listener }

var errBroken = errors.New("broken")

func (broken) Accept() (net.Conn, error) { return nil, errBroken }

// TestBroken: a failure that will not pass reaches the server.
func TestBroken(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Wrap(broken{inner}, Options{Config: DefaultConfig(), Logger: slog.New(slog.DiscardHandler)})
	defer l.Close()
	if _, err := l.Accept(); !errors.Is(err, errBroken) {
		t.Errorf("Accept returned %v", err)
	}
}

// TestMaxSession: no deadline of the server above goes beyond it.
func TestMaxSession(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := DefaultConfig()
	config.MaxSession = units.Of(50 * time.Millisecond)
	l := Wrap(inner, Options{Config: config, Logger: slog.New(slog.DiscardHandler)})
	defer l.Close()
	for _, set := range []func(net.Conn){
		func(c net.Conn) {},
		func(c net.Conn) { _ = c.SetReadDeadline(time.Time{}) },
		func(c net.Conn) { _ = c.SetDeadline(time.Now().Add(time.Hour)) },
	} {
		client, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		set(c)
		_, err = c.Read(make([]byte, 1))
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("Read returned %v", err)
		}
		c.Close()
	}
}

// TestValidate: DRILLS E2.1.
func TestValidate(t *testing.T) {
	for _, c := range []struct {
		network string
		bad     bool
	}{
		{"10.0.0.0/8", false}, {"127.0.0.0/8", false}, {"192.168.0.0/16", false}, {"fd00::/8", false}, {"192.0.2.0/24", false},
		{"192.0.2.7/32", false}, {"192.0.0.0/16", true}, {"0.0.0.0/0", true}, {"::/0", true}, {"2001:db8::/32", true}, {"2001:db8::/48", false},
		{"10.0.0.0/7", true}, {"172.16.0.0/11", true},
	} {
		config := DefaultConfig()
		config.Trusted = []netip.Prefix{netip.MustParsePrefix(c.network)}
		if err := config.Validate(); (err != nil) != c.bad {
			t.Errorf("%s: %v", c.network, err)
		}
	}
	config := DefaultConfig()
	config.ProxyFrom = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	config.Trusted = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("10.0.0.0/8")}
	if err := config.Validate(); err == nil {
		t.Error("a PROXY header from everybody is believed")
	}
	if have := config.PublicTrusted(); len(have) != 1 || have[0] != config.Trusted[0] {
		t.Errorf("public: %v", have)
	}
	if err := (&Config{}).Validate(); err == nil {
		t.Error("a zero Config is valid")
	}
	if d := DefaultConfig(); d.Idle("imap") != 30*time.Minute || d.Idle("pop3") != 10*time.Minute || d.Idle("smtp") != 5*time.Minute {
		t.Error("idle timeouts")
	}
}

func TestGroup(t *testing.T) {
	for in, want := range map[string]string{"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8:1:2:3::4": "2001:db8:1:2::"} {
		if have := Group(netip.MustParseAddr(in)); have.String() != want {
			t.Errorf("%s: %s", in, have)
		}
	}
}

// FuzzProxy: whatever a peer in proxy_from sends first, the connection is either closed or has a client whose address is
// the header's or the peer's own, and what follows arrives.
func FuzzProxy(f *testing.F) {
	for _, s := range []string{"PROXY TCP4 192.0.2.9 192.0.2.1 5 25\r\nhi\n", "PROXY UNKNOWN\r\n", v2(f, false) + "hi", v2(f, true), "EHLO x\r\n", "PROXY TCP6 ::1 ::1 1 1\r\n"} {
		f.Add([]byte(s))
	}
	l := Wrap(closedListener{}, Options{Config: Config{MaxConnections: 10, MaxConnectionsPerAddress: 10, ProxyFrom: loopback, Trusted: loopback,
		MaxSession: units.Of(time.Minute)}, Logger: slog.New(slog.DiscardHandler)})
	l.start.Do(func() {})
	f.Fuzz(func(t *testing.T, b []byte) {
		here, there := net.Pipe()
		defer there.Close()
		go func() {
			_, _ = there.Write(b)
			there.Close()
		}()
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.admit(addressed{here})
		}()
		select {
		case a := <-l.accepted:
			c := a.conn
			if !c.Client().IsValid() || c.Trusted() && !c.Client().IsLoopback() {
				t.Errorf("%q: client %v, trusted %v", b, c.Client(), c.Trusted())
			}
			_, _ = io.ReadAll(c)
			c.Close()
		case <-waitEmpty(l):
		case <-time.After(8 * time.Second):
			t.Fatalf("%q: neither accepted nor closed", b)
		}
		<-done
	})
}

func waitEmpty(l *Listener) <-chan struct{} {
	ch := make(chan struct{})
	go func() {
		time.Sleep(time.Millisecond)
		l.Wait()
		close(ch)
	}()
	return ch
}

type closedListener struct{ net.Listener }

func (closedListener) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (closedListener) Close() error              { return nil }

type addressed struct{ net.Conn }

func (addressed) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9} }
func (addressed) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 25} }
