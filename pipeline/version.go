package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/mime"
)

// Version is a message as it stands after some changes: its header, and the body
// that arrived or the one that a plugin gave instead. A Version is never changed:
// Apply returns a new one, and recipients with equal changes share one (RULES A4).
type Version struct {
	fields []Field
	body   *Body // nil: the one that arrived
	end    int64 // octets of the header that arrived, with the empty line if it has one
}

// Field is one header field of a Version.
type Field struct {
	Name string // as written
	Raw  []byte // the whole field with its CRLF, folded as it is
	off  int64  // offset among the octets that arrived, or -1
	size int64  // octets that it had there
}

// Value returns what stands after the colon, unfolded and without white space at
// both ends (RFC 5322 section 2.2.3).
func (f Field) Value() string {
	_, value, _ := bytes.Cut(f.Raw, []byte(":"))
	value = bytes.ReplaceAll(value, []byte("\r\n"), nil)
	return strings.TrimSpace(string(value))
}

// newVersion indexes the header of a message that arrived.
func newVersion(header []byte) *Version {
	found := mime.Fields(header)
	v := &Version{fields: make([]Field, 0, len(found)+4), end: int64(len(header))}
	for _, f := range found {
		v.fields = append(v.fields, Field{
			Name: f.Name, Raw: header[f.Start:f.End],
			off: int64(f.Start), size: int64(f.End - f.Start),
		})
	}
	return v
}

// Fields returns the header's fields from the top; the slice must not be changed.
func (v *Version) Fields() []Field { return v.fields }

// HeaderSize returns the octets of the header with the empty line that ends it.
func (v *Version) HeaderSize() int64 {
	size := int64(2)
	for _, f := range v.fields {
		size += int64(len(f.Raw))
	}
	if v.body != nil && v.openEnd() {
		size += 2
	}
	return size
}

// openEnd reports whether the last field has no CRLF: what arrived ended within it.
func (v *Version) openEnd() bool {
	n := len(v.fields)
	return n > 0 && !bytes.HasSuffix(v.fields[n-1].Raw, []byte("\r\n"))
}

// Get returns the first field of that name from the top, and whether there is one.
func (v *Version) Get(name string) (Field, bool) {
	for _, f := range v.fields {
		if strings.EqualFold(f.Name, name) {
			return f, true
		}
	}
	return Field{}, false
}

// Count returns how many fields of that name there are.
func (v *Version) Count(name string) int {
	n := 0
	for _, f := range v.fields {
		if strings.EqualFold(f.Name, name) {
			n++
		}
	}
	return n
}

// Apply returns the version after the changes, in order. A change that names a
// field which is not there changes nothing. An error means that a change was
// malformed; v is unaffected.
func (v *Version) Apply(changes []sdk.Change) (*Version, error) {
	next := v.with(append(make([]Field, 0, len(v.fields)+len(changes)), v.fields...))
	for _, c := range changes {
		if err := next.apply(c); err != nil {
			return nil, fmt.Errorf("%s %q: %w", c.Kind, c.Name, err)
		}
	}
	return next, nil
}

// with returns v with other fields.
func (v *Version) with(fields []Field) *Version {
	return &Version{fields: fields, body: v.body, end: v.end}
}

func (v *Version) apply(c sdk.Change) error {
	if c.Kind == sdk.ReplaceBody {
		body, ok := c.Body.(*Body)
		if !ok {
			return errors.New("there is no new body")
		}
		v.body = body
		return nil
	}
	if !validFieldName(c.Name) {
		return fmt.Errorf("not a field name (RFC 5322 section 2.2)")
	}
	if strings.ContainsAny(c.Value, "\r\n\x00") {
		return fmt.Errorf("the value has a line break or NUL")
	}
	switch c.Kind {
	case sdk.AddField:
		v.fields = append([]Field{{Name: c.Name, Raw: FormatField(c.Name, c.Value), off: -1}}, v.fields...)
	case sdk.ReplaceField:
		if at := v.find(c.Name, c.Index); at >= 0 {
			v.fields[at].Name, v.fields[at].Raw = c.Name, FormatField(c.Name, c.Value)
		}
	case sdk.RemoveField:
		v.remove(c.Name, c.Index)
	default:
		return errors.New("this does not change a message's octets")
	}
	return nil
}

