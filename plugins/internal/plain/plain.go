// Package plain makes text that others wrote fit to stand in a line: of a trace, of a log, of a
// field of HTTP or of a protocol like it. What daemons say and what peers send as HELO or
// address passes through here before the shipped plugins hand it on.
//
// Nothing fails: what cannot stand is replaced.
package plain

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line returns text as one line of valid UTF-8, with a space for each control character, none
// around it, and at most limit octets, cut between characters.
func Line(text string, limit int) string {
	text = strings.ToValidUTF8(text[:min(len(text), limit+utf8.UTFMax)], "\uFFFD")
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	for len(text) > limit {
		_, n := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-n]
	}
	return strings.TrimSpace(text)
}

// ASCII returns text with a question mark for each character that is not printable ASCII, as a
// reply of SMTP needs it (RFC 5321 section 4.2).
func ASCII(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
}

// Value returns text as the value of a header field of a daemon's protocol (RFC 9110 section
// 5.5): no space around it, and a question mark for each ASCII control character and each octet
// that is not UTF-8.
func Value(text string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(text, "?")))
}
