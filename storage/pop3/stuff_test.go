package pop3

import (
	"bufio"
	"bytes"
	"net/textproto"
	"strings"
	"testing"
)

type octets struct{ *bytes.Reader }

func (octets) Close() error { return nil }

// render sends text in pieces of the given size.
func render(t testing.TB, text string, cutter *topCutter, piece int) string {
	var out bytes.Buffer
	w := bufio.NewWriterSize(&out, 64)
	if err := sendContent(w, octets{bytes.NewReader([]byte(text))}, cutter, make([]byte, piece)); err != nil {
		t.Fatal(err)
	}
	w.Flush()
	return out.String()
}

func TestSendContentPieces(t *testing.T) {
	long := strings.Repeat("x", 100)
	tests := []struct{ text, want string }{
		{"", ".\r\n"},
		{".", "..\r\n.\r\n"},
		{".\r\n", "..\r\n.\r\n"},
		{"..\r\n.\r\n", "...\r\n..\r\n.\r\n"},
		{"a\r\n.b\r\nc", "a\r\n..b\r\nc\r\n.\r\n"},
		{"a\n.\nb\n", "a\r\n..\r\nb\r\n.\r\n"},
		{"\n\n", "\r\n\r\n.\r\n"},
		{"\r\r\n", "\r\r\n.\r\n"},
		{"\r", "\r\r\n.\r\n"},
		{"a\r.\r\n", "a\r.\r\n.\r\n"}, // a bare CR ends no line
		{long + "\r\n." + long + "\r\n", long + "\r\n.." + long + "\r\n.\r\n"},
	}
	for _, test := range tests {
		for _, piece := range []int{1, 2, 3, 5, 64, 1024} {
			if got := render(t, test.text, nil, piece); got != test.want {
				t.Errorf("%q in pieces of %d: got %q, want %q", test.text, piece, got, test.want)
			}
		}
	}
}

func TestTopPieces(t *testing.T) {
	const text = "A: 1\r\nB: 2\r\n\r\none\r\n\r\nthree\r\n"
	want := []string{
		"A: 1\r\nB: 2\r\n\r\n.\r\n",
		"A: 1\r\nB: 2\r\n\r\none\r\n.\r\n",
		"A: 1\r\nB: 2\r\n\r\none\r\n\r\n.\r\n",
		"A: 1\r\nB: 2\r\n\r\none\r\n\r\nthree\r\n.\r\n",
		"A: 1\r\nB: 2\r\n\r\none\r\n\r\nthree\r\n.\r\n",
	}
	for lines, want := range want {
		for piece := 1; piece <= len(text); piece++ {
			if got := render(t, text, &topCutter{lines: lines}, piece); got != want {
				t.Errorf("TOP %d in pieces of %d: got %q, want %q", lines, piece, got, want)
			}
		}
	}
}

// FuzzContent holds two things: how a message is cut in pieces does not show, and
// a client that takes the dots away gets the message back.
func FuzzContent(f *testing.F) {
	f.Add("A: 1\r\n\r\n.\r\n..x\r\n\n.\ny\r\r\n.\r", uint8(3), uint8(1))
	f.Add(".", uint8(1), uint8(0))
	f.Fuzz(func(t *testing.T, text string, piece, lines uint8) {
		size := int(piece)%80 + 1
		whole := render(t, text, nil, 1<<16)
		if got := render(t, text, nil, size); got != whole {
			t.Fatalf("pieces of %d: %q, whole: %q", size, got, whole)
		}
		top := render(t, text, &topCutter{lines: int(lines)}, 1<<16)
		if got := render(t, text, &topCutter{lines: int(lines)}, size); got != top {
			t.Fatalf("TOP in pieces of %d: %q, whole: %q", size, got, top)
		}
		if !strings.HasPrefix(whole, strings.TrimSuffix(top, ".\r\n")) {
			t.Fatalf("TOP %q does not begin RETR %q", top, whole)
		}
		r := bufio.NewReader(strings.NewReader(whole + "+OK next\r\n"))
		back, err := textproto.NewReader(r).ReadDotBytes()
		if err != nil {
			t.Fatalf("read back %q: %v", whole, err)
		}
		// textproto turns CRLF into LF, and adds the last line end.
		want := strings.ReplaceAll(text, "\r\n", "\n")
		if want != "" && !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		if strings.Contains(text, "\r\r") || strings.HasSuffix(text, "\r") {
			return // it also drops bare CRs before a line end, which a message may have
		}
		if string(back) != want {
			t.Fatalf("got back %q, want %q", back, want)
		}
		if rest, _ := r.ReadString('\n'); rest != "+OK next\r\n" {
			t.Fatalf("the client read into the next answer: %q is left", rest)
		}
	})
}
