package imap

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/storage/mime"
)

// FuzzStructure: whatever a mail holds, its ENVELOPE and BODYSTRUCTURE are
// balanced, ASCII, without line breaks outside of literals.
func FuzzStructure(f *testing.F) {
	files, _ := filepath.Glob("../mime/testdata/*.eml")
	for _, name := range files {
		f.Add([]byte(mailFile(f, name)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		sum := mime.Parse(bytes.NewReader(data), int64(len(data)), mime.Limits{Parts: 50, Depth: 10})
		var e encoder
		e.envelope(&sum.Envelope)
		e.byte(' ')
		e.body(sum.Root, true)
		e.byte(' ')
		e.body(sum.Root, false)
		balanced(t, e.b)
	})
}

// balanced reads b as strings, atoms and lists.
func balanced(t *testing.T, b []byte) {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '(':
			depth++
		case c == ')':
			if depth--; depth < 0 {
				t.Fatalf("unbalanced: %q", b)
			}
		case c == '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
				if i >= len(b) || b[i] == '\r' || b[i] == '\n' || b[i] == 0 || b[i] >= 0x80 {
					t.Fatalf("bad quoted string at %d: %q", i, b)
				}
			}
			if i >= len(b) {
				t.Fatalf("open string: %q", b)
			}
		case c == '{':
			var n int
			if k, _ := fmt.Sscanf(string(b[i:]), "{%d}\r\n", &n); k != 1 {
				t.Fatalf("bad literal: %q", b[i:])
			}
			i += len(fmt.Sprintf("{%d}\r\n", n))
			if i+n > len(b) || bytes.IndexByte(b[i:i+n], 0) >= 0 {
				t.Fatalf("literal too long: %q", b)
			}
			i += n - 1
		case c < ' ' || c >= 0x7f:
			t.Fatalf("octet %#x at %d: %q", c, i, b)
		}
	}
	if depth != 0 {
		t.Fatalf("unbalanced: %q", b)
	}
}

// fakeConn feeds the guard and collects what was written.
type fakeConn struct {
	net.Conn
	r   io.Reader
	out bytes.Buffer
}

func (c *fakeConn) Read(p []byte) (int, error)       { return c.r.Read(p) }
func (c *fakeConn) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *fakeConn) Close() error                     { return nil }
func (c *fakeConn) SetReadDeadline(time.Time) error  { return nil }
func (c *fakeConn) SetWriteDeadline(time.Time) error { return nil }

// FuzzGuard plays a library that answers every command with NO as soon as it has
// a line: then nothing that follows an announced non-synchronizing literal may be
// seen before the literal and the rest of its command have passed, and every
// piece is one whole line.
func FuzzGuard(f *testing.F) {
	for _, s := range []string{
		"a NOOP\r\nb LOGOUT\r\n", "a APPEND x {5+}\r\nb DEL\r\nc NOOP\r\n", "a SEARCH SMALLER 5 SUBJECT {3+}\r\nabc LARGER {2+}\r\nxy\r\n",
		"a X \"q\\\"\" {0+}\r\n\r\nb Y\r\n", "a LOGIN {5000}\r\nb NOOP\r\n", "a ID (\"x\")\r\n\r\na STARTTLS\r\n",
	} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, refuse bool) {
		srv := &Server{o: Options{}.withDefaults(), wires: map[*wire]struct{}{}}
		conn := &fakeConn{r: bytes.NewReader(data)}
		w := newWire(&link{srv: srv, started: time.Now()}, conn, false)
		var got []byte
		p := make([]byte, 64)
		for i := 0; ; i++ {
			n, err := w.Read(p)
			got = append(got, p[:n]...)
			if err != nil {
				break
			}
			if n == 0 || i > len(data)*3+1000 {
				t.Fatalf("no progress after %q", got)
			}
			if refuse && p[n-1] == '\n' && w.guard.ready == 0 {
				w.Write([]byte("t NO refused\r\n"))
			}
		}
		if refuse {
			for _, l := range strings.SplitAfter(string(got), "\n") {
				if size, sync, _ := trailer([]byte(l)); size > 0 && !sync && size > maxLiteral {
					t.Fatalf("an oversized literal was let through: %q", l)
				}
			}
		}
	})
}

// FuzzRewriteSmaller: lines without SMALLER stay, the others stay one line.
func FuzzRewriteSmaller(f *testing.F) {
	f.Add("a SEARCH SMALLER 10 SINCE 1-Jan-2026\r\n")
	f.Add("a SEARCH SUBJECT \"SMALLER 5\" (smaller 7)\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		g := guard{in: []byte(s + "rest")}
		n := g.rewriteSmaller(len(s))
		if string(g.in[n:]) != "rest" {
			t.Fatalf("%q: what follows is %q", s, g.in[n:])
		}
		if strings.Count(string(g.in[:n]), "\n") != strings.Count(s, "\n") {
			t.Fatalf("%q became %q", s, g.in[:n])
		}
		if !strings.Contains(strings.ToUpper(s), "SMALLER ") && string(g.in[:n]) != s {
			t.Fatalf("%q became %q", s, g.in[:n])
		}
	})
}
