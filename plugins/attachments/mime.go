package attachments

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"maps"
	"mime"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicemail/sluice/sdk"
)

// block is what a header says about what follows it: everything that some program might believe, from every
// repeated field and parameter.
type block struct {
	names     []string
	types     []string
	encodings []string
}

// container reports whether what follows is a multipart or a message by one of its types.
func (b *block) container() bool {
	return slices.ContainsFunc(b.types, func(t string) bool {
		return strings.HasPrefix(t, "multipart/") || t == "message/rfc822" || t == "message/global"
	})
}

// maxHeader is how much of one header is looked at, in octets.
const maxHeader = 256 << 10

// headerBlock reads a header.
func headerBlock(raw []byte) block {
	var b block
	var field []byte
	done := func() {
		name, value, ok := strings.Cut(string(field), ":")
		if !ok {
			return
		}
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "content-type":
			word, _, _ := strings.Cut(value, ";")
			b.types = append(b.types, strings.ToLower(strings.TrimSpace(word)))
			b.names = append(b.names, fileNames(value)...)
		case "content-disposition":
			b.names = append(b.names, fileNames(value)...)
		case "content-transfer-encoding":
			b.encodings = append(b.encodings, value)
		}
	}
	for line := range bytes.Lines(raw) {
		text := bytes.TrimRight(line, "\r\n")
		if len(text) > 0 && (text[0] == ' ' || text[0] == '\t') {
			field = append(field, text...)
			continue
		}
		done()
		field = append(field[:0], text...)
	}
	done()
	return b
}

// maxNames is how many names of one field are judged.
const maxNames = 50

