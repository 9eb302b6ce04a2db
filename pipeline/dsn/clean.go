package dsn

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"
)

// clean makes one line of printable ASCII of a stranger's text; runs of anything white become one space.
func clean(s string, limit int) string {
	return strings.Map(func(r rune) rune {
		if r > '~' {
			return '?'
		}
		return r
	}, cleanUTF8(s, limit))
}

// cleanUTF8 is clean with what is printable in UTF-8 left in.
func cleanUTF8(s string, limit int) string {
	if len(s) > 4*limit {
		s = s[:4*limit]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\r' || r == '\n' || r == '\t' || r == '\u2028' || r == '\u2029':
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	s = strings.Join(strings.Fields(s), " ")
	return s[:runeStart(s, limit)]
}

// runeStart returns the last place at or before limit where s can be cut.
func runeStart(s string, limit int) int {
	if len(s) <= limit {
		return len(s)
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return limit
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func hasEightBit(b []byte) bool {
	return bytes.ContainsFunc(b, func(r rune) bool { return r >= utf8.RuneSelf })
}

// plainAddress reports whether an address can stand in angle brackets in a header field: one line, no control octets, no
// brackets outside quotes, valid UTF-8, and of a length that SMTP allows (RFC 5321 section 4.5.3.1).
func plainAddress(s string) bool {
	if s == "" || len(s) > 320 || !utf8.ValidString(s) {
		return false
	}
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c < ' ' || c == 0x7f:
			return false
		case c == '\\' && quoted:
			i++
			if i == len(s) || s[i] < ' ' || s[i] > '~' {
				return false
			}
		case c == '"':
			quoted = !quoted
		case !quoted && strings.IndexByte("<>(),;: \\", c) >= 0 && !inLiteral(s, i):
			return false
		}
	}
	return !quoted
}

// inLiteral reports whether place i is inside the address literal at the end, as in user@[IPv6:2001:db8::1].
func inLiteral(s string, i int) bool {
	at := strings.LastIndex(s, "@[")
	return at >= 0 && i > at && s[len(s)-1] == ']' && s[i] == ':'
}

// hostWord is a host's name as it may stand anywhere in our fields.
func hostWord(s string) string { return word(s, "localhost") }

// idWord is an ID as it may stand in a Message-ID and a boundary.
func idWord(s string) string { return word(s[:min(len(s), 60)], "report") }

func word(s, fallback string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_' {
			return r
		}
		return -1
	}, s)
	if s == "" {
		return fallback
	}
	return s[:min(len(s), 255)]
}
