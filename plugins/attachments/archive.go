package attachments

import (
	"archive/tar"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/nwaples/rardecode/v2"
	"github.com/ulikunitz/xz"
)

// archive is a file that has files in it.
type archive struct {
	where  string // "invoice.zip > inner.rar"
	name   string // "inner.rar"
	file   *kept
	packed int64
	depth  int
}

var (
	errEncrypted = errors.New("encrypted")
	errWindow    = errors.New("its window is too large")
)

// maxDictionary is how much memory a decoder may take for its window, in octets.
const maxDictionary = 64 << 20

func archives() map[string]func(*look, *archive) error {
	return map[string]func(*look, *archive) error{
		"zip": lookZip, "zip behind": lookZipBehind, "rar behind": lookBehind(rarHead, lookRar), "7z behind": lookBehind(sevenHead, look7z), "tar": lookTar, "rar": lookRar, "7z": look7z, "tnef": lookTNEF, "message": lookMessage,
		"gzip":  single(func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }),
		"bzip2": single(func(r io.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil }),
		"xz":    single(newXz),
		"zstd": single(func(r io.Reader) (io.Reader, error) {
			d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxDictionary), zstd.WithDecoderMaxMemory(maxDictionary))
			if err != nil {
				return nil, err
			}
			return d.IOReadCloser(), nil
		}),
	}
}

// How rar and 7z begin. Their programs look for it behind whatever a file begins with, in its first megabyte or more.
const (
	rarHead   = "Rar!\x1a\x07"
	sevenHead = "7z\xbc\xaf\x27\x1c"
	maxFront  = 8 << 20
)

// archivesBehind returns the archives that have something else in front, in a file that is none of those that are looked into.
func archivesBehind(file *kept, found string) (kinds []string) {
	if archives()[found] != nil {
		return nil
	}
	for kind, head := range map[string]string{"rar behind": rarHead, "7z behind": sevenHead} {
		if find(file, []byte(head), maxFront) > 0 {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// lookBehind looks into an archive from where its head is.
func lookBehind(head string, open func(*look, *archive) error) func(*look, *archive) error {
	return func(l *look, a *archive) error {
		at := max(0, find(a.file, []byte(head), maxFront))
		rest, err := keep(io.NewSectionReader(a.file, at, a.file.size-at), a.file.size-at)
		if err != nil {
			return err
		}
		defer rest.close()
		inner := *a
		inner.file = rest
		return open(l, &inner)
	}
}

// newXz refuses streams that want a larger window than we have: the dictionary's size is in the
// filter flags of the first block (the .xz format, section 5.3.1).
func newXz(r io.Reader) (io.Reader, error) {
	head := make([]byte, 32)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	for i := 12; i+2 < n; i++ { // filter 0x21, one octet of properties
		if head[i] == 0x21 && head[i+1] == 1 {
			if window2(head[i+2]) > maxDictionary {
				return nil, errWindow
			}
			break
		}
	}
	return xz.ReaderConfig{DictCap: maxDictionary}.NewReader(io.MultiReader(bytes.NewReader(head[:n]), r))
}

// entry looks at one file of an archive; encrypted ones are noted.
func (l *look) entry(a *archive, name string, locked bool, open func() (io.Reader, error)) error {
	where := a.where + " > " + printable(name)
	if l.files++; l.over(where, a.packed) {
		return errOver
	}
	l.name(name, where)
	if locked {
		l.find(encrypted, where, "the file is encrypted")
		return nil
	}
	if open == nil {
		return nil
	}
	r, err := open()
	if err != nil {
		l.unread(where, "the file", err)
		return nil
	}
	l.enter(where, name, r, a.packed, a.depth, "")
	if closer, ok := r.(io.Closer); ok {
		_ = closer.Close()
	}
	if l.over(where, a.packed) {
		return errOver
	}
	return nil
}

func lookTar(l *look, a *archive) error {
	r := tar.NewReader(a.file.reader())
	for {
		h, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, tar.ErrInsecurePath):
			return err
		}
		open := func() (io.Reader, error) { return r, nil }
		switch h.Typeflag {
		case tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo, tar.TypeXGlobalHeader:
			open = nil // they have no octets; every other type is a file to some program, sparse ones too
		}
		if h.Typeflag == tar.TypeDir {
			h.Name = ""
		}
		if err := l.entry(a, h.Name, false, open); err != nil {
			return err
		}
	}
}

func lookRar(l *look, a *archive) error {
	r, err := rardecode.NewReader(a.file.reader(), rardecode.MaxDictionarySize(maxDictionary))
	if err != nil {
		return rarError(err)
	}
	for {
		h, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return rarError(err)
		case h.IsDir:
			continue
		}
		if err := l.entry(a, h.Name, h.Encrypted, func() (io.Reader, error) { return r, nil }); err != nil {
			return err
		}
	}
}

func rarError(err error) error {
	if errors.Is(err, rardecode.ErrArchiveEncrypted) || errors.Is(err, rardecode.ErrArchivedFileEncrypted) {
		return errEncrypted
	}
	return err
}

// single is for formats that hold one file.
func single(open func(io.Reader) (io.Reader, error)) func(*look, *archive) error {
	return func(l *look, a *archive) error {
		r, err := open(a.file.reader())
		if err != nil {
			return err
		}
		inside := a.name
		for _, ending := range []string{".gz", ".bz2", ".xz", ".zst", ".tgz", ".z", ".bz"} {
			if len(inside) > len(ending) && strings.EqualFold(inside[len(inside)-len(ending):], ending) {
				inside = inside[:len(inside)-len(ending)]
				break
			}
		}
		if g, ok := r.(*gzip.Reader); ok && g.Name != "" { // which of the two the file gets is the program's choice
			l.name(g.Name, a.where+" > "+printable(g.Name))
		}
		return l.entry(a, inside, false, func() (io.Reader, error) { return r, nil })
	}
}
