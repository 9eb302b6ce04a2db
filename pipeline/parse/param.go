package parse

import (
	"strings"
	"unicode"

	"github.com/sluicemail/sluice/storage/mime"
)

// parameters looks at how the parameters of a field are written.
func (h *headerFields) parameters(value string, list []mime.Param) {
	if hasComment(value) {
		h.p.odd(commentInType, h.index, "")
	}
	if oddlyFolded(value) {
		h.p.odd(oddFolding, h.index, "")
	}
	seen, looked := make(map[string]bool, len(list)), make(map[string]bool, len(list))
	for _, param := range list {
		name := strings.ToLower(param.Name)
		if seen[name] {
			h.p.odd(duplicateParameter, h.index, name)
		}
		seen[name] = true
		base, rest, _ := strings.Cut(name, "*")
		if rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			h.p.odd(splitParameter, h.index, base)
		}
		if looked[base] {
			continue
		}
		looked[base] = true
		if v, _ := mime.DecodeParam(list, base); v.Words {
			h.p.odd(encodedWordParameter, h.index, base)
		}
	}
}

// hasComment reports a parenthesis outside quotes.
func hasComment(value string) bool {
	if !strings.Contains(value, "(") {
		return false
	}
	quoted := false
	for i := 0; i < len(value); i++ {
		switch value[i] {
		case '\\':
			i++
		case '"':
			quoted = !quoted
		case '(':
			if !quoted {
				return true
			}
		}
	}
	return false
}

// oddlyFolded reports a line break elsewhere than at the beginning or beside a semicolon.
func oddlyFolded(value string) bool {
	for i := 0; i < len(value); {
		at := strings.IndexByte(value[i:], '\n')
		if at < 0 {
			break
		}
		at += i
		before := strings.TrimRight(value[i:at], " \t\r")
		after := strings.TrimLeft(value[at:], " \t\r\n")
		i = at + 1
		if after == "" {
			return false
		}
		if (before != "" && before[len(before)-1] != ';') && after[0] != ';' {
			return true
		}
	}
	return false
}

// name is the file name of a part, and what is odd about it.
func (p *parser) name(index int, from *mime.Part) string {
	file, hasFile := mime.DecodeParam(from.DispositionParams, "filename")
	typed, hasType := mime.DecodeParam(from.Params, "name")
	name := file.Text
	if !hasFile {
		name = typed.Text
	}
	switch {
	case hasFile && hasType && file.Text != typed.Text:
		p.odd(conflictingName, index, file.Text+" and "+typed.Text)
	case file.Both && extension(file.Plain) != extension(file.Text):
		p.odd(conflictingName, index, file.Text+" and "+file.Plain)
	case typed.Both && extension(typed.Plain) != extension(typed.Text):
		p.odd(conflictingName, index, typed.Text+" and "+typed.Plain)
	}
	if strings.ContainsFunc(name, hiding) {
		p.odd(oddName, index, "")
	}
	if strings.EqualFold(name, "winmail.dat") {
		p.odd(tnef, index, "")
	}
	if len(name) > maxName {
		p.out.Truncated = true
		name = name[len(name)-maxName:] // the end has the extension; keep mends the first character
	}
	return p.keep(name)
}

// extension is what follows the last dot, in small letters. A fallback in ASCII beside a
// name in another script differs in all but that (RFC 6266 section 5 has the habit).
func extension(name string) string {
	return strings.ToLower(strings.TrimSpace(name[strings.LastIndexByte(name, '.')+1:]))
}

// hiding reports characters that make a name look like another: control characters and those
// that change the direction of writing (Unicode TR 36).
func hiding(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)
}
