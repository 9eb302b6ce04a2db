package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// pair returns both ends of a connection over loopback; the client's has short times.
func pair(t *testing.T) (*Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	short := 200 * time.Millisecond
	return New(client, Options{Hostname: "client.example.org", Times: &Times{
		Greeting: short, Hello: short, TLS: short, Mail: short, Rcpt: short, Data: short, Block: short, Final: short, Quit: short,
	}}), server
}

// TestTrickle (DRILLS E5.6): an octet now and then does not stretch the time for a reply.
func TestTrickle(t *testing.T) {
	conn, server := pair(t)
	go func() {
		for range 200 {
			if _, err := io.WriteString(server, "220-x\r\n"); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	start := time.Now()
	if _, err := conn.Greet(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) > time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

// TestDeaf (DRILLS E5.6): a server that does not read holds us for the time of a block.
func TestDeaf(t *testing.T) {
	conn, server := pair(t)
	io.WriteString(server, "250 ok\r\n250 ok\r\n354 go\r\n")
	text := strings.Repeat("0123456789abcd\r\n", 2<<20)
	content, err := Scan(strings.NewReader(text), int64(len(text)))
	if err != nil {
		t.Fatal(err)
	}
	conn.Extensions = Extensions{Pipelining: true}
	conn.in = nil
	start := time.Now()
	// What it says before MAIL would be a reply to nothing: it is still in the socket here.
	r := conn.Send(&Transaction{Recipients: []Recipient{{Address: "a@b.example"}}, Content: content})
	if !errors.Is(r.Err, os.ErrDeadlineExceeded) || r.Ended || time.Since(start) > 3*time.Second || conn.Usable() {
		t.Errorf("%+v after %v", r, time.Since(start))
	}
}

// TestBind: the end of the context ends what is under way, and nothing of it stays.
func TestBind(t *testing.T) {
	conn, server := pair(t)
	conn.times.Greeting = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	release := conn.Bind(ctx)
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := conn.Greet(); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	release()
	conn, server = pair(t)
	ctx, cancel = context.WithCancel(t.Context())
	conn.Bind(ctx)()
	cancel()
	io.WriteString(server, "220 late\r\n")
	if r, err := conn.Greet(); err != nil || r.Code != 220 {
		t.Errorf("%v, %v", r, err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	conn.times.Hello = time.Minute
	defer conn.Bind(ctx)()
	start := time.Now()
	if _, err := conn.Hello(); err == nil || time.Since(start) > time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}
