package conformance

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/sluicemail/sluice/pipeline/parse"
	"github.com/sluicemail/sluice/sdk/wire"
)

// message is what a question is about.
type message struct {
	name       string // of the check that asks about it, if that is not what
	what       string // for reports: "a message of 50 MB"
	header     []byte // with the empty line
	size       int64  // of header and body
	body       func() io.Reader
	recipients int
	parsed     func(id uint64) *wire.Parsed
	chunk      int // octets a chunk; 0: as the server does
}

// content returns the octets that a manifest is sent.
func (m *message) content(d *wire.DescribeResponse) io.Reader {
	var r io.Reader
	switch d.GetWant() {
	case wire.Want_WANT_NONE:
		return nil
	case wire.Want_WANT_HEADER:
		r = bytes.NewReader(m.header)
	default:
		r = io.MultiReader(bytes.NewReader(m.header), m.body())
	}
	if d.GetMaxContent() > 0 {
		r = io.LimitReader(r, d.GetMaxContent())
	}
	return r
}

// mail makes a message of a text whose lines end with LF; they get CR LF.
func mail(what, text string) *message {
	return octets(what, []byte(strings.ReplaceAll(text, "\n", "\r\n")))
}

func octets(what string, all []byte) *message {
	n := len(all)
	if i := bytes.Index(all, []byte("\r\n\r\n")); i >= 0 {
		n = i + 4
	}
	body := all[n:]
	return &message{
		what: what, header: all[:n], size: int64(len(all)), recipients: 1,
		body: func() io.Reader { return bytes.NewReader(body) },
		parsed: func(id uint64) *wire.Parsed {
			return wire.ToParsed(id, parse.Parse(bytes.NewReader(all), int64(len(all))))
		},
	}
}

const plainHeader = "From: Ann Author <ann@example.org>\nTo: alice@example.test\nSubject: Lunch\n" +
	"Date: Thu, 1 Jan 2026 12:00:00 +0000\nMessage-ID: <1@example.org>\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n"

// ordinary is what most mail is like.
func ordinary() *message {
	return mail("an ordinary message", plainHeader+strings.Repeat("Shall we have lunch on Friday? The usual place, at noon.\n", 60))
}

// strange are the messages that nobody writes and somebody sends. Each has to be answered.
func strange(quick bool) []*message {
	everyOctet := make([]byte, 0, 4096)
	for i := range 4096 {
		everyOctet = append(everyOctet, byte(i))
	}
	depth, parts := 10000, 100000
	if quick {
		depth, parts = 2000, 10000
	}
	pieces := mail("a message in chunks of one octet", plainHeader+"Hello\n")
	pieces.chunk = 1
	return []*message{
		octets("an empty message", nil),
		octets("a message without an empty line", []byte("Subject: nothing follows\r\n")),
		mail("a message that is a header alone", plainHeader),
		octets("a message without a header", []byte("\r\n\r\nWhat is a header?\r\n")),
		octets("a message of 8-bit and NUL octets", append([]byte("Subject: \xff\xfe\x00\xc3\x28\r\nFrom: \x80@\x00\r\n\r\n"), everyOctet...)),
		octets("a message that ends in the middle of a line", []byte("From: a@example.org\r\nContent-Type: text/plain\r\n\r\nno end of lin")),
		octets("a message with a line of 1 MB", append([]byte("Subject: long\r\n\r\n"), bytes.Repeat([]byte("x"), 1<<20)...)),
		octets("a message with a header of 1 MB", []byte(strings.Repeat("X-Fill: "+strings.Repeat("y", 500)+"\r\n", 2048)+"\r\nbody\r\n")),
		pieces,
		mail("a message that lies about itself", "From: a@example.org\nContent-Type: multipart/mixed; boundary=\nContent-Type: text/html; charset=utf-9\n"+
			"Content-Transfer-Encoding: base64\nContent-Disposition: attachment; filename*=utf-8''%ff%00.exe\nDate: Feb 30\n\n--\n=?utf-8?b?=A?=\n<p>&#0;\n"),
		nested(depth), manyParts(parts),
	}
}

// nested is a multipart within a multipart, and so on (E3.2 of the drills).
func nested(depth int) *message {
	var b bytes.Buffer
	b.WriteString("From: a@example.org\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b0\r\n\r\n")
	for i := range depth {
		fmt.Fprintf(&b, "--b%d\r\nContent-Type: multipart/mixed; boundary=b%d\r\n\r\n", i, i+1)
	}
	m := octets(fmt.Sprintf("a message with parts %d deep", depth), b.Bytes())
	m.name = "a message with very deep parts"
	return m
}

// manyParts is a multipart with more parts than anybody wants to see.
func manyParts(n int) *message {
	head := "From: a@example.org\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
	m := octets(fmt.Sprintf("a message with %d parts", n), []byte(head+strings.Repeat("--b\r\n\r\nx\r\n", n)+"--b--\r\n"))
	m.name = "a message with very many parts"
	return m
}

// large is a message of so many octets that needs no memory here.
func large(size int64) *message {
	const line = "VGhpcyBpcyBhIGxhcmdlIG1lc3NhZ2UsIGFuZCBub2JvZHkgd2FudHMgdG8gcmVhZCBpdC4g\r\n"
	m := mail(fmt.Sprintf("a message of %d MB", size>>20), plainHeader)
	m.size = size
	head := int64(len(m.header))
	m.body = func() io.Reader {
		return io.LimitReader(&repeater{text: []byte(strings.Repeat(line, 1000))}, size-head)
	}
	m.parsed = func(id uint64) *wire.Parsed { // as the core's parse has it: 1 MiB of text
		text := strings.Repeat(line, 1<<20/len(line))
		return &wire.Parsed{Id: id, Truncated: true, Parts: []*wire.Part{{Parent: -1, Type: "text/plain", Offset: head, Length: size - head, Text: text}}}
	}
	return m
}

// repeater reads a text again and again.
type repeater struct {
	text []byte
	at   int
}

func (r *repeater) Read(p []byte) (int, error) {
	n := copy(p, r.text[r.at:])
	r.at = (r.at + n) % len(r.text)
	return n, nil
}
