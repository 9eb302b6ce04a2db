package mime

import (
	"bytes"
	stdmime "mime"
	"strings"
)

// Field is one field of a header: the octets Start..End with the line break, the
// value (with its leading space and folds) from ValueStart. A line that is no
// field has an empty Name and ValueStart == Start; so the Fields of a header put
// together are the header without its empty line.
type Field struct {
	Name       string
	Start      int
	ValueStart int
	End        int
}

// Fields splits a header at its fields and stops at the empty line. A field name
// is one or more printable characters without colon (RFC 5322 section 2.2), then
// a colon, before which obsolete syntax allows white space (section 4.5).
func Fields(header []byte) []Field {
	n := bytes.Count(header, []byte{'\n'})
	fields := make([]Field, 0, min(n+1, 64))
	eachField(string(header), func(f Field) bool {
		fields = append(fields, f)
		return true
	})
	return fields
}

// eachField calls visit with each field of h until it returns false.
func eachField(h string, visit func(Field) bool) {
	for pos := 0; pos < len(h); {
		end := lineEnd(h, pos)
		if h[pos] == '\n' || (h[pos] == '\r' && pos+1 < len(h) && h[pos+1] == '\n') {
			return
		}
		for end < len(h) && (h[end] == ' ' || h[end] == '\t') {
			end = lineEnd(h, end)
		}
		f := Field{Start: pos, ValueStart: pos, End: end}
		if i := nameEnd(h[pos:end]); i > 0 {
			colon := pos + strings.IndexByte(h[pos+i:end], ':') + i
			f.Name, f.ValueStart = h[pos:pos+i], colon+1
		}
		if !visit(f) {
			return
		}
		pos = end
	}
}

func lineEnd(h string, pos int) int {
	if i := strings.IndexByte(h[pos:], '\n'); i >= 0 {
		return pos + i + 1
	}
	return len(h)
}

// nameEnd returns the length of the field name that s begins with, or 0.
func nameEnd(s string) int {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == ':':
			return i
		case c == ' ' || c == '\t':
			rest := strings.TrimLeft(s[i:min(len(s), i+64)], " \t")
			if i > 0 && rest != "" && rest[0] == ':' {
				return i
			}
			return 0
		case c < '!' || c > '~':
			return 0
		}
	}
	return 0
}

// unfold removes line breaks (RFC 5322 section 2.2.3) and surrounding white
// space. It allocates only if there is a fold.
func unfold(v string) string {
	v = strings.Trim(v, " \t\r\n")
	if strings.IndexByte(v, '\n') < 0 && strings.IndexByte(v, '\r') < 0 {
		return v
	}
	b := make([]byte, 0, len(v))
	for i := 0; i < len(v); i++ {
		if v[i] != '\r' && v[i] != '\n' {
			b = append(b, v[i])
		}
	}
	return string(b)
}

// fieldIs compares a field name with one in lower case.
func fieldIs(name, lower string) bool {
	return len(name) == len(lower) && strings.EqualFold(name, lower)
}

// parseFields takes from header h what part and env need. Of a field that may
// appear once, the first counts.
func (p *parser) parseFields(part *Part, env *Envelope, h string) {
	f := fieldParser{p: p, part: part, env: env, h: h}
	eachField(h, func(fd Field) bool {
		if p.fields++; p.fields > p.limits.Fields {
			p.sum.Defects |= LimitHeader
			return false
		}
		if fd.Name == "" {
			p.sum.Defects |= BadHeaderLine
			return true
		}
		if c := fd.Name[0] | 0x20; c == 'c' && len(fd.Name) > 2 {
			f.content(fd)
		} else if env != nil {
			f.envelope(fd)
		}
		return true
	})
	f.contentType()
}

type fieldParser struct {
	p     *parser
	part  *Part
	env   *Envelope
	h     string
	ctype string // raw Content-Type
	seen  uint32
}

// once reports whether this is the first field of its kind.
func (f *fieldParser) once(bit uint32) bool {
	if f.seen&bit != 0 {
		f.p.sum.Defects |= DuplicateField
		return false
	}
	f.seen |= bit
	return true
}

const (
	seenType uint32 = 1 << iota
	seenID
	seenDescription
	seenEncoding
	seenDisposition
	seenLanguage
	seenLocation
	seenMD5
	seenDate
	seenSubject
	seenFrom
	seenSender
	seenReplyTo
	seenInReplyTo
	seenMessageID
	seenReferences
)

func (f *fieldParser) value(fd Field) string { return f.h[fd.ValueStart:fd.End] }

func (f *fieldParser) kept(fd Field) string { return f.p.keep(unfold(f.value(fd))) }