// find returns the place of the index-th field of that name: 1 is the first
// from the top, -1 the last, 0 the same as 1; -1 if there is none.
func (v *Version) find(name string, index int) int {
	var at []int
	for i, f := range v.fields {
		if strings.EqualFold(f.Name, name) {
			at = append(at, i)
		}
	}
	switch {
	case index == 0 && len(at) > 0:
		return at[0]
	case index > 0 && index <= len(at):
		return at[index-1]
	case index < 0 && -index <= len(at):
		return at[len(at)+index]
	}
	return -1
}

// remove deletes one field of that name, or with index 0 all of them. Fields that
// arrived stay in the list of what to cut.
func (v *Version) remove(name string, index int) {
	if index != 0 {
		if at := v.find(name, index); at >= 0 {
			v.fields = append(v.fields[:at:at], v.fields[at+1:]...)
		}
		return
	}
	kept := v.fields[:0]
	for _, f := range v.fields {
		if !strings.EqualFold(f.Name, name) {
			kept = append(kept, f)
		}
	}
	v.fields = kept
}

// Front returns v with a finished field, CRLF included, on top.
func (v *Version) Front(raw []byte) *Version {
	name, _, _ := bytes.Cut(raw, []byte(":"))
	next := v.with(make([]Field, 0, len(v.fields)+4))
	next.fields = append(next.fields, Field{Name: string(name), Raw: raw, off: -1})
	next.fields = append(next.fields, v.fields...)
	return next
}

// Without returns v without the fields for which drop reports true, and how many
// those were.
func (v *Version) Without(drop func(Field) bool) (*Version, int) {
	dropped := 0
	for _, f := range v.fields {
		if drop(f) {
			dropped++
		}
	}
	if dropped == 0 {
		return v, 0
	}
	next := v.with(make([]Field, 0, len(v.fields)))
	for _, f := range v.fields {
		if !drop(f) {
			next.fields = append(next.fields, f)
		}
	}
	return next, dropped
}

// Variant returns the version as the store keeps it: what is in front of the
// octets that arrived, which of their ranges are cut or replaced, and the body that
// stands in place of theirs.
func (v *Version) Variant(arrived *Version) blob.Variant {
	var out blob.Variant
	i := 0
	for ; i < len(v.fields) && v.fields[i].off < 0; i++ {
		out.Front = append(out.Front, v.fields[i].Raw...)
	}
	kept := v.fields[i:]
	for _, a := range arrived.fields {
		if len(kept) > 0 && kept[0].off == a.off {
			if !bytes.Equal(kept[0].Raw, a.Raw) {
				out.Edits = append(out.Edits, blob.Edit{Off: a.off, Len: a.size, With: kept[0].Raw})
			}
			kept = kept[1:]
			continue
		}
		out.Edits = append(out.Edits, blob.Edit{Off: a.off, Len: a.size})
	}
	if v.body != nil {
		if lines := v.missingLines(arrived); lines != "" {
			out.Edits = append(out.Edits, blob.Edit{Off: arrived.end, With: []byte(lines)})
		}
		out.Body = blob.NewBody(arrived.end, v.body.draft)
	}
	return out
}

// missingLines returns what a header that arrived without an empty line at its end
// needs before a body (RFC 5322 section 2.1).
func (v *Version) missingLines(arrived *Version) string {
	size := int64(0)
	for _, a := range arrived.fields {
		size += a.size
	}
	switch {
	case size < arrived.end:
		return ""
	case v.openEnd():
		return "\r\n\r\n"
	}
	return "\r\n"
}

func validFieldName(name string) bool {
	if name == "" || len(name) > 200 {
		return false
	}
	for i := 0; i < len(name); i++ {
		if name[i] <= ' ' || name[i] > '~' || name[i] == ':' {
			return false
		}
	}
	return true
}

// FormatField writes a header field with its CRLF, folded before words so that
// lines stay below 78 octets where the words allow it (RFC 5322 section 2.2.3).
func FormatField(name, value string) []byte {
	const width = 76
	out := make([]byte, 0, len(name)+len(value)+8)
	out = append(append(out, name...), ':')
	line := len(out)
	for _, word := range strings.Split(value, " ") {
		if word == "" { // two spaces in a row stay two
			out = append(out, ' ')
			line++
			continue
		}
		if line+1+len(word) > width && line > len(name)+1 {
			out = append(out, '\r', '\n')
			line = 0
		}
		out = append(append(out, ' '), word...)
		line += 1 + len(word)
	}
	return append(out, '\r', '\n')
}
