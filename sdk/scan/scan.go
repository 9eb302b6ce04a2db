// Package scan finds a fixed string in a message while its octets go by: as they
// are, as base64 and as quoted-printable. It keeps a few hundred octets, however
// large the message.
//
// It trusts no MIME header: every passage is read in all three ways at once, so a
// part that lies about its encoding, or hides behind a broken boundary, is seen all
// the same. Base64 is decoded as lenient readers do (RFC 2045 section 6.8: characters
// outside the alphabet are skipped), anew after each empty line and each line that may be a
// boundary; quoted-printable with soft line breaks (section 6.7). One level of
// encoding is undone: a message that was encoded as a whole and has encoded
// parts inside is not.
package scan

import (
	"bytes"
	"errors"
	"io"
)

// Find reads r until the string turns up or r ends. An error is r's.
func Find(r io.Reader, needle string) (bool, error) {
	f := NewFinder(needle)
	buf := make([]byte, 16<<10)
	for {
		n, err := r.Read(buf)
		_, _ = f.Write(buf[:n])
		switch {
		case f.Found():
			return true, nil
		case errors.Is(err, io.EOF):
			return false, nil
		case err != nil:
			return false, err
		}
	}
}

// Finder looks for one string in what is written to it.
type Finder struct {
	raw    window
	base64 base64
	quoted quoted
}

// NewFinder returns a Finder for a string that is not empty.
func NewFinder(needle string) *Finder {
	w := window{needle: []byte(needle), tail: make([]byte, 0, 2*len(needle))}
	f := &Finder{raw: w}
	w.tail = make([]byte, 0, 2*len(needle))
	f.base64 = base64{window: w, start: true}
	w.tail = make([]byte, 0, 2*len(needle))
	f.quoted = quoted{window: w}
	return f
}

// Write looks at the next octets. It never fails.
func (f *Finder) Write(p []byte) (int, error) {
	if !f.Found() {
		f.raw.add(p)
		f.base64.write(p)
		f.quoted.write(p)
	}
	return len(p), nil
}

// Found reports whether the string turned up.
func (f *Finder) Found() bool { return f.raw.found || f.base64.found || f.quoted.found }

// window searches a stream: each piece, and the seam between two.
type window struct {
	needle []byte
	tail   []byte // last octets, fewer than the needle has
	found  bool
}

func (w *window) add(p []byte) {
	if w.found || len(p) == 0 {
		return
	}
	keep := len(w.needle) - 1
	if len(w.tail) > 0 {
		seam := append(w.tail, p[:min(len(p), keep)]...)
		w.found = bytes.Contains(seam, w.needle)
		if len(p) < keep {
			w.tail = append(w.tail[:0], seam[max(0, len(seam)-keep):]...)
			return
		}
	}
	w.found = w.found || bytes.Contains(p, w.needle)
	w.tail = append(w.tail[:0], p[max(0, len(p)-keep):]...)
}

// digits maps a character to its value in base64, or to skip.
var digits = func() (table [256]byte) {
	for i := range table {
		table[i] = skip
	}
	for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
		table[c] = byte(i)
	}
	return table
}()

const skip = 0xff

type base64 struct {
	window
	group  uint32
	have   int  // digits in group
	start  bool // nothing but CR on this line yet
	dashes int  // of a line that begins with them; 2 makes it a boundary
	only   bool // nothing but dashes on this line yet
}

func (b *base64) write(p []byte) {
	var out [768]byte
	n := 0
	for len(p) > 0 {
		if b.dashes < 2 {
			// The loop that sees nearly every octet works on copies of the state.
			group, have, i := b.group, b.have, 0
			for i < len(p) && n <= len(out)-3 {
				d := digits[p[i]]
				if d == skip {
					break
				}
				i++
				group = group<<6 | uint32(d)
				if have++; have == 4 {
					out[n], out[n+1], out[n+2] = byte(group>>16), byte(group>>8), byte(group)
					n, group, have = n+3, 0, 0
				}
			}
			b.group, b.have = group, have
			if i > 0 {
				b.start, b.only = false, false
				p = p[i:]
			}
			if n > len(out)-3 {
				b.add(out[:n])
				n = 0
				continue
			}
			if len(p) == 0 {
				break
			}
		}
		n = b.other(p[0], out[:], n)
		p = p[1:]
	}
	b.add(out[:n])
}

// other handles what is no digit: ends of lines, boundaries, padding.
func (b *base64) other(c byte, out []byte, n int) int {
	switch {
	case c == '\n':
		if b.start || b.dashes >= 2 {
			n = b.rest(out, n)
			b.add(out[:n])
			n, b.tail = 0, b.tail[:0]
		}
		b.start, b.only, b.dashes = true, true, 0
	case c == '\r':
	case c == '-' && (b.start || b.only):
		b.dashes++
		b.start = false
	case c == '=' && b.dashes < 2:
		b.start, b.only = false, false
		n = b.rest(out, n)
	default:
		b.start, b.only = false, false
	}
	if len(out)-n < 3 {
		b.add(out[:n])
		n = 0
	}
	return n
}

// rest emits the octets of an unfinished group.
func (b *base64) rest(out []byte, n int) int {
	if b.have >= 2 {
		g := b.group << (6 * (4 - b.have))
		out[n] = byte(g >> 16)
		n++
		if b.have == 3 {
			out[n] = byte(g >> 8)
			n++
		}
	}
	b.group, b.have = 0, 0
	return n
}

// quoted undoes quoted-printable.
type quoted struct {
	window
	state byte // what came of an escape
	digit byte // its first digit
}

const (
	plain  = iota
	equals // "="
	blank  // "=" and blanks: a soft line break if the line ends here
	hex    // "=" and one digit
)

func (q *quoted) write(p []byte) {
	for len(p) > 0 {
		if q.state == plain {
			i := bytes.IndexByte(p, '=')
			if i < 0 {
				q.add(p)
				return
			}
			q.add(p[:i])
			p, q.state = p[i+1:], equals
			continue
		}
		c := p[0]
		p = p[1:]
		switch value, ok := hexDigit(c); {
		case c == '\n':
			q.state = plain
		case (c == ' ' || c == '\t' || c == '\r') && q.state != hex:
			q.state = blank
		case ok && q.state == equals:
			q.digit, q.state = value, hex
		case ok && q.state == hex:
			q.state = plain
			q.add([]byte{q.digit<<4 | value})
		default: // no escape after all
			q.state = plain
			if c == '=' {
				q.state = equals
			}
		}
	}
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}
