package attachments

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
)

// encodings are the ways in which a body with these Content-Transfer-Encodings is read; a program
// may see any of them.
func encodings(words []string) []string {
	var list []string
	for _, word := range words {
		word = strings.ToLower(word)
		way := ""
		switch {
		case strings.Contains(word, "base64"):
			way = "base64"
		case strings.Contains(word, "quoted"):
			way = "quoted-printable"
		}
		if !slices.Contains(list, way) {
			list = append(list, way)
		}
	}
	if len(list) == 0 {
		list = []string{""}
	}
	return list
}

// decoded calls look with the octets that an encoding stands for, for each way to read them.
func decoded(encoding string, body func() io.Reader, look func(io.Reader)) {
	switch encoding {
	case "base64":
		all := &base64Reader{r: body(), past: true}
		look(all)
		if all.beyond { // many programs stop at the padding
			look(&base64Reader{r: body()})
		}
	case "quoted-printable":
		look(&quotedReader{r: bufio.NewReader(body())})
	default:
		look(body())
	}
}

// base64Reader leaves out what is not in base64's alphabet (RFC 2045 section 6.8), and ends at the
// padding or goes on after it.
type base64Reader struct {
	r       io.Reader
	past    bool // go on after padding
	beyond  bool // there was something after it
	padded  bool
	quantum uint32
	n       int // letters in quantum
	in, out []byte
	err     error
}

// Read implements io.Reader.
func (b *base64Reader) Read(p []byte) (int, error) {
	for len(b.out) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		if b.in == nil {
			b.in = make([]byte, 4096)
		}
		n, err := b.r.Read(b.in)
		b.out, b.err = b.out[:0], err
		b.decode(b.in[:n])
		if b.err != nil {
			b.flush()
		}
	}
	n := copy(p, b.out)
	b.out = b.out[n:]
	return n, nil
}

func (b *base64Reader) decode(in []byte) {
	for _, c := range in {
		v := value64(c)
		switch {
		case c == '=':
			b.flush()
			if b.padded = true; !b.past {
				b.err = io.EOF
				return
			}
			continue
		case v < 0:
			continue
		}
		b.beyond = b.beyond || b.padded
		b.quantum = b.quantum<<6 | uint32(v)
		if b.n++; b.n == 4 {
			b.out = append(b.out, byte(b.quantum>>16), byte(b.quantum>>8), byte(b.quantum))
			b.n, b.quantum = 0, 0
		}
	}
}

// flush takes what less than four letters hold.
func (b *base64Reader) flush() {
	switch b.n {
	case 2:
		b.out = append(b.out, byte(b.quantum>>4))
	case 3:
		b.out = append(b.out, byte(b.quantum>>10), byte(b.quantum>>2))
	}
	b.n, b.quantum = 0, 0
}

func value64(c byte) int {
	switch {
	case c >= 'A' && c <= 'Z':
		return int(c - 'A')
	case c >= 'a' && c <= 'z':
		return int(c-'a') + 26
	case c >= '0' && c <= '9':
		return int(c-'0') + 52
	case c == '+':
		return 62
	case c == '/':
		return 63
	}
	return -1
}

// quotedReader decodes quoted-printable; what is not well formed stands for itself (RFC 2045
// section 6.7), so that a fault hides nothing of what follows.
type quotedReader struct{ r *bufio.Reader }

// Read implements io.Reader.
func (q *quotedReader) Read(p []byte) (int, error) {
	for n := range p {
		c, err := q.octet()
		if err != nil {
			if n > 0 && errors.Is(err, io.EOF) {
				return n, nil
			}
			return n, err
		}
		p[n] = c
	}
	return len(p), nil
}

