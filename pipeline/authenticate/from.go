package authenticate

import (
	"strings"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/storage/mime"
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
		if f.Name == "" && strings.EqualFold(f.LenientName(), "From") {
			a.unreadable = true
		} else if !strings.EqualFold(f.Name, "From") {
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
// with angle brackets all that is inside or behind, of one without all that looks like an address. What readers are known
// to understand in several ways is called unreadable too, although RFC 5322 gives it one meaning.
func (a *authors) read(value string) {
	found := 0
	list, whole := mailboxes(value)
	if !whole {
		a.unreadable = true
	}
	for _, box := range list {
		text := box.bare
		if len(box.angle) > 0 {
			text = box.angle
		}
		domains, plain := addressDomains(text)
		if !plain {
			a.unreadable = true
		}
		for _, domain := range domains {
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
	bare  string // what is before angle brackets
	angle string // what is inside them, and behind
}

// mailboxes splits an address list (RFC 5322 section 3.4): at commas, and at the colon and semicolon of groups. It is not
// whole if a comment or quoted string in it has no end, behind which a reader may find what is hidden from us.
func mailboxes(value string) (list []mailbox, whole bool) {
	var bare, angle []byte
	inAngle, depth := false, 0
	whole = true
	flush := func() {
		if len(bare) > 0 || len(angle) > 0 {
			list = append(list, mailbox{string(bare), string(angle)})
		}
		bare, angle, inAngle = nil, nil, false
	}
	out := func(c byte) {
		if inAngle || len(angle) > 0 {
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
			if depth--; depth == 0 {
				out(' ') // a comment is white space (section 3.2.2)
			}
		case depth > 0:
		case c == '"':
			end := endOfQuote(value, i)
			if end == len(value) {
				whole = false
			}
			i = end
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
			out(' ')
		case (c == ',' || c == ';' || c == ':') && !inAngle:
			flush()
		default:
			out(c)
		}
	}
	flush()
	return list, whole && depth == 0
}

// endOfQuote returns the place of the quote that ends the quoted string that begins at i, or the length.
func endOfQuote(value string, i int) int {
	for i++; i < len(value); i++ {
		switch value[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return len(value)
}

// addressDomains returns what follows each "@" of text: a domain in which white space around dots is allowed (RFC 5322
// section 4.4), or a literal. A source route before the address (section 4.4) is skipped. It is not plain if there is such
// white space: some take the domain to end there.
func addressDomains(text string) (domains []string, plain bool) {
	if trimmed := strings.TrimSpace(text); strings.HasPrefix(trimmed, "@") {
		if _, rest, found := strings.Cut(trimmed, ":"); found {
			text = rest
		}
	}
	plain = true
	for {
		_, rest, found := strings.Cut(text, "@")
		if !found {
			return domains, plain
		}
		domain, after, dense := takeDomain(rest)
		domains = append(domains, domain)
		text, plain = after, plain && dense
	}
}

func takeDomain(s string) (domain, rest string, dense bool) {
	var out []byte
	i := 0
	dense = true
	for i < len(s) {
		for i < len(s) && isSpace(s[i]) {
			dense = dense && len(out) == 0
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
		dense = dense && next == i
		i = next + 1
	}
	return string(out), s[i:], dense
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// signable returns the domains that mail with these From fields is signed for: those that both this reader and the one
// by which logins are held to their addresses (RULES A1) find in the first. What only one of them sees was not allowed to
// anybody.
func signable(v *pipeline.Version) []string {
	from, ok := v.Get("From")
	if !ok {
		return nil
	}
	var a authors
	a.read(from.Value())
	var domains []string
	for _, address := range mime.Addresses(from.Value(), maxAddresses) {
		if domain, ok := asciiDomain(address.Host); ok && contains(a.domains, domain) && !contains(domains, domain) {
			domains = append(domains, domain)
		}
	}
	return domains
}
