package parse

import (
	"bytes"
	"errors"
	"io"
	"strings"

	"github.com/sluicemail/sluice/storage/mime"
)

// leaf looks at the body of a part that has no parts.
func (p *parser) leaf(index int, from *mime.Part) {
	if strings.EqualFold(from.Encoding, "base64") {
		if fault := checkBase64(p.section(from)); fault != "" {
			p.odd(badBase64, index, fault)
		}
	}
	if from.Type != "text" {
		return
	}
	charset := p.out.Parts[index].Charset
	if !mime.KnownCharset(charset) {
		p.odd(unknownCharset, index, charset)
	}
	text, whole := p.text(from, charset)
	if strings.IndexByte(text, 0) >= 0 {
		p.odd(nulOctet, index, "in the text")
	}
	p.inline(index, text)
	if from.Subtype == "html" {
		p.urls.html(p.out, text)
	} else {
		p.urls.plain(p.out, text)
	}
	if !whole {
		p.out.Truncated = true
		return
	}
	p.room -= len(text)
	p.out.Parts[index].Text = text
}

// text decodes the body of a text part. Of one that does not fit into the room that is left
// it returns the beginning, so that URLs and the like are found there all the same.
func (p *parser) text(from *mime.Part, charset string) (text string, whole bool) {
	decoder, err := mime.Decoder(from.Encoding, p.section(from))
	if err != nil {
		decoder = p.section(from) // of an encoding that nobody knows, the octets as they are
	}
	room := p.room
	if room == 0 {
		return "", from.Size() == 0
	}
	// No charset takes less than an octet for an octet of UTF-8, but for UTF-16 (two for one).
	var raw bytes.Buffer
	raw.Grow(int(min(from.Size(), int64(2*room))) + bytes.MinRead)
	n, err := raw.ReadFrom(io.LimitReader(decoder, int64(2*room)+1))
	whole = err == nil && n <= int64(2*room)
	text = mime.ToUTF8(charset, raw.Bytes())
	if len(text) > room {
		return cut(text, room), false
	}
	return text, whole
}

// inline looks for files that are written into a text.
func (p *parser) inline(index int, text string) {
	for rest := text; ; {
		i := strings.Index(rest, "begin ")
		if i < 0 {
			break
		}
		if (i == 0 || rest[i-1] == '\n') && uuBegin(rest[i+len("begin "):]) {
			p.odd(uuencode, index, "")
			break
		}
		rest = rest[i+len("begin "):]
	}
	for rest := text; ; {
		i := strings.Index(rest, "=ybegin ")
		if i < 0 {
			break
		}
		if i == 0 || rest[i-1] == '\n' {
			p.odd(yenc, index, "")
			break
		}
		rest = rest[i+len("=ybegin "):]
	}
}

// uuBegin reports whether what follows "begin " is a mode and a name, and the next line
// begins with its length (POSIX uuencode).
func uuBegin(s string) bool {
	line, rest, ok := strings.Cut(s, "\n")
	mode, name, named := strings.Cut(strings.TrimRight(line, "\r"), " ")
	if !ok || !named || strings.TrimSpace(name) == "" || len(mode) < 3 || len(mode) > 4 || strings.Trim(mode, "01234567") != "" {
		return false
	}
	data, _, _ := strings.Cut(rest, "\n")
	data = strings.TrimRight(data, "\r")
	if data == "" || data[0] < ' ' || data[0] > '`' {
		return false
	}
	octets := int(data[0]-' ') & 63
	need := (octets + 2) / 3 * 4
	return octets == 0 || (len(data)-1 <= need+2 && len(data)-1 >= need/2) // blanks at the end get lost
}

// checkBase64 says what is wrong with base64, or "" (RFC 2045 section 6.8). White space is
// none of it.
func checkBase64(r io.Reader) string {
	buffer := make([]byte, 32<<10)
	var state base64State
	for {
		n, err := r.Read(buffer)
		if fault := state.check(buffer[:n]); fault != "" {
			return fault
		}
		switch {
		case errors.Is(err, io.EOF):
			if state.digits%4 != 0 && (state.pad == 0 || (state.digits+state.pad)%4 != 0) {
				return "it ends in the middle"
			}
			return ""
		case err != nil:
			return ""
		}
	}
}

// base64State is where a check stands.
type base64State struct{ digits, pad int }

func (s *base64State) check(piece []byte) string {
	for len(piece) > 0 {
		if s.pad == 0 {
			n := digits(piece)
			s.digits = (s.digits + n) % 4
			piece = piece[n:]
			if len(piece) == 0 {
				break
			}
		}
		switch c := piece[0]; {
		case c == '\r' || c == '\n' || c == ' ' || c == '\t':
		case c == '=':
			if s.pad++; s.digits < 2 || s.pad > 4-s.digits {
				return "padding where none belongs"
			}
		case s.pad > 0:
			return "it goes on after its padding"
		default:
			return "other characters are inside"
		}
		piece = piece[1:]
	}
	return ""
}

// digits is how many characters of base64 the piece begins with.
func digits(piece []byte) int {
	for i, c := range piece {
		if (c|0x20 >= 'a' && c|0x20 <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '/' {
			continue
		}
		return i
	}
	return len(piece)
}
