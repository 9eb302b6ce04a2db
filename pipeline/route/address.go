package route

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Lengths that an address on the wire may have. RFC 5321 section 4.5.3.1 has 64 for the local part and wants
// longer ones to pass where they can: senders with VERP and SRS go beyond.
const (
	maxLocal   = 128
	maxDomain  = 253
	maxAddress = 320
)

// split divides an address into its local part and domain, both folded for
// comparison: lower case, the domain as A-labels. The local part of an address
// is everything before the last @ (RFC 5321 section 4.1.2); quotes that are not
// needed are taken off.
func split(address string) (local, name string, err error) {
	at := strings.LastIndexByte(address, '@')
	if at <= 0 || at == len(address)-1 || len(address) > 512 {
		return "", "", ErrBadAddress
	}
	name, err = foldDomain(address[at+1:])
	if err != nil {
		return "", "", ErrBadAddress
	}
	return strings.ToLower(unquote(address[:at])), name, nil
}

// unquote takes the quotes off a quoted local part whose content needs none.
func unquote(local string) string {
	if len(local) < 3 || local[0] != '"' || local[len(local)-1] != '"' {
		return local
	}
	inner := local[1 : len(local)-1]
	if strings.ContainsAny(inner, " \t\"\\@<>()[]:;,") || strings.HasPrefix(inner, ".") ||
		strings.HasSuffix(inner, ".") || strings.Contains(inner, "..") {
		return local
	}
	return inner
}

// foldDomain returns a domain as it stands in DNS: A-labels in lower case (RFC 5890), without a dot at the end. An address literal
// stays what it is.
func foldDomain(name string) (string, error) {
	name = strings.TrimSuffix(name, ".")
	plain, ascii := true, true
	for i := 0; i < len(name); i++ {
		c := name[i]
		ascii = ascii && c < utf8.RuneSelf
		plain = plain && c < utf8.RuneSelf && (c < 'A' || c > 'Z')
	}
	switch {
	case plain:
	case ascii: // names of hosts with an underscore are no host names, and there are some
		name = strings.ToLower(name)
	default:
		var err error
		if name, err = idna.Lookup.ToASCII(strings.ToLower(name)); err != nil {
			return "", err
		}
	}
	if name == "" || name[0] == '.' || name[len(name)-1] == '.' || strings.Contains(name, "..") {
		return "", ErrBadAddress
	}
	return name, nil
}

func fold(address string) string {
	local, name, err := split(address)
	if err != nil {
		return strings.ToLower(address)
	}
	return local + "@" + name
}

// onWire returns an address as it is written in RCPT TO towards another server: the local part as it was given, with quotes
// exactly where it needs them, the domain in A-labels. Whatever is no Mailbox of RFC 5321 section 4.1.2 (with RFC 6531
// section 3.3) is refused here, wherever it came from: nothing else keeps a line break out of the command.
func onWire(address string) (string, error) {
	at := strings.LastIndexByte(address, '@')
	if at <= 0 || len(address) > maxAddress || !utf8.ValidString(address) {
		return "", ErrBadAddress
	}
	local, ok := plainLocal(address[:at])
	if !ok || len(local) > maxLocal {
		return "", ErrBadAddress
	}
	name, err := foldDomain(address[at+1:])
	if err != nil {
		return "", ErrBadAddress
	}
	if strings.HasPrefix(name, "[") {
		return "", ErrLiteral
	}
	if !hostName(name) {
		return "", ErrBadAddress
	}
	return quote(local) + "@" + name, nil
}

// plainLocal takes the quotes off a local part, and reports whether it was one.
func plainLocal(s string) (string, bool) {
	if s == "" || s[0] != '"' {
		return s, dotString(s)
	}
	var b strings.Builder
	escaped := false
	for i, r := range s[1:] {
		switch {
		case r < ' ' || r == 0x7f || r >= utf8.RuneSelf && !unicode.IsGraphic(r):
			return "", false
		case escaped:
			escaped = false
		case r == '\\':
			escaped = true
			continue
		case r == '"':
			return b.String(), i == len(s)-2 && b.Len() > 0
		}
		b.WriteRune(r)
	}
	return "", false
}

// quote puts quotes around a local part that needs them.
func quote(local string) string {
	if dotString(local) {
		return local
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(local) + `"`
}

// dotString reports whether s is a Dot-string: atoms with single dots between them.
func dotString(s string) bool {
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" || strings.ContainsFunc(atom, notAtext) {
			return false
		}
	}
	return true
}

// notAtext is everything but atext (RFC 5322 section 3.2.3) and UTF8-non-ascii.
func notAtext(r rune) bool {
	return r <= ' ' || r == 0x7f || strings.ContainsRune(`()<>[]:;@\,."`, r) || r >= utf8.RuneSelf && (!unicode.IsGraphic(r) || unicode.IsSpace(r))
}

// hostName reports whether a folded domain can be looked up. An underscore is let through. No name ends in a number (RFC
// 3696 section 2), but ways to write an address do.
func hostName(name string) bool {
	if len(name) > maxDomain || strings.Trim(name[strings.LastIndexByte(name, '.')+1:], "0123456789") == "" {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}
