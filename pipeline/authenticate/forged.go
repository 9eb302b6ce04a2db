package authenticate

import (
	"strings"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
)

// mark removes what only we may say (RULES A4) and puts our field on top; it returns how many fields went.
func (s *Stage) mark(m *pipeline.Message, field []byte) (removed int, err error) {
	forged := func(f pipeline.Field) bool { return s.forged(f, m.Origin == sdk.Stranger) }
	err = m.Change(func(v *pipeline.Version) (*pipeline.Version, error) {
		v, n := v.Without(forged)
		removed = max(removed, n)
		return v.Front(field), nil
	})
	return removed, err
}

// forged reports whether a field pretends to be ours. Those of other people's filters are taken from strangers only: what
// our own hosts and users send may have been through a filter that they trust.
func (s *Stage) forged(f pipeline.Field, stranger bool) bool {
	name := f.Name
	if name == "" {
		name = f.LenientName()
	}
	switch len(name) {
	case 0:
		return false
	case len(resultsField):
		if strings.EqualFold(name, resultsField) {
			id, ok := authservID(f.Value())
			return !ok || sameAuthserv(id, s.authserv)
		}
	}
	switch name[0] | 0x20 {
	case 'x':
		return hasPrefixFold(name, "X-Sluice-") ||
			stranger && (hasPrefixFold(name, "X-Spam-") || hasPrefixFold(name, "X-Quarantine-") || strings.EqualFold(name, "X-Quarantine"))
	case 'r':
		return stranger && strings.EqualFold(name, "Received-SPF")
	}
	return false
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// sameAuthserv compares names as a careless reader of the field would: without case, final dot or kind of label.
func sameAuthserv(id, ours string) bool {
	if strings.EqualFold(strings.TrimSuffix(id, "."), ours) {
		return true
	}
	ascii, ok := asciiDomain(id)
	return ok && ascii == ours
}

// authservID reads the name at the beginning of an Authentication-Results value (RFC 8601 section 2.2): a token or a
// quoted string after comments and white space. false: there is none; nobody can use such a field, except for fraud.
func authservID(value string) (string, bool) {
	i, ok := skipComments(value, 0)
	if !ok || i == len(value) {
		return "", false
	}
	if value[i] == '"' {
		var id []byte
		for i++; i < len(value) && value[i] != '"'; i++ {
			if value[i] == '\\' && i+1 < len(value) {
				i++
			}
			id = append(id, value[i])
		}
		return strings.TrimSpace(string(id)), i < len(value) && len(id) > 0
	}
	start := i
	for i < len(value) && !isSpace(value[i]) && value[i] != ';' && value[i] != '(' && value[i] != '"' {
		i++
	}
	return value[start:i], i > start
}

// skipComments returns the place of the first octet that is neither white space nor in a comment.
func skipComments(s string, i int) (int, bool) {
	depth := 0
	for ; i < len(s); i++ {
		switch c := s[i]; {
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case c == '\\' && depth > 0:
			i++
		case depth == 0 && !isSpace(c):
			return i, true
		}
	}
	return len(s), depth == 0
}
