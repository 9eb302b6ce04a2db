package blob

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
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
	b = binary.AppendUvarint(b, uint64(len(r.Name)))
	return append(b, r.Name...)
}

// DecodeRef reads a Ref from the front of b and returns what follows it.
func DecodeRef(b []byte) (Ref, []byte, error) {
	bad := func(why string) (Ref, []byte, error) {
		return Ref{}, nil, errors.New("decode reference: " + why)
	}
	if len(b) == 0 {
		return bad("empty")
	}
	r := Ref{Kind: Kind(b[0])}
	size, n := binary.Uvarint(b[1:])
	if n <= 0 || size > 1<<62 {
		return bad("broken size")
	}
	r.Size = int64(size)
	b = b[1+n:]
	l, n := binary.Uvarint(b)
	if n <= 0 || l > uint64(len(b)-n) {
		return bad("broken name")
	}
	r.Name = string(b[n : n+int(l)])
	b = b[n+int(l):]
	switch r.Kind {
	case Inline:
		if r.Name != "" {
			return bad("inline content with a name")
		}
	case File:
		if err := checkName(r.Name); err != nil {
			return bad(err.Error())
		}
	default:
		return bad("this release does not know content of kind " + strconv.Itoa(int(r.Kind)))
	}
	return r, b, nil
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
