package imap

import (
	"reflect"
	"slices"
	"strconv"
	"strings"

	goimap "github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/sluicemail/sluice/storage/mime"
)

// maxSections bounds the pieces of content in one FETCH: each is read for each
// message.
const maxSections = 100

// plan is a FETCH as it is carried out for each message.
type plan struct {
	uid, flags, date, size, envelope bool
	body, bodyStructure              bool
	items                            []item
	seen                             bool // sets \Seen
}

// item is a piece of content: BODY[...], BINARY[...], BINARY.SIZE[...].
type item struct {
	name    string // as the response names it, without partial
	section mime.Section
	partial *goimap.SectionPartial
	binary  bool
	sizeOf  bool
}

// parsed says whether the structure of messages is needed.
func (p *plan) parsed() bool {
	return p.envelope || p.body || p.bodyStructure || slices.ContainsFunc(p.items, func(it item) bool { return !it.whole() })
}

// whole says whether it is the whole message.
func (it *item) whole() bool { return len(it.section.Path) == 0 && it.section.Piece == mime.Whole }

// newPlan reads the options of the library.
func newPlan(w *imapserver.FetchWriter, o *goimap.FetchOptions, readOnly bool) (*plan, error) {
	if n := len(o.BodySection) + len(o.BinarySection) + len(o.BinarySectionSize); n > maxSections {
		return nil, no(goimap.ResponseCodeLimit, "Too many sections in one FETCH")
	}
	p := &plan{uid: o.UID, flags: o.Flags, date: o.InternalDate, size: o.RFC822Size, envelope: o.Envelope}
	hidden := lookInside(w)
	if o.BodyStructure != nil {
		p.bodyStructure = o.BodyStructure.Extended
		p.body = !o.BodyStructure.Extended || hidden.both
	}
	for _, s := range o.BodySection {
		it := item{section: section(s), partial: s.Partial, name: hidden.names[reflect.ValueOf(s).Pointer()]}
		if it.name == "" {
			it.name = sectionName(s)
		}
		p.items = append(p.items, it)
		p.seen = p.seen || !s.Peek
	}
	for _, s := range o.BinarySection {
		p.items = append(p.items, item{name: "BINARY[" + partName(s.Part) + "]", section: mime.Section{Path: s.Part}, partial: s.Partial, binary: true})
		p.seen = p.seen || !s.Peek
	}
	for _, s := range o.BinarySectionSize {
		p.items = append(p.items, item{name: "BINARY.SIZE[" + partName(s.Part) + "]", section: mime.Section{Path: s.Part}, binary: true, sizeOf: true})
	}
	p.seen = p.seen && !readOnly
	return p, nil
}

// hidden is what the library knows of a FETCH and does not tell: which sections
// were asked for by their old names (RFC822, RFC822.HEADER, RFC822.TEXT) and must
// be answered by them, and whether BODY was asked for beside BODYSTRUCTURE.
type hidden struct {
	names map[uintptr]string
	both  bool
}

// lookInside reads unexported fields of the library's FetchWriter, for reading
// only. Should they be gone one day, the modern names are sent; a test tells. It
// goes when the wire is ours.
func lookInside(w *imapserver.FetchWriter) (h hidden) {
	o := reflect.ValueOf(w).Elem().FieldByName("options")
	if o.Kind() != reflect.Struct {
		return h
	}
	if m := o.FieldByName("obsolete"); m.Kind() == reflect.Map && m.Len() > 0 {
		h.names = map[uintptr]string{}
		for it := m.MapRange(); it.Next(); {
			if it.Key().Kind() == reflect.Pointer && it.Value().Kind() == reflect.String {
				h.names[it.Key().Pointer()] = strings.TrimSuffix(it.Value().String(), ".PEEK")
			}
		}
	}
	if b := o.FieldByName("bodyStructure"); b.Kind() == reflect.Struct {
		x, n := b.FieldByName("extended"), b.FieldByName("nonExtended")
		h.both = x.Kind() == reflect.Bool && n.Kind() == reflect.Bool && x.Bool() && n.Bool()
	}
	return h
}

func section(s *goimap.FetchItemBodySection) mime.Section {
	out := mime.Section{Path: s.Part}
	switch {
	case s.Specifier == goimap.PartSpecifierHeader && len(s.HeaderFields) > 0:
		out.Piece, out.Fields = mime.HeaderFields, s.HeaderFields
	case s.Specifier == goimap.PartSpecifierHeader && len(s.HeaderFieldsNot) > 0:
		out.Piece, out.Fields = mime.HeaderFieldsNot, s.HeaderFieldsNot
	case s.Specifier == goimap.PartSpecifierHeader:
		out.Piece = mime.Header
	case s.Specifier == goimap.PartSpecifierMIME:
		out.Piece = mime.MIMEHeader
	case s.Specifier == goimap.PartSpecifierText:
		out.Piece = mime.TextBody
	}
	return out
}

func sectionName(s *goimap.FetchItemBodySection) string {
	e := encoder{b: []byte("BODY[")}
	e.raw(partName(s.Part))
	if s.Specifier != goimap.PartSpecifierNone {
		if len(s.Part) > 0 {
			e.byte('.')
		}
		e.raw(string(s.Specifier))
		fields := s.HeaderFields
		if len(fields) > 0 {
			e.raw(".FIELDS")
		} else if fields = s.HeaderFieldsNot; len(fields) > 0 {
			e.raw(".FIELDS.NOT")
		}
		for i, f := range fields {
			if i == 0 {
				e.raw(" (")
			} else {
				e.byte(' ')
			}
			e.string(f)
		}
		if len(fields) > 0 {
			e.byte(')')
		}
	}
	e.byte(']')
	return string(e.b)
}

func partName(path []int) string {
	var b []byte
	for i, n := range path {
		if i > 0 {
			b = append(b, '.')
		}
		b = strconv.AppendInt(b, int64(n), 10)
	}
	return string(b)
}
