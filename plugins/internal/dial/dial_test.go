package dial

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

func TestParse(t *testing.T) {
	for _, c := range []struct{ text, want, problem string }{
		{"unix:/run/x.sock", "unix:/run/x.sock", ""},
		{"unix:x.sock", "unix:/etc/sluice/x.sock", ""},
		{"tcp:localhost:783", "tcp:localhost:783", ""},
		{"tcp:[::1]:783", "tcp:[::1]:783", ""},
		{"", "", "says no network"},
		{"localhost:783", "", "says no network"},
		{"udp:localhost:783", "", "says no network"},
		{"unix:", "", "has no path"},
		{"unix:/" + strings.Repeat("x", 107), "", "longer than the 107 octets"},
		{"tcp:localhost", "", "is no host and port"},
		{"tcp::783", "", "is no host and port"},
		{"tcp:localhost:0", "", "has no port"},
		{"tcp:localhost:65536", "", "has no port"},
		{"tcp:localhost:smtp", "", "has no port"},
	} {
		at, err := Parse("address", c.text, "/etc/sluice")
		var setting *sdk.SettingError
		switch {
		case c.problem == "" && (err != nil || at.String() != c.want):
			t.Errorf("%q: %v %v, want %s", c.text, at, err, c.want)
		case c.problem != "" && (!errors.As(err, &setting) || setting.Key != "address" || !strings.Contains(err.Error(), c.problem)):
			t.Errorf("%q: %v, want a complaint about %q", c.text, err, c.problem)
		}
	}
}

// echo answers lines with themselves, after `before` of them closes the connection, and counts them.
type echo struct {
	at       Address
	accepted atomic.Int32
	before   int
}

func startEcho(t *testing.T, before int) *echo {
	t.Helper()
	dir, err := os.MkdirTemp("", "dial")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); os.RemoveAll(dir) })
	e := &echo{at: Address{"unix", l.Addr().String()}, before: before}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.accepted.Add(1)
			go e.serve(c)
		}
	}()
	return e
}

func (e *echo) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for n := 0; e.before == 0 || n < e.before; n++ {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if line == "silence\n" {
			continue
		}
		_, _ = io.WriteString(c, line)
	}
}

func say(line string) func(*Conn) error {
	return func(c *Conn) error {
		if _, err := io.WriteString(c, line+"\n"); err != nil {
			return err
		}
		got, err := bufio.NewReader(c).ReadString('\n')
		if err == nil && got != line+"\n" {
			return errors.New("got " + got)
		}
		return err
	}
}

func TestReuse(t *testing.T) {
	e := startEcho(t, 0)
	p := NewPool(e.at, Options{Idle: 1})
	defer p.Close()
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := p.Do(ctx, nil, say("hello")); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	time.Sleep(110 * time.Millisecond) // the deadlines of those questions are no reason to throw it away
	if n := e.accepted.Load(); n != 1 {
		t.Errorf("%d connections for 5 questions, want 1", n)
	}
	a, _ := p.Get(t.Context())
	b, _ := p.Get(t.Context())
	if !a.Reused || b.Reused {
		t.Errorf("reused %v and %v, want the first", a.Reused, b.Reused)
	}
	a.Release()
	a.Release()
	b.Release()
	if err := b.Close(); err != nil || len(p.idle) != 1 {
		t.Errorf("%d kept, want 1; %v", len(p.idle), err)
	}
}

// TestStale: a connection that the daemon closed is noticed before it is used, however often that happens.
func TestStale(t *testing.T) {
	e := startEcho(t, 1)
	p := NewPool(e.at, Options{Idle: 4})
	defer p.Close()
	for range 20 {
		if err := p.Do(t.Context(), func() bool { return true }, say("hello")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOnceMore: a question on a used connection that dies unanswered is repeated once on a new one,
// and not without being rewound, nor after an octet of an answer.
func TestOnceMore(t *testing.T) {
	e := startEcho(t, 0)
	dead := errors.New("dead")
	for name, c := range map[string]struct {
		rewind func() bool
		fail   func(*Conn) error // on the used connection
		asked  int
		want   error
	}{
		"repeated":      {func() bool { return true }, func(*Conn) error { return dead }, 2, nil},
		"not rewound":   {func() bool { return false }, func(*Conn) error { return dead }, 1, dead},
		"no rewind":     {nil, func(*Conn) error { return dead }, 1, dead},
		"half answered": {func() bool { return true }, func(c *Conn) error { return errors.Join(say("x")(c), dead) }, 1, dead},
	} {
		p := NewPool(e.at, Options{Idle: 4})
		if err := p.Do(t.Context(), nil, say("warm")); err != nil {
			t.Fatal(err)
		}
		asked := 0
		err := p.Do(t.Context(), c.rewind, func(conn *Conn) error {
			asked++
			if conn.Reused {
				return c.fail(conn)
			}
			return say("again")(conn)
		})
		if !errors.Is(err, c.want) || asked != c.asked {
			t.Errorf("%s: %v after %d questions, want %v after %d", name, err, asked, c.want, c.asked)
		}
		p.Close()
	}
}

func TestContext(t *testing.T) {
	e := startEcho(t, 0)
	p := NewPool(e.at, Options{Idle: 1, Open: 1})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	begin := time.Now()
	if err := p.Do(ctx, nil, say("silence")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) > 5*time.Second {
		t.Errorf("cancelled: %v after %v", err, time.Since(begin))
	}
	held, err := p.Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.Get(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second connection of one: %v", err)
	}
	held.Release()
	if err := p.Do(t.Context(), nil, say("hello")); err != nil {
		t.Errorf("after the first was given back: %v", err)
	}
	gone := NewPool(Address{"unix", e.at.Place + ".gone"}, Options{})
	if _, err := gone.Get(t.Context()); err == nil || !strings.Contains(err.Error(), "connect to unix:") {
		t.Errorf("%v", err)
	}
}

func TestReplay(t *testing.T) {
	for _, c := range []struct {
		keep int
		ok   bool
	}{{10, true}, {9, false}} {
		r := NewReplay(iotest.HalfReader(strings.NewReader("0123456789")), c.keep)
		first, err := io.ReadAll(r)
		if err != nil || string(first) != "0123456789" || r.Rewind() != c.ok {
			t.Errorf("keep %d: %q %v", c.keep, first, err)
		}
		if again, err := io.ReadAll(r); c.ok && (err != nil || string(again) != "0123456789") {
			t.Errorf("again: %q %v", again, err)
		}
	}
	r := NewReplay(strings.NewReader("0123456789"), 10)
	_, _ = r.Read(make([]byte, 3))
	r.Rewind()
	if all, err := io.ReadAll(r); err != nil || string(all) != "0123456789" {
		t.Errorf("from the middle: %q %v", all, err)
	}
	r.Stop()
	if _, err := r.Read(make([]byte, 3)); err == nil || r.Rewind() {
		t.Error("read after Stop")
	}
	broken := NewReplay(iotest.ErrReader(io.ErrUnexpectedEOF), 10)
	if _, err := io.ReadAll(broken); err == nil || broken.Rewind() {
		t.Error("a content that failed was rewound")
	}
}
