package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode/utf8"
)

// ErrBare is returned for content with a CR or an LF that stands alone. It is never sent: servers differ in what they take for
// the end of a line, and with it for the end of a message.
var ErrBare = errors.New("the content has a bare CR or LF")

// ChunkFrom is the size of content from which on BDAT is used where the server has it.
const ChunkFrom = 256 << 10

// block is how much content is read and written at once. The buffers are taken for one write each, not for a transaction.
const block = 64 << 10

var blocks = sync.Pool{New: func() any { b := make([]byte, 0, block+64); return &b }}

// Facts are what Scan found out about content.
type Facts struct {
	EightBit       bool // an octet above 127
	HeaderEightBit bool // one in the header
	HeaderUTF8     bool // HeaderEightBit, and all of the header is UTF-8
	Bare           bool // a CR or LF that stands alone
	Dots           bool // a line begins with a dot
	Open           bool // it does not end with CRLF, and is not empty
	NoTLS          bool // the header has "TLS-Required: No" (RFC 8689 section 5), and no such field that says anything else
}

// Content is what a transaction sends after the envelope.
type Content struct {
	Reader io.ReaderAt
	Size   int64
	Facts
}

// Scan goes through content once.
func Scan(r io.ReaderAt, size int64) (Content, error) {
	s := scanner{header: true, lineStart: true}
	buffer := blocks.Get().(*[]byte)
	defer blocks.Put(buffer)
	for at := int64(0); at < size; {
		b := (*buffer)[:min(block, size-at)]
		if err := readAt(r, b, at); err != nil {
			return Content{}, err
		}
		s.take(b)
		at += int64(len(b))
	}
	return Content{Reader: r, Size: size, Facts: s.facts(size)}, nil
}

// readAt fills b.
func readAt(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read the content at %d: %w", at, err)
}

// scanner finds the facts, a block at a time. A CR is never alone if there are as many as LFs, and each LF has one in front.
type scanner struct {
	found     Facts
	crs, lfs  int64
	lastCR    bool // the last octet was CR
	lineStart bool // the next octet begins a line
	header    bool // the empty line is yet to come
	notUTF8   bool
	emptyCR   bool // header: the line so far is one CR
	cut       [utf8.UTFMax]byte
	tlsOther  bool // a TLS-Required field that does not say No
	cutLen    int  // octets of a character that the last block of header ended in
}

func (s *scanner) take(b []byte) {
	if len(b) == 0 {
		return
	}
	if s.header {
		s.takeHeader(b)
	}
	if !s.found.EightBit {
		s.found.EightBit = eightBit(b)
	}
	s.crs += int64(bytes.Count(b, []byte{'\r'}))
	if s.lineStart && b[0] == '.' {
		s.found.Dots = true
	}
	for i := 0; i < len(b); i++ {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			break
		}
		i += n
		s.lfs++
		if i > 0 && b[i-1] != '\r' || i == 0 && !s.lastCR {
			s.found.Bare = true
		}
		if i+1 < len(b) && b[i+1] == '.' {
			s.found.Dots = true
		}
	}
	s.lastCR = b[len(b)-1] == '\r'
	s.lineStart = b[len(b)-1] == '\n'
}

// takeHeader looks for the empty line, and at the octets before it.
func (s *scanner) takeHeader(b []byte) {
	end := len(b)
	start, i := s.lineStart, 0
	for i < len(b) {
		rest := b[i:]
		if s.emptyCR && rest[0] == '\n' || start && len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n' {
			s.header, end = false, i
			break
		}
		if start && rest[0]|0x20 == 't' {
			s.takeField(rest)
		}
		s.emptyCR = start && len(rest) == 1 && rest[0] == '\r'
		n := bytes.IndexByte(rest, '\n')
		if n < 0 {
			break
		}
		i += n + 1
		start = true
	}
	if eightBit(b[:end]) || s.cutLen > 0 {
		s.found.HeaderEightBit = true
		s.checkUTF8(b[:end])
	}
}

const tlsRequired = "TLS-Required:"

// takeField looks whether a field is TLS-Required. One that is in two blocks is not seen: then TLS policies are obeyed.
func (s *scanner) takeField(b []byte) {
	if len(b) < len(tlsRequired) || !strings.EqualFold(string(b[:len(tlsRequired)]), tlsRequired) {
		return
	}
	value, next, ended := bytes.Cut(b[len(tlsRequired):], []byte("\r\n"))
	folded := len(next) > 0 && (next[0] == ' ' || next[0] == '\t')
	if ended && !folded && strings.EqualFold(strings.Trim(string(value[:min(len(value), 100)]), " \t"), "no") {
		s.found.NoTLS = true
	} else {
		s.tlsOther = true
	}
}

