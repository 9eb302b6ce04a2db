package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func start(t *testing.T, dir string) *Server {
	t.Helper()
	s := NewServer(dir, slog.New(slog.DiscardHandler))
	type count struct {
		N int `json:"n"`
	}
	s.Handle("count", Typed(func(ctx context.Context, r count, emit func(any) error) error {
		for i := range r.N {
			if err := emit(map[string]int{"i": i}); err != nil {
				return err
			}
		}
		if r.N < 0 {
			return errors.New("cannot count down")
		}
		return nil
	}))
	s.Handle("panic", func(context.Context, json.RawMessage, func(any) error) error { panic("on purpose") })
	s.Handle("wait", func(ctx context.Context, _ json.RawMessage, emit func(any) error) error {
		if err := emit("waiting"); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestCalls(t *testing.T) {
	dir := t.TempDir()
	start(t, dir)
	c := NewClient(dir)
	ctx := t.Context()
	n := 0
	err := c.Call(ctx, "count", map[string]int{"n": 1000}, func(item json.RawMessage) error {
		n++
		return nil
	})
	if err != nil || n != 1000 {
		t.Errorf("count: %d items, %v", n, err)
	}
	if err := c.Call(ctx, "count", map[string]int{"n": 0}, nil); err != nil {
		t.Errorf("count to 0: %v", err)
	}
	one, err := Get[map[string]int](ctx, c, "count", map[string]int{"n": 1})
	if err != nil || one["i"] != 0 {
		t.Errorf("Get: %v, %v", one, err)
	}
	stop := errors.New("enough")
	if err := c.Call(ctx, "count", map[string]int{"n": 1000000}, func(json.RawMessage) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a call that the caller ends: %v", err)
	}
	for _, bad := range []struct {
		name    string
		request any
		want    string
	}{
		{"count", map[string]int{"n": -1}, "cannot count down"},
		{"count", map[string]int{"m": 1}, "same version"},
		{"nothing", nil, `no "nothing"`},
		{"panic", nil, "EOF"},
	} {
		if err := c.Call(ctx, bad.name, bad.request, nil); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s %v: %v; want %q", bad.name, bad.request, err, bad.want)
		}
	}
}

func TestCancel(t *testing.T) {
	dir := t.TempDir()
	start(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	err := NewClient(dir).Call(ctx, "wait", nil, func(json.RawMessage) error { cancel(); return nil })
	if err == nil {
		t.Error("a cancelled call succeeds")
	}
}

func TestNotRunning(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Join(dir, "absent"), filepath.Join(dir, strings.Repeat("long/", 40))} {
		if err := NewClient(d).Call(t.Context(), "count", nil, nil); !errors.Is(err, ErrNotRunning) {
			t.Errorf("nobody in %s: %v", d, err)
		}
	}
	s := NewServer(dir, slog.New(slog.DiscardHandler))
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, Socket)); err != nil {
		t.Fatal("the socket is meant to be left behind here:", err)
	}
	if err := NewClient(dir).Call(t.Context(), "count", nil, nil); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a socket left behind: %v", err)
	}
	start(t, dir) // takes its place
	if err := NewClient(dir).Call(t.Context(), "count", map[string]int{"n": 1}, nil); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

// TestLongPath: a socket's address has room for 108 octets.
func TestLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	start(t, dir)
	if err := NewClient(dir).Call(t.Context(), "count", map[string]int{"n": 3}, nil); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(filepath.Join(dir, Socket))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v; want mode 0600", info, err)
	}
}

// TestSilent: a server whose process is stopped takes connections still, since the kernel does; a client gives up and says
// who it is. One that only has nothing to say is waited for, and so is what the caller does with an answer.
func TestSilent(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, Socket))
	if err != nil {
		t.Fatal(err)
	}
	answers := []string{"", "HTTP/1.1 200 OK\r\n\r\n{\"item\":1}\n{\"item\":"}
	go func() {
		for _, answer := range answers {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = conn.Read(make([]byte, 4096)) // the request
			_, _ = io.WriteString(conn, answer)
		}
		_, _ = l.Accept() // until the end: the connections stay open
	}()
	c := NewClient(dir)
	c.patience = 100 * time.Millisecond
	for _, answer := range answers {
		err := c.Call(t.Context(), "count", nil, nil)
		if !errors.Is(err, ErrSilent) || !strings.Contains(err.Error(), fmt.Sprintf("(process %d)", os.Getpid())) {
			t.Errorf("%q: %v", answer, err)
		}
	}
	l.Close()

	dir = t.TempDir()
	s := NewServer(dir, slog.New(slog.DiscardHandler))
	s.beat = 20 * time.Millisecond
	s.Handle("think", func(_ context.Context, _ json.RawMessage, emit func(any) error) error {
		time.Sleep(500 * time.Millisecond)
		return emit("done")
	})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c = NewClient(dir)
	c.patience = 250 * time.Millisecond
	n := 0
	err = c.Call(t.Context(), "think", nil, func(json.RawMessage) error { n++; time.Sleep(500 * time.Millisecond); return nil })
	if err != nil || n != 1 {
		t.Errorf("%d items, %v", n, err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
