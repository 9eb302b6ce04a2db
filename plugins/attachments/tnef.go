package attachments

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"unicode/utf16"
)

// The attributes of TNEF that name and hold files (MS-OXTNEF section 2.1.3.3).
const (
	attachTitle = 0x00018010
	attachData  = 0x0006800f
	attachment  = 0x00069005
)

// maxProperties is how much of the properties of an attachment is looked at, in octets.
const maxProperties = 32 << 20

// lookTNEF reads the files of a winmail.dat: their names, long and short, their octets, and messages within.
func lookTNEF(l *look, a *archive) error {
	r := a.file.reader()
	if _, err := io.CopyN(io.Discard, r, 6); err != nil { // signature and key
		return err
	}
	name := ""
	head := make([]byte, 9) // level, attribute, length
	for {
		if _, err := io.ReadFull(r, head); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		at, _ := r.Seek(0, io.SeekCurrent)
		size := int64(binary.LittleEndian.Uint32(head[5:]))
		if size > a.file.size-at {
			return errors.New("an attribute goes beyond the end")
		}
		data := io.NewSectionReader(a.file, at, size)
		var err error
		switch binary.LittleEndian.Uint32(head[1:]) {
		case attachTitle:
			title, _ := io.ReadAll(io.LimitReader(data, 1000))
			name, _, _ = strings.Cut(string(title), "\x00")
			l.name(name, a.where+" > "+printable(name))
		case attachData:
			err = l.entry(a, name, false, func() (io.Reader, error) { return data, nil })
		case attachment:
			err = l.tnefProperties(a, data)
		}
		if err != nil {
			return err
		}
		if l.files++; l.over(a.where, a.packed) {
			return errOver
		}
		if _, err := r.Seek(size+2, io.SeekCurrent); err != nil { // and its sum
			return err
		}
	}
}

// tnefProperties looks for long names, PidTagAttachLongFilename as ANSI and as UTF-16, and for a TNEF
// within, which is how a message is attached. A property is its type, its number, how many values, and for each
// its length and octets.
func (l *look) tnefProperties(a *archive, data *io.SectionReader) error {
	raw, err := io.ReadAll(io.LimitReader(data, maxProperties))
	if err != nil {
		return err
	}
	for _, kind := range []byte{0x1e, 0x1f} {
		rest := raw
		for range 100 {
			i := bytes.Index(rest, []byte{kind, 0, 0x07, 0x37})
			if i < 0 || len(rest) < i+12 {
				break
			}
			size := min(int(binary.LittleEndian.Uint32(rest[i+8:])), len(rest)-i-12, 2000)
			text := rest[i+12:][:size]
			name := string(text)
			if kind == 0x1f {
				units := make([]uint16, len(text)/2)
				for k := range units {
					units[k] = binary.LittleEndian.Uint16(text[2*k:])
				}
				name = string(utf16.Decode(units))
			}
			name, _, _ = strings.Cut(name, "\x00")
			l.name(name, a.where+" > "+printable(name))
			rest = rest[i+4:]
		}
	}
	if i := bytes.Index(raw, []byte("\x78\x9f\x3e\x22")); i >= 0 {
		return l.entry(a, "", false, func() (io.Reader, error) { return bytes.NewReader(raw[i:]), nil })
	}
	return nil
}
