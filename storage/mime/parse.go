package mime

import (
	"bytes"
	"io"
	"strings"
)

// maxBoundary is generous: RFC 2046 section 5.1.1 allows 70.
const maxBoundary = 512

// Parse finds the structure of the size octets of r. It never fails.
func Parse(r io.ReaderAt, size int64, limits Limits) *Summary {
	buf := scanBuffers.Get().(*[]byte)
	defer scanBuffers.Put(buf)
	p := &parser{
		scanner: scanner{r: r, size: max(size, 0), buf: *buf},
		limits:  limits.orDefault(),
		sum:     &Summary{Version: Version, Size: max(size, 0)},
	}
	p.sum.Root = &Part{}
	p.message(p.sum.Root, &p.sum.Envelope, 0)
	p.sum.Preview = preview(r, p.sum.Root)
	return p.sum
}

// parser is one pass. boundaries is the stack of delimiters that end the current
// part, innermost last.
type parser struct {
	scanner
	limits     Limits
	sum        *Summary
	boundaries []string
	header     []byte // scratch for one header
	headers    int    // octets of all headers so far
	fields     int
	parts      int
	addresses  int
	kept       int
}

// stop says why reading a part ended: level is the index in boundaries of the
// delimiter that was met, or -1 at the end of the message. end is where the
// part's content ends, lines the line feeds before that.
type stop struct {
	level int
	final bool
	end   int64
	lines int64
}

// message reads a header and a body: the whole message, or one inside a part.
func (p *parser) message(part *Part, env *Envelope, depth int) stop {
	return p.part(part, env, "text", "plain", depth)
}

// part reads one part whose header begins here. env is set if it is the root of
// a message. The default type depends on where it is (RFC 2046 section 5.1.5).
func (p *parser) part(part *Part, env *Envelope, defType, defSub string, depth int) stop {
	p.parts++
	part.HeaderStart = p.offset()
	h, st, ended := p.readHeader()
	part.Type, part.Subtype = defType, defSub
	p.parseFields(part, env, h)
	if ended {
		part.BodyStart, part.BodyEnd = st.end, st.end
		p.noBody(part)
		return st
	}
	part.BodyStart = p.offset()
	before := p.lines
	switch {
	case part.Type == "multipart":
		st = p.multipart(part, depth)
	case isMessage(part):
		st = p.embedded(part, depth)
	default:
		st = p.leaf(part.BodyStart)
	}
	part.BodyEnd = max(st.end, part.BodyStart)
	part.Lines = max(st.lines-before, 0)
	return st
}

// noBody makes a part whose header ended the part into a leaf: a multipart or
// message without content has no structure.
func (p *parser) noBody(part *Part) {
	if part.Type == "multipart" || isMessage(part) {
		p.sum.Defects |= NoBoundary
		opaque(part, "text", "plain")
	}
}

func opaque(part *Part, typ, sub string) {
	part.Type, part.Subtype, part.Params = typ, sub, nil
	part.Embedded, part.Children = nil, nil
}

func isMessage(part *Part) bool {
	return part.Type == "message" && (part.Subtype == "rfc822" || part.Subtype == "global")
}

// leaf reads to the end of the part whose body begins at begin.
func (p *parser) leaf(begin int64) stop {
	if len(p.boundaries) == 0 {
		p.skip()
		return stop{level: -1, end: p.offset(), lines: p.lines}
	}
	for {
		at, newline := p.offset(), p.brk
		line, start := p.next()
		if line == nil {
			return stop{level: -1, end: p.offset(), lines: p.lines}
		}
		if start && len(line) > 2 && line[0] == '-' && line[1] == '-' {
			if level, final := p.delimiter(line); level >= 0 {
				return p.stopAt(level, final, at, begin, newline, line)
			}
		}
	}
}

// stopAt computes where content ends before a delimiter line at offset at: the
// line break before it belongs to it (RFC 2046 section 5.1.1).
func (p *parser) stopAt(level int, final bool, at, begin int64, newline int, line []byte) stop {
	st := stop{level: level, final: final, end: at, lines: p.lines}
	if line[len(line)-1] == '\n' {
		st.lines--
	}
	if newline > 0 && at-int64(newline) >= begin {
		st.end -= int64(newline)
		st.lines--
	}
	return st
}

// delimiter looks for the boundary that line, which begins with "--", carries,
// the innermost first. The whole line must match, but for white space: a
// boundary that is the beginning of another one must not end its parts.
func (p *parser) delimiter(line []byte) (level int, final bool) {
	rest := line[2:]
	for len(rest) > 0 && isLWS(rest[len(rest)-1]) {
		rest = rest[:len(rest)-1]
	}
	for i := len(p.boundaries) - 1; i >= 0; i-- {
		b := p.boundaries[i]
		if len(rest) < len(b) || string(rest[:len(b)]) != b {
			continue
		}
		switch string(rest[len(b):]) {
		case "":
			return i, false
		case "--":
			return i, true
		}
	}
	return -1, false
}

