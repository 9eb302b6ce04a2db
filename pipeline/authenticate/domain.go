package authenticate

import (
	"golang.org/x/net/publicsuffix"

	"github.com/sluicemail/sluice/pipeline/authenticate/dkim"
)

// asciiDomain is dkim.Domain for what may also be an address literal, which is no domain.
func asciiDomain(domain string) (string, bool) {
	if len(domain) > 1000 || isLiteral(domain) {
		return "", false
	}
	return dkim.Domain(domain)
}

// organizational returns the domain under which an organisation has everything by the public suffix list (RFC 7489
// section 3.2); a public suffix is its own.
func organizational(domain string) string {
	org, err := publicsuffix.EffectiveTLDPlusOne(domain)
	if err != nil {
		return domain
	}
	return org
}

// isSuffix reports whether the public suffix list has domain itself, or it is a single label.
func isSuffix(domain string) bool {
	suffix, _ := publicsuffix.PublicSuffix(domain)
	return suffix == domain
}
