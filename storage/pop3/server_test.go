package pop3

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

var errDisk = errors.New("input/output error on /dev/sda")

const aliceLogin = "USER alice@example.test\r\nPASS secret word\r\n"

// client speaks POP3 in the shortest way.
type client struct {
	t testing.TB
	c net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, f *fixture) *client {
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	cl := &client{t, c, bufio.NewReader(c)}
	cl.want("+OK pop.example.test")
	return cl
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.c, s); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) want(prefix string) {
	c.t.Helper()
	line, err := c.r.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, prefix) {
		c.t.Fatalf("expected %q, got %q, %v", prefix, line, err)
	}
}

func (c *client) wantClosed() {
	c.t.Helper()
	if line, err := c.r.ReadString('\n'); err == nil {
		c.t.Fatalf("expected the connection to close, got %q", line)
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		c.t.Fatal("the connection stays open")
	}
}

// TestStoreTrouble lets each call of the store fail: the client hears
// [SYS/TEMP], never the cause, which is in the log.
func TestStoreTrouble(t *testing.T) {
	const message = "Subject: 1\r\n\r\none\r\n"
	tests := []struct {
		broken, send string
		want         []string
		closes       bool
	}{
		{"login", aliceLogin, []string{"+OK", "-ERR [SYS/TEMP]"}, false},
		{"open", aliceLogin, []string{"+OK", "-ERR [SYS/TEMP]"}, false},
		{"message", aliceLogin + "RETR 1\r\nTOP 1 0\r\n", []string{"+OK", "+OK", "-ERR [SYS/TEMP]", "-ERR [SYS/TEMP]"}, false},
		{"octets", aliceLogin + "RETR 1\r\nNOOP\r\n", []string{"+OK", "+OK", "+OK"}, true},
		{"remove", aliceLogin + "DELE 1\r\nQUIT\r\n", []string{"+OK", "+OK", "+OK", "-ERR [SYS/TEMP]"}, true},
	}
	for _, test := range tests {
		t.Run(test.broken, func(t *testing.T) {
			back := newMemBackend([]string{message})
			back.broken[test.broken] = errDisk
			f := newFixture(t, map[string]bool{"plaintext": true}, back)
			c := dial(t, f)
			c.send(test.send)
			for _, want := range test.want {
				c.want(want)
			}
			if test.closes {
				c.wantClosed()
			}
			// The maildrop is free again, also after a login that failed half way.
			c.c.Close()
			f.waitIdle(t, 0)
			back.mu.Lock()
			clear(back.broken)
			back.mu.Unlock()
			c = dial(t, f)
			c.send(aliceLogin + "STAT\r\n")
			c.want("+OK")
			c.want("+OK")
			c.want("+OK 1 19")
			if !strings.Contains(f.log.String(), "/dev/sda") {
				t.Errorf("the cause is not in the log: %s", f.log)
			}
		})
	}
}

// TestGone: IMAP removed a message that this session lists.
func TestGone(t *testing.T) {
	back := newMemBackend([]string{"a\r\n"})
	back.broken["message"] = errGone
	f := newFixture(t, map[string]bool{"plaintext": true}, back)
	c := dial(t, f)
	c.send(aliceLogin + "RETR 1\r\nNOOP\r\n")
	c.want("+OK")
	c.want("+OK")
	c.want("-ERR message was removed")
	c.want("+OK")
}

// TestThrottled: too many failures are told apart from a wrong password, so that
// mail readers do not ask for another one.
func TestThrottled(t *testing.T) {
	back := newMemBackend(nil)
	back.broken["login"] = fmt.Errorf("verify: %w", errThrottled)
	f := newFixture(t, map[string]bool{"plaintext": true}, back)
	c := dial(t, f)
	c.send(aliceLogin)
	c.want("+OK")
	c.want("-ERR [SYS/TEMP] too many failed logins")
}

// TestNoSecretInLog: passwords stay out of the log, whatever happens to them.
func TestNoSecretInLog(t *testing.T) {
	f := newFixture(t, map[string]bool{"plaintext": true}, newMemBackend(nil))
	c := dial(t, f)
	c.send("USER alice@example.test\r\nPASS hunter2\r\n")
	c.want("+OK")
	c.want("-ERR")
	c.send("AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00alice@example.test\x00hunter2")) + "\r\n")
	c.want("-ERR")
	if strings.Contains(f.log.String(), "hunter2") {
		t.Errorf("the password is in the log: %s", f.log)
	}
}

