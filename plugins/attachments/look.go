package attachments

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/nwaples/rardecode/v2"
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

	unreadable finding = "UNREADABLE"
)

// maxFindings is how many findings of a message are told; of each kind the first always is, so
// that many small ones hide no other.
const maxFindings = 50

// look is the work on one message.
type look struct {
	ctx      context.Context
	settings *Settings
	findings []found
	kinds    map[finding]bool
	files    int
	octets   int64
	before   int64 // octets that were unpacked before the attachment at hand
	failed   error // of our own: a full disk, not the message
}

type found struct {
	kind finding
	text string
}

func newLook(ctx context.Context, s *Settings) *look {
	return &look{ctx: ctx, settings: s, kinds: make(map[finding]bool)}
}

func (l *look) find(kind finding, where, text string) {
	if where != "" {
		text = where + ": " + text
	}
	f := found{kind, printable(text)}
	if (len(l.findings) < maxFindings || !l.kinds[kind]) && !slices.Contains(l.findings, f) {
		l.findings = append(l.findings, f)
	}
	l.kinds[kind] = true
}

// printable makes a name fit for a log.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:500], "") + "..."
	}
	return s
}

// name judges a file's name; where is how it is told.
func (l *look) name(name, where string) {
	if name == "" {
		return
	}
	whole, _, cut := strings.Cut(name, "\x00") // where programs in C stop reading
	if cut {
		l.blockedName(whole, where)
	}
	l.blockedName(name, where)
	if strings.ContainsFunc(name, deceives) {
		l.find(deceptive, where, "the name has characters that are not shown or turn the text around")
	}
	if i := strings.Index(name, "     "); i >= 0 && strings.Contains(name[i:], ".") {
		l.find(deceptive, where, "the name has many spaces before its ending")
	}
}

func (l *look) blockedName(name, where string) {
	plain := plainName(name)
	if l.matches(l.settings.BlockNames, plain) && !l.matches(l.settings.AllowNames, plain) {
		l.find(blocked, where, "files of this name are not accepted")
	}
}

// deceives reports whether a character changes how its neighbours are shown, or is there to be
// overlooked.
func deceives(r rune) bool {
	return r < ' ' && r != '\t' || r == 0x7F || r >= 0x202A && r <= 0x202E || r >= 0x2066 && r <= 0x206F ||
		r == 0x200B || r >= 0x2060 && r <= 0x2064 || r >= 0xE0000 && r <= 0xE007F
}

// invisible reports whether a character is not shown. Those that do not deceive stand in honest names: the marks of
// Hebrew and Arabic, the joiners of Persian and Hindi, the soft hyphen.
func invisible(r rune) bool {
	return deceives(r) || unicode.Is(unicode.Cf, r)
}

// plainName is the last element of a name as a system that opens it reads it: small letters, without
// what is not shown, and without the dots and spaces at the end that Windows ignores.
func plainName(name string) string {
	name = strings.Map(func(r rune) rune {
		if invisible(r) {
			return -1
		}
		return unicode.ToLower(r)
	}, name)
	name = strings.TrimRight(name, `/\. `+"\t")
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
	case packed > 0 && l.octets-l.before > 1<<20 && (l.octets-l.before)/packed > int64(limits.Ratio):
		l.find(overLimit, where, fmt.Sprintf("unpacks to more than %d times its size", limits.Ratio))
	default:
		return false
	}
	return true
}

// enter looks at one file: its octets, and if it is an archive, what is in it. packed is how
// many octets of the message it came from, for the ratio; kind is what somebody said it is, or "".
func (l *look) enter(where, name string, r io.Reader, packed int64, depth int, kind string) {
	defer func() {
		if cause := recover(); cause != nil { // a parser of somebody else's; this one is lost, the others are looked at
			l.find(damaged, where, fmt.Sprintf("cannot be read: %v", cause))
		}
	}()
	if depth == 0 {
		l.before = l.octets
	}
	if l.over(where, packed) {
		return
	}
	file, err := keep(&metered{l: l, r: r, packed: packed, where: where}, -1)
	if file != nil {
		defer file.close()
	}
	switch {
	case errors.Is(err, errOver): // was noted
		return
	case err != nil:
		l.unread(where, "the file", err)
	}
	if file == nil {
		return
	}
	l.octetsOf(where, name, file, packed, depth, kind)
}

// unread notes why something could not be read: its fault, that of the format, or ours.
func (l *look) unread(where, what string, err error) {
	var own *fs.PathError // of our temporary file
	switch {
	case errors.As(err, &own):
		l.failed = errors.Join(l.failed, fmt.Errorf("keep what is looked at: %w", err))
	case errors.Is(err, errEncrypted):
		l.find(encrypted, where, what+" is encrypted")
	case errors.Is(err, zip.ErrAlgorithm), errors.Is(err, rardecode.ErrMultiVolume), errors.Is(err, rardecode.ErrUnknownVersion),
		errors.Is(err, rardecode.ErrUnsupportedDecoder), errors.Is(err, rardecode.ErrUnknownDecoder), errors.Is(err, rardecode.ErrDictionaryTooLarge),
		errors.Is(err, errWindow), errors.Is(err, errClosed7z), strings.Contains(err.Error(), "unsupported compression"):
		l.find(unreadable, where, what+" cannot be looked into: "+printable(err.Error()))
	default:
		l.find(damaged, where, what+" does not read: "+printable(err.Error()))
	}
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

// octetsOf judges a file by what it is. kind is what its declaration says that no octets say:
// "message", "text", or "".
func (l *look) octetsOf(where, name string, file *kept, packed int64, depth int, kind string) {
	head := make([]byte, 4096)
	n, _ := file.ReadAt(head, 0)
	found := typeOf(head[:n])
	if found == "" {
		found = typeFarIn(file)
	}
	plain := plainName(name)
	if slices.Contains(l.settings.BlockTypes, found) && !l.matches(l.settings.AllowNames, plain) {
		l.find(blocked, where, "its content is of the type "+found+", which is not accepted")
	}
	if found == "ole" && oleHasMacros(file) {
		l.find(macros, where, "the document has macros")
	}
	if found == "ole" && contains(file, wide("EncryptedPackage")) { // an Office document (MS-OFFCRYPTO section 2.3.4.4)
		l.find(encrypted, where, "the document is encrypted")
	}
	kinds := []string{found}
	switch {
	case kind == "message", found == "" && kind == "" && looksLikeMessage(head[:n], plain):
		kinds = append(kinds, "message")
	case found == "":
		kinds[0] = typeByName(plain)
	}
	if found != "zip" && endsAsZip(file) { // a zip may have anything in front
		kinds = append(kinds, "zip behind")
	}
	kinds = append(kinds, archivesBehind(file, found)...)
	for _, kind := range kinds {
		l.open(kind, where, name, file, packed, depth)
	}
	if found == "" {
		l.inline(where, file, packed, depth)
	}
}

// open looks into an archive.
func (l *look) open(kind, where, name string, file *kept, packed int64, depth int) {
	if closed(kind) {
		l.find(unreadable, where, "nothing here looks into files of the type "+kind)
		return
	}
	look, ok := archives()[kind]
	if !ok {
		return
	}
	if depth >= l.settings.Limits.Depth {
		l.find(overLimit, where, fmt.Sprintf("archives within archives deeper than %d", l.settings.Limits.Depth))
		return
	}
	err := look(l, &archive{where: where, name: name, file: file, packed: packed, depth: depth + 1})
	if err != nil && !errors.Is(err, errOver) {
		l.unread(where, "the archive", err)
	}
}