func (q *quotedReader) octet() (byte, error) {
	for {
		c, err := q.r.ReadByte()
		if err != nil || c != '=' {
			return c, err
		}
		next, _ := q.r.Peek(2)
		if len(next) == 2 && hex(next[0]) >= 0 && hex(next[1]) >= 0 {
			_, err = q.r.Discard(2)
			return byte(hex(next[0])<<4 | hex(next[1])), err
		}
		next, _ = q.r.Peek(200) // a soft line break may have blanks before its end
		blanks := len(next) - len(bytes.TrimLeft(next, " \t\r"))
		if blanks == len(next) || next[blanks] != '\n' {
			return c, nil
		}
		if _, err := q.r.Discard(blanks + 1); err != nil {
			return 0, err
		}
	}
}

func hex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

// maxLine is the longest line that is read as one, in octets.
const maxLine = 16 << 10

// inline looks for files that are written into a text: uuencode, and yEnc.
func (l *look) inline(where string, file *kept, packed int64, depth int) {
	r := bufio.NewReaderSize(file.reader(), maxLine)
	for start := true; ; {
		line, err := r.ReadSlice('\n')
		text := ""
		if start && len(line) > 6 && (line[0] == 'b' || line[0] == '=') {
			text = strings.TrimRight(string(line), "\r\n")
		}
		start = err == nil
		name, decode := inlineBegin(text)
		if name != "" {
			l.files++
			inside := where + " > " + printable(name)
			l.name(name, inside)
			if depth < l.settings.Limits.Depth && !l.over(inside, packed) {
				l.enter(inside, name, &inlineReader{r: r, decode: decode}, packed, depth+1, "")
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// inlineBegin reads the line that begins a file in a text.
func inlineBegin(line string) (name string, decode func([]byte, []byte) ([]byte, bool)) {
	if rest, ok := strings.CutPrefix(line, "=ybegin "); ok {
		_, name, _ = strings.Cut(rest, "name=")
		return strings.TrimSpace(name), yencLine
	}
	rest, ok := strings.CutPrefix(line, "begin ")
	mode, name, named := strings.Cut(rest, " ")
	if !ok || !named || len(mode) < 3 || len(mode) > 4 || strings.Trim(mode, "01234567") != "" {
		return "", nil
	}
	return strings.TrimSpace(name), uuLine
}

// inlineReader reads the lines of a file in a text.
type inlineReader struct {
	r      *bufio.Reader
	decode func(out, line []byte) ([]byte, bool)
	out    []byte
	ended  bool
}

// Read implements io.Reader.
func (i *inlineReader) Read(p []byte) (int, error) {
	for len(i.out) == 0 {
		if i.ended {
			return 0, io.EOF
		}
		line, err := i.r.ReadSlice('\n')
		more := false
		i.out, more = i.decode(i.out[:0], bytes.TrimRight(line, "\r\n"))
		i.ended = !more || err != nil && !errors.Is(err, bufio.ErrBufferFull)
	}
	n := copy(p, i.out)
	i.out = i.out[n:]
	return n, nil
}

// uuLine decodes a line of uuencode: its length, then four letters for three octets.
func uuLine(out, line []byte) ([]byte, bool) {
	if len(line) == 0 || string(line) == "end" || line[0] < ' ' || line[0] > '`' {
		return out, false
	}
	size := int(line[0]-' ') & 63
	line = line[1:]
	for at := 0; size > 0 && at < len(line); at += 4 {
		var v uint32
		for k := range 4 {
			v <<= 6
			if at+k < len(line) {
				v |= uint32(line[at+k]-' ') & 63
			}
		}
		out = append(out, []byte{byte(v >> 16), byte(v >> 8), byte(v)}[:min(size, 3)]...)
		size -= 3
	}
	return out, true
}

// yencLine decodes a line of yEnc: each octet is 42 more, or 106 more after "=".
func yencLine(out, line []byte) ([]byte, bool) {
	switch {
	case bytes.HasPrefix(line, []byte("=yend")):
		return out, false
	case bytes.HasPrefix(line, []byte("=ypart")):
		return out, true
	}
	for at := 0; at < len(line); at++ {
		c := line[at]
		if c == '=' && at+1 < len(line) {
			at++
			c = line[at] - 64
		}
		out = append(out, c-42)
	}
	return out, true
}
