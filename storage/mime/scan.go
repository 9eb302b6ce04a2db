package mime

import (
	"bytes"
	"io"
	"sync"
)

// scanSize is the window of the scanner; a line longer than this comes in pieces,
// which is harmless since no boundary is that long.
const scanSize = 32 << 10

var scanBuffers = sync.Pool{New: func() any { b := make([]byte, scanSize); return &b }}

// scanner reads lines from a ReaderAt, strictly forward.
type scanner struct {
	r     io.ReaderAt
	size  int64
	buf   []byte
	base  int64 // offset in the message of buf[0]
	pos   int   // next octet in buf
	end   int   // octets valid in buf
	lines int64 // line feeds handed out so far
	mid   bool  // the last piece handed out did not end its line
	brk   int   // octets of the line break that the last piece ended with
}

// offset is the position of the next octet.
func (s *scanner) offset() int64 { return s.base + int64(s.pos) }

// fill moves what is left to the front and reads more; false at the end. A read
// error ends the message early: the parts found so far stay valid.
func (s *scanner) fill() bool {
	if s.base+int64(s.end) >= s.size {
		return false
	}
	copy(s.buf, s.buf[s.pos:s.end])
	s.base += int64(s.pos)
	s.end -= s.pos
	s.pos = 0
	room := s.buf[s.end:]
	if left := s.size - s.base - int64(s.end); int64(len(room)) > left {
		room = room[:left]
	}
	if len(room) == 0 {
		return false
	}
	n, err := s.r.ReadAt(room, s.base+int64(s.end))
	s.end += n
	if n < len(room) || (err != nil && err != io.EOF) {
		s.size = s.base + int64(s.end)
	}
	return n > 0
}

// next returns the next line with its line feed, and whether it begins at the
// start of a line. The slice is valid until the next call. nil means the end.
func (s *scanner) next() (line []byte, start bool) {
	start = !s.mid
	searched := 0
	for {
		if i := bytes.IndexByte(s.buf[s.pos+searched:s.end], '\n'); i >= 0 {
			line = s.buf[s.pos : s.pos+searched+i+1]
			s.pos += len(line)
			s.lines++
			s.mid, s.brk = false, lineBreak(line)
			return line, start
		}
		searched = s.end - s.pos
		if !s.fill() {
			break
		}
	}
	if s.pos == s.end {
		return nil, start
	}
	line = s.buf[s.pos:s.end]
	s.pos = s.end
	s.mid, s.brk = true, 0
	return line, start
}

func lineBreak(line []byte) int {
	if n := len(line); n >= 2 && line[n-2] == '\r' {
		return 2
	}
	return 1
}

// skip goes to the end of the message and counts lines: the body of a message
// that has no boundaries to look for.
func (s *scanner) skip() {
	for {
		s.lines += int64(bytes.Count(s.buf[s.pos:s.end], []byte{'\n'}))
		s.pos = s.end
		if !s.fill() {
			return
		}
	}
}
