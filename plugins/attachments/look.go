package attachments

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime/quotedprintable"
	"os"
	"path"
	"slices"
	"strings"
	"unicode"
)

// finding is a kind of thing that is found; part of the reason's symbol.
type finding string

const (
	blocked   finding = "BLOCKED"
	encrypted finding = "ENCRYPTED"
	macros    finding = "MACROS"
	overLimit finding = "LIMIT"
	damaged   finding = "DAMAGED"
	deceptive finding = "DECEPTIVE"
	ambiguous finding = "AMBIGUOUS"
)

// maxFindings is how many findings of a message are told.
const maxFindings = 50

// look is the work on one message.
type look struct {
	ctx      context.Context
	settings *Settings
	findings []found
	files    int
	octets   int64
}

type found struct {
	kind finding
	text string
}

func newLook(ctx context.Context, s *Settings) *look { return &look{ctx: ctx, settings: s} }

func (l *look) find(kind finding, where, text string) {
	if where != "" {
		text = printable(where) + ": " + text
	}
	f := found{kind, text}
	if len(l.findings) < maxFindings && !slices.Contains(l.findings, f) {
		l.findings = append(l.findings, f)
	}
}

// printable makes a name fit for a log.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "..."
	}
	return s
}

// name judges a file's name; where is how it is told.
func (l *look) name(name, where string) {
	if name == "" {
		return
	}
	plain := plainName(name)
	if l.matches(l.settings.AllowNames, plain) {
		return
	}
	if l.matches(l.settings.BlockNames, plain) {
		l.find(blocked, where, "files of this name are not accepted")
	}
	if strings.ContainsFunc(name, deceives) {
		l.find(deceptive, where, "the name has characters that are not shown or turn the text around")
	}
	if i := strings.Index(name, "     "); i >= 0 && strings.Contains(name[i:], ".") {
		l.find(deceptive, where, "the name has many spaces before its ending")
	}
}

// deceives reports whether a character is invisible or changes how its neighbours are shown.
func deceives(r rune) bool {
	return r == 0 || r == '\n' || r == '\r' || r >= 0x202A && r <= 0x202E || r >= 0x2066 && r <= 0x2069 || r >= 0x200B && r <= 0x200F && r != 0x200D
}

// plainName is the last element of a name as a system that opens it reads it: small letters, without
// what is not shown, and without the dots and spaces at the end that Windows ignores.
func plainName(name string) string {
	name = strings.Map(func(r rune) rune {
		if deceives(r) {
			return -1
		}
		return unicode.ToLower(r)
	}, name)
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	if i := strings.Index(name, "::$"); i >= 0 { // NTFS streams: "a.exe::$data" is a.exe
		name = name[:i]
	}
	return strings.TrimRight(name, ". \t")
}

func (l *look) matches(patterns []string, name string) bool {
	for _, p := range patterns {
		if ok, err := path.Match(p, name); ok && err == nil {
			return true
		}
	}
	return false
}

// errOver ends the work on an archive.
var errOver = errors.New("over a limit")

// over reports and notes that a limit was reached.
func (l *look) over(where string, packed int64) bool {
	limits := &l.settings.Limits
	switch {
	case l.ctx.Err() != nil:
		l.find(overLimit, where, fmt.Sprintf("not looked at within %s", limits.Time))
	case l.files > limits.Files:
		l.find(overLimit, where, fmt.Sprintf("more than %d files in archives", limits.Files))
	case l.octets > int64(limits.Octets):
		l.find(overLimit, where, fmt.Sprintf("more than %d octets unpacked", limits.Octets))
	case packed > 0 && l.octets > 1<<20 && l.octets/packed > int64(limits.Ratio):
		l.find(overLimit, where, fmt.Sprintf("unpacks to more than %d times its size", limits.Ratio))
	default:
		return false
	}
	return true
}

