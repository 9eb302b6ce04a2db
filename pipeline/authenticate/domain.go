package authenticate

import (
	"strings"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"
)

// asciiDomain returns a domain in the form in which domains are compared: A-labels in lower case without a final dot
// (RFC 5890; two spellings of one name must not count as two). false: it is no domain name.
func asciiDomain(domain string) (string, bool) {
	domain = strings.TrimSuffix(domain, ".")
	if domain == "" || len(domain) > 1000 || isLiteral(domain) {
		return "", false
	}
	plain := true
	for i := 0; i < len(domain); i++ {
		if domain[i] >= 0x80 {
			plain = false
			break
		}
	}
	if !plain {
		var err error
		if domain, err = idna.Lookup.ToASCII(domain); err != nil {
			return "", false
		}
	}
	return cleanDomain(domain)
}

// cleanDomain lowers an ASCII domain and checks that its labels are letters, digits, hyphens and underscores.
func cleanDomain(domain string) (string, bool) {
	if len(domain) > 253 {
		return "", false
	}
	label, upper := 0, false
	for i := 0; i < len(domain); i++ {
		c := domain[i]
		switch {
		case c == '.':
			if label == 0 {
				return "", false
			}
			label = 0
			continue
		case 'A' <= c && c <= 'Z':
			upper = true
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return "", false
		}
		if label++; label > 63 {
			return "", false
		}
	}
	if label == 0 {
		return "", false
	}
	if upper {
		domain = strings.ToLower(domain)
	}
	return domain, true
}

// organizational returns the domain under which an organisation has everything (RFC 7489 section 3.2), by the public
// suffix list; a public suffix is its own. The tree walk of RFC 9989 will answer the same question.
func organizational(domain string) string {
	org, err := publicsuffix.EffectiveTLDPlusOne(domain)
	if err != nil {
		return domain
	}
	return org
}

// aligned compares an authenticated domain with the author's (RFC 7489 section 3.1), both as A-labels.
func aligned(authenticated, author string, strict bool) bool {
	if authenticated == author {
		return true
	}
	return !strict && authenticated != "" && organizational(authenticated) == organizational(author)
}
