package dkim

import (
	"bytes"
	"strings"

	"golang.org/x/net/idna"
)

// Tag is one "name=value" of a tag list.
type Tag struct{ Name, Value string }

// Tags is a tag list.
type Tags []Tag

// MaxTags bounds the tags that are read of one list; honest lists have about ten.
const MaxTags = 64

// ParseTags reads the tag lists of DKIM signatures and keys (RFC 6376 section 3.2) and of DMARC records (RFC 7489 section
// 6.4): names are exact, white space around names and values does not count, a final semicolon is allowed. false: it is
// no tag list, or a name occurs twice.
func ParseTags(s string) (Tags, bool) {
	tags := make(Tags, 0, 12)
	for s != "" {
		var item string
		item, s, _ = strings.Cut(s, ";")
		name, value, found := strings.Cut(item, "=")
		name = strings.Trim(name, " \t\r\n")
		if !found {
			if name == "" {
				continue
			}
			return nil, false
		}
		if _, twice := tags.Get(name); twice || name == "" || len(tags) == MaxTags {
			return nil, false
		}
		tags = append(tags, Tag{name, strings.Trim(value, " \t\r\n")})
	}
	return tags, true
}

// Get returns the value of a tag, and whether it is there.
func (t Tags) Get(name string) (string, bool) {
	for i := range t {
		if t[i].Name == name {
			return t[i].Value, true
		}
	}
	return "", false
}

// Squeezed returns the value of a tag without the white space that folding may put anywhere into it.
func (t Tags) Squeezed(name string) string {
	v, _ := t.Get(name)
	return Squeeze(v)
}

// Squeeze removes all white space, which folding may put anywhere into base64 and names (RFC 6376 section 3.2).
func Squeeze(s string) string {
	if !strings.ContainsAny(s, " \t\r\n") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if c := s[i]; c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			out = append(out, c)
		}
	}
	return string(out)
}

// Domain returns a domain in the form in which domains are compared: A-labels in lower case without a final dot (RFC
// 5890; two spellings of one name must not count as two). false: it is no domain name. What could be an IP address is
// for the caller to see.
func Domain(domain string) (string, bool) {
	domain = strings.TrimSuffix(domain, ".")
	if domain == "" || len(domain) > 1000 {
		return "", false
	}
	for i := 0; i < len(domain); i++ {
		if domain[i] >= 0x80 {
			ascii, err := idna.Lookup.ToASCII(domain)
			if err != nil {
				return "", false
			}
			return cleanDomain(ascii)
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

// value returns what stands after the colon of a field, without its folds.
func value(raw []byte) string {
	_, v, _ := bytes.Cut(raw, []byte(":"))
	return string(bytes.ReplaceAll(v, crlf, nil))
}
