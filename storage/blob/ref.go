package blob

import (
	"encoding/binary"
	"fmt"

	"github.com/sluicemail/sluice/storage/codec"
)

// Kind says where content is. The writer chooses; a reader knows all kinds for
// ever (RULES B3). The numbers are part of the format.
type Kind uint8

// The kinds of content.
const (
	Inline  Kind = 1 // a value in the engine
	Segment Kind = 2 // reserved: part of a file that many share; not written yet
	File    Kind = 3 // a file of its own
)

// Ref says where content is and how long it is.
type Ref struct {
	Kind Kind
	Name string // of the file; "" for Inline
	Size int64
}

// nameLen is 12 digits of time and 16 of chance, all hexadecimal.
const nameLen = 28

// AppendBinary appends the stored form of r: kind, size as a varint, length of
// the name as a varint, name.
func (r Ref) AppendBinary(b []byte) []byte {
	b = append(b, byte(r.Kind))
	b = binary.AppendUvarint(b, uint64(r.Size))
	return codec.AppendString(b, r.Name)
}

// ReadRef reads what AppendBinary wrote.
func ReadRef(d *codec.Decoder) Ref {
	r := Ref{Kind: Kind(d.Octet()), Size: d.Size(), Name: d.String()}
	switch {
	case r.Kind == Inline && r.Name == "":
	case r.Kind == File && checkName(r.Name) == nil:
	default: // also a kind that this release does not know
		d.Fail()
	}
	return r
}

// checkName keeps names that come from the disk inside the directory.
func checkName(name string) error {
	if len(name) != nameLen {
		return fmt.Errorf("%.64q is not the name of content", name)
	}
	for _, c := range []byte(name) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("%.64q is not the name of content", name)
		}
	}
	return nil
}
