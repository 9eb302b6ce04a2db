package wire

import (
	"encoding/binary"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

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
