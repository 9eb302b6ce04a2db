package receive

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/listen"
	"github.com/sluicemail/sluice/pipeline/units"
)

// dial connects and returns functions that send text and read one reply.
func dial(t testing.TB, s *testServer) (net.Conn, func(string), func() string) {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	if s.options.ImplicitTLS {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	in := bufio.NewReader(conn)
	send := func(text string) {
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
	}
	read := func() string {
		t.Helper()
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return err.Error()
			}
			if len(line) < 4 || line[3] != '-' {
				return strings.TrimSpace(line)
			}
		}
	}
	return conn, send, read
}

func expect(t testing.TB, have, prefix string) {
	t.Helper()
	if !strings.HasPrefix(have, prefix) {
		t.Fatalf("the server said %q, expected %q", have, prefix)
	}
}

const envelopeOf1 = "EHLO c.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<alice@example.test>\r\n"

func begin(t testing.TB, send func(string), read func() string) {
	t.Helper()
	expect(t, read(), "220 ")
	send(envelopeOf1)
	for range 3 {
		expect(t, read(), "250 ")
	}
}

// TestShutdown: who is idle is told 421, who is in the middle of a message finishes it, nobody new comes in.
func TestShutdown(t *testing.T) {
	s := serve(t, nil)
	_, _, readIdle := dial(t, s)
	expect(t, readIdle(), "220 ")
	_, send, read := dial(t, s)
	begin(t, send, read)
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	expect(t, readIdle(), "421 4.3.2 mx.example.test ")
	if have := readIdle(); have != "EOF" {
		t.Fatalf("the idle connection is open: %q", have)
	}
	send("DATA\r\n")
	expect(t, read(), "354 ")
	if c, err := net.Dial("tcp", s.addr); err == nil {
		c.Close()
		t.Error("a new connection was accepted")
	}
	send("x: y\r\n.\r\n")
	expect(t, read(), "250 2.0.0 OK")
	expect(t, read(), "421 4.3.2")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := len(s.pipeline.messages()); n != 1 {
		t.Errorf("%d messages", n)
	}
}

// TestShutdownHasAnEnd: a filter that hangs and a client that drips are cut off, and nothing is committed.
func TestShutdownHasAnEnd(t *testing.T) {
	s := serve(t, nil)
	s.pipeline.hold, s.pipeline.enter = make(chan struct{}), make(chan struct{}, 1)
	_, send, read := dial(t, s)
	begin(t, send, read)
	send("DATA\r\nx: y\r\n.\r\n")
	<-s.pipeline.enter
	_, sendSlow, readSlow := dial(t, s)
	begin(t, sendSlow, readSlow)
	sendSlow("DATA\r\n")
	expect(t, readSlow(), "354 ")
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown returned %v", err)
	}
	if n := len(s.pipeline.messages()); n != 0 {
		t.Errorf("%d messages", n)
	}
}

// TestPeerGone: a client that closes while the filters work leaves nothing behind (RULES A11), be it seen by the filters'
// context within a second or so, or right before the commit; under TLS too, whose farewell is something unread.
func TestPeerGone(t *testing.T) {
	for _, c := range []struct{ release, tls bool }{{true, false}, {false, false}, {true, true}, {false, true}} {
		s := serve(t, func(o *Options) { o.TLS, o.ImplicitTLS = testTLS(), c.tls })
		s.pipeline.hold, s.pipeline.enter = make(chan struct{}), make(chan struct{}, 1)
		conn, send, read := dial(t, s)
		begin(t, send, read)
		send("DATA\r\nx: y\r\n.\r\n")
		<-s.pipeline.enter
		conn.Close()
		if c.release { // the filters are done before anybody has looked
			time.Sleep(20 * time.Millisecond)
			close(s.pipeline.hold)
		}
		for end := time.Now().Add(10 * time.Second); s.Stats().Open > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the server does not notice")
			}
		}
		if n := len(s.pipeline.messages()); n != 0 {
			t.Errorf("%+v: %d messages", c, n)
		}
	}
}

// TestPeerStillThere: a client that sends QUIT behind the final dot and shuts its side down is there; so is one that is
// slow to hear.
func TestPeerStillThere(t *testing.T) {
	for _, underTLS := range []bool{false, true} {
		s := serve(t, func(o *Options) { o.TLS, o.ImplicitTLS = testTLS(), underTLS })
		s.pipeline.hold, s.pipeline.enter = make(chan struct{}), make(chan struct{}, 1)
		conn, send, read := dial(t, s)
		begin(t, send, read)
		send("DATA\r\nx: y\r\n.\r\nQUIT\r\n")
		<-s.pipeline.enter
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
		close(s.pipeline.hold)
		expect(t, read(), "354 ")
		expect(t, read(), "250 2.0.0 OK")
		expect(t, read(), "221 ")
	}
}

