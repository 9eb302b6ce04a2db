package receive

import (
	"bytes"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

var wide = scanLimits{size: 1 << 40, header: 1 << 40, line: 1 << 40, fields: 1 << 30, received: 1 << 30}

// reference says what scan should say, the slow and obvious way: first the end, then the lines, then octet by octet.
type reference struct {
	content  []byte
	used     int // octets up to and with the final dot; 0 if there is none
	bareCR   bool
	bareLF   bool
	nul      bool
	received int
	fields   int
}

func refer(wire []byte, dots, repair bool) reference {
	var r reference
	raw := wire
	if dots {
		end := -1
		for i := range wire {
			begins := i == 0 || i >= 2 && wire[i-2] == '\r' && wire[i-1] == '\n'
			if begins && bytes.HasPrefix(wire[i:], []byte(".\r\n")) {
				end = i
				break
			}
		}
		if end < 0 {
			return r
		}
		raw, r.used = wire[:end], end+3
	}
	var plain []byte
	for i, c := range raw {
		begins := i == 0 || i >= 2 && raw[i-2] == '\r' && raw[i-1] == '\n'
		if dots && begins && c == '.' {
			// It may be the whole line's only octet before a bare LF or CR: it goes all the same.
			continue
		}
		plain = append(plain, c)
	}
	for i, c := range plain {
		switch {
		case c == 0:
			r.nul = true
		case c == '\r' && (i+1 == len(plain) || plain[i+1] != '\n'):
			r.bareCR = true
		case c == '\n' && (i == 0 || plain[i-1] != '\r'):
			r.bareLF = true
			if repair {
				r.content = append(r.content, '\r')
			}
		}
		r.content = append(r.content, c)
	}
	text := strings.ReplaceAll(string(r.content), "\r\n", "\n")
	for _, line := range strings.Split(text, "\n") {
		if line == "" {
			break
		}
		if line[0] != ' ' && line[0] != '\t' {
			r.fields++
			if len(line) >= 9 && strings.EqualFold(line[:9], "received:") {
				r.received++
			}
		}
	}
	return r
}

// feed gives wire to a scan in pieces of the given sizes (used round and round), as the gate does.
func feed(s *scan, w io.Writer, wire []byte, pieces []byte) (used int, ended bool) {
	var held []byte
	rest := wire
	for i := 0; ; i++ {
		n := len(rest)
		if len(pieces) > 0 {
			n = min(n, 1+int(pieces[i%len(pieces)]))
		}
		held = append(held, rest[:n]...)
		rest = rest[n:]
		k, end := s.next(held, w, !s.dots && len(rest) == 0)
		used += k
		held = append([]byte(nil), held[k:]...)
		if end || len(rest) == 0 {
			return used, end
		}
	}
}

func checkScan(t *testing.T, wire, pieces []byte, dots, repair bool) {
	t.Helper()
	want := refer(wire, dots, repair)
	var out bytes.Buffer
	s := scan{dots: dots, repair: repair, refuse0: true, limits: wide}
	keep := &keeper{w: &out, s: &s}
	used, ended := feed(&s, keep, wire, pieces)
	if ended != (want.used > 0) {
		t.Fatalf("%q in %v: ended is %v, the reference used %d", wire, pieces, ended, want.used)
	}
	if dots && !ended {
		return
	}
	if ended && used != want.used {
		t.Fatalf("%q in %v: used %d, expected %d", wire, pieces, used, want.used)
	}
	if !dots && used != len(wire) {
		t.Fatalf("%q in %v: used %d of a chunk", wire, pieces, used)
	}
	if s.size != int64(len(want.content)) {
		t.Fatalf("%q in %v: size %d, expected %d", wire, pieces, s.size, len(want.content))
	}
	flawed := want.bareCR || want.nul || want.bareLF && !repair
	if flawed != (s.flaw != flawNone) {
		t.Fatalf("%q in %v: flaw %d, the reference has %+v", wire, pieces, s.flaw, want)
	}
	if !flawed && !bytes.Equal(out.Bytes(), want.content) {
		t.Fatalf("%q in %v: wrote %q, expected %q", wire, pieces, out.Bytes(), want.content)
	}
	if !want.bareCR && (s.fields != want.fields || s.received != want.received) {
		t.Fatalf("%q in %v: %d fields and %d Received, expected %d and %d", wire, pieces, s.fields, s.received, want.fields, want.received)
	}
}

// keeper fails when something is written after a flaw was found.
type keeper struct {
	w io.Writer
	s *scan
}

func (k *keeper) Write(p []byte) (int, error) {
	if k.s.flaw != flawNone {
		panic("written after a flaw")
	}
	return k.w.Write(p)
}

var wires = []string{
	".\r\n", "a\r\n.\r\n", "a\r\r\n.\r\n", "\r\n.\r\n", "..\r\n.\r\n", ".\r\r\n.\r\n", "a\n.\n.\r\n\r\n.\r\n", "a\r\n.\nb\r\n.\r\n",
	".a\r\n.\rb\r\n.\r\n", "x: y\r\n z\r\nReceived: 1\r\nreceived: 2\r\nreceived-spf: n\r\n\r\nReceived: 3\r\n.\r\nQUIT\r\n",
	"a\x00b\r\n.\r\n", "\n\n\n.\r\n\r\n.\r\n", "a\r", "a\r\n.\r", "a\r\n.", "", "\r", "..", "\n.\r\n.\r\n", "\r\r\n.\r\n.\r\n",
}

func TestScan(t *testing.T) {
	for _, wire := range wires {
		for _, pieces := range [][]byte{nil, {0}, {1}, {2}, {0, 3}, {1, 0, 0}, {8}, {9}} {
			for mode := range 4 {
				checkScan(t, []byte(wire), pieces, mode&1 != 0, mode&2 != 0)
			}
		}
	}
}

// TestScanRandom makes messages of the octets that matter.
func TestScanRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	words := []string{"\r\n", "\r\n", "\r", "\n", ".", ".", "a", " ", "received: ", "long words of text that go on for a while", ".\r\n"}
	for range 20000 {
		var b strings.Builder
		for range r.IntN(30) {
			b.WriteString(words[r.IntN(len(words))])
		}
		b.WriteString("\r\n.\r\nNOOP\r\n")
		pieces := make([]byte, r.IntN(4))
		for i := range pieces {
			pieces[i] = byte(r.IntN(12))
		}
		checkScan(t, []byte(b.String()), pieces, r.IntN(3) > 0, r.IntN(2) > 0)
	}
}