// checkUTF8 holds the character at the end of a block back until the next.
func (s *scanner) checkUTF8(b []byte) {
	for s.cutLen > 0 && len(b) > 0 && s.cutLen < utf8.UTFMax && !utf8.FullRune(s.cut[:s.cutLen]) {
		s.cut[s.cutLen] = b[0]
		s.cutLen++
		b = b[1:]
	}
	if s.cutLen > 0 {
		if !utf8.Valid(s.cut[:s.cutLen]) {
			s.notUTF8 = true
		}
		s.cutLen = 0
	}
	for back := 1; back < utf8.UTFMax && back <= len(b); back++ {
		if c := b[len(b)-back]; utf8.RuneStart(c) {
			if tail := b[len(b)-back:]; !utf8.FullRune(tail) {
				s.cutLen = copy(s.cut[:], tail)
				b = b[:len(b)-back]
			}
			break
		}
	}
	if !utf8.Valid(b) {
		s.notUTF8 = true
	}
}

func (s *scanner) facts(size int64) Facts {
	f := s.found
	f.Bare = f.Bare || s.crs != s.lfs
	f.HeaderUTF8 = f.HeaderEightBit && !s.notUTF8 && s.cutLen == 0
	f.Open = size > 0 && !s.lineStart
	f.NoTLS = f.NoTLS && !s.tlsOther
	return f
}

// bare reports whether what was taken so far has a CR or LF that stands alone; a CR at the end waits for what follows.
func (s *scanner) bare() bool {
	crs := s.crs
	if s.lastCR {
		crs--
	}
	return s.found.Bare || crs != s.lfs
}

// eightBit reports an octet above 127, eight at a time.
func eightBit(b []byte) bool {
	const high = 0x8080808080808080
	for len(b) >= 32 {
		if (binary.LittleEndian.Uint64(b)|binary.LittleEndian.Uint64(b[8:])|
			binary.LittleEndian.Uint64(b[16:])|binary.LittleEndian.Uint64(b[24:]))&high != 0 {
			return true
		}
		b = b[32:]
	}
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return true
		}
	}
	return false
}

// ContentError says that our own content could not be read, or is not what Scan saw. The connection was given up.
type ContentError struct{ Err error }

func (e *ContentError) Error() string { return e.Err.Error() }

func (e *ContentError) Unwrap() error { return e.Err }

// sendContent writes the content after the command that c.out has, if any, and after DATA the dot that ends it. It looks at
// what it writes as Scan did, so that no octet leaves that Scan would have refused.
func (c *Conn) sendContent(content *Content, dots bool) error {
	buffer := blocks.Get().(*[]byte)
	defer blocks.Put(buffer)
	s := scanner{lineStart: true}
	for at := int64(0); at < content.Size; {
		b := (*buffer)[:min(block, content.Size-at)]
		if err := readAt(content.Reader, b, at); err != nil {
			return c.fail(&ContentError{err})
		}
		at += int64(len(b))
		start := s.lineStart
		s.take(b)
		if s.bare() || at == content.Size && s.lastCR {
			return c.fail(&ContentError{ErrBare})
		}
		if dots && s.found.Dots {
			c.out = stuff(c.out, b, start)
		} else if at == content.Size || len(c.out) > 0 {
			c.out = append(c.out, b...)
		} else if err := c.write(b); err != nil {
			return err
		}
		if at < content.Size {
			if err := c.flush(c.times.Block); err != nil {
				return err
			}
		}
	}
	if dots {
		if !s.lineStart {
			c.queue("\r\n")
		}
		c.queue(".\r\n")
	}
	return c.flush(c.times.Block)
}

// write writes a block without copying it.
func (c *Conn) write(b []byte) error {
	if err := c.limit(c.times.Block); err != nil {
		return c.fail(err)
	}
	if _, err := c.conn.Write(b); err != nil {
		return c.fail(err)
	}
	return nil
}

// stuff appends b to dst with a dot in front of each line that begins with one (RFC 5321 section 4.5.2).
func stuff(dst, b []byte, lineStart bool) []byte {
	if lineStart && len(b) > 0 && b[0] == '.' {
		dst = append(dst, '.')
	}
	for {
		i := bytes.Index(b, []byte("\n."))
		if i < 0 {
			return append(dst, b...)
		}
		dst = append(append(dst, b[:i+1]...), '.')
		b = b[i+1:]
	}
}
