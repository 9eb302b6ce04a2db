package attachments

import (
	"archive/zip"
	"bufio"
	"bytes"
	"cmp"
	"compress/flate"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
)

// lookZip reads zip and what is built on it: Office documents, Java archives, packages of Android. Programs that
// read from the front see what the directory at the end does not name, so that is looked for too.
func lookZip(l *look, a *archive) error {
	known, err := l.zipDirectory(a)
	if errors.Is(err, errOver) {
		return err
	}
	return errors.Join(err, l.zipHidden(a, known))
}

// lookZipBehind reads a zip that has something else in front. What only looks like one is none.
func lookZipBehind(l *look, a *archive) error {
	known, err := l.zipDirectory(a)
	if errors.Is(err, errOver) || len(known) > 0 {
		return err
	}
	return nil
}

// span is where an entry's octets are.
type span struct{ from, to int64 }

func (l *look) zipDirectory(a *archive) (known []span, err error) {
	r, err := zip.NewReader(a.file, a.file.size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // names with ".." are looked at; nothing is written under them
		return nil, err
	}
	for _, f := range r.File {
		base := strings.ToLower(f.Name[strings.LastIndexAny(f.Name, `/\`)+1:])
		if base == "vbaproject.bin" || strings.HasPrefix(strings.ToLower(f.Name), "xl/macrosheets/") {
			l.find(macros, a.where, "the document has macros")
		}
		from, err := f.DataOffset()
		if err == nil {
			known = append(known, span{from, from + min(int64(f.CompressedSize64), a.file.size)})
		}
		if f.FileInfo().IsDir() && f.UncompressedSize64 == 0 && f.CompressedSize64 == 0 {
			continue
		}
		l.name(unicodePath(f.Extra), a.where+" > "+printable(f.Name))
		// Bit 0: encrypted; bit 13: names are hidden too (APPNOTE section 4.4.4).
		if err := l.entry(a, f.Name, f.Flags&(1|1<<13) != 0, func() (io.Reader, error) { return f.Open() }); err != nil {
			return known, err
		}
	}
	return known, nil
}

// maxGap is how much of a zip that no entry of the directory holds is searched, in octets.
const maxGap = 64 << 20

// zipHidden looks at files whose local headers (APPNOTE section 4.3.7) stand where no entry of the directory is.
func (l *look) zipHidden(a *archive, known []span) error {
	slices.SortFunc(known, func(x, y span) int { return cmp.Compare(x.from, y.from) })
	at := int64(0)
	for _, k := range append(known, span{a.file.size, a.file.size}) {
		if k.from > at {
			if err := l.zipGap(a, span{at, min(k.from, at+maxGap)}, k.from); err != nil {
				return err
			}
		}
		at = max(at, k.to)
	}
	return nil
}

// zipGap searches a gap. The header that ends exactly at next belongs to the entry that follows.
func (l *look) zipGap(a *archive, gap span, next int64) error {
	r := bufio.NewReaderSize(io.NewSectionReader(a.file, gap.from, gap.to-gap.from), 64<<10)
	for at := gap.from; ; {
		piece, _ := r.Peek(64 << 10)
		if len(piece) < 30 {
			return nil
		}
		i := bytes.Index(piece, []byte("PK\x03\x04"))
		if i < 0 {
			i = len(piece) - 3
		} else if i+30 <= len(piece) || i == 0 {
			if err := l.zipLocal(a, at+int64(i), next); err != nil {
				return err
			}
			i += 4
		}
		n, err := r.Discard(i)
		if at += int64(n); err != nil || l.over(a.where, a.packed) {
			return err
		}
	}
}

// zipLocal looks at the file of a local header.
func (l *look) zipLocal(a *archive, at, next int64) error {
	head := make([]byte, 30)
	if n, _ := a.file.ReadAt(head, at); n < 30 {
		return nil
	}
	flags, method := binary.LittleEndian.Uint16(head[6:]), binary.LittleEndian.Uint16(head[8:])
	name := make([]byte, binary.LittleEndian.Uint16(head[26:]))
	extra := make([]byte, binary.LittleEndian.Uint16(head[28:]))
	data := at + 30 + int64(len(name)) + int64(len(extra))
	if n, _ := a.file.ReadAt(name, at+30); n < len(name) || data > a.file.size {
		return nil
	}
	if strings.HasSuffix(string(name), "/") && method == 0 && binary.LittleEndian.Uint32(head[18:]) == 0 {
		return nil
	}
	_, _ = a.file.ReadAt(extra, at+30+int64(len(name)))
	l.name(unicodePath(extra), a.where+" > "+printable(string(name)))
	if data == next && next < a.file.size { // its octets are looked at by what the directory says; who reads from the front has this name
		l.name(string(name), a.where+" > "+printable(string(name)))
		if flags&1 != 0 {
			l.find(encrypted, a.where+" > "+printable(string(name)), "the file is encrypted")
		}
		return nil
	}
	size := a.file.size - data
	if packed := int64(binary.LittleEndian.Uint32(head[18:])); packed > 0 {
		size = min(size, packed)
	}
	octets := io.NewSectionReader(a.file, data, size)
	return l.entry(a, string(name), flags&1 != 0, func() (io.Reader, error) {
		switch method {
		case zip.Store:
			return octets, nil
		case zip.Deflate:
			return flate.NewReader(octets), nil
		}
		return nil, zip.ErrAlgorithm
	})
}

// unicodePath returns the name that many programs prefer to an entry's own: that of the extra field 0x7075 (APPNOTE section
// 4.6.9), behind a version and a sum. "" is none.
func unicodePath(extra []byte) string {
	for len(extra) >= 4 {
		id, size := binary.LittleEndian.Uint16(extra), int(binary.LittleEndian.Uint16(extra[2:]))
		if extra = extra[4:]; size > len(extra) {
			return ""
		}
		if id == 0x7075 && size > 5 {
			return string(extra[5:size])
		}
		extra = extra[size:]
	}
	return ""
}

// endsAsZip reports whether the record that ends a zip is near the end of a file (APPNOTE section 4.3.16).
func endsAsZip(file *kept) bool {
	tail := make([]byte, min(file.size, 65557))
	n, _ := file.ReadAt(tail, file.size-int64(len(tail)))
	return bytes.Contains(tail[:n], []byte("PK\x05\x06"))
}
