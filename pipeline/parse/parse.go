package parse

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/mime"
)

// Parse takes the size octets of r apart. The result is nobody else's. A read error
// ends the message early.
func Parse(r io.ReaderAt, size int64) (parsed *sdk.Parsed) {
	size = max(size, 0)
	defer func() {
		if cause := recover(); cause != nil { // one hostile message must not end the process
			parsed = opaque(size, fmt.Sprint(cause))
		}
	}()
	p := &parser{r: r, out: &sdk.Parsed{}, room: maxText, strings: maxStrings, headers: maxHeaders}
	sum := mime.Parse(r, size, mime.Limits{})
	const limits = mime.LimitParts | mime.LimitDepth | mime.LimitHeader | mime.LimitKept
	p.out.Truncated = sum.Defects&limits != 0
	p.part(sum.Root, node{parent: -1, number: "1", envelope: &sum.Envelope})
	p.prefixes()
	return p.out
}

// opaque is the parse of a message that made this package panic.
func opaque(size int64, cause string) *sdk.Parsed {
	return &sdk.Parsed{
		Parts:       []sdk.Part{{Parent: -1, Type: "application/octet-stream", Length: size}},
		Ambiguities: []sdk.Ambiguity{{Kind: notParsed, Part: 0, Text: cut(sentence(notParsed)+" ("+cause+")", 500)}},
		Truncated:   true,
	}
}

// parser is one pass over the parts.
type parser struct {
	r       io.ReaderAt
	out     *sdk.Parsed
	room    int // octets of text left
	strings int // octets of names and words left
	headers int // octets of headers left to look at
	urls    urls
	bounds  []bound
}

// bound is a multipart's boundary.
type bound struct {
	text string
	part int
}

// node is where a part stands.
type node struct {
	parent      int
	section     string
	number      string         // what its children's sections begin with
	envelope    *mime.Envelope // if it is the root of a message
	alternative bool           // its parent is a multipart/alternative
	outer       []string       // boundaries of the multiparts that it is in
}

// part adds a part and what is in it.
func (p *parser) part(from *mime.Part, n node) {
	index := len(p.out.Parts)
	part := sdk.Part{
		Parent: n.parent, Section: n.section, Type: p.word(from.Type + "/" + from.Subtype),
		Encoding: p.word(from.Encoding), Disposition: p.word(from.Disposition),
		Offset: from.BodyStart, Length: from.Size(),
	}
	charset, _ := mime.DecodeParam(from.Params, "charset")
	part.Charset = p.word(charset.Text)
	part.Name = p.name(index, from)
	p.out.Parts = append(p.out.Parts, part)
	boundary, declared := p.header(index, from, n)
	p.structure(index, from, n, boundary, declared)
	switch {
	case from.Multipart():
		outer := append(slices.Clip(n.outer), boundary)
		for i, child := range from.Children {
			number := strconv.Itoa(i + 1)
			if n.section != "" {
				number = n.number + "." + number
			}
			p.part(child, node{
				parent: index, section: number, number: number, outer: outer,
				alternative: from.Subtype == "alternative",
			})
		}
	case from.Embedded != nil && len(from.Children) == 1:
		p.part(from.Children[0], inside(from, index, n))
	default:
		p.leaf(index, from)
	}
}

// inside is where the root of a message within a message stands: IMAP gives a multipart
// there no number, so it is TEXT of the message (RFC 9051 section 6.4.5.1).
func inside(from *mime.Part, index int, n node) node {
	inner := node{parent: index, section: n.number + ".1", number: n.number + ".1", envelope: from.Embedded, outer: n.outer}
	if from.Children[0].Multipart() {
		inner.section, inner.number = n.number+".TEXT", n.number
	}
	return inner
}

// word is a short string in small letters and UTF-8.
func (p *parser) word(s string) string {
	return p.keep(cut(strings.ToLower(s), maxWord))
}

// keep counts the strings of the parts; over the limit they are left out.
func (p *parser) keep(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > p.strings {
		p.out.Truncated = true
		return ""
	}
	p.strings -= len(s)
	return s
}

// cut shortens s to at most n octets, between characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// odd reports an ambiguity of a part, each kind once a part. detail says what in
// particular, and may be empty.
func (p *parser) odd(kind string, part int, detail string) {
	for i := len(p.out.Ambiguities) - 1; i >= 0; i-- {
		if a := &p.out.Ambiguities[i]; a.Kind == kind && a.Part == part {
			return
		}
	}
	if len(p.out.Ambiguities) >= maxAmbiguities {
		p.out.Truncated = true
		return
	}
	text := sentence(kind)
	if detail != "" {
		text += " (" + strings.ToValidUTF8(cut(detail, 200), "\uFFFD") + ")"
	}
	p.out.Ambiguities = append(p.out.Ambiguities, sdk.Ambiguity{Kind: kind, Part: part, Text: text})
}
