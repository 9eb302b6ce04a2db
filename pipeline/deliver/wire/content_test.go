package wire

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

func TestScan(t *testing.T) {
	gap := strings.Repeat("0123456789abcd\r\n", block/16)
	for _, c := range []struct {
		name, in string
		want     Facts
	}{
		{"nothing", "", Facts{}},
		{"plain", "A: b\r\n\r\nc\r\n", Facts{}},
		{"no end", "A: b\r\n\r\nc", Facts{Open: true}},
		{"8-bit body", "A: b\r\n\r\n\xe4\r\n", Facts{EightBit: true}},
		{"8-bit header", "A: \xe4\r\n\r\nc\r\n", Facts{EightBit: true, HeaderEightBit: true}},
		{"UTF-8 header", "A: ä\r\n\r\n\xe4\r\n", Facts{EightBit: true, HeaderEightBit: true, HeaderUTF8: true}},
		{"header alone", "A: ä\r\n", Facts{EightBit: true, HeaderEightBit: true, HeaderUTF8: true}},
		{"no header", "\r\nä\r\n", Facts{EightBit: true}},
		{"first dot", ".\r\n", Facts{Dots: true}},
		{"dot", "a\r\n.b\r\n", Facts{Dots: true}},
		{"no dot", "a.\r\nb.c\r\n", Facts{}},
		{"bare LF", "a\nb\r\n", Facts{Bare: true}},
		{"bare CR", "a\rb\r\n", Facts{Bare: true}},
		{"first LF", "\na\r\n", Facts{Bare: true}},
		{"last CR", "a\r\nb\r", Facts{Bare: true, Open: true}},
		{"CR CR LF", "a\r\r\n", Facts{Bare: true}},
		{"LF CR", "a\n\r", Facts{Bare: true, Open: true}},
		{"CRLF at a block's end", gap[:block-1] + "\n.x\r\n", Facts{Dots: true, Bare: false}},
		{"dot at a block's beginning", gap + ".x\r\n", Facts{Dots: true}},
		{"LF at a block's beginning", gap[:block-2] + "xx\n", Facts{Bare: true}},
		{"character over two blocks", "A: " + strings.Repeat("a", block-5) + "b\u20ac\r\n\r\n", Facts{EightBit: true, HeaderEightBit: true, HeaderUTF8: true}},
		{"half a character at a block's end", "A: " + strings.Repeat("a", block-4) + "\xe2\r\n\r\n", Facts{EightBit: true, HeaderEightBit: true}},
		{"empty line over two blocks", "A: " + strings.Repeat("a", block-6) + "\r\n\r\nä\r\n", Facts{EightBit: true}},
		{"empty line over two blocks, later", "A: " + strings.Repeat("a", block-5) + "\r\n\r\nä\r\n", Facts{EightBit: true}},
		{"TLS is not required", "A: b\r\ntls-required: no \r\n\r\nc\r\n", Facts{NoTLS: true}},
		{"TLS is not required, twice", "TLS-Required:No\r\nTLS-Required: No\r\n\r\nc\r\n", Facts{NoTLS: true}},
		{"two meanings", "TLS-Required: No\r\nTLS-Required: Yes\r\n\r\nc\r\n", Facts{}},
		{"another word", "TLS-Required: Nobody\r\n\r\nc\r\n", Facts{}},
		{"a folded value", "TLS-Required: No\r\n t really\r\n\r\nc\r\n", Facts{}},
		{"another field", "X: y\r\n TLS-Required: No\r\nX-TLS-Required: No\r\nTLS-Required-Not: No\r\n\r\nc\r\n", Facts{}},
		{"in the body", "A: b\r\n\r\nTLS-Required: No\r\n", Facts{}},
		{"in a later block", gap[:block-16] + "A: 56789abcdefg\r\nTLS-Required: No\r\n\r\nc\r\n", Facts{NoTLS: true}},
		{"over two blocks", gap[:block-16] + "TLS-Required: No\r\n\r\nc\r\n", Facts{}},
		{"as large as it gets", "TLS-Required: N", Facts{Open: true}},
	} {
		got, err := Scan(strings.NewReader(c.in), int64(len(c.in)))
		if err != nil || got.Facts != c.want {
			t.Errorf("%s: %+v, %v; expected %+v", c.name, got.Facts, err, c.want)
		}
	}
}

