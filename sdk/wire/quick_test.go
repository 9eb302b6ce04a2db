package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// sockets returns both ends of a unix socket, as the two sides of a lane have them.
func sockets(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = (&net.Dialer{}).DialContext(context.Background(), "unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	a, b = Quick(a), Quick(b)
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

// TestQuick: octets arrive as they are, also when the reader is slow and when it is fast, both ways at once; then the end does.
func TestQuick(t *testing.T) {
	a, b := sockets(t)
	octets := bytes.Repeat([]byte("0123456789abcde\n"), 1<<18)
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
		sent := make(chan error, 1)
		go func() {
			n, err := pair[0].Write(octets)
			if n != len(octets) && err == nil {
				err = io.ErrShortWrite
			}
			sent <- err
		}()
		time.Sleep(10 * time.Millisecond) // the socket is full, and the writer waits
		got := make([]byte, len(octets))
		if _, err := io.ReadFull(pair[1], got); err != nil || !bytes.Equal(got, octets) {
			t.Errorf("received other octets: %v", err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
	}
	if n, err := a.Read(nil); n != 0 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	_ = a.Close()
	if n, err := b.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("%d %v at the end", n, err)
	}
	if _, err := b.Write([]byte("x")); err == nil {
		t.Error("a write to nobody")
	}
}

// TestQuickClose: Close wakes who waits, on its own side.
func TestQuickClose(t *testing.T) {
	for name, wait := range map[string]func(net.Conn) error{
		"read":  func(c net.Conn) error { _, err := c.Read(make([]byte, 10)); return err },
		"write": func(c net.Conn) error { _, err := c.Write(make([]byte, 1<<22)); return err },
	} {
		for _, delay := range []time.Duration{0, 10 * time.Millisecond} {
			a, _ := sockets(t)
			ended := make(chan error, 1)
			go func() { ended <- wait(a) }()
			time.Sleep(delay)
			_, _ = a.Close(), a.Close()
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: %v", name, err)
			}
			if err := wait(a); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s after Close: %v", name, err)
			}
		}
	}
}
