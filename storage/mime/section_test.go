package mime

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

const nested = "From: a@b\r\nSubject: outer\r\nContent-Type: multipart/mixed; boundary=o\r\n\r\npreamble\r\n" +
	"--o\r\nContent-Type: text/plain\r\nContent-ID: <1>\r\n\r\none\r\n" +
	"--o\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\nTo: c@d\r\nContent-Type: multipart/alternative; boundary=i\r\n\r\n" +
	"--i\r\n\r\nplain\r\n--i\r\nContent-Type: text/html\r\n\r\n<p>html\r\n--i--\r\n" +
	"--o\r\nContent-Type: message/rfc822\r\n\r\nSubject: simple\r\n\r\nbody\r\n" +
	"--o--\r\nepilogue\r\n"

func find(t *testing.T, msg string, front string, sec Section) (string, error) {
	t.Helper()
	full := front + msg
	rs, err := parse(msg).Find(strings.NewReader(full), int64(len(front)), sec)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(rs.Reader(strings.NewReader(full)))
	if err != nil || int64(len(b)) != rs.Size() {
		t.Fatalf("read %d of %d: %v", len(b), rs.Size(), err)
	}
	return string(b), nil
}

func TestFind(t *testing.T) {
	inner := nested[strings.Index(nested, "Subject: inner"):strings.Index(nested, "\r\n--o\r\nContent-Type: message/rfc822\r\n\r\nSubject: simple")]
	header := nested[:strings.Index(nested, "preamble")]
	simple := "From: x@y\r\n\r\nhello\r\n"
	for _, c := range []struct {
		msg, front string
		sec        Section
		want       string
	}{
		{nested, "", Section{}, nested},
		{nested, "Return-Path: <>\r\n", Section{}, "Return-Path: <>\r\n" + nested},
		{nested, "R: x\r\n", Section{Piece: Header}, "R: x\r\n" + header},
		{nested, "R: x\r\n", Section{Piece: TextBody}, nested[len(header):]},
		{nested, "", Section{Path: []int{1}}, "one"},
		{nested, "R: x\r\n", Section{Path: []int{1}}, "one"},
		{nested, "", Section{Path: []int{1}, Piece: MIMEHeader}, "Content-Type: text/plain\r\nContent-ID: <1>\r\n\r\n"},
		{nested, "", Section{Path: []int{2}}, inner},
		{nested, "", Section{Path: []int{2}, Piece: Header}, inner[:strings.Index(inner, "--i")]},
		{nested, "", Section{Path: []int{2}, Piece: TextBody}, inner[strings.Index(inner, "--i"):]},
		{nested, "", Section{Path: []int{2, 1}}, "plain"},
		{nested, "", Section{Path: []int{2, 2}}, "<p>html"},
		{nested, "", Section{Path: []int{2, 2}, Piece: MIMEHeader}, "Content-Type: text/html\r\n\r\n"},
		{nested, "R: x\r\n", Section{Path: []int{2}, Piece: HeaderFields, Fields: []string{"to", "NONE"}}, "To: c@d\r\n\r\n"},
		{nested, "", Section{Path: []int{3, 1}}, "body"},
		{nested, "", Section{Path: []int{3, 1}, Piece: MIMEHeader}, "Subject: simple\r\n\r\n"},
		{nested, "R: x\r\n", Section{Piece: HeaderFields, Fields: []string{"FROM", "r"}}, "R: x\r\nFrom: a@b\r\n\r\n"},
		{nested, "R: x\r\n", Section{Piece: HeaderFieldsNot, Fields: []string{"subject", "R"}},
			"From: a@b\r\nContent-Type: multipart/mixed; boundary=o\r\n\r\n"},
		{nested, "", Section{Piece: HeaderFields, Fields: []string{"x"}}, "\r\n"},
		{simple, "", Section{Path: []int{1}}, "hello\r\n"},
		{simple, "", Section{Path: []int{1}, Piece: MIMEHeader}, "From: x@y\r\n\r\n"},
	} {
		got, err := find(t, c.msg, c.front, c.sec)
		if err != nil || got != c.want {
			t.Errorf("%v:\n got %q %v\nwant %q", c.sec, got, err, c.want)
		}
	}
	for _, sec := range []Section{
		{Path: []int{4}}, {Path: []int{0}}, {Path: []int{-1}}, {Path: []int{1, 1}}, {Path: []int{1}, Piece: Header},
		{Path: []int{2, 3}}, {Path: []int{2, 1, 1}}, {Path: []int{3, 2}}, {Path: []int{3, 1, 1}}, {Piece: MIMEHeader},
		{Path: []int{math.MaxInt}}, {Path: []int{1}, Piece: TextBody}, {Path: []int{1}, Piece: HeaderFields},
	} {
		if got, err := find(t, nested, "", sec); !errors.Is(err, ErrNoSection) {
			t.Errorf("%v: %q %v", sec, got, err)
		}
	}
}

func TestPartial(t *testing.T) {
	rs := Ranges{{10, 5}, {20, 5}, {30, 5}}
	for _, c := range []struct {
		off, n int64
		want   string
	}{
		{0, 15, "[{10 5} {20 5} {30 5}]"}, {0, 3, "[{10 3}]"}, {4, 2, "[{14 1} {20 1}]"}, {5, 5, "[{20 5}]"},
		{14, 100, "[{34 1}]"}, {15, 1, "[]"}, {0, 0, "[]"}, {math.MaxInt64, math.MaxInt64, "[]"}, {3, math.MaxInt64, "[{13 2} {20 5} {30 5}]"},
	} {
		if got := fmt.Sprint(rs.Partial(c.off, c.n)); got != c.want {
			t.Errorf("<%d.%d>: %s, want %s", c.off, c.n, got, c.want)
		}
	}
}

