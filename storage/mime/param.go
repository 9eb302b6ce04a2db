package mime

import (
	"net/url"
	"strconv"
	"strings"
)

// maxParams bounds the parameters of one field.
const maxParams = 100

// contentType takes apart the Content-Type that was found. What does not parse
// is text/plain at the top and application/octet-stream below, without
// parameters (RFC 2045 section 5.2, RFC 2046 section 4.5.3).
func (f *fieldParser) contentType() {
	if f.seen&seenType == 0 {
		return
	}
	part := f.part
	typ, sub, ok := mediaType(f.ctype)
	if !ok {
		f.p.sum.Defects |= BadContentType
		part.Type, part.Subtype = "text", "plain"
		if f.env == nil {
			part.Type, part.Subtype = "application", "octet-stream"
		}
		return
	}
	part.Type, part.Subtype = f.p.keep(typ), f.p.keep(sub)
	if part.Type == "" || part.Subtype == "" {
		part.Type, part.Subtype = "application", "octet-stream"
	}
	part.Params = f.params(f.ctype)
}

// mediaType returns type and subtype in lower case.
func mediaType(v string) (typ, sub string, ok bool) {
	l := lexer{s: v}
	typ = l.token()
	l.skip()
	if typ == "" || l.pos >= len(l.s) || l.s[l.pos] != '/' {
		return "", "", false
	}
	l.pos++
	sub = l.token()
	l.skip()
	if sub == "" || (l.pos < len(l.s) && l.s[l.pos] != ';') {
		return "", "", false
	}
	return strings.ToLower(typ), strings.ToLower(sub), true
}

// firstToken is the token before the parameters, as sent.
func firstToken(v string) string {
	l := lexer{s: v}
	return l.token()
}

// params returns the parameters of a field value, in order, as sent but for
// quoting and folding.
func (f *fieldParser) params(v string) []Param {
	var list []Param
	l := lexer{s: v}
	for l.nextParam() {
		name, value, ok := l.param()
		if !ok {
			continue
		}
		if len(list) == maxParams {
			f.p.sum.Defects |= LimitKept
			break
		}
		if _, dup := findParam(list, name); dup {
			f.p.sum.Defects |= DuplicateParameter
		}
		if f.p.kept+len(name)+len(value) > f.p.limits.Kept {
			f.p.sum.Defects |= LimitKept
			break
		}
		if list == nil {
			list = make([]Param, 0, 2)
		}
		list = append(list, Param{f.p.keep(name), f.p.keep(value)})
	}
	return list
}

func findParam(list []Param, name string) (string, bool) {
	for i := range list {
		if strings.EqualFold(list[i].Name, name) {
			return list[i].Value, true
		}
	}
	return "", false
}

// joinParam puts the pieces name*0, name*1* ... of RFC 2231 section 3 together
// and decodes them (section 4); also name*.
func joinParam(list []Param, name string) string {
	if v, ok := findParam(list, name+"*"); ok {
		return decode2231(v, true)
	}
	var b strings.Builder
	for i := range maxParams {
		piece := name + "*" + strconv.Itoa(i)
		if v, ok := findParam(list, piece); ok {
			b.WriteString(v)
		} else if v, ok := findParam(list, piece+"*"); ok {
			b.WriteString(decode2231(v, i == 0))
		} else {
			break
		}
	}
	return b.String()
}

func decode2231(v string, first bool) string {
	if first {
		if parts := strings.SplitN(v, "'", 3); len(parts) == 3 {
			v = parts[2]
		}
	}
	if d, err := url.PathUnescape(v); err == nil {
		return d
	}
	return v
}

// languages are the tags of Content-Language (RFC 3282), at most 20.
func languages(p *parser, v string) []string {
	var list []string
	l := lexer{s: v}
	for l.pos < len(l.s) && len(list) < 20 {
		if t := l.token(); t != "" {
			list = append(list, p.keep(t))
			continue
		}
		l.pos++
	}
	return list
}

// lexer reads the structured fields of RFC 2045 section 5.1.
type lexer struct {
	s   string
	pos int
}

// skip passes white space and comments (RFC 5322 section 3.2.2).
func (l *lexer) skip() {
	for l.pos < len(l.s) {
		switch c := l.s[l.pos]; {
		case isLWS(c):
			l.pos++
		case c == '(':
			l.comment()
		default:
			return
		}
	}
}

// comment passes one comment, nested ones included, and returns what is in it.
// An open one ends with the field.
func (l *lexer) comment() string {
	begin := l.pos + 1
	for depth := 0; l.pos < len(l.s); l.pos++ {
		switch l.s[l.pos] {
		case '\\':
			l.pos++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				l.pos++
				return l.s[begin : l.pos-1]
			}
		}
	}
	l.pos = len(l.s)
	return l.s[min(begin, len(l.s)):]
}

// token reads a token, or nothing. Characters over 127 are taken as they come.
func (l *lexer) token() string {
	l.skip()
	begin := l.pos
	for l.pos < len(l.s) && !isSpecial2045(l.s[l.pos]) {
		l.pos++
	}
	return l.s[begin:l.pos]
}

func isSpecial2045(c byte) bool {
	switch c {
	case '(', ')', '<', '>', '@', ',', ';', ':', '\\', '"', '/', '[', ']', '?', '=':
		return true
	}
	return c <= ' ' || c == 0x7f
}

// nextParam goes behind the next semicolon that is not quoted.
func (l *lexer) nextParam() bool {
	for l.pos < len(l.s) {
		switch l.s[l.pos] {
		case ';':
			l.pos++
			return true
		case '(':
			l.comment()
		case '"':
			l.quoted()
		default:
			l.pos++
		}
	}
	return false
}

// param reads name=value. A value that is no token, unquoted, reaches up to the
// semicolon: file names with blanks are sent like that.
func (l *lexer) param() (name, value string, ok bool) {
	name = l.token()
	l.skip()
	if name == "" || l.pos >= len(l.s) || l.s[l.pos] != '=' {
		return "", "", false
	}
	l.pos++
	l.skip()
	if l.pos < len(l.s) && l.s[l.pos] == '"' {
		return name, l.quoted(), true
	}
	begin := l.pos
	for l.pos < len(l.s) && l.s[l.pos] != ';' && l.s[l.pos] != '(' {
		l.pos++
	}
	return name, unfold(l.s[begin:l.pos]), true
}

// quoted reads a quoted string and returns what it means (RFC 5322 section
// 3.2.4). An open one ends with the field.
func (l *lexer) quoted() string {
	l.pos++
	begin := l.pos
	plain := true
	for l.pos < len(l.s) {
		switch l.s[l.pos] {
		case '\\':
			plain = false
			l.pos++
		case '\r', '\n':
			plain = false
		case '"':
			raw := l.s[begin:l.pos]
			l.pos++
			return unquote(raw, plain)
		}
		l.pos++
	}
	l.pos = len(l.s)
	return unquote(strings.TrimRight(l.s[min(begin, len(l.s)):], " \t\r\n"), false)
}

func unquote(raw string, plain bool) string {
	if plain {
		return raw
	}
	b := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '\r', '\n':
			continue
		case '\\':
			if i++; i == len(raw) {
				continue
			}
		}
		b = append(b, raw[i])
	}
	return string(b)
}
