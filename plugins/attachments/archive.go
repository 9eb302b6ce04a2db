package attachments

import (
	"archive/tar"
	"archive/zip"
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
	name   string // "invoice.zip > inner.rar"
	file   *kept
	packed int64
	depth  int
}

var errEncrypted = errors.New("encrypted")

// maxDictionary is how much memory a decoder may take for its window, in octets.
const maxDictionary = 64 << 20

func archives() map[string]func(*look, *archive) error {
	return map[string]func(*look, *archive) error{
		"zip": lookZip, "tar": lookTar, "rar": lookRar, "7z": look7z,
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
				return nil, errors.New("its window is too large")
			}
			break
		}
	}
	return xz.ReaderConfig{DictCap: maxDictionary}.NewReader(io.MultiReader(bytes.NewReader(head[:n]), r))
}

// entry looks at one file of an archive; encrypted ones are noted.
func (l *look) entry(a *archive, name string, locked bool, open func() (io.Reader, error)) error {
	where := a.name + " > " + name
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
		l.find(damaged, where, "cannot be read: "+err.Error())
		return nil
	}
	l.enter(where, r, a.packed, a.depth)
	if closer, ok := r.(io.Closer); ok {
		_ = closer.Close()
	}
	if l.over(where, a.packed) {
		return errOver
	}
	return nil
}

// lookZip reads zip and what is built on it: Office documents, Java archives, packages of Android.
func lookZip(l *look, a *archive) error {
	r, err := zip.NewReader(a.file, a.file.size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // names with ".." are looked at; nothing is written under them
		return err
	}
	for _, f := range r.File {
		base := strings.ToLower(f.Name[strings.LastIndexByte(f.Name, '/')+1:])
		if base == "vbaproject.bin" || strings.HasPrefix(strings.ToLower(f.Name), "xl/macrosheets/") {
			l.find(macros, a.name, "the document has macros")
		}
		if f.FileInfo().IsDir() {
			continue
		}
		// Bit 0: encrypted; bit 13: names are hidden too (APPNOTE section 4.4.4).
		if err := l.entry(a, f.Name, f.Flags&(1|1<<13) != 0, func() (io.Reader, error) { return f.Open() }); err != nil {
			return err
		}
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
		case h.Typeflag != tar.TypeReg:
			l.files++
			continue
		}
		if err := l.entry(a, h.Name, false, func() (io.Reader, error) { return r, nil }); err != nil {
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
		inside := lastName(a.name)
		for _, ending := range []string{".gz", ".bz2", ".xz", ".zst", ".tgz"} {
			inside = strings.TrimSuffix(inside, ending)
		}
		return l.entry(a, inside, false, func() (io.Reader, error) { return r, nil })
	}
}

// lastName is what stands after the last " > ".
func lastName(where string) string {
	if i := strings.LastIndex(where, " > "); i >= 0 {
		return where[i+3:]
	}
	return where
}
