package receive

import (
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Lengths of the parts of an address. RFC 5321 section 4.5.3.1 says what has to be accepted (64, 255, 256); together
// they keep the library's replies, which repeat the address, below the 512 octets of a reply line.
const (
	maxLocal  = 64 * 2 // senders with VERP or SRS go beyond 64 in practice
	maxDomain = 255
	maxPath   = 320
)

// path is the address in MAIL FROM or RCPT TO.
type path struct {
	address    string // canonical: quoted exactly where it has to be; "" is the null path
	utf8       bool   // it has characters beyond ASCII (RFC 6531)
	postmaster bool   // <Postmaster> without a domain (RFC 5321 section 4.5.1); address is "postmaster"
}

// parsePath reads a Path of RFC 5321 section 4.1.2 with its angle brackets from the start of s, and returns what follows it.
// The grammar is held strictly, where the library takes anything up to the next blank for a domain; what passes here
// passes there. A source route is skipped (RFC 5321 section 4.1.1.3).
//
// The library hands a quoted local part on without its quotes, so that "a b"@example.test and a hostile
// "a> NOTIFY=NEVER x"@example.test could not be told from their text; the address is therefore kept from here.
func parsePath(s string) (p path, rest string, ok bool) {
	if !strings.HasPrefix(s, "<") {
		return path{}, "", false
	}
	s = s[1:]
	if strings.HasPrefix(s, ">") {
		return path{}, s[1:], true
	}
	if strings.HasPrefix(s, "@") {
		route, after, found := strings.Cut(s, ":")
		if !found || !validRoute(route) {
			return path{}, "", false
		}
		s = after
	}
	local, s, ok := parseLocal(s)
	if !ok || local == "" || len(local) > maxLocal {
		return path{}, "", false
	}
	if strings.HasPrefix(s, ">") && strings.EqualFold(local, "postmaster") {
		return path{address: "postmaster", postmaster: true}, s[1:], true
	}
	if !strings.HasPrefix(s, "@") {
		return path{}, "", false
	}
	end := strings.IndexByte(s, '>')
	if end < 0 {
		return path{}, "", false
	}
	domain := s[1:end]
	if !validDomain(domain) {
		return path{}, "", false
	}
	p.address = quoteLocal(local) + "@" + domain
	p.utf8 = !ascii(p.address)
	return p, s[end+1:], len(p.address) <= maxPath
}

// validRoute reads "@one.example,@two.example".
func validRoute(s string) bool {
	for _, hop := range strings.Split(s, ",") {
		if !strings.HasPrefix(hop, "@") || !validDomain(hop[1:]) {
			return false
		}
	}
	return true
}

// parseLocal reads a Local-part, Dot-string or Quoted-string, and returns it without quotes.
func parseLocal(s string) (local, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, "@>")
		if end < 0 || !dotString(s[:end]) {
			return "", "", false
		}
		return s[:end], s[end:], true
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"':
			return b.String(), s[i+1:], utf8.ValidString(b.String())
		case c == '\\': // quoted-pairSMTP
			if i++; i == len(s) || s[i] < ' ' || s[i] > '~' {
				return "", "", false
			}
			c = s[i]
		case c < ' ' || c == 0x7f:
			return "", "", false
		}
		b.WriteByte(c)
	}
	return "", "", false
}

// dotString reports whether s is a Dot-string: atoms with single dots between them.
func dotString(s string) bool {
	if s == "" || s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") || !utf8.ValidString(s) {
		return false
	}
	for _, c := range s {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c >= utf8.RuneSelf:
			if !unicode.IsGraphic(c) || unicode.IsSpace(c) {
				return false
			}
		case !strings.ContainsRune(".!#$%&'*+-/=?^_`{|}~", c):
			return false
		}
	}
	return true
}

// quoteLocal writes a local part with quotes if it needs them (RFC 5321 section 4.1.2: whether it has them makes no
// difference otherwise).
func quoteLocal(s string) string {
	if dotString(s) {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(s); i++ {
		if s[i] == '"' || s[i] == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	b.WriteByte('"')
	return b.String()
}

// validDomain reads a Domain or an address-literal. An underscore is let through, since hosts have such names.
func validDomain(s string) bool {
	if len(s) > maxDomain || !utf8.ValidString(s) {
		return false
	}
	if strings.HasPrefix(s, "[") {
		inner, ok := strings.CutSuffix(s[1:], "]")
		if v6, is6 := strings.CutPrefix(inner, "IPv6:"); is6 {
			a, err := netip.ParseAddr(v6)
			return ok && err == nil && a.Is6() && a.Zone() == ""
		}
		a, err := netip.ParseAddr(inner)
		return ok && err == nil && a.Is4()
	}
	for _, label := range strings.Split(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range label {
			switch {
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			case c >= utf8.RuneSelf && unicode.IsGraphic(c) && !unicode.IsSpace(c):
			default:
				return false
			}
		}
	}
	return true
}

func ascii(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
