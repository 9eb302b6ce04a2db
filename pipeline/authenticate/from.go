package authenticate

import (
	"strings"

	"github.com/sluicemail/sluice/pipeline"
)

// Bounds on one From field: different domains that DMARC asks about, and addresses that are looked at.
const (
	maxAuthors   = 4
	maxAddresses = 100
)

// authors is what the From fields say.
type authors struct {
	fields     int      // how many From fields there are
	domains    []string // the different domains in them, as A-labels
	unreadable bool     // there is something in which no domain could be found, or too much
}

// authorsOf finds the domains of a message's authors.
func authorsOf(v *pipeline.Version) authors {
	var a authors
	for _, f := range v.Fields() {
		if !strings.EqualFold(f.Name, "From") {
			continue
		}
		if a.fields++; a.fields == 1 {
			a.read(f.Value())
		}
	}
	return a
}

// read takes the domains out of a From field. It is stricter than RFC 5322 in what it calls readable and more curious in
// where it looks, since whatever a mail reader might show as the author counts: outside quotes and comments, of a mailbox
// with angle brackets all that is inside, of one without all that looks like an address.
func (a *authors) read(value string) {
	found := 0
	for _, box := range mailboxes(value) {
		text := box.bare
		if len(box.angle) > 0 {
			text = box.angle
		}
		for _, domain := range addressDomains(text) {
			if found++; found > maxAddresses {
				a.unreadable = true
				return
			}
			if ascii, ok := asciiDomain(domain); ok {
				a.add(ascii)
			} else if !isLiteral(domain) { // nobody publishes a policy for an address literal
				a.unreadable = true
			}
		}
	}
	if found == 0 {
		a.unreadable = true
	}
}

func (a *authors) add(domain string) {
	for _, d := range a.domains {
		if d == domain {
			return
		}
	}
	if len(a.domains) == maxAuthors {
		a.unreadable = true
		return
	}
	a.domains = append(a.domains, domain)
}

// mailbox is one item of an address list without its comments; quoted strings have become a single "q".
type mailbox struct {
	bare  string // what is outside angle brackets
	angle string // what is inside
}

// mailboxes splits an address list (RFC 5322 section 3.4): at commas, and at the colon and semicolon of groups.
func mailboxes(value string) []mailbox {
	var list []mailbox
	var bare, angle []byte
	inAngle, depth := false, 0
	flush := func() {
		if len(bare) > 0 || len(angle) > 0 {
			list = append(list, mailbox{string(bare), string(angle)})
		}
		bare, angle, inAngle = nil, nil, false
	}
	out := func(c byte) {
		if inAngle {
			angle = append(angle, c)
		} else {
			bare = append(bare, c)
		}
	}
	for i := 0; i < len(value); i++ {
		c := value[i]
		switch {
		case c == '\\' && depth > 0: // quoted pair in a comment
			i++
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case depth > 0:
		case c == '"':
			i = endOfQuote(value, i)
			out('q')
		case c == '[':
			end := strings.IndexByte(value[i:], ']')
			if end < 0 {
				end = len(value) - i - 1
			}
			for _, literal := range []byte(value[i : i+end+1]) {
				out(literal)
			}
			i += end
		case c == '<' && !inAngle:
			inAngle = true
			angle = append(angle, ' ') // two pairs of brackets are two addresses
		case c == '>' && inAngle:
			inAngle = false
		case (c == ',' || c == ';' || c == ':') && !inAngle:
			flush()
		default:
			out(c)
		}
	}
	flush()
	return list
}

// endOfQuote returns the place of the quote that ends the quoted string that begins at i, or the last octet.
func endOfQuote(value string, i int) int {
	for i++; i < len(value); i++ {
		switch value[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return len(value) - 1
}

// addressDomains returns what follows each "@" of text: a domain in which white space around dots is allowed (RFC 5322
// section 4.4), or a literal. A source route before the address (section 4.4) is skipped.
func addressDomains(text string) []string {
	if trimmed := strings.TrimSpace(text); strings.HasPrefix(trimmed, "@") {
		if _, rest, found := strings.Cut(trimmed, ":"); found {
			text = rest
		}
	}
	var domains []string
	for {
		_, rest, found := strings.Cut(text, "@")
		if !found {
			return domains
		}
		domain, after := takeDomain(rest)
		domains = append(domains, domain)
		text = after
	}
}

func takeDomain(s string) (domain, rest string) {
	var out []byte
	i := 0
	for i < len(s) {
		for i < len(s) && isSpace(s[i]) {
			i++
		}
		start := i
		for i < len(s) && !isSpace(s[i]) && s[i] != '@' && s[i] != '.' && s[i] != '<' && s[i] != '>' && s[i] != ',' {
			i++
		}
		out = append(out, s[start:i]...)
		next := i
		for next < len(s) && isSpace(s[next]) {
			next++
		}
		if next == len(s) || s[next] != '.' {
			break
		}
		out = append(out, '.')
		i = next + 1
	}
	return string(out), s[i:]
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }
