package parse

import (
	"bytes"
	"io"
	"slices"
	"strings"

	"github.com/sluicemail/sluice/storage/mime"
)

// maxEpilogue bounds what is looked at behind a closing delimiter, in octets.
const maxEpilogue = 64 << 10

// structure looks at how a part stands among others.
func (p *parser) structure(index int, from *mime.Part, n node, boundary, declared string) {
	if n.alternative && attached(from) {
		p.odd(alternativeAttached, index, "")
	}
	switch strings.ToLower(from.Encoding) {
	case "base64", "quoted-printable": // RFC 2045 section 6.4
		if strings.HasPrefix(declared, "multipart/") || declared == "message/rfc822" || declared == "message/global" {
			p.odd(encodedContainer, index, "")
		}
	}
	if !from.Multipart() {
		return
	}
	if slices.Contains(n.outer, boundary) {
		p.odd(sameBoundary, index, boundary)
	}
	p.closing(index, from, boundary)
}

// attached says that an alternative is none: clients show one of the texts, or containers of
// them.
func attached(from *mime.Part) bool {
	if strings.EqualFold(from.Disposition, "attachment") {
		return true
	}
	return from.Type != "text" && from.Type != "multipart" && from.Type != "message"
}

// closing looks at what follows the last part of a multipart: its closing delimiter, and
// nothing that looks like parts.
func (p *parser) closing(index int, from *mime.Part, boundary string) {
	last := from.Children[len(from.Children)-1]
	size := min(from.BodyEnd-last.BodyEnd, maxEpilogue)
	if size <= 0 || boundary == "" {
		p.odd(missingClose, index, "")
		return
	}
	rest := make([]byte, size)
	read, _ := p.r.ReadAt(rest, last.BodyEnd)
	closed := false
	for line := range bytes.Lines(rest[:read]) {
		text, found := bytes.CutPrefix(bytes.TrimRight(line, " \t\r\n"), []byte("--"+boundary))
		switch {
		case !found || (len(text) > 0 && string(text) != "--"):
		case closed:
			p.odd(afterClose, index, boundary)
			return
		case len(text) > 0:
			closed = true
		}
	}
	if !closed {
		p.odd(missingClose, index, "")
	}
}

// prefixes looks for boundaries that begin like another.
func (p *parser) prefixes() {
	slices.SortStableFunc(p.bounds, func(a, b bound) int { return strings.Compare(a.text, b.text) })
	for i := 1; i < len(p.bounds); i++ {
		a, b := p.bounds[i-1], p.bounds[i]
		if a.text != "" && a.text != b.text && strings.HasPrefix(b.text, a.text) {
			p.odd(boundaryPrefix, b.part, a.text+" and "+b.text)
		}
	}
}

// section reads the body of a part.
func (p *parser) section(from *mime.Part) io.Reader {
	return io.NewSectionReader(p.r, from.BodyStart, from.Size())
}
