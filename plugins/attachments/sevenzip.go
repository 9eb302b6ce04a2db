package attachments

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/bodgit/sevenzip"
	"github.com/ulikunitz/xz/lzma"
)

// look7z reads a 7z archive. The library takes as much memory for a window as the archive
// says, so the header is read before by what follows here: every coder with a large window, the header's
// own too, ends the look.
func look7z(l *look, a *archive) error {
	header, err := header7z(a.file)
	if err != nil {
		return err
	}
	locked := bytes.Contains(header, []byte{6, 0xf1, 7, 1}) // the coder 7zAES
	r, err := sevenzip.NewReader(a.file, a.file.size)
	if err != nil {
		var read *sevenzip.ReadError
		if errors.As(err, &read) && read.Encrypted {
			return errEncrypted
		}
		return err
	}
	for _, f := range r.File {
		if f.FileInfo().IsDir() {
			continue
		}
		if err := l.entry(a, f.Name, locked, func() (io.Reader, error) { return f.Open() }); err != nil {
			return err
		}
	}
	return nil
}

// errClosed7z: other programs may well read it.
var errClosed7z = errors.New("an archive that only others read")

// maxHeader7z is the largest header of a 7z archive that is read, in octets.
const maxHeader7z = 8 << 20

// header7z returns the header of a 7z archive, unpacked if it was packed (7zFormat.txt, "Header
// structure"). Where it is stands at octets 12 and 20.
func header7z(file *kept) ([]byte, error) {
	start := make([]byte, 32)
	if _, err := file.ReadAt(start, 0); err != nil {
		return nil, fmt.Errorf("read the start header: %w", err)
	}
	header, err := part7z(file, binary.LittleEndian.Uint64(start[12:]), binary.LittleEndian.Uint64(start[20:]))
	for packed := 0; err == nil && len(header) > 0 && header[0] == 0x17; packed++ {
		if packed == 4 {
			return nil, errors.New("the header is packed again and again")
		}
		if err := errors.Join(checkWindows(header), checkCounts(header)); err != nil {
			return nil, err
		}
		header, err = unpackHeader(file, header[1:])
	}
	if err != nil {
		return nil, err
	}
	if len(header) == 0 { // an archive of nothing
		return nil, nil
	}
	return header, errors.Join(checkWindows(header), checkCounts(header))
}

// part7z reads octets at an offset behind the start header.
func part7z(file *kept, off, size uint64) ([]byte, error) {
	switch {
	case size > maxHeader7z:
		return nil, fmt.Errorf("%w: its header has %d octets", errClosed7z, size)
	case off > uint64(file.size) || int64(off)+32+int64(size) > file.size:
		return nil, fmt.Errorf("%w: its header is not in it, as in one of several volumes", errClosed7z)
	}
	b := make([]byte, size)
	if _, err := file.ReadAt(b, int64(off)+32); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the header: %w", err)
	}
	return b, nil
}

// unpackHeader undoes the packing that every archiver uses for headers: one folder with the one coder
// LZMA. An encrypted one is errEncrypted.
func unpackHeader(file *kept, info []byte) ([]byte, error) {
	if bytes.Contains(info, []byte{6, 0xf1, 7, 1}) {
		return nil, errEncrypted
	}
	n := numbers{rest: info}
	n.expect(0x06) // kPackInfo
	position := n.next()
	n.expect(0x01)
	n.expect(0x09) // kSize
	packed := n.next()
	i := bytes.Index(n.rest, []byte{0x23, 3, 1, 1, 5})
	if n.bad || i < 0 || len(n.rest) < i+11 {
		return nil, fmt.Errorf("%w: its header is packed in an unknown way", errClosed7z)
	}
	properties := n.rest[i+5 : i+10]
	n.rest = n.rest[i+10:]
	n.expect(0x0c) // kCodersUnpackSize
	size := n.next()
	if n.bad || size > maxHeader7z {
		return nil, fmt.Errorf("%w: its header is packed in an unknown way, or unpacks to %d octets", errClosed7z, size)
	}
	raw, err := part7z(file, position, packed)
	if err != nil {
		return nil, err
	}
	// The older format of LZMA has the same properties in front, then the size.
	front := binary.LittleEndian.AppendUint64(bytes.Clone(properties), size)
	r, err := lzma.ReaderConfig{DictCap: maxDictionary}.NewReader(io.MultiReader(bytes.NewReader(front), bytes.NewReader(raw)))
	if err != nil {
		return nil, fmt.Errorf("unpack the header: %w", err)
	}
	header := make([]byte, size)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, fmt.Errorf("unpack the header: %w", err)
	}
	return header, nil
}

// numbers reads what a header is written in: octets, and numbers whose first octet says by its
// leading ones how many follow.
type numbers struct {
	rest []byte
	bad  bool
}

func (n *numbers) octet() byte {
	if len(n.rest) == 0 {
		n.bad = true
		return 0
	}
	b := n.rest[0]
	n.rest = n.rest[1:]
	return b
}

func (n *numbers) expect(b byte) { n.bad = n.octet() != b || n.bad }

func (n *numbers) next() uint64 {
	first := n.octet()
	value, mask := uint64(0), byte(0x80)
	for i := 0; i < 8; i++ {
		if first&mask == 0 {
			return value | uint64(first&(mask-1))<<(8*i)
		}
		value |= uint64(n.octet()) << (8 * i)
		mask >>= 1
	}
	return value
}

// checkWindows refuses coders whose window is large: LZMA (03 01 01) with five octets of properties, LZMA2
// (21) with one, PPMd (03 04 01) with five.
func checkWindows(header []byte) error {
	for i := range header {
		rest := header[i:]
		switch {
		case len(rest) >= 10 && bytes.HasPrefix(rest, []byte{0x23, 3, 1, 1, 5}), len(rest) >= 10 && bytes.HasPrefix(rest, []byte{0x23, 3, 4, 1, 5}):
			if binary.LittleEndian.Uint32(rest[6:]) > maxDictionary {
				return errWindow
			}
		case len(rest) >= 4 && bytes.HasPrefix(rest, []byte{0x21, 0x21, 1}):
			if window2(rest[3]) > maxDictionary {
				return errWindow
			}
		}
	}
	return nil
}

// window2 is the window that a property of LZMA2 stands for.
func window2(property byte) uint64 {
	bits := property & 63
	if bits >= 40 {
		return 1 << 32
	}
	return (2 | uint64(bits)&1) << (bits/2 + 11)
}
