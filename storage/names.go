package storage

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Bounds of mailbox names.
const (
	inbox        = "INBOX"
	separator    = "/"
	maxNameSize  = 512 // octets; a subscription is a key with the name in it
	maxLevelSize = 255
	maxLevels    = 32
)

// CleanName returns the one form of a mailbox name: UTF-8 in NFC, INBOX in upper case (also above other levels), no
// separator at the end. It refuses with ErrMailboxName what is empty or too long, has an empty level or one that is "." or
// "..", control characters, wildcards of LIST, or octets that are not UTF-8.
func CleanName(name string) (string, error) {
	bad := func(why string) (string, error) {
		return "", fmt.Errorf("mailbox name %.80q: %s: %w", name, why, ErrMailboxName)
	}
	if len(name) > maxNameSize {
		return bad("it is too long")
	}
	clean := strings.TrimSuffix(name, separator) // RFC 9051 section 6.3.4: "foo/" announces names below foo
	plain := true
	for i := 0; i < len(clean); i++ {
		switch c := clean[i]; {
		case c < ' ' || c == 0x7f:
			return bad("it has control characters")
		case c == '*' || c == '%':
			return bad("it has a wildcard")
		case c >= utf8.RuneSelf:
			plain = false
		}
	}
	if !plain {
		if !utf8.ValidString(clean) {
			return bad("it is not UTF-8")
		}
		if strings.ContainsFunc(clean, func(r rune) bool { return unicode.Is(unicode.Cc, r) || r == 0x2028 || r == 0x2029 }) {
			return bad("it has control characters") // RFC 9051 section 5.1
		}
		clean = norm.NFC.String(clean)
	}
	levels := strings.Split(clean, separator)
	if len(levels) > maxLevels || len(clean) > maxNameSize {
		return bad("it is too long")
	}
	for _, l := range levels {
		if l == "" || l == "." || l == ".." || len(l) > maxLevelSize {
			return bad("a level is empty, dots, or too long")
		}
	}
	if strings.EqualFold(levels[0], inbox) && levels[0] != inbox {
		clean = inbox + clean[len(inbox):]
	}
	return clean, nil
}

// above returns the name of the mailbox one level up, or "".
func above(name string) string {
	if at := strings.LastIndex(name, separator); at > 0 {
		return name[:at]
	}
	return ""
}

// below says whether name is inferior to parent.
func below(name, parent string) bool {
	return len(name) > len(parent) && name[:len(parent)] == parent && name[len(parent)] == '/'
}
