package mime

import "strings"

// What stands for a part of an address that is not there: IMAP reads an empty
// host as the beginning of a group, so it cannot be left empty.
const (
	noMailbox = "MISSING_MAILBOX"
	noDomain  = "MISSING_DOMAIN"
)

// Addresses parses an address list (RFC 5322 section 3.4, with the obsolete
// forms of 4.4), leniently: what does not parse becomes an address with a part
// missing, and the rest of the list is still there. At most limit are returned.
func Addresses(value string, limit int) []Address {
	list, _ := appendAddresses(nil, value, limit)
	return list
}

// appendAddresses adds to list; all is false if there was no room.
func appendAddresses(list []Address, value string, room int) (_ []Address, all bool) {
	a := addressParser{lexer: lexer{s: value}, list: list, room: room + len(list)}
	for a.pos < len(a.s) && a.one() {
	}
	if a.inGroup {
		a.add(Address{})
	}
	return a.list, !a.full
}

type addressParser struct {
	lexer
	list    []Address
	room    int
	full    bool
	inGroup bool
}

func (a *addressParser) add(addr Address) {
	if len(a.list) >= a.room {
		a.full = true
		return
	}
	if a.list == nil {
		a.list = make([]Address, 0, 1)
	}
	a.list = append(a.list, addr)
}

// one reads one member of the list with the separator behind it; false when
// there is no room for more.
func (a *addressParser) one() bool {
	comment := a.skipComment()
	if a.pos >= len(a.s) {
		return false
	}
	switch a.s[a.pos] {
	case ',':
		a.pos++
		return true
	case ';':
		a.pos++
		if a.inGroup {
			a.inGroup = false
			a.add(Address{})
		}
		return true
	}
	phrase, c := a.phrase()
	if c != "" {
		comment = c
	}
	if a.pos >= len(a.s) {
		a.add(Address{Name: comment, Mailbox: orMissing(phrase, noMailbox), Host: noDomain})
		return false
	}
	switch a.s[a.pos] {
	case '<':
		addr := a.angle()
		addr.Name = phrase
		a.add(addr)
	case '@':
		a.pos++
		addr := Address{Mailbox: orMissing(joinDots(phrase), noMailbox), Host: orMissing(a.domain(), noDomain)}
		if addr.Name = a.skipComment(); addr.Name == "" {
			addr.Name = comment
		}
		a.add(addr)
	case ':':
		a.pos++
		if !a.inGroup {
			a.inGroup = true
			a.add(Address{Mailbox: orMissing(phrase, noMailbox)})
		}
	case ',', ';':
		if phrase != "" {
			a.add(Address{Name: comment, Mailbox: phrase, Host: noDomain})
		}
	default: // '>' , ')' and the like that open nothing
		a.pos++
	}
	return !a.full
}

// joinDots removes the white space around dots that obsolete syntax allows in a
// local part (RFC 5322 section 4.4).
func joinDots(s string) string {
	if !strings.Contains(s, " .") && !strings.Contains(s, ". ") {
		return s
	}
	return strings.NewReplacer(" . ", ".", " .", ".", ". ", ".").Replace(s)
}

func orMissing(s, missing string) string {
	if s == "" {
		return missing
	}
	return s
}

// skipComment is skip, and returns the last comment met, in which old mail
// carries the display name.
func (a *addressParser) skipComment() (comment string) {
	for a.pos < len(a.s) {
		switch c := a.s[a.pos]; {
		case isLWS(c):
			a.pos++
		case c == '(':
			comment = unfold(a.comment())
		default:
			return comment
		}
	}
	return comment
}

// phrase reads words up to a character that ends them, quotes removed and runs
// of white space made one. It returns the last comment in between as well.
func (a *addressParser) phrase() (phrase, comment string) {
	var b []byte // only once the phrase is more than one piece
	gap := false
	add := func(word string) {
		switch {
		case phrase == "" && b == nil:
			phrase = word
			return
		case b == nil:
			b = append(make([]byte, 0, len(phrase)+len(word)+16), phrase...)
		}
		if gap {
			b = append(b, ' ')
		}
		b = append(b, word...)
	}
	for a.pos < len(a.s) {
		c := a.s[a.pos]
		switch {
		case isLWS(c):
			a.pos++
			gap = true
			continue
		case c == '(':
			comment = unfold(a.comment())
			gap = true
			continue
		case c == '"':
			add(a.quoted())
			gap = false
			continue
		}
		word := a.words()
		if word == "" {
			break
		}
		add(word)
		gap = false
	}
	if b != nil {
		phrase = string(b)
	}
	return phrase, comment
}

// words reads atoms and dots, and single blanks between them, in one piece.
func (a *addressParser) words() string {
	begin := a.pos
	for a.pos < len(a.s) {
		c := a.s[a.pos]
		if c == ' ' && a.pos > begin && a.pos+1 < len(a.s) && isWord(a.s[a.pos+1]) {
			a.pos++
			continue
		}
		if !isWord(c) {
			break
		}
		a.pos++
	}
	return a.s[begin:a.pos]
}

func isWord(c byte) bool {
	switch c {
	case '(', ')', '<', '>', '@', ',', ';', ':', '"', ' ', '\t', '\r', '\n':
		return false
	}
	return true
}

// angle reads <route:local@domain>; the closing bracket may be missing.
func (a *addressParser) angle() Address {
	a.pos++
	var addr Address
	a.skip()
	if a.pos < len(a.s) && a.s[a.pos] == '@' { // obsolete route, RFC 5322 section 4.4
		if i := strings.IndexAny(a.s[a.pos:], ":>,<"); i > 0 {
			j := i
			for j < len(a.s)-a.pos && a.s[a.pos+j] == ',' {
				k := strings.IndexAny(a.s[a.pos+j+1:], ":>,<")
				if k < 0 {
					break
				}
				j += k + 1
			}
			if a.s[a.pos+j] == ':' {
				addr.Route = unfold(a.s[a.pos : a.pos+j])
				a.pos += j + 1
			}
		}
	}
	phrase, _ := a.phrase()
	addr.Mailbox = orMissing(phrase, noMailbox)
	addr.Host = noDomain
	if a.pos < len(a.s) && a.s[a.pos] == '@' {
		a.pos++
		addr.Host = orMissing(a.domain(), noDomain)
	}
	for a.pos < len(a.s) {
		switch a.s[a.pos] {
		case '>':
			a.pos++
			return addr
		case ',', ';', '<':
			return addr
		}
		a.pos++
	}
	return addr
}

// domain reads a domain or a domain literal.
func (a *addressParser) domain() string {
	a.skip()
	if a.pos < len(a.s) && a.s[a.pos] == '[' {
		begin := a.pos
		window := a.s[begin:min(len(a.s), begin+256)] // bounded: an open literal must not cost a scan each
		if i := strings.IndexAny(window, "]>,;"); i > 0 && a.s[begin+i] == ']' {
			a.pos = begin + i + 1
			return unfold(a.s[begin:a.pos])
		}
	}
	var out string
	for {
		begin := a.pos
		for a.pos < len(a.s) && isWord(a.s[a.pos]) {
			a.pos++
		}
		out += a.s[begin:a.pos]
		save := a.pos
		a.skip()
		// Obsolete: white space around the dots (RFC 5322 section 4.4).
		if a.pos < len(a.s) && a.pos > begin && (a.s[a.pos] == '.' || strings.HasSuffix(out, ".")) && isWord(a.s[a.pos]) && len(out) < 1024 {
			continue
		}
		a.pos = save
		return out
	}
}