// enter looks at one file: its octets, and if it is an archive, what is in it. packed is how
// many octets of the message it came from, for the ratio.
func (l *look) enter(name string, r io.Reader, packed int64, depth int) {
	defer func() {
		if cause := recover(); cause != nil { // a parser of somebody else's; this one is lost, the others are looked at
			l.find(damaged, name, fmt.Sprintf("cannot be read: %v", cause))
		}
	}()
	if l.over(name, packed) {
		return
	}
	file, err := keep(&metered{l: l, r: r, packed: packed, where: name}, -1)
	if file != nil {
		defer file.close()
	}
	switch {
	case errors.Is(err, errOver): // was noted
		return
	case err != nil:
		l.find(damaged, name, "cannot be read: "+err.Error())
	}
	if file == nil {
		return
	}
	l.octetsOf(name, file, packed, depth)
}

// metered counts what is unpacked, and ends at the limits.
type metered struct {
	l      *look
	r      io.Reader
	packed int64
	where  string
	told   bool
}

// Read implements io.Reader.
func (m *metered) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.l.octets += int64(n)
	if !m.told && m.l.over(m.where, m.packed) {
		m.told = true
		return n, errOver
	}
	return n, err
}

// octetsOf judges a file by what it is.
func (l *look) octetsOf(name string, file *kept, packed int64, depth int) {
	if l.matches(l.settings.AllowNames, plainName(lastName(name))) {
		return
	}
	head := make([]byte, 4096)
	n, _ := file.ReadAt(head, 0)
	kind := typeOf(head[:n])
	if slices.Contains(l.settings.BlockTypes, kind) {
		l.find(blocked, name, "its content is of the type "+kind+", which is not accepted")
	}
	if kind == "ole" && oleHasMacros(file) {
		l.find(macros, name, "the document has macros")
	}
	open, ok := archives()[kind]
	if !ok {
		return
	}
	if depth >= l.settings.Limits.Depth {
		l.find(overLimit, name, fmt.Sprintf("archives within archives deeper than %d", l.settings.Limits.Depth))
		return
	}
	err := open(l, &archive{name: name, file: file, packed: packed, depth: depth + 1})
	switch {
	case err == nil || errors.Is(err, errOver):
	case errors.Is(err, errEncrypted):
		l.find(encrypted, name, "the archive is encrypted")
	default:
		l.find(damaged, name, "the archive does not read: "+err.Error())
	}
}

// decoded undoes a Content-Transfer-Encoding as lenient readers do.
func decoded(encoding string, r io.Reader) io.Reader {
	switch encoding {
	case "base64":
		return base64.NewDecoder(base64.StdEncoding, &lettersOf64{r: r})
	case "quoted-printable":
		return quotedprintable.NewReader(r)
	}
	return r
}

// lettersOf64 leaves out what is not in base64's alphabet (RFC 2045 section 6.8), and ends
// at the padding.
type lettersOf64 struct {
	r     io.Reader
	n     int // letters so far
	ended bool
}

// Read implements io.Reader.
func (l *lettersOf64) Read(p []byte) (int, error) {
	for {
		if l.ended {
			return 0, io.EOF
		}
		n, err := l.r.Read(p)
		kept := 0
		for _, c := range p[:n] {
			if c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/' {
				p[kept] = c
				kept++
			} else if c == '=' {
				l.ended = true
				break
			}
		}
		l.n += kept
		if l.ended || errors.Is(err, io.EOF) {
			l.ended = true
			for pad := (4 - l.n%4) % 4; pad > 0 && kept < len(p); pad-- {
				p[kept] = '='
				kept++
			}
		}
		if kept > 0 || err != nil {
			return kept, nilAtEnd(err, kept)
		}
	}
}

func nilAtEnd(err error, n int) error {
	if n > 0 && errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// uuencoded returns the names of files that stand in a text in the old way.
func uuencoded(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, "begin ")
		mode, name, ok2 := strings.Cut(strings.TrimRight(rest, "\r\n"), " ")
		if ok && ok2 && (len(mode) == 3 || len(mode) == 4) && strings.Trim(mode, "01234567") == "" && name != "" && len(names) < 100 {
			names = append(names, name)
		}
	}
	return names
}

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
