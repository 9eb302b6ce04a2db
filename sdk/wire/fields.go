package wire

import (
	"encoding/binary"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// fields appends a message field by field; empty ones are left out.
type fields struct {
	b       []byte
	unknown bool // something is there that this file does not know
}

func (f *fields) number(n protowire.Number, v uint64) {
	if v != 0 {
		f.b = protowire.AppendVarint(protowire.AppendTag(f.b, n, protowire.VarintType), v)
	}
}

func (f *fields) real(n protowire.Number, v float64) {
	if bits := math.Float64bits(v); bits != 0 {
		f.b = binary.LittleEndian.AppendUint64(protowire.AppendTag(f.b, n, protowire.Fixed64Type), bits)
	}
}

func (f *fields) flag(n protowire.Number, v bool) { f.number(n, protowire.EncodeBool(v)) }

func (f *fields) text(n protowire.Number, s string) {
	if s != "" {
		f.item(n, s)
	}
}

func (f *fields) item(n protowire.Number, s string) {
	f.unknown = f.unknown || !utf8.ValidString(s) // package proto has the error for that
	f.b = protowire.AppendString(protowire.AppendTag(f.b, n, protowire.BytesType), s)
}

func (f *fields) list(n protowire.Number, list []string) {
	for _, s := range list {
		f.item(n, s)
	}
}

func (f *fields) texts(n protowire.Number, m map[string]string) {
	for key, value := range m {
		start := f.begin(n)
		f.item(1, key)
		f.item(2, value)
		f.end(start)
	}
}

// begin begins a message of which the length is not known yet; end makes room for it.
func (f *fields) begin(n protowire.Number) (start int) {
	f.b = append(protowire.AppendTag(f.b, n, protowire.BytesType), 0)
	return len(f.b)
}

func (f *fields) end(start int) {
	length := uint64(len(f.b) - start)
	more := protowire.SizeVarint(length) - 1
	var room [binary.MaxVarintLen64]byte
	f.b = append(f.b, room[:more]...)
	copy(f.b[start+more:], f.b[start:])
	binary.PutUvarint(f.b[start-1:], length)
}

// The types of fields that ask.go reads: the low bits of their keys.
const (
	varint  = uint64(protowire.VarintType)
	fixed64 = uint64(protowire.Fixed64Type)
	octets  = uint64(protowire.BytesType)
)

// message is an encoded message, twice: to take numbers from, and to share texts with.
type message struct {
	b []byte
	s string
}

// field is one field of a message.
type field struct {
	key     uint64 // number<<3 | type
	number  uint64 // of varint and fixed64
	message        // of octets
}

// each calls f for each field, until f or the message is wrong: then it returns false.
func (m message) each(f func(field) bool) bool {
	for i := 0; i < len(m.b); {
		key, n := binary.Uvarint(m.b[i:])
		if i += n; n <= 0 {
			return false
		}
		x := field{key: key}
		switch key & 7 {
		case varint:
			x.number, n = binary.Uvarint(m.b[i:])
		case fixed64:
			x.number, n = protowire.ConsumeFixed64(m.b[i:])
		case octets:
			var text []byte
			if text, n = protowire.ConsumeBytes(m.b[i:]); n >= 0 {
				x.message = message{text, m.s[i+n-len(text) : i+n]}
			}
		default:
			return false
		}
		if i += n; n <= 0 || !f(x) {
			return false
		}
	}
	return true
}

// text sets a field that is one text.
func (f *field) text(to *string) bool {
	*to = f.s
	return utf8.ValidString(f.s)
}

// more appends to a field that is a list of texts.
func (f *field) more(to *[]string) bool {
	*to = append(*to, f.s)
	return utf8.ValidString(f.s)
}

// pair adds to a field that is a map.
func (f *field) pair(to *map[string]string) bool {
	var key, value string
	ok := f.each(func(f field) bool {
		switch f.key {
		case 1<<3 | octets:
			return f.text(&key)
		case 2<<3 | octets:
			return f.text(&value)
		}
		return false
	})
	if *to == nil {
		*to = make(map[string]string)
	}
	(*to)[key] = value
	return ok
}
