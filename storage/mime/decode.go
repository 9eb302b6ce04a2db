package mime

import (
	"errors"
	"io"
	"strings"
)

// ErrUnknownEncoding is what Decoder returns for a Content-Transfer-Encoding
// that is none of RFC 2045: IMAP answers NO [UNKNOWN-CTE] (RFC 3516 section 4.3).
var ErrUnknownEncoding = errors.New("unknown content transfer encoding")

// Decoder returns the octets of src with the Content-Transfer-Encoding removed.
// It is lenient: what is no base64 is skipped, what is no quoted-printable stays.
func Decoder(encoding string, src io.Reader) (io.Reader, error) {
	switch strings.ToLower(encoding) {
	case "", "7bit", "8bit", "binary":
		return src, nil
	case "base64":
		return &decoder{src: src, step: (&base64State{}).step}, nil
	case "quoted-printable":
		return &decoder{src: src, step: (&qpState{}).step}, nil
	}
	return nil, ErrUnknownEncoding
}

// decoder feeds pieces of src to step, which appends what they mean to dst.
type decoder struct {
	src  io.Reader
	step func(dst, piece []byte, last bool) []byte
	in   [4096]byte
	out  []byte
	pos  int
	err  error
}

// Read implements io.Reader.
func (d *decoder) Read(p []byte) (int, error) {
	for d.pos == len(d.out) {
		if d.err != nil {
			return 0, d.err
		}
		n, err := d.src.Read(d.in[:])
		d.err = err
		d.out, d.pos = d.step(d.out[:0], d.in[:n], err != nil), 0
	}
	n := copy(p, d.out[d.pos:])
	d.pos += n
	return n, nil
}

// base64State holds the bits that do not make an octet yet (RFC 2045 section 6.8).
type base64State struct {
	bits uint32
	n    uint
}

func (s *base64State) step(dst, piece []byte, _ bool) []byte {
	for _, c := range piece {
		var v uint32
		switch {
		case c >= 'A' && c <= 'Z':
			v = uint32(c - 'A')
		case c >= 'a' && c <= 'z':
			v = uint32(c-'a') + 26
		case c >= '0' && c <= '9':
			v = uint32(c-'0') + 52
		case c == '+':
			v = 62
		case c == '/':
			v = 63
		case c == '=': // padding ends a quantum; another one may follow
			s.bits, s.n = 0, 0
			continue
		default:
			continue
		}
		s.bits, s.n = s.bits<<6|v, s.n+6
		if s.n >= 8 {
			s.n -= 8
			dst = append(dst, byte(s.bits>>s.n))
		}
	}
	return dst
}

// qpState holds back what may mean something together with the next octets: an
// escape, or white space that is dropped at the end of a line (RFC 2045 section
// 6.7 rule 3).
type qpState struct {
	held []byte
}

// maxHeld bounds what is held back: a line is 76 octets, senders go to 998.
const maxHeld = 1000

func (s *qpState) step(dst, piece []byte, last bool) []byte {
	for _, c := range piece {
		dst = s.octet(dst, c)
	}
	if last {
		if len(s.held) > 0 && s.held[0] == '=' {
			if strings.TrimRight(string(s.held), " \t\r") == "=" {
				s.held = s.held[:0] // a soft line break at the very end
			}
			dst = append(dst, s.held...)
		}
		s.held = s.held[:0]
	}
	return dst
}

func (s *qpState) octet(dst []byte, c byte) []byte {
	if len(s.held) > 0 && s.held[0] == '=' {
		return s.escape(dst, c)
	}
	switch {
	case c == ' ' || c == '\t' || c == '\r':
		if s.held = append(s.held, c); len(s.held) > maxHeld {
			dst, s.held = append(dst, s.held...), s.held[:0]
		}
		return dst
	case c == '\n':
		if n := len(s.held); n > 0 && s.held[n-1] == '\r' {
			dst = append(dst, '\r')
		}
		s.held = s.held[:0]
		return append(dst, c)
	}
	dst, s.held = append(dst, s.held...), s.held[:0]
	if c == '=' {
		s.held = append(s.held, c)
		return dst
	}
	return append(dst, c)
}

// escape continues what began with "=": two hexadecimal digits, or white space
// and a line break; anything else was no escape and stays.
func (s *qpState) escape(dst []byte, c byte) []byte {
	if len(s.held) == 2 {
		hi, ok1 := hexDigit(s.held[1])
		lo, ok2 := hexDigit(c)
		if ok1 && ok2 {
			s.held = s.held[:0]
			return append(dst, hi<<4|lo)
		}
	}
	blank := len(s.held) == 1 || isLWS(s.held[1])
	if _, ok := hexDigit(c); ok && len(s.held) == 1 {
		s.held = append(s.held, c)
		return dst
	}
	if blank && c == '\n' {
		s.held = s.held[:0]
		return dst
	}
	if blank && isLWS(c) && len(s.held) < maxHeld {
		s.held = append(s.held, c)
		return dst
	}
	dst, s.held = append(dst, s.held...), s.held[:0]
	return s.octet(dst, c)
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}
