package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxAddress bounds an address: what receive takes (320), and room for SRS.
const maxAddress = 512

// errAddress is the cause of every refusal of an address.
var errAddress = errors.New("not a mail address")

// appendPath writes an address as a Path (RFC 5321 section 4.1.2), with angle brackets, the local part quoted where it has to
// be; "" is the null path. What cannot be written so is an error: no octet of an address is ever sent that could end the command.
func appendPath(dst []byte, address string) ([]byte, error) {
	if address == "" {
		return append(dst, "<>"...), nil
	}
	at := strings.LastIndexByte(address, '@')
	if len(address) > maxAddress {
		return nil, fmt.Errorf("%w: longer than %d octets", errAddress, maxAddress)
	}
	if at < 0 {
		if strings.EqualFold(address, "postmaster") { // RFC 5321 section 4.5.1
			return append(append(append(dst, '<'), address...), '>'), nil
		}
		return nil, fmt.Errorf("%w: no domain in %q", errAddress, address)
	}
	local, domain := address[:at], address[at+1:]
	if !validDomain(domain) {
		return nil, fmt.Errorf("%w: the domain of %q", errAddress, address)
	}
	dst = append(dst, '<')
	dst, ok := appendLocal(dst, local)
	if !ok {
		return nil, fmt.Errorf("%w: the local part of %q", errAddress, address)
	}
	dst = append(append(dst, '@'), domain...)
	return append(dst, '>'), nil
}

// appendLocal writes a local part that is a Dot-string, a Quoted-string, or the text of one.
func appendLocal(dst []byte, local string) ([]byte, bool) {
	if dotString(local) {
		return append(dst, local...), true
	}
	text, quoted := unquote(local)
	if !quoted {
		text = local
	}
	if text == "" && !quoted || !utf8.ValidString(text) {
		return dst, false
	}
	dst = append(dst, '"')
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c < ' ' || c == 0x7f {
			return dst, false
		}
		if c == '"' || c == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, c)
	}
	return append(dst, '"'), true
}

// unquote returns what a Quoted-string stands for, or false for anything else.
func unquote(s string) (string, bool) {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return "", false
	}
	inner := s[1 : len(s)-1]
	if !strings.ContainsAny(inner, `"\`) {
		return inner, true
	}
	var b strings.Builder
	for i := 0; i < len(inner); i++ {
		switch inner[i] {
		case '"':
			return "", false
		case '\\':
			if i++; i == len(inner) {
				return "", false
			}
		}
		b.WriteByte(inner[i])
	}
	return b.String(), true
}

// atext reports an octet of an Atom in ASCII (RFC 5322 section 3.2.3).
func atext(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

// dotString reports whether s is a Dot-string (RFC 5321 section 4.1.2, RFC 6531 section 3.3).
func dotString(s string) bool {
	if s == "" || s[0] == '.' || s[len(s)-1] == '.' {
		return false
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case atext(c):
		case c == '.':
			if s[i+1] == '.' {
				return false
			}
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 || !unicode.IsGraphic(r) || unicode.IsSpace(r) {
				return false
			}
			i += n - 1
		default:
			return false
		}
	}
	return true
}

// validDomain reports a domain name, also with U-labels and the underscores that exist, or an address literal.
func validDomain(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	if s[0] == '[' {
		if s[len(s)-1] != ']' {
			return false
		}
		inner := s[1 : len(s)-1]
		if six, found := strings.CutPrefix(strings.ToUpper(inner), "IPV6:"); found {
			addr, err := netip.ParseAddr(six)
			return err == nil && addr.Is6() && addr.Zone() == ""
		}
		addr, err := netip.ParseAddr(inner)
		return err == nil && addr.Is4()
	}
	label := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '.':
			if label == 0 {
				return false
			}
			label = -1
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 || !unicode.IsGraphic(r) || unicode.IsSpace(r) {
				return false
			}
			i += n - 1
		default:
			return false
		}
		label++
	}
	return label > 0
}

// appendXtext writes s as xtext (RFC 3461 section 4).
func appendXtext(dst []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < '!' || c > '~' || c == '+' || c == '=' {
			dst = append(dst, '+', hex[c>>4], hex[c&15])
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

// appendORCPT writes the value of ORCPT as it was received, "rfc822;user+2Bx@example.test". With SMTPUTF8 the address may
// have UTF-8; without, what is beyond ASCII becomes \x{HEX} (RFC 6533 section 3). What is no such value is left out: ok is false.
func appendORCPT(dst []byte, value string, utf8OK bool) (_ []byte, ok bool) {
	kind, text, found := strings.Cut(value, ";")
	if !found || kind == "" || text == "" || len(value) > maxAddress {
		return dst, false
	}
	for i := 0; i < len(kind); i++ {
		if !atext(kind[i]) || kind[i] == '=' || kind[i] == '+' {
			return dst, false
		}
	}
	dst = append(append(dst, kind...), ';')
	for _, r := range text {
		switch {
		case r == utf8.RuneError, r <= ' ', r == '=', r == 0x7f:
			return dst, false
		case r < utf8.RuneSelf:
			dst = append(dst, byte(r))
		case utf8OK && unicode.IsGraphic(r) && !unicode.IsSpace(r):
			dst = utf8.AppendRune(dst, r)
		default:
			dst = fmt.Appendf(dst, `\x{%X}`, r)
		}
	}
	return dst, true
}
