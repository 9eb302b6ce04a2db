package parse

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sluicemail/sluice/storage/mime"
)

// onceOnly are the fields that may appear once in a header (RFC 5322 section 3.6, RFC
// 2045 section 3), in small letters between blanks.
const onceOnly = " date from sender reply-to to cc bcc message-id in-reply-to references subject mime-version" +
	" content-type content-transfer-encoding content-disposition content-id content-description "

// header looks at the header of a part and returns the boundary that it names, and the type,
// which is not the part's where the structure has it as opaque.
func (p *parser) header(index int, from *mime.Part, n node) (boundary, declared string) {
	size := min(from.BodyStart-from.HeaderStart, int64(p.headers))
	if size < from.BodyStart-from.HeaderStart {
		p.out.Truncated = true
	}
	raw := make([]byte, size)
	read, _ := p.r.ReadAt(raw, from.HeaderStart)
	raw = raw[:read]
	p.headers -= read
	if bytes.IndexByte(raw, 0) >= 0 {
		p.odd(nulOctet, index, "in the header")
	}
	if !utf8.Valid(raw) {
		p.odd(eightBitHeader, index, "")
	}
	h := headerFields{p: p, index: index, from: from, seen: make(map[string]bool)}
	for _, f := range mime.Fields(raw) {
		if f.Name == "" {
			p.odd(badHeaderLine, index, "")
			continue
		}
		if f.ValueStart-f.Start > len(f.Name)+1 {
			p.odd(badHeaderLine, index, "white space before the colon of "+f.Name)
		}
		h.field(strings.ToLower(f.Name), string(raw[f.ValueStart:f.End]))
	}
	if n.envelope != nil && mailboxes(n.envelope.From) > 1 {
		p.odd(severalFrom, index, "")
	}
	return h.boundary, h.declared
}

func mailboxes(list []mime.Address) (n int) {
	for i := range list {
		if list[i].Host != "" {
			n++
		}
	}
	return n
}

// headerFields goes through one header.
type headerFields struct {
	p        *parser
	index    int
	from     *mime.Part
	seen     map[string]bool
	boundary string
	declared string // type/subtype of Content-Type
}

func (h *headerFields) field(name, value string) {
	if strings.Contains(onceOnly, " "+name+" ") {
		if h.seen[name] {
			h.p.odd(duplicateField, h.index, name)
			if name == "from" {
				h.p.odd(severalFrom, h.index, "")
			}
			return // of Content-Type and the like the first counts, as in the structure
		}
		h.seen[name] = true
	}
	switch name {
	case "from", "sender", "reply-to":
		mime.EachWord(value, func(word string) {
			if strings.ContainsFunc(word, func(r rune) bool { return unicode.IsControl(r) && r != '\t' }) {
				h.p.odd(controlInFrom, h.index, name)
			}
		})
	case "content-type":
		h.contentType(value)
	case "content-disposition":
		h.parameters(value, h.from.DispositionParams)
	case "content-transfer-encoding":
		h.encoding(value)
	}
}

func (h *headerFields) contentType(value string) {
	h.parameters(value, h.from.Params)
	declared, ok := mediaType(value)
	if !ok {
		h.p.odd(badType, h.index, "")
		return
	}
	h.declared = declared
	switch declared {
	case "message/partial":
		h.p.odd(partialMessage, h.index, "")
	case "message/external-body":
		h.p.odd(externalBody, h.index, "")
	case "application/ms-tnef", "application/vnd.ms-tnef":
		h.p.odd(tnef, h.index, "")
	}
	if strings.HasPrefix(declared, "multipart/") {
		h.multipart()
	}
}

// mediaType reads type/subtype as storage/mime does: without it, that took a default.
func mediaType(value string) (string, bool) {
	value = strings.ToLower(uncomment(value))
	value, _, _ = strings.Cut(value, ";")
	typ, sub, ok := strings.Cut(value, "/")
	typ, sub = strings.TrimSpace(typ), strings.TrimSpace(sub)
	if !ok || typ == "" || sub == "" || strings.ContainsAny(typ+sub, " \t\r\n\"/=,:?<>@[]\\") {
		return "", false
	}
	return typ + "/" + sub, true
}

// uncomment removes comments that are outside quotes (RFC 5322 section 3.2.2).
func uncomment(value string) string {
	if !strings.Contains(value, "(") {
		return value
	}
	var b strings.Builder
	depth, quoted := 0, false
	for i := 0; i < len(value); i++ {
		c := value[i]
		switch {
		case c == '\\' && i+1 < len(value):
			if depth == 0 {
				b.WriteString(value[i : i+2])
			}
			i++
			continue
		case c == '"' && depth == 0:
			quoted = !quoted
		case c == '(' && !quoted:
			depth++
		case c == ')' && !quoted && depth > 0:
			depth--
			b.WriteByte(' ')
			continue
		}
		if depth == 0 {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// multipart looks at a boundary.
func (h *headerFields) multipart() {
	if !h.from.Multipart() { // storage/mime found no parts, or went no deeper
		if h.from.Type+"/"+h.from.Subtype == "text/plain" {
			h.p.odd(noBoundary, h.index, "")
		}
		return
	}
	v, _ := mime.DecodeParam(h.from.Params, "boundary")
	plain, ok := h.from.Param("boundary")
	h.boundary = strings.TrimRight(plain, " \t\r\n")
	if !ok {
		h.boundary = strings.TrimRight(v.Text, " \t\r\n")
	}
	// RFC 2046 section 5.1.1: bchars, at most 70.
	if !ok || v.Both || len(h.boundary) > 70 || strings.ContainsFunc(h.boundary, notBoundary) {
		h.p.odd(oddBoundary, h.index, h.boundary)
	}
	h.p.bounds = append(h.p.bounds, bound{h.boundary, h.index})
}

func notBoundary(r rune) bool {
	letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
	return !letter && !strings.ContainsRune("'()+_,-./:=? ", r)
}

// encoding looks at Content-Transfer-Encoding (RFC 2045 section 6).
func (h *headerFields) encoding(value string) {
	word := strings.TrimSpace(uncomment(value))
	switch small := strings.ToLower(word); small {
	case "7bit", "8bit", "binary":
	case "base64", "quoted-printable":
		if word != small {
			h.p.odd(encodingCase, h.index, word)
		}
	default:
		h.p.odd(unknownEncoding, h.index, word)
	}
}