// TestDrip: a client that sends an octet now and then has the whole transaction's time and no more (E1.11).
func TestDrip(t *testing.T) {
	s := serve(t, func(o *Options) { o.Config.TransactionTimeout = units.Of(300 * time.Millisecond) })
	for _, how := range []string{"DATA\r\n", "BDAT 10000 LAST\r\n"} {
		conn, send, read := dial(t, s)
		begin(t, send, read)
		send(how)
		if strings.HasPrefix(how, "DATA") {
			expect(t, read(), "354 ")
		}
		for range 100 {
			if _, err := io.WriteString(conn, "x"); err != nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
			if s.Stats().Open == 0 {
				break
			}
		}
		expect(t, read(), "421 4.4.2 ")
	}
	if st := s.Stats(); st.Messages != 0 || st.MessagesRefused != 2 || st.Connections != 2 {
		t.Errorf("%+v", st)
	}
}

// TestPanic: a bug below us ends one session with a 421 and nothing else.
func TestPanic(t *testing.T) {
	s := serve(t, nil)
	s.pipeline.panic = true
	for _, how := range []string{"DATA\r\nx: y\r\n.\r\n", "BDAT 2 LAST\r\nab"} {
		_, send, read := dial(t, s)
		begin(t, send, read)
		send(how)
		have := read()
		if strings.HasPrefix(have, "354") {
			have = read()
		}
		expect(t, have, "421 4.0.0 Internal server error")
		if have := read(); have != "EOF" {
			t.Errorf("the connection is open: %q", have)
		}
	}
	_, send, read := dial(t, s)
	begin(t, send, read)
	if !strings.Contains(s.log.String(), "a bug in a stage") {
		t.Error("the panic is not in the log")
	}
}

// scriptConn plays a client that sends everything and closes, and counts what is written to it at once.
type scriptConn struct {
	net.Conn
	in     *bytes.Reader
	most   int // octets a Read returns
	mu     sync.Mutex
	out    bytes.Buffer
	writes int
	closed chan struct{}
	once   sync.Once
}

func newScript(text []byte, most int) *scriptConn {
	return &scriptConn{in: bytes.NewReader(text), most: most, closed: make(chan struct{})}
}

func (c *scriptConn) Read(b []byte) (int, error) {
	if c.most > 0 && len(b) > c.most {
		b = b[:c.most]
	}
	return c.in.Read(b)
}

func (c *scriptConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes++
	return c.out.Write(b)
}

func (c *scriptConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *scriptConn) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (c *scriptConn) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7)} }
func (c *scriptConn) SetDeadline(time.Time) error      { return nil }
func (c *scriptConn) SetReadDeadline(time.Time) error  { return nil }
func (c *scriptConn) SetWriteDeadline(time.Time) error { return nil }

// TestCoalescing: the replies to pipelined commands go in one write, and so does the whole of EHLO's.
func TestCoalescing(t *testing.T) {
	s := serve(t, nil)
	text := "EHLO c.example\r\n" + strings.Repeat("NOOP\r\n", 100) + "QUIT\r\n"
	c := newScript([]byte(text), 0)
	s.start(c)
	<-c.closed
	if n := bytes.Count(c.out.Bytes(), []byte("\n")); n != 111 {
		t.Errorf("%d lines", n)
	}
	// The greeting; the replies to what came with each read of 512 octets.
	if c.writes > 3 {
		t.Errorf("%d writes", c.writes)
	}
}

var replyLine = regexp.MustCompile(`^[2345][0-9][0-9][ -][ -~\x80-\xff]*\r\n$`)