// content takes the fields of RFC 2045, 2183, 3282, 2557 and 1864.
func (f *fieldParser) content(fd Field) {
	part := f.part
	switch {
	case fieldIs(fd.Name, "content-type"):
		if f.once(seenType) {
			f.ctype = f.value(fd)
		}
	case fieldIs(fd.Name, "content-transfer-encoding"):
		if f.once(seenEncoding) {
			part.Encoding = f.p.keep(firstToken(f.value(fd)))
		}
	case fieldIs(fd.Name, "content-disposition"):
		if f.once(seenDisposition) {
			v := f.value(fd)
			part.Disposition = f.p.keep(firstToken(v))
			if part.Disposition != "" {
				part.DispositionParams = f.params(v)
			}
		}
	case fieldIs(fd.Name, "content-id"):
		if f.once(seenID) {
			part.ID = f.kept(fd)
		}
	case fieldIs(fd.Name, "content-description"):
		if f.once(seenDescription) {
			part.Description = f.kept(fd)
		}
	case fieldIs(fd.Name, "content-language"):
		if f.once(seenLanguage) {
			part.Language = languages(f.p, f.value(fd))
		}
	case fieldIs(fd.Name, "content-location"):
		if f.once(seenLocation) {
			part.Location = f.kept(fd)
		}
	case fieldIs(fd.Name, "content-md5"):
		if f.once(seenMD5) {
			part.MD5 = f.kept(fd)
		}
	}
}

// envelope takes the fields of RFC 5322 section 3.6 that ENVELOPE shows.
func (f *fieldParser) envelope(fd Field) {
	env := f.env
	switch {
	case fieldIs(fd.Name, "to"):
		env.To = f.addresses(env.To, fd)
	case fieldIs(fd.Name, "cc"):
		env.Cc = f.addresses(env.Cc, fd)
	case fieldIs(fd.Name, "bcc"):
		env.Bcc = f.addresses(env.Bcc, fd)
	case fieldIs(fd.Name, "from"):
		if f.once(seenFrom) {
			env.From = f.addresses(nil, fd)
		}
	case fieldIs(fd.Name, "date"):
		if f.once(seenDate) {
			env.Date, env.Present = f.kept(fd), env.Present|HasDate
		}
	case fieldIs(fd.Name, "sender"):
		if f.once(seenSender) {
			env.Sender = f.addresses(nil, fd)
		}
	case fieldIs(fd.Name, "subject"):
		if f.once(seenSubject) {
			env.Subject, env.Present = f.kept(fd), env.Present|HasSubject
		}
	case fieldIs(fd.Name, "reply-to"):
		if f.once(seenReplyTo) {
			env.ReplyTo = f.addresses(nil, fd)
		}
	case fieldIs(fd.Name, "message-id"):
		if f.once(seenMessageID) {
			env.MessageID, env.Present = f.kept(fd), env.Present|HasMessageID
		}
	case fieldIs(fd.Name, "in-reply-to"):
		if f.once(seenInReplyTo) {
			env.InReplyTo, env.Present = f.kept(fd), env.Present|HasInReplyTo
		}
	case fieldIs(fd.Name, "references"):
		if env == &f.p.sum.Envelope && f.once(seenReferences) {
			f.p.sum.References = MessageIDs(f.p.keep(f.value(fd)), 100)
		}
	}
}

// addresses adds the addresses of a field to list, within the limits.
func (f *fieldParser) addresses(list []Address, fd Field) []Address {
	room := f.p.limits.Addresses - f.p.addresses
	v := f.p.keep(f.value(fd))
	before := len(list)
	list, all := appendAddresses(list, v, room)
	if !all {
		f.p.sum.Defects |= LimitKept
	}
	f.p.addresses += len(list) - before
	return list
}

// MessageIDs returns the message IDs in s without angle brackets; of more than
// limit the first and the last ones.
func MessageIDs(s string, limit int) []string {
	var ids []string
	for {
		i := strings.IndexByte(s, '<')
		if i < 0 {
			return ids
		}
		s = s[i+1:]
		j := strings.IndexAny(s, "<> \t\r\n")
		if j < 0 {
			return ids
		}
		if s[j] != '>' || j == 0 {
			s = s[j:]
			continue
		}
		if len(ids) == limit && limit > 1 {
			ids = append(ids[:1], ids[2:]...)
		}
		ids = append(ids, s[:j])
		s = s[j+1:]
	}
}

// DecodeWords decodes the encoded words of RFC 2047 in s for display; what is no
// valid encoded word stays as it is.
func DecodeWords(s string) string {
	if !strings.Contains(s, "=?") {
		return s
	}
	d := stdmime.WordDecoder{CharsetReader: charsetReader}
	out, err := d.DecodeHeader(s)
	if err != nil {
		return s
	}
	return out
}