// TestIdle: a client that says nothing, or an octet now and then, is gone when
// its time is over, and its maildrop is free.
func TestIdle(t *testing.T) {
	o := Options{AllowPlaintextLogin: true, IdleTimeout: 300 * time.Millisecond, LoginTimeout: 300 * time.Millisecond}
	for _, login := range []string{"", aliceLogin} {
		server := newServer(o, newMemBackend(nil))
		near, far := tcpPair(t)
		server.start(far)
		c := &client{t, near, bufio.NewReader(near)}
		c.want("+OK")
		c.send(login)
		for range strings.Count(login, "\n") {
			c.want("+OK")
		}
		begin := time.Now()
		for range 100 {
			if _, err := near.Write([]byte("N")); err != nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("login %q: the session lived for %v", login, took)
		}
		if err := server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if len(server.opts.Locks.inUse) > 0 {
			t.Error("the maildrop stays locked")
		}
	}
}

func tcpPair(t testing.TB) (near, far net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	near.SetDeadline(time.Now().Add(20 * time.Second))
	far, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return near, far
}

// TestShutdown: idle sessions end at once, a session that is sending a message
// ends behind it, and one that never reads is cut off with the context.
func TestShutdown(t *testing.T) {
	big := strings.Repeat(strings.Repeat("x", 998)+"\r\n", 20000)
	f := newFixture(t, map[string]bool{"plaintext": true}, newMemBackend([]string{big}))
	idle := dial(t, f)
	busy := dial(t, f)
	busy.send(aliceLogin + "RETR 1\r\n")
	for range 3 {
		busy.want("+OK")
	}
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		done <- f.server.Shutdown(ctx)
	}()
	idle.wantClosed()
	var n int
	for {
		line, err := busy.r.ReadString('\n')
		if err != nil {
			t.Fatalf("the message broke off after %d octets: %v", n, err)
		}
		if line == ".\r\n" {
			break
		}
		n += len(line)
	}
	if n != len(big) {
		t.Errorf("got %d octets, want %d", n, len(big))
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	busy.wantClosed()
}

func TestShutdownCutsOff(t *testing.T) {
	big := strings.Repeat(strings.Repeat("x", 998)+"\r\n", 20000)
	f := newFixture(t, map[string]bool{"plaintext": true}, newMemBackend([]string{big}))
	c := dial(t, f)
	c.send(aliceLogin + "RETR 1\r\n")
	c.want("+OK")
	time.Sleep(50 * time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := f.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestALPN: who negotiates another protocol is refused (ALPACA).
func TestALPN(t *testing.T) {
	f := newFixture(t, map[string]bool{"implicit": true}, newMemBackend(nil))
	for _, test := range []struct {
		protos []string
		ok     bool
	}{{nil, true}, {[]string{"pop3"}, true}, {[]string{"http/1.1"}, false}, {[]string{"smtp", "imap"}, false}} {
		c, err := tls.Dial("tcp", f.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: test.protos})
		if (err == nil) != test.ok {
			t.Errorf("ALPN %v: %v", test.protos, err)
		}
		if err == nil {
			c.Close()
		}
	}
}

// TestLargeMemory: a large message is not held in memory.
func TestLargeMemory(t *testing.T) {
	back := newMemBackend([]string{strings.Repeat(strings.Repeat("x", 998)+"\r\n", 60000)})
	f := newFixture(t, map[string]bool{"plaintext": true}, back)
	c := dial(t, f)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	c.send(aliceLogin + "RETR 1\r\nQUIT\r\n")
	n, err := io.Copy(io.Discard, c.r)
	if err != nil || n < 60000000 {
		t.Fatalf("got %d octets, %v", n, err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 2<<20 {
		t.Errorf("sending 60 MB took %d octets of memory", used)
	}
}

// FuzzSession throws octets at a server and demands that the session ends and
// that the maildrop is free and unharmed unless QUIT was said.
func FuzzSession(f *testing.F) {
	paths, _ := filepath.Glob("testdata/dialogues/*.txt")
	for _, path := range paths {
		d, err := readDialogue(path)
		if err != nil {
			f.Fatal(err)
		}
		var said strings.Builder
		for _, s := range d.steps {
			if s.kind == "C" {
				said.WriteString(s.text)
			}
		}
		f.Add([]byte(said.String()))
	}
	if len(paths) == 0 {
		f.Fatal(os.ErrNotExist)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		back := newMemBackend([]string{"Subject: 1\r\n\r\none\r\n", ".", ""})
		server := newServer(Options{AllowPlaintextLogin: true, TLS: testTLS(t), LoginTimeout: 5 * time.Second}, back)
		near, far := tcpPair(t)
		server.start(far)
		go func() {
			near.Write(input)
			near.(*net.TCPConn).CloseWrite()
		}()
		out, err := io.ReadAll(near)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Fatal("the session does not end")
		}
		if len(out) > 0 && !strings.HasPrefix(string(out), "+OK ") {
			t.Fatalf("answer begins with %.40q", out)
		}
		if err := server.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(server.opts.Locks.inUse) > 0 {
			t.Fatal("the maildrop stays locked")
		}
		if !strings.Contains(strings.ToUpper(string(input)), "QUIT") && len(back.boxes["alice@example.test"]) != 3 {
			t.Fatal("messages went without QUIT")
		}
	})
}
