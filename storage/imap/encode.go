package imap

import (
	"encoding/base64"
	stdmime "mime"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// encoder appends the strings of responses to b. Nothing it writes holds an octet
// over 127 unless the client enabled UTF8=ACCEPT (RFC 6855) and the string is
// valid UTF-8, nor a NUL, CR or LF from a message (DRILLS E3.7).
type encoder struct {
	b    []byte
	utf8 bool
}

func (e *encoder) raw(s string) { e.b = append(e.b, s...) }

func (e *encoder) byte(c byte) { e.b = append(e.b, c) }

func (e *encoder) int(n int64) { e.b = strconv.AppendInt(e.b, n, 10) }

func (e *encoder) nil() { e.raw("NIL") }

// maxQuoted is the length from which a string is sent as a literal: some readers
// have lines of bounded length.
const maxQuoted = 1000

// string writes s, which has no 8-bit octets or may show them.
func (e *encoder) string(s string) {
	if len(s) > maxQuoted {
		e.byte('{')
		e.int(int64(len(s)))
		e.raw("}\r\n")
		for i := 0; i < len(s); i++ {
			e.byte(clean(s[i]))
		}
		return
	}
	e.byte('"')
	for i := 0; i < len(s); i++ {
		c := clean(s[i])
		if c == '"' || c == '\\' {
			e.byte('\\')
		}
		e.byte(c)
	}
	e.byte('"')
}

// clean replaces what no string may hold.
func clean(c byte) byte {
	switch c {
	case 0:
		return '?'
	case '\r', '\n':
		return ' '
	}
	return c
}

// shown says whether s may be sent as it is.
func (e *encoder) shown(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return e.utf8 && utf8.ValidString(s)
		}
	}
	return true
}

// text writes a string of a header field; 8-bit octets in it become encoded
// words (RFC 2047), in charset unknown-8bit (RFC 1428) if they are no UTF-8.
func (e *encoder) text(s string) {
	if !e.shown(s) {
		s = encodeWords(s)
	}
	e.string(s)
}

// nstring is text, or NIL for the empty string.
func (e *encoder) nstring(s string) {
	if s == "" {
		e.nil()
		return
	}
	e.text(s)
}

func encodeWords(s string) string {
	if utf8.ValidString(s) {
		return stdmime.QEncoding.Encode("utf-8", s)
	}
	var b strings.Builder
	for len(s) > 0 {
		n := min(len(s), 39) // an encoded word has at most 75 characters
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString("=?unknown-8bit?B?")
		b.WriteString(base64.StdEncoding.EncodeToString([]byte(s[:n])))
		b.WriteString("?=")
		s = s[n:]
	}
	return b.String()
}

// host writes the domain of an address; internationalised ones in their ASCII
// form.
func (e *encoder) host(s string) {
	if !e.shown(s) {
		if a, err := idna.ToASCII(s); err == nil && len(a) < 256 {
			s = a
		}
	}
	e.nstring(s)
}

// param writes the name and value of a parameter. A value with 8-bit octets is
// sent in the form that should have been used (RFC 2231 section 4).
func (e *encoder) param(name, value string) {
	if e.shown(value) {
		e.text(name)
		e.byte(' ')
		e.string(value)
		return
	}
	charset := "utf-8"
	if !utf8.ValidString(value) {
		charset = "unknown-8bit"
	}
	if !strings.HasSuffix(name, "*") {
		name += "*"
	}
	var b strings.Builder
	b.WriteString(charset + "''")
	const hex = "0123456789ABCDEF"
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	e.text(name)
	e.byte(' ')
	e.string(b.String())
}
