package mime

import (
	"errors"
	"io"
	"strings"
)

// ErrNoSection means that the message has no such part, or that the part has no
// such piece. IMAP shows that as NIL.
var ErrNoSection = errors.New("no such section")

// Piece is what of a part a Section names (RFC 3501 section 6.4.5).
type Piece uint8

// The pieces.
const (
	Whole           Piece = iota // BODY[] and BODY[1.2]
	Header                       // HEADER
	HeaderFields                 // HEADER.FIELDS (...)
	HeaderFieldsNot              // HEADER.FIELDS.NOT (...)
	MIMEHeader                   // MIME
	TextBody                     // TEXT
)

// Section names a piece of a message.
type Section struct {
	Path   []int
	Piece  Piece
	Fields []string // of HeaderFields and HeaderFieldsNot, any case
}

// Range is a stretch of octets of a message.
type Range struct{ Off, Len int64 }

// Ranges is a section as stretches of the message, ascending.
type Ranges []Range

// Size is the number of octets of the section.
func (rs Ranges) Size() int64 {
	var n int64
	for _, r := range rs {
		n += r.Len
	}
	return n
}

// Partial returns n octets from offset off of the section, fewer or none if it
// is shorter (RFC 3501 section 6.4.5). Any off and n are safe.
func (rs Ranges) Partial(off, n int64) Ranges {
	var out Ranges
	for _, r := range rs {
		if n <= 0 {
			break
		}
		if off >= r.Len {
			off -= r.Len
			continue
		}
		take := min(r.Len-off, n)
		out = append(out, Range{r.Off + off, take})
		off, n = 0, n-take
	}
	return out
}

// Reader reads the section from the message r.
func (rs Ranges) Reader(r io.ReaderAt) io.Reader {
	if len(rs) == 1 {
		return io.NewSectionReader(r, rs[0].Off, rs[0].Len)
	}
	readers := make([]io.Reader, len(rs))
	for i, x := range rs {
		readers[i] = io.NewSectionReader(r, x.Off, x.Len)
	}
	return io.MultiReader(readers...)
}

// Find maps sec to ranges of the message r, which is front octets followed by
// the octets that were parsed. r is read only for the two pieces that choose
// header fields.
func (s *Summary) Find(r io.ReaderAt, front int64, sec Section) (Ranges, error) {
	if len(sec.Path) == 0 {
		return s.findMessage(r, front, sec)
	}
	part, err := s.Part(sec.Path)
	if err != nil {
		return nil, err
	}
	shift := func(from, to int64) Ranges { return Ranges{{from + front, to - from}} }
	switch sec.Piece {
	case Whole:
		return shift(part.BodyStart, part.BodyEnd), nil
	case MIMEHeader:
		return shift(part.HeaderStart, part.BodyStart), nil
	}
	if part.Embedded == nil { // the other pieces are of a message only
		return nil, ErrNoSection
	}
	inner := part.Children[0]
	switch sec.Piece {
	case Header:
		return shift(inner.HeaderStart, inner.BodyStart), nil
	case TextBody:
		return shift(inner.BodyStart, part.BodyEnd), nil
	}
	return chooseFields(r, inner.HeaderStart+front, inner.BodyStart+front, sec)
}

// findMessage finds the pieces of the whole message, Front included.
func (s *Summary) findMessage(r io.ReaderAt, front int64, sec Section) (Ranges, error) {
	body := s.Root.BodyStart + front
	switch sec.Piece {
	case Whole:
		return Ranges{{0, s.Size + front}}, nil
	case Header:
		return Ranges{{0, body}}, nil
	case TextBody:
		return Ranges{{body, s.Size + front - body}}, nil
	case MIMEHeader: // only with a part number, RFC 3501 section 6.4.5
		return nil, ErrNoSection
	}
	return chooseFields(r, 0, body, sec)
}

// Part finds the part with this number. A message that is no multipart has one
// part, number 1, which is its body (RFC 3501 section 6.4.5).
func (s *Summary) Part(path []int) (*Part, error) {
	part, root := s.Root, true // root: part is the top of a message
	for _, n := range path {
		if !root && part.Embedded != nil {
			part, root = part.Children[0], true
		}
		switch {
		case part.Multipart():
			if n < 1 || n > len(part.Children) {
				return nil, ErrNoSection
			}
			part = part.Children[n-1]
		case !root || n != 1:
			return nil, ErrNoSection
		}
		root = false
	}
	return part, nil
}

// maxHeaderRead bounds what chooseFields reads; the parser's limit is the same.
const maxHeaderRead = 2 << 20

// chooseFields picks fields of the header from..to, and the empty line.
func chooseFields(r io.ReaderAt, from, to int64, sec Section) (Ranges, error) {
	h := make([]byte, min(to-from, maxHeaderRead))
	if n, err := r.ReadAt(h, from); n < len(h) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	want := make(map[string]bool, len(sec.Fields))
	for _, f := range sec.Fields {
		want[strings.ToLower(f)] = true
	}
	var out Ranges
	add := func(start, end int) {
		if n := len(out); n > 0 && out[n-1].Off+out[n-1].Len == from+int64(start) {
			out[n-1].Len += int64(end - start)
			return
		}
		out = append(out, Range{from + int64(start), int64(end - start)})
	}
	last := 0
	eachField(string(h), func(f Field) bool {
		if want[strings.ToLower(f.Name)] == (sec.Piece == HeaderFields) {
			add(f.Start, f.End)
		}
		last = f.End
		return true
	})
	if last < len(h) { // the empty line
		add(last, len(h))
	}
	return out, nil
}