func FuzzScan(f *testing.F) {
	for i, wire := range wires {
		f.Add([]byte(wire), []byte{byte(i)}, i%3 != 0, i%2 == 0)
	}
	f.Fuzz(func(t *testing.T, wire, pieces []byte, dots, repair bool) {
		if len(wire) > 1<<16 {
			return
		}
		checkScan(t, wire, pieces, dots, repair)
	})
}

// TestScanLimits: each limit holds exactly, also when the line comes in pieces.
func TestScanLimits(t *testing.T) {
	message := "Received: a\r\nx: y\r\n\r\n" + strings.Repeat("z", 100) + "\r\n"
	at := scanLimits{size: int64(len(message)), header: 19, line: 102, fields: 2, received: 1}
	for _, c := range []struct {
		name  string
		limit func(*scanLimits)
		flaw  flaw
	}{
		{"none", func(*scanLimits) {}, flawNone},
		{"size", func(l *scanLimits) { l.size-- }, flawSize},
		{"header", func(l *scanLimits) { l.header-- }, flawHeader},
		{"line", func(l *scanLimits) { l.line-- }, flawLine},
		{"fields", func(l *scanLimits) { l.fields-- }, flawFields},
		{"received", func(l *scanLimits) { l.received-- }, flawLoop},
	} {
		for _, pieces := range [][]byte{nil, {0}, {6}, {20}} {
			limits := at
			c.limit(&limits)
			s := scan{dots: true, limits: limits}
			if _, ended := feed(&s, io.Discard, []byte(message+".\r\n"), pieces); !ended || s.flaw != c.flaw {
				t.Errorf("%s in %v: ended %v, flaw %d, expected %d", c.name, pieces, ended, s.flaw, c.flaw)
			}
		}
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestScanSpoolFails(t *testing.T) {
	s := scan{dots: true, limits: wide}
	if _, ended := feed(&s, failing{}, []byte("a\r\nb\r\n.\r\n"), nil); !ended || s.flaw != flawSpool || s.err != io.ErrShortWrite {
		t.Errorf("ended %v, flaw %d, err %v", ended, s.flaw, s.err)
	}
}
