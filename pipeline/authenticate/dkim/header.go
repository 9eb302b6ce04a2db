package dkim

import (
	"bytes"
	"hash"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/sluicemail/sluice/pipeline"
)

// Header finds the fields of a header by name, in the order in which signatures want them: of several with one name the
// lowest first (RFC 6376 section 5.4.2). It may be used from one goroutine at a time.
type Header struct {
	fields []pipeline.Field
	seed   maphash.Seed
	above  []int32 // of each field: the next one above with its name, or -1
	slots  []int32 // by the name's hash: its lowest field, or -1
	next   []int32 // the same while one signature takes its fields
	buf    []byte  // one canonical field

	crooked []string // what lenient readers take lines for that are no fields, of those in once
}

// NewHeader returns an index over fields, which must not change meanwhile.
func NewHeader(fields []pipeline.Field) *Header {
	size := 16
	for size < 2*len(fields) {
		size *= 2
	}
	n := len(fields)
	cells := make([]int32, n+2*size)
	h := &Header{fields: fields, seed: maphash.MakeSeed(), above: cells[:n], slots: cells[n : n+size], next: cells[n+size:]}
	for i := range h.slots {
		h.slots[i] = -1
	}
	for i := range fields {
		if fields[i].Name == "" { // a line that is no field
			lenient := fields[i].LenientName()
			for _, name := range once {
				if strings.EqualFold(lenient, name) && !slices.Contains(h.crooked, name) {
					h.crooked = append(h.crooked, name)
				}
			}
			continue
		}
		slot := h.slot(fields[i].Name)
		h.above[i] = h.slots[slot]
		h.slots[slot] = int32(i)
	}
	return h
}

// Fields returns the fields from the top.
func (h *Header) Fields() []pipeline.Field { return h.fields }

// slot returns where the fields of that name are, or would be. The seed is fresh, so that nobody can choose names that
// all meet in one place.
func (h *Header) slot(name string) int {
	var short [64]byte
	lower := short[:0]
	if len(name) > len(short) {
		lower = make([]byte, 0, len(name))
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		lower = append(lower, c)
	}
	mask := len(h.slots) - 1
	at := int(maphash.Bytes(h.seed, lower)) & mask
	for h.slots[at] >= 0 && !strings.EqualFold(h.fields[h.slots[at]].Name, name) {
		at = (at + 1) & mask
	}
	return at
}

// count returns how many fields of that name there are, up to most.
func (h *Header) count(name string, most int) int {
	n := 0
	for i := h.slots[h.slot(name)]; i >= 0 && n < most; i = h.above[i] {
		n++
	}
	return n
}

// write hashes the fields that names, a list with colons, picks. A name that has no field left adds nothing.
func (h *Header) write(to hash.Hash, names string, relaxed bool) {
	copy(h.next, h.slots)
	for name := range strings.SplitSeq(names, ":") {
		slot := h.slot(name)
		if at := h.next[slot]; at >= 0 {
			h.next[slot] = h.above[at]
			h.buf = AppendField(h.buf[:0], h.fields[at].Raw, relaxed)
			to.Write(h.buf)
		}
	}
}

// AppendField appends a field in a canonical form (RFC 6376 section 3.4.1 and 3.4.2), CRLF included.
func AppendField(dst, raw []byte, relaxed bool) []byte {
	raw = bytes.TrimSuffix(raw, crlf)
	if !relaxed {
		return append(append(dst, raw...), crlf...)
	}
	colon := bytes.IndexByte(raw, ':')
	if colon < 0 {
		return append(append(dst, raw...), crlf...)
	}
	name := bytes.TrimRight(raw[:colon], " \t")
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		dst = append(dst, c)
	}
	dst = append(dst, ':')
	start, space := len(dst), false
	value := raw[colon+1:]
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == ' ' || c == '\t':
			space = true
		case c == '\r' && i+1 < len(value) && value[i+1] == '\n': // a fold
			i++
		default:
			if space && len(dst) > start {
				dst = append(dst, ' ')
			}
			space = false
			dst = append(dst, c)
		}
	}
	return append(dst, crlf...)
}

// withoutSignature returns a signature's field without the value of its tag b=, as it was when it was signed (RFC 6376
// section 3.7).
func withoutSignature(dst, raw []byte) []byte {
	start, end := signatureValue(raw)
	return append(append(dst, raw[:start]...), raw[end:]...)
}

// signatureValue returns where the value of b= begins and ends in a field; both at the end if there is none.
func signatureValue(raw []byte) (start, end int) {
	at := bytes.IndexByte(raw, ':') + 1
	for at < len(raw) {
		stop := len(raw)
		if i := bytes.IndexByte(raw[at:], ';'); i >= 0 {
			stop = at + i
		}
		if i := bytes.IndexByte(raw[at:stop], '='); i >= 0 && string(bytes.Trim(raw[at:at+i], " \t\r\n")) == "b" {
			return at + i + 1, stop
		}
		at = stop + 1
	}
	return len(raw), len(raw)
}