func isLWS(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// multipart reads the children of part.
func (p *parser) multipart(part *Part, depth int) stop {
	boundary := p.boundary(part)
	if depth >= p.limits.Depth || boundary == "" {
		return p.opaqueContainer(part, depth >= p.limits.Depth)
	}
	if e := strings.ToLower(part.Encoding); e == "base64" || e == "quoted-printable" {
		p.sum.Defects |= EncodedContainer // forbidden by RFC 2045 section 6.4; the delimiters count
	}
	for _, b := range p.boundaries {
		if b == boundary {
			p.sum.Defects |= SameBoundary
		}
	}
	level := len(p.boundaries)
	p.boundaries = append(p.boundaries, boundary)
	st := p.leaf(part.BodyStart) // the preamble
	defType, defSub := "text", "plain"
	if part.Subtype == "digest" {
		defType, defSub = "message", "rfc822"
	}
	for st.level == level && !st.final {
		if p.parts >= p.limits.Parts {
			p.sum.Defects |= LimitParts
			st = p.restOf(part, level)
			break
		}
		child := &Part{}
		st = p.part(child, nil, defType, defSub, depth+1)
		part.Children = append(part.Children, child)
	}
	p.boundaries = p.boundaries[:level]
	if st.level == level { // closed: the epilogue follows
		st = p.leaf(part.BodyStart)
	} else {
		p.sum.Defects |= MissingClose
	}
	if len(part.Children) == 0 {
		p.sum.Defects |= NoBoundary
		opaque(part, "text", "plain")
	}
	return st
}

// restOf lets the last child span what follows up to the end of the multipart,
// once no more parts are allowed.
func (p *parser) restOf(part *Part, level int) stop {
	for {
		st := p.leaf(part.BodyStart)
		if st.level == level && !st.final {
			continue
		}
		if n := len(part.Children); n > 0 && len(part.Children[n-1].Children) == 0 {
			last := part.Children[n-1]
			last.BodyEnd = max(st.end, last.BodyEnd)
			opaque(last, "application", "octet-stream")
			last.Encoding, last.Lines = "", 0
		}
		return st
	}
}

// opaqueContainer reads a multipart or message that is not to be taken apart.
func (p *parser) opaqueContainer(part *Part, deep bool) stop {
	if deep {
		p.sum.Defects |= LimitDepth
		opaque(part, "application", "octet-stream")
	} else {
		p.sum.Defects |= NoBoundary
		opaque(part, "text", "plain")
	}
	return p.leaf(part.BodyStart)
}

// embedded reads the message inside a message/rfc822 part.
func (p *parser) embedded(part *Part, depth int) stop {
	if depth >= p.limits.Depth {
		return p.opaqueContainer(part, true)
	}
	if p.parts >= p.limits.Parts {
		p.sum.Defects |= LimitParts
		opaque(part, "application", "octet-stream")
		return p.leaf(part.BodyStart)
	}
	switch strings.ToLower(part.Encoding) {
	case "base64", "quoted-printable": // forbidden by RFC 2046 section 5.2.1: nothing to see inside
		p.sum.Defects |= EncodedContainer
		opaque(part, "application", "octet-stream")
		return p.leaf(part.BodyStart)
	}
	part.Embedded = &Envelope{}
	inner := &Part{}
	part.Children = []*Part{inner}
	return p.message(inner, part.Embedded, depth+1)
}

// boundary returns the usable boundary of a multipart, or "".
func (p *parser) boundary(part *Part) string {
	b, ok := part.Param("boundary")
	if !ok {
		b = joinParam(part.Params, "boundary") // RFC 2231 pieces: some readers join them
	}
	b = strings.TrimRight(b, " \t\r\n")
	if len(b) > maxBoundary || strings.ContainsAny(b, "\r\n") {
		return ""
	}
	return b
}

// readHeader collects the header that begins here, up to and including the empty
// line. ended is set if a delimiter or the end of the message came first: then
// there is no body.
func (p *parser) readHeader() (h string, st stop, ended bool) {
	p.header = p.header[:0]
	begin := p.offset()
	for {
		at, newline := p.offset(), p.brk
		line, start := p.next()
		if line == nil {
			return string(p.header), stop{level: -1, end: p.offset(), lines: p.lines}, true
		}
		if start {
			if len(line) > 2 && line[0] == '-' && line[1] == '-' && len(p.boundaries) > 0 {
				if level, final := p.delimiter(line); level >= 0 {
					return string(p.header), p.stopAt(level, final, at, begin, newline, line), true
				}
			}
			if line[0] == '\n' || (len(line) == 2 && line[0] == '\r' && line[1] == '\n') {
				return string(p.header), stop{}, false
			}
		}
		if p.headers+len(line) > p.limits.HeaderOctets {
			p.sum.Defects |= LimitHeader
			p.headers = p.limits.HeaderOctets
			continue
		}
		p.headers += len(line)
		p.header = append(p.header, line...)
	}
}

// keep counts what the Summary holds on to; over the limit strings are dropped.
func (p *parser) keep(s string) string {
	if p.kept+len(s) > p.limits.Kept {
		p.sum.Defects |= LimitKept
		return ""
	}
	p.kept += len(s)
	return s
}

// HeaderEnd returns the offset of the body in b: after the first empty line, or
// len(b) if there is none.
func HeaderEnd(b []byte) int {
	for pos := 0; pos < len(b); {
		i := bytes.IndexByte(b[pos:], '\n')
		if i < 0 {
			break
		}
		if i == 0 || (i == 1 && b[pos] == '\r') {
			return pos + i + 1
		}
		pos += i + 1
	}
	return len(b)
}
