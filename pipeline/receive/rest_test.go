package receive

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/units"
)

// libraryRuns reports how many of the library's goroutines there are in this process.
func libraryRuns() int {
	var b strings.Builder
	_ = pprof.Lookup("goroutine").WriteTo(&b, 2)
	return strings.Count(b.String(), "go-smtp.(*Server).handleConn(")
}

func await(t *testing.T, what string, ask func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ask(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what + ": not within 10 s")
		}
	}
}

// greet opens a connection and says EHLO.
func greet(t *testing.T, s *testServer, secure bool) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if secure {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"smtp"}})
	}
	in := bufio.NewReaderSize(conn, 512)
	hears(t, in, "220 ")
	fmt.Fprint(conn, "EHLO client.example.org\r\n")
	hears(t, in, "250 ")
	return conn, in
}

// hears reads lines up to one that begins with the prefix.
func hears(t *testing.T, in *bufio.Reader, prefix string) {
	t.Helper()
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatalf("%v, expected %q", err, prefix)
		}
		if strings.HasPrefix(line, prefix) {
			return
		}
		if !strings.HasPrefix(line, "250-") {
			t.Fatalf("%q, expected %q", line, prefix)
		}
	}
}

// TestRest: while a client is silent the library is not there, and what comes then finds the session as it was.
func TestRest(t *testing.T) {
	for _, secure := range []bool{false, true} {
		before := libraryRuns()
		s := serve(t, func(o *Options) {
			o.restAfter = 20 * time.Millisecond
			o.TLS, o.ImplicitTLS = testTLS(), secure
		})
		conn, in := greet(t, s, secure)
		await(t, "rest", func() bool { return libraryRuns() == before })
		for i := range 3 {
			fmt.Fprintf(conn, "MAIL FROM:<%d@example.org>\r\n", i)
			hears(t, in, "250 ")
			time.Sleep(50 * time.Millisecond) // inside a transaction it stays
			if n := libraryRuns(); n != before+1 {
				t.Errorf("%d library servers in a transaction", n-before)
			}
			fmt.Fprint(conn, "RCPT TO:<alice@example.test>\r\nDATA\r\n")
			hears(t, in, "250 ")
			hears(t, in, "354 ")
			fmt.Fprint(conn, "Subject: x\r\n\r\nx\r\n.\r\n")
			hears(t, in, "250 ")
			await(t, "rest", func() bool { return libraryRuns() == before })
		}
		list := s.pipeline.messages()
		if len(list) != 3 || list[2].peer.Helo != "client.example.org" || !list[2].peer.ESMTP || list[0].peer.Session != list[2].peer.Session {
			t.Errorf("%+v", list)
		}
		fmt.Fprint(conn, "MAI") // the beginning of a line wakes it as well
		await(t, "wake", func() bool { return libraryRuns() == before+1 })
		fmt.Fprint(conn, "L FROM:<>\r\n")
		hears(t, in, "250 ")
		fmt.Fprint(conn, "QUIT\r\n")
		hears(t, in, "221 ")
		await(t, "end", func() bool { return s.Stats().Open == 0 })
	}
}

// TestRestEnds: a connection that rests ends as others do: its client leaves, is silent for too long, or the server stops.
func TestRestEnds(t *testing.T) {
	before := libraryRuns()
	start := func(idle time.Duration) (*testServer, net.Conn, *bufio.Reader) {
		s := serve(t, func(o *Options) {
			o.restAfter = time.Millisecond
			o.Limits.IdleTimeout = units.Of(idle)
		})
		conn, in := greet(t, s, false)
		await(t, "rest", func() bool { return libraryRuns() == before })
		return s, conn, in
	}

	s, conn, in := start(time.Minute)
	conn.Close()
	await(t, "the client's end", func() bool { return s.Stats().Open == 0 })

	s, _, in = start(300 * time.Millisecond)
	hears(t, in, "421 4.4.2 ")
	await(t, "the end of patience", func() bool { return s.Stats().Open == 0 })

	s, _, in = start(time.Minute)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	hears(t, in, "421 4.3.2 ")
}

// TestRestLogin: only the library knows of a login, so it stays.
func TestRestLogin(t *testing.T) {
	before := libraryRuns()
	s := serve(t, func(o *Options) {
		o.Protocol, o.AllowPlaintextLogin, o.restAfter = Submission, true, time.Millisecond
	})
	conn, in := greet(t, s, false)
	fmt.Fprint(conn, "AUTH PLAIN AGFsaWNlQGV4YW1wbGUudGVzdABzZWNyZXQ=\r\n")
	hears(t, in, "235 ")
	time.Sleep(50 * time.Millisecond)
	if libraryRuns() != before+1 {
		t.Error("the library has gone")
	}
	fmt.Fprint(conn, "MAIL FROM:<alice@example.test>\r\n")
	hears(t, in, "250 ")
}

// TestRestMemory measures what a silent connection costs, buffers and stacks included, with the client's end.
func TestRestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("opens many connections")
	}
	const n = 500
	s := serve(t, func(o *Options) { o.restAfter = 50 * time.Millisecond })
	used := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse + m.StackInuse)
	}
	before, running := used(), libraryRuns()
	for range n {
		greet(t, s, false)
	}
	await(t, "rest", func() bool { return libraryRuns() == running })
	each := (used() - before) / n
	t.Logf("%d octets a connection, both ends in this process", each)
	if each > 11<<10 { // 23 KiB without rest
		t.Errorf("%d octets a connection", each)
	}
}

// TestSlowHandshake: a client may take longer for its side of the handshake than a connection takes until it rests.
func TestSlowHandshake(t *testing.T) {
	s := serve(t, func(o *Options) { o.TLS, o.restAfter = testTLS(), 100*time.Millisecond })
	conn, in := greet(t, s, false)
	fmt.Fprint(conn, "STARTTLS\r\n") // at once, so that it was the wait for a rest that read it
	hears(t, in, "220 ")
	time.Sleep(300 * time.Millisecond)
	secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"smtp"}})
	if err := secure.Handshake(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(secure, "EHLO client.example.org\r\n")
	hears(t, bufio.NewReader(secure), "250 ")
}
