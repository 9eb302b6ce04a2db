package attachments

import (
	"errors"
	"io"
	"os"
	"slices"
)

// inMemory is the largest file that is kept in memory, in octets.
const inMemory = 256 << 10

// kept is a file at which somebody looks: in memory, or in a temporary file without a name.
type kept struct {
	octets []byte
	file   *os.File
	size   int64
}

// keep reads r to its end. With an error of r there may be a file too: what came before.
func keep(r io.Reader, size int64) (*kept, error) {
	room := int64(4096)
	if size > 0 {
		room = min(size, inMemory)
	}
	k := &kept{octets: make([]byte, 0, room)}
	for {
		if len(k.octets) >= inMemory { // its capacity may be a little more
			return k.spill(r)
		}
		if len(k.octets) == cap(k.octets) {
			k.octets = slices.Grow(k.octets, min(max(len(k.octets), 4096), inMemory-len(k.octets)))
		}
		n, err := r.Read(k.octets[len(k.octets):min(cap(k.octets), inMemory)])
		k.octets = k.octets[:len(k.octets)+n]
		k.size = int64(len(k.octets))
		if errors.Is(err, io.EOF) {
			return k, nil
		}
		if err != nil {
			return k, err
		}
	}
}

func (k *kept) spill(r io.Reader) (*kept, error) {
	f, err := os.CreateTemp("", "attachment-*")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(f.Name())
	k.file = f
	if _, err = f.Write(k.octets); err != nil {
		k.close()
		return nil, err
	}
	n, err := io.Copy(f, r)
	k.size = int64(len(k.octets)) + n
	k.octets = nil
	return k, err
}

func (k *kept) close() {
	if k.file != nil {
		_ = k.file.Close()
	}
}

// ReadAt implements io.ReaderAt.
func (k *kept) ReadAt(p []byte, off int64) (int, error) {
	if k.file != nil {
		return k.file.ReadAt(p, off)
	}
	if off < 0 || off >= int64(len(k.octets)) {
		return 0, io.EOF
	}
	n := copy(p, k.octets[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (k *kept) reader() *io.SectionReader { return io.NewSectionReader(k, 0, k.size) }
