package account

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/secure/precis"
	"golang.org/x/text/unicode/norm"
)

// Limits of RFC 5321 section 4.5.3.1.
const (
	maxLocal  = 64
	maxDomain = 255
)

// Canonical returns the form under which an address is known: local part in NFC and lower case, domain in lower-case
// A-labels without a dot at the end. It accepts any local part that SMTP can carry, since it is also asked for addresses of
// strangers; ErrAddress for what has no form.
func Canonical(address string) (string, error) {
	at := strings.LastIndexByte(address, '@')
	if at <= 0 || at == len(address)-1 {
		return "", fmt.Errorf("address %.100q: %w", address, ErrAddress)
	}
	if plain(address) {
		return address, nil
	}
	local, domain := address[:at], strings.TrimSuffix(address[at+1:], ".")
	if len(local) > 4*maxLocal || len(domain) > 4*maxDomain || !utf8.ValidString(address) {
		return "", fmt.Errorf("address %.100q: %w", address, ErrAddress)
	}
	if ascii(domain) {
		domain = strings.ToLower(domain)
	} else {
		// U-labels and A-labels are the same domain (RFC 5890 section 2.3.2.1).
		a, err := idna.Lookup.ToASCII(domain)
		if err != nil {
			return "", fmt.Errorf("address %.100q: the domain: %w: %w", address, err, ErrAddress)
		}
		domain = a
	}
	if ascii(local) {
		local = strings.ToLower(local)
	} else {
		// Lower case may undo the composition, so NFC comes last; twice lower, for letters that have no lower form of their own.
		local = norm.NFC.String(strings.ToLower(norm.NFC.String(local)))
	}
	if len(local) > maxLocal || len(domain) > maxDomain || local == "" || domain == "" ||
		domain[0] == '.' || domain[len(domain)-1] == '.' {
		return "", fmt.Errorf("address %.100q: %w", address, ErrAddress)
	}
	return local + "@" + domain, nil
}

// plain says that an address is in its canonical form by the look of its octets: most are.
func plain(address string) bool {
	if len(address) > maxLocal {
		return false
	}
	for i := 0; i < len(address); i++ {
		if c := address[i]; c >= utf8.RuneSelf || 'A' <= c && c <= 'Z' {
			return false
		}
	}
	return address[len(address)-1] != '.'
}

func ascii(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// checkNew says whether an account may be made for an address: a dot-atom (RFC 5321 section 4.1.2), perhaps with letters of
// all languages (RFC 6531), at a domain of letters, digits, hyphens and dots.
func checkNew(address string) error {
	canonical, err := Canonical(address)
	if err != nil {
		return err
	}
	at := strings.LastIndexByte(canonical, '@')
	for _, atom := range strings.Split(canonical[:at], ".") {
		if atom == "" {
			return fmt.Errorf("address %.100q: a dot too many: %w", address, ErrAddress)
		}
		for _, r := range atom {
			ok := r > unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsDigit(r)) ||
				r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("!#$&'*+-/=?^_`{|}~", r))
			if !ok {
				return fmt.Errorf("address %.100q: it has %q before the @: %w", address, r, ErrAddress)
			}
		}
	}
	for _, label := range strings.Split(canonical[at+1:], ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" ||
			label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("address %.100q: %q is no part of a domain: %w", address, label, ErrAddress)
		}
		for i := 0; i < len(label); i++ {
			c := label[i]
			if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return fmt.Errorf("address %.100q: %q is no part of a domain: %w", address, label, ErrAddress)
			}
		}
	}
	return nil
}

// maxPassword bounds what is prepared and hashed.
const maxPassword = 1024

// preparePassword applies the OpaqueString profile (RFC 8265 section 4.2): NFC, other spaces become spaces, no control
// characters, not empty.
func preparePassword(password string) (string, error) {
	if len(password) > maxPassword {
		return "", fmt.Errorf("it is longer than %d octets: %w", maxPassword, ErrPassword)
	}
	p, err := precis.OpaqueString.String(password)
	if err != nil || p == "" {
		return "", fmt.Errorf("it is empty or has characters that cannot be typed: %w", ErrPassword)
	}
	return p, nil
}