// randomMail makes a mail of parts whose boundaries, types and line breaks go
// wrong now and then.
func randomMail(r *rand.Rand, depth int, b *strings.Builder) {
	nl := "\r\n"
	if r.IntN(10) == 0 {
		nl = "\n"
	}
	bound := []string{"b", "bb", "b--", "x y", "b b"}[r.IntN(5)]
	switch r.IntN(6) {
	case 0, 1:
		if depth > 6 {
			break
		}
		fmt.Fprintf(b, "Content-Type: multipart/%s; boundary=\"%s\"%s%s", []string{"mixed", "digest"}[r.IntN(2)], bound, nl, nl)
		for range r.IntN(4) {
			fmt.Fprintf(b, "--%s%s", bound, nl)
			randomMail(r, depth+1, b)
		}
		if r.IntN(4) > 0 {
			fmt.Fprintf(b, "--%s--%s", bound, nl)
		}
		return
	case 2:
		if depth > 6 {
			break
		}
		fmt.Fprintf(b, "Content-Type: message/rfc822%s%sSubject: s%d%s", nl, nl, depth, nl)
		randomMail(r, depth+1, b)
		return
	}
	b.WriteString([]string{"", "X: y\r\n", "junk\r\n", "Content-Type: text/html\r\n"}[r.IntN(4)])
	b.WriteString([]string{nl, nl + "text" + nl, "", nl + "--b" + nl, nl + "--bb--" + nl + "x"}[r.IntN(5)])
}

// TestSectionsCoverMessage is the property: header and text of the message, and
// of each message inside, put together are its octets; every section lies inside
// its part.
func TestSectionsCoverMessage(t *testing.T) {
	for seed := range uint64(3000) {
		var b strings.Builder
		randomMail(rand.New(rand.NewPCG(seed, 1)), 0, &b)
		msg := b.String()
		s := parse(msg)
		checkShape(t, msg, s)
		checkCodec(t, s)
		checkSections(t, msg, "F: r\r\n", s)
		if t.Failed() {
			t.Fatalf("seed %d: %q", seed, msg)
		}
	}
}

func checkSections(t testing.TB, msg, front string, s *Summary) {
	full := front + msg
	r := strings.NewReader(full)
	text := func(sec Section) string {
		rs, err := s.Find(r, int64(len(front)), sec)
		if err != nil {
			t.Errorf("%v: %v", sec, err)
			return ""
		}
		out, err := io.ReadAll(rs.Reader(r))
		if err != nil || int64(len(out)) != rs.Size() {
			t.Errorf("%v: %v", sec, err)
		}
		return string(out)
	}
	if text(Section{}) != full || text(Section{Piece: Header})+text(Section{Piece: TextBody}) != full {
		t.Errorf("header and text are not the message")
	}
	if not := text(Section{Piece: HeaderFieldsNot, Fields: []string{"no-such"}}); not != text(Section{Piece: Header}) {
		t.Errorf("all fields are not the header: %q", not)
	}
	var walk func(path []int, p *Part)
	walk = func(path []int, p *Part) {
		whole := text(Section{Path: path})
		if h := text(Section{Path: path, Piece: MIMEHeader}); full[p.HeaderStart+int64(len(front)):p.BodyEnd+int64(len(front))] != h+whole {
			t.Errorf("%v: MIME header and body are not the part", path)
		}
		if p.Embedded != nil {
			if text(Section{Path: path, Piece: Header})+text(Section{Path: path, Piece: TextBody}) != whole {
				t.Errorf("%v: header and text are not the message inside", path)
			}
			if p = p.Children[0]; !p.Multipart() {
				walk(append(path[:len(path):len(path)], 1), p)
				return
			}
		}
		for i, c := range p.Children {
			walk(append(path[:len(path):len(path)], i+1), c)
		}
	}
	if s.Root.Multipart() {
		for i, c := range s.Root.Children {
			walk([]int{i + 1}, c)
		}
	} else {
		walk([]int{1}, s.Root)
	}
}

func TestDecoder(t *testing.T) {
	for _, c := range []struct{ enc, in, want string }{
		{"7BIT", "a=41", "a=41"},
		{"Base64", "aGVsbG8=", "hello"},
		{"base64", "aGVs\r\n bG8 = junk!", "hello\x8e\xe9\xe4"},
		{"base64", "aGU=bGxv", "hello"[:2] + "llo"},
		{"base64", "a", ""},
		{"quoted-printable", "a=41=c3=B6 b", "aA\xc3\xb6 b"},
		{"quoted-printable", "soft=\r\nbreak =  \r\nend=", "softbreak end"},
		{"quoted-printable", "trail  \t\r\nnext ", "trail\r\nnext"},
		{"quoted-printable", "bad =4 =zz ==41 =\r", "bad =4 =zz =A "},
	} {
		r, err := Decoder(c.enc, iotest(c.in))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if string(got) != c.want || err != nil {
			t.Errorf("%s %q: %q %v, want %q", c.enc, c.in, got, err, c.want)
		}
	}
	if _, err := Decoder("x-uuencode", strings.NewReader("")); !errors.Is(err, ErrUnknownEncoding) {
		t.Error(err)
	}
}

// iotest hands out one octet at a time, so that every state is met between reads.
func iotest(s string) io.Reader { return oneByte{strings.NewReader(s)} }

type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) {
	if len(p) > 1 {
		p = p[:1]
	}
	return o.r.Read(p)
}