// FuzzSession sends whatever comes to mind: the server never panics, ends, and every line it says is a reply line. What it
// hands on has an envelope that was accepted.
func FuzzSession(f *testing.F) {
	for _, text := range []string{
		envelopeOf1 + "DATA\r\nx: y\r\n\r\n.\r\nQUIT\r\n", envelopeOf1 + "BDAT 5\r\nx: y\nBDAT 0 LAST\r\n", "STARTTLS\r\nEHLO x\r\n",
		"EHLO x\r\nAUTH PLAIN\r\n*\r\nAUTH LOGIN AAAA\r\nAAAA\r\n", "HELO x\r\nMAIL FROM:<\"a\\\"b\"@c> SIZE=9 BODY=8BITMIME RET=FULL ENVID=a+2B\r\n",
		"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<Postmaster> NOTIFY=NEVER ORCPT=rfc822;a\r\nRSET\r\nVRFY x\r\n", "GET / HTTP/1.0\r\n", "LHLO x\r\n",
	} {
		f.Add([]byte(text), uint8(0), uint8(0))
		f.Add([]byte(text), uint8(1), uint8(1))
		f.Add([]byte(text), uint8(2), uint8(7))
	}
	servers := map[uint8]*testServer{}
	for i, protocol := range []string{SMTP, LMTP, Submission} {
		servers[uint8(i)] = serve(f, func(o *Options) {
			o.Protocol, o.AllowPlaintextLogin = protocol, true
			o.Config.RefuseDelay = 0
			o.Logger = quiet()
		})
	}
	f.Fuzz(func(t *testing.T, text []byte, which, most uint8) {
		if len(text) > 1<<16 {
			return
		}
		s := servers[which%3]
		c := newScript(text, int(most))
		s.start(c)
		select {
		case <-c.closed:
		case <-time.After(10 * time.Second):
			t.Fatalf("%q: the session does not end", text)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for line := range bytes.Lines(c.out.Bytes()) {
			if !replyLine.Match(line) || len(line) > 512 {
				t.Fatalf("%q: the server said %q", text, line)
			}
		}
		for _, g := range s.pipeline.messages() {
			if len(g.recipients) == 0 || s.options.Protocol == Submission && g.peer.Login == "" {
				t.Fatalf("%q: %+v", text, g)
			}
		}
		s.pipeline.mu.Lock()
		s.pipeline.got = nil
		s.pipeline.mu.Unlock()
	})
}

// TestIdleMemory measures what a connection after EHLO costs (E1.11, and the bar of 5,000 at once).
func TestIdleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("opens many connections")
	}
	const n = 1000
	s := serve(t, func(o *Options) {
		o.Limits.IdleTimeout = units.Of(time.Minute)
		o.Logger = quiet()
	})
	conns := make([]net.Conn, n)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	before := memory()
	for i := range conns {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c
		if _, err := io.WriteString(c, "EHLO c.example\r\n"); err != nil {
			t.Fatal(err)
		}
		var b [1024]byte
		for have := ""; !strings.Contains(have, "250 LIMITS"); {
			k, err := c.Read(b[:])
			if err != nil {
				t.Fatal(err)
			}
			have += string(b[:k])
		}
	}
	each := (memory() - before) / n
	t.Logf("%d octets a connection, the client's end of the test included", each)
	if each > 32<<10 {
		t.Errorf("%d octets a connection", each)
	}
}

func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if os.Getenv("RECEIVE_MEMORY") != "" {
		fmt.Printf("heap %d stack %d\n", m.HeapInuse, m.StackInuse)
	}
	return int64(m.HeapInuse + m.StackInuse)
}

// TestALPN: a browser that was led here offers http/1.1 and gets no connection (ALPACA); who offers nothing does.
func TestALPN(t *testing.T) {
	s := serve(t, func(o *Options) { o.TLS, o.ImplicitTLS = testTLS(), true })
	for _, c := range []struct {
		offers []string
		ok     bool
	}{{nil, true}, {[]string{"smtp"}, true}, {[]string{"h2", "http/1.1"}, false}} {
		conn, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: c.offers})
		if (err == nil) != c.ok {
			t.Errorf("offering %v: %v", c.offers, err)
		}
		if err == nil {
			conn.Close()
		}
	}
	if _, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is accepted")
	}
}

// TestConnectionLimit: one too many is told so by the listener.
func TestConnectionLimit(t *testing.T) {
	s := serve(t, func(o *Options) { o.Limits.MaxConnections = 2 })
	for range 2 {
		_, _, read := dial(t, s)
		expect(t, read(), "220 ")
	}
	_, _, read := dial(t, s)
	expect(t, read(), "421 4.3.2 mx.example.test Too many connections")
	if st := s.listener.Stats(); st.Open != 2 || st.Refused != 1 {
		t.Errorf("%+v", st)
	}
}

func TestConfig(t *testing.T) {
	c := DefaultConfig()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	c = Config{}
	err := c.Validate()
	if err == nil || strings.Count(err.Error(), "\n") < 8 {
		t.Errorf("a zero Config: %v", err)
	}
	l := listen.DefaultConfig()
	if err := l.Validate(); err != nil {
		t.Error(err)
	}
}