func TestScanCannotRead(t *testing.T) {
	if _, err := Scan(strings.NewReader("abc"), 4); err == nil {
		t.Error("content that is shorter than it says is fine")
	}
	if _, err := Scan(failingReader{}, 4); err == nil {
		t.Error("content that can't be read is fine")
	}
}

type failingReader struct{}

func (failingReader) ReadAt([]byte, int64) (int, error) { return 0, iotest.ErrTimeout }

// slowScan is Scan an octet at a time.
func slowScan(b []byte) Facts {
	var f Facts
	header := len(b)
	if bytes.HasPrefix(b, []byte("\r\n")) {
		header = 0
	} else if i := bytes.Index(b, []byte("\n\r\n")); i >= 0 {
		header = i + 1
	}
	for i, c := range b {
		f.EightBit = f.EightBit || c >= 0x80
		f.HeaderEightBit = f.HeaderEightBit || c >= 0x80 && i < header
		f.Bare = f.Bare || c == '\r' && (i+1 == len(b) || b[i+1] != '\n') || c == '\n' && (i == 0 || b[i-1] != '\r')
		f.Dots = f.Dots || c == '.' && (i == 0 || b[i-1] == '\n')
	}
	f.HeaderUTF8 = f.HeaderEightBit && utf8.Valid(b[:header])
	f.Open = len(b) > 0 && b[len(b)-1] != '\n'
	return f
}

// unstuff is what a strict server makes of DATA: lines end in CRLF and in nothing else (RFC 5321 section 4.1.1.4). ok is false unless all
// of it is one message.
func unstuff(wire string) (content string, ok bool) {
	var b strings.Builder
	for {
		line, rest, found := strings.Cut(wire, "\r\n")
		if !found || strings.ContainsAny(line, "\r\n") {
			return "", false
		}
		if line == "." {
			return b.String(), rest == ""
		}
		b.WriteString(strings.TrimPrefix(line, "."))
		b.WriteString("\r\n")
		wire = rest
	}
}

func checkContent(t *testing.T, in []byte) {
	t.Helper()
	content, err := Scan(bytes.NewReader(in), int64(len(in)))
	if err != nil {
		t.Fatal(err)
	}
	if want := slowScan(in); content.Facts != want {
		t.Fatalf("%.200q: %+v, expected %+v", in, content.Facts, want)
	}
	for _, dots := range []bool{true, false} {
		peer := &playback{in: strings.NewReader("")}
		conn := New(peer, Options{})
		err = conn.sendContent(&content, dots)
		if content.Bare {
			if !errors.Is(err, ErrBare) || strings.Contains(peer.out.String(), "\r\n.\r\n") && dots {
				t.Fatalf("%.200q: %v, and it sent %.200q", in, err, peer.out.String())
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		got := peer.out.String()
		if !dots {
			if got != string(in) {
				t.Fatalf("%.200q became %.200q", in, got)
			}
			continue
		}
		want := string(in)
		if content.Open {
			want += "\r\n"
		}
		if heard, ok := unstuff(got); !ok || heard != want {
			t.Fatalf("%.200q was sent as %.200q and heard as %.200q, %v", in, got, heard, ok)
		}
	}
}

// TestContentOfAllKinds makes content of few octets in all orders, around the ends of blocks too.
func TestContentOfAllKinds(t *testing.T) {
	pieces := []string{"\r", "\n", "\r\n", ".", "a", "\r\n.\r\n", "ä", "\xe4", "\r\n\r\n"}
	random := rand.New(rand.NewPCG(1, 2))
	filler := strings.Repeat("0123456789abcd\r\n", block/16)
	for n := range 1000 {
		var b strings.Builder
		for range random.IntN(8) {
			b.WriteString(pieces[random.IntN(len(pieces))])
		}
		in := b.String()
		if n%10 == 0 {
			at := block - random.IntN(8)
			in = filler[:at] + in + filler[:random.IntN(100)] + in
		}
		checkContent(t, []byte(in))
	}
}

// FuzzContent: no content makes a server see another message, and Scan sees what is there.
func FuzzContent(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) { checkContent(t, in) })
}

func BenchmarkScan(b *testing.B) {
	content := []byte(strings.Repeat("0123456789012345678901234567890123456789012345678901234567890123456789\r\n", 57))
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		if _, err := Scan(bytes.NewReader(content), int64(len(content))); err != nil {
			b.Fatal(err)
		}
	}
}
