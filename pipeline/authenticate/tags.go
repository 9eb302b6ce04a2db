package authenticate

import (
	"strings"
)

// tag is one "name=value" of a tag list.
type tag struct{ name, value string }

// maxTags bounds the tags that are read of one list; honest lists have about ten.
const maxTags = 64

// parseTags reads the tag lists of DKIM signatures and keys (RFC 6376 section 3.2) and of DMARC records (RFC 7489 section
// 6.4): names are exact, white space around names and values does not count, a final semicolon is allowed. false: it is
// no tag list, or a name occurs twice.
func parseTags(s string) ([]tag, bool) {
	tags := make([]tag, 0, 12)
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
		if name == "" || len(tags) == maxTags || hasTag(tags, name) {
			return nil, false
		}
		tags = append(tags, tag{name, strings.Trim(value, " \t\r\n")})
	}
	return tags, true
}

func hasTag(tags []tag, name string) bool {
	_, ok := getTag(tags, name)
	return ok
}

// getTag returns the value of a tag, and whether it is there.
func getTag(tags []tag, name string) (string, bool) {
	for i := range tags {
		if tags[i].name == name {
			return tags[i].value, true
		}
	}
	return "", false
}

// squeeze removes all white space, which folding may put anywhere into base64 and names (RFC 6376 section 3.2).
func squeeze(s string) string {
	if !strings.ContainsAny(s, " \t\r\n") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if !isSpace(s[i]) {
			out = append(out, s[i])
		}
	}
	return string(out)
}
