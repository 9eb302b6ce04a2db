package bayes

import (
	"bytes"
	"html"
	"slices"
	"strings"
)

// hypertext is what is left of HTML: the text as a reader sees it, the places that its links and images lead to, and
// the names of its tags.
type hypertext struct {
	text  []byte
	links []string
	tags  []string
}

// Bounds of one HTML part.
const (
	maxLinks = 200
	maxTags  = 64   // different names
	maxTag   = 2048 // octets of a tag; a longer one is cut
)

// blocks are the elements that separate words. Others do not: "Via<b></b>gra" is one word to a reader.
const blocks = " address article blockquote body br center dd div dl dt fieldset footer form h1 h2 h3 h4 h5 h6 head header hr " +
	"html img input li main nav ol option p pre section select table tbody td textarea tfoot th thead title tr ul "

// readHTML takes HTML apart. It never fails, and takes time and memory in proportion to its input.
func readHTML(text []byte) hypertext {
	h := hypertext{text: make([]byte, 0, len(text))}
	for len(text) > 0 {
		i := bytes.IndexByte(text, '<')
		if i < 0 {
			h.text = append(h.text, text...)
			break
		}
		h.text = append(h.text, text[:i]...)
		text = text[i:]
		switch {
		case bytes.HasPrefix(text, []byte("<!--")):
			text = after(text[4:], "-->")
		case len(text) > 1 && (isLetter(text[1]) || text[1] == '/' || text[1] == '!' || text[1] == '?'):
			end := tagEnd(text)
			name := h.tag(text[1:min(end, maxTag)])
			text = text[min(end+1, len(text)):]
			if name == "script" || name == "style" {
				text = afterElement(text, name)
			}
		default:
			h.text = append(h.text, '<')
			text = text[1:]
		}
	}
	if bytes.IndexByte(h.text, '&') >= 0 {
		h.text = []byte(html.UnescapeString(string(h.text)))
	}
	return h
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// after returns what follows a mark. Without the mark nothing follows.
func after(text []byte, mark string) []byte {
	if i := bytes.Index(text, []byte(mark)); i >= 0 {
		return text[i+len(mark):]
	}
	return nil
}

// afterElement returns what follows "</name", whose case does not count.
func afterElement(text []byte, name string) []byte {
	for {
		i := bytes.Index(text, []byte("</"))
		if i < 0 {
			return nil
		}
		text = text[i:]
		if len(text) >= 2+len(name) && strings.EqualFold(string(text[2:2+len(name)]), name) {
			return text
		}
		text = text[2:]
	}
}

// tagEnd returns the place of the ">" that ends a tag; one in quotes does not. A quote that never ends is none.
func tagEnd(text []byte) int {
	for i := 1; i < len(text); i++ {
		switch c := text[i]; c {
		case '>':
			return i
		case '"', '\'':
			if i > 0 && text[i-1] == '=' {
				j := bytes.IndexByte(text[i+1:min(len(text), i+maxTag)], c)
				if j >= 0 {
					i += j + 1
				}
			}
		}
	}
	return len(text)
}

// tag notes what a tag says, and returns its name if it opens an element.
func (h *hypertext) tag(tag []byte) string {
	closing := tag[0] == '/'
	if closing {
		tag = tag[1:]
	}
	n := 0
	for n < len(tag) && n < 20 && (isLetter(tag[n]) || '0' <= tag[n] && tag[n] <= '9') {
		n++
	}
	name := strings.ToLower(string(tag[:n]))
	if strings.Contains(blocks, " "+name+" ") {
		h.text = append(h.text, '\n')
	}
	if closing || n == 0 {
		return ""
	}
	if len(h.tags) < maxTags && !slices.Contains(h.tags, name) {
		h.tags = append(h.tags, name)
	}
	for _, key := range []string{"href", "src", "action", "background"} {
		if place := attribute(tag[n:], key); place != "" && len(h.links) < maxLinks {
			h.links = append(h.links, html.UnescapeString(place))
		}
	}
	return name
}

// attribute returns the value of an attribute of a tag, or "".
func attribute(tag []byte, name string) string {
	for i := 0; i+len(name) < len(tag); i++ {
		if tag[i]|0x20 != name[0] || isLetter(tag[max(i-1, 0)]) && i > 0 || !strings.EqualFold(string(tag[i:i+len(name)]), name) {
			continue
		}
		rest := bytes.TrimLeft(tag[i+len(name):], " \t\r\n")
		if len(rest) == 0 || rest[0] != '=' {
			continue
		}
		rest = bytes.TrimLeft(rest[1:], " \t\r\n")
		if len(rest) > 0 && (rest[0] == '"' || rest[0] == '\'') {
			value, _, _ := bytes.Cut(rest[1:], rest[:1])
			return string(bytes.TrimSpace(value))
		}
		if end := bytes.IndexAny(rest, " \t\r\n"); end >= 0 {
			rest = rest[:end]
		}
		return string(rest)
	}
	return ""
}