// fileNames returns the values of every parameter name and filename of a field, decoded: each as it is, up to where it ends for
// who reads no further, and the pieces of one put together by their numbers (RFC 2231 section 3) and as they come.
func fileNames(value string) []string {
	var names []string
	whole := map[string]string{}
	numbered := map[string]map[int]string{}
	words := &mime.WordDecoder{CharsetReader: func(_ string, r io.Reader) (io.Reader, error) { return r, nil }} // an ending is ASCII in all of them
	for _, item := range splitQuoted(value) {
		key, text, ok := strings.Cut(item, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		base, _, pieces := strings.Cut(key, "*")
		if !ok || base != "name" && base != "filename" || len(names) >= maxNames {
			continue
		}
		if first := firstValue(text); first != "" && first != unquoted(text) {
			names = append(names, first)
		}
		text = unquoted(text)
		if strings.HasSuffix(key, "*") {
			if parts := strings.SplitN(text, "'", 3); len(parts) == 3 {
				text = parts[2]
			}
			if plain, err := url.PathUnescape(text); err == nil {
				text = plain
			}
		}
		if number, err := strconv.Atoi(strings.Trim(strings.TrimPrefix(key, base), "*")); pieces && err == nil {
			if numbered[base] == nil {
				numbered[base] = make(map[int]string)
			}
			numbered[base][number] = text
		}
		if pieces && key != base+"*" {
			whole[base] += text
			text = whole[base]
		}
		names = append(names, text)
		if decoded, err := words.DecodeHeader(text); err == nil && decoded != text {
			names = append(names, decoded)
		}
	}
	for _, parts := range numbered {
		text := ""
		for _, number := range slices.Sorted(maps.Keys(parts)) {
			text += parts[number]
		}
		names = append(names, text)
	}
	return names
}

// firstValue is a parameter's value for a program that ends at the closing quote, or without quotes at the first blank or comment.
func firstValue(text string) string {
	text = strings.TrimSpace(text)
	if inner, ok := strings.CutPrefix(text, `"`); ok {
		for i := 0; i < len(inner); i++ {
			switch inner[i] {
			case '\\':
				i++
			case '"':
				return unquoted(inner[:i])
			}
		}
		return ""
	}
	if end := strings.IndexAny(text, " \t("); end >= 0 {
		return text[:end]
	}
	return ""
}

// splitQuoted splits at semicolons outside quotes; a quote that is never closed holds none.
func splitQuoted(value string) []string {
	var items []string
	start, quoted := 0, false
	for i := 0; i < len(value); i++ {
		switch value[i] {
		case '\\':
			i++
		case '"':
			quoted = !quoted && strings.IndexByte(value[i+1:], '"') >= 0
		case ';':
			if !quoted {
				items = append(items, value[start:i])
				start = i + 1
			}
		}
	}
	return append(items, value[start:])
}

// unquoted takes quotes out wherever they stand, and the backslashes of quoted pairs.
func unquoted(s string) string {
	s = strings.TrimSpace(s)
	return strings.NewReplacer(`\"`, `"`, `\\`, `\`, `"`, "").Replace(s)
}

// loose reads octets as a program would that takes every line which begins with "--" for a delimiter, and looks at
// the bodies between them. It returns the last header, whose body is not among the octets.
func (l *look) loose(where string, file *kept, from, to int64, inHeader bool, packed int64, depth int) block {
	s := looseState{l: l, where: where, file: file, packed: packed, depth: depth, inHeader: inHeader, body: -1}
	r := bufio.NewReaderSize(io.NewSectionReader(file, from, to-from), maxLine)
	at := from
	for start := true; ; {
		line, err := r.ReadSlice('\n')
		if start {
			s.line(line, at)
		}
		start = err == nil
		at += int64(len(line))
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) || l.ctx.Err() != nil {
			break
		}
	}
	s.end(to)
	if s.inHeader {
		s.headerEnds()
	}
	return s.last
}

// looseState is where loose stands.
type looseState struct {
	l        *look
	where    string
	file     *kept
	packed   int64
	depth    int
	inHeader bool
	raw      []byte // of the header
	last     block
	body     int64 // where it began, or -1
}

func (s *looseState) line(line []byte, at int64) {
	text := bytes.TrimRight(line, " \t\r\n")
	switch {
	case len(text) > 2 && text[0] == '-' && text[1] == '-':
		s.end(at)
		s.inHeader, s.raw, s.last = true, nil, block{}
	case !s.inHeader:
	case len(text) > 0:
		if len(s.raw)+len(line) <= maxHeader {
			s.raw = append(s.raw, line...)
		}
	default:
		s.headerEnds()
		if ways := encodings(s.last.encodings); s.last.container() && slices.Equal(ways, []string{""}) {
			if !strings.HasPrefix(s.last.types[0], "multipart/") {
				s.raw = nil // the header of the message within
				return
			}
		}
		s.inHeader, s.raw, s.body = false, nil, at+int64(len(line))
	}
}

func (s *looseState) headerEnds() {
	s.last = headerBlock(s.raw)
	for _, name := range s.last.names {
		s.l.name(name, s.where+" > "+printable(name))
	}
}

// end looks at the body that ends here.
func (s *looseState) end(at int64) {
	from := s.body
	s.body = -1
	if from < 0 || at <= from || len(s.last.types)+len(s.last.names)+len(s.last.encodings) == 0 {
		return
	}
	where := s.where + " > " + s.last.name("a part")
	if s.l.files++; s.l.over(where, s.packed) {
		return
	}
	s.l.bodyOf(where, &s.last, s.file, from, at-from, s.packed, s.depth)
}

func (b *block) name(otherwise string) string {
	if len(b.names) > 0 {
		return printable(b.names[0])
	}
	return otherwise
}

// bodyOf looks at a body in every way that its header allows. The parts of a container that is not encoded are looked at by
// whoever calls.
func (l *look) bodyOf(where string, b *block, file *kept, from, length, packed int64, depth int) {
	kind := ""
	switch {
	case b.container():
		kind = "message"
	case slices.ContainsFunc(b.types, func(t string) bool { return strings.HasPrefix(t, "text/") }) || len(b.types) == 0:
		kind = "text"
	}
	for _, way := range encodings(b.encodings) {
		if kind == "message" && way == "" {
			continue
		}
		body := func() io.Reader { return io.NewSectionReader(file, from, length) }
		decoded(way, body, func(r io.Reader) { l.enter(where, b.name(""), r, packed, depth, kind) })
	}
}

// lookMessage reads a message or a multipart that stood in an encoding, or was attached as a file.
func lookMessage(l *look, a *archive) error {
	l.loose(a.where, a.file, 0, a.file.size, true, a.packed, a.depth)
	return nil
}

// looksLikeMessage reports whether a file begins with the header of a message, or has its name.
func looksLikeMessage(head []byte, plain string) bool {
	for _, ending := range []string{".eml", ".mht", ".mhtml", ".nws"} {
		if strings.HasSuffix(plain, ending) {
			return true
		}
	}
	known := 0
	lower := "\n" + strings.ToLower(string(head))
	for _, name := range []string{"from", "to", "subject", "date", "received", "return-path", "message-id", "mime-version", "content-type"} {
		if strings.Contains(lower, "\n"+name+":") {
			known++
		}
	}
	first, _, _ := strings.Cut(string(head), "\n")
	name, _, ok := strings.Cut(first, ":")
	return ok && known >= 2 && name != "" && !strings.ContainsAny(name, " \t<>{}\"")
}

// message looks at the parts that the shared parse found, and at everything that is between and behind them.
func (l *look) message(parsed *sdk.Parsed, file *kept) {
	ends := make([]int64, len(parsed.Parts)) // how far the parts within a part have been looked at
	hasParts := make([]bool, len(parsed.Parts))
	for i := range parsed.Parts {
		part := &parsed.Parts[i]
		ends[i] = part.Offset
		from, header := int64(0), true
		if part.Parent >= 0 && part.Parent < i {
			from = ends[part.Parent]
			header = !strings.HasPrefix(parsed.Parts[part.Parent].Type, "multipart/")
			ends[part.Parent], hasParts[part.Parent] = max(from, part.Offset+part.Length), true
		}
		b := l.loose("the message", file, from, max(from, part.Offset), header, part.Length, 0)
		l.part(part, &b, file)
	}
	for i := range parsed.Parts {
		part := &parsed.Parts[i]
		message := strings.HasPrefix(part.Type, "message/")
		if hasParts[i] || message || strings.HasPrefix(part.Type, "multipart/") {
			l.loose("behind the parts", file, ends[i], max(ends[i], part.Offset+part.Length), message && !hasParts[i], part.Length, 0)
		}
	}
}

// part looks at one part of the message; b is its header as we read it.
func (l *look) part(part *sdk.Part, b *block, file *kept) {
	l.name(part.Name, part.Name)
	if part.Name != "" {
		b.names = slices.Insert(b.names, 0, part.Name)
	}
	if part.Type != "" {
		b.types = append(b.types, part.Type)
	}
	if part.Encoding != "" || len(b.encodings) == 0 {
		b.encodings = append(b.encodings, part.Encoding)
	}
	l.bodyOf(b.name(part.Type), b, file, part.Offset, part.Length, part.Length, 0)
	if leaf := !strings.HasPrefix(part.Type, "multipart/") && !strings.HasPrefix(part.Type, "message/"); leaf && b.container() {
		l.enter(b.name(part.Type), "", io.NewSectionReader(file, part.Offset, part.Length), part.Length, 0, "message")
	}
}
