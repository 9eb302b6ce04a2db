package pop3

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// stuffer writes the octets of a message as the lines of a multi-line response
// (RFC 1939 section 3): each line ends with CRLF, and a line that begins with the
// termination octet gets another one in front.
type stuffer struct {
	w       *bufio.Writer
	midLine bool // the last octet did not end a line
	cr      bool // the last octet was CR
}

// write takes the next octets of the message.
func (s *stuffer) write(p []byte) error {
	from := 0 // p[from:] is not written yet
	pos := 0
	for pos < len(p) {
		if !s.midLine && p[pos] == '.' {
			// Up to here, and then the dot twice.
			if _, err := s.w.Write(p[from:pos]); err != nil {
				return err
			}
			if err := s.w.WriteByte('.'); err != nil {
				return err
			}
			from = pos
		}
		i := bytes.IndexByte(p[pos:], '\n')
		if i < 0 {
			s.midLine, s.cr = true, p[len(p)-1] == '\r'
			break
		}
		end := pos + i
		if end > 0 && p[end-1] != '\r' || end == 0 && !s.cr {
			// A bare LF would end a line for some clients and not for others.
			if _, err := s.w.Write(p[from:end]); err != nil {
				return err
			}
			if err := s.w.WriteByte('\r'); err != nil {
				return err
			}
			from = end
		}
		s.midLine, s.cr = false, false
		pos = end + 1
	}
	_, err := s.w.Write(p[from:])
	return err
}

// end ends the last line, if the message did not, and the response.
func (s *stuffer) end() error {
	if s.midLine {
		if _, err := s.w.WriteString("\r\n"); err != nil {
			return err
		}
	}
	_, err := s.w.WriteString(".\r\n")
	return err
}

// topCutter finds where TOP ends: after the empty line behind the header and n
// lines of the body.
type topCutter struct {
	lines  int  // lines of the body still to come
	inBody bool //
	line   lineSoFar
}

// lineSoFar is what a line consisted of at the end of the last piece.
type lineSoFar uint8

const (
	lineNothing lineSoFar = iota
	lineCR
	lineMore
)

func (l lineSoFar) add(p []byte) lineSoFar {
	switch {
	case len(p) == 0:
		return l
	case l == lineNothing && len(p) == 1 && p[0] == '\r':
		return lineCR
	}
	return lineMore
}

// cut returns how many octets of p belong to the response, and whether that was
// the last of it.
func (c *topCutter) cut(p []byte) (n int, done bool) {
	pos := 0
	for pos < len(p) {
		if c.inBody && c.lines == 0 {
			return pos, true
		}
		i := bytes.IndexByte(p[pos:], '\n')
		if i < 0 {
			c.line = c.line.add(p[pos:])
			return len(p), false
		}
		switch {
		case c.inBody:
			c.lines--
		case c.line.add(p[pos:pos+i]) != lineMore:
			c.inBody = true
		}
		c.line = lineNothing
		pos += i + 1
	}
	return pos, c.inBody && c.lines == 0
}

// sendContent writes message octets from c as a multi-line response's body, in
// pieces of len(buf). A nil cutter sends everything. Errors of reading are
// marked with errReadContent: the response is then incomplete, and the
// connection must end without the final dot.
func sendContent(w *bufio.Writer, c content, cutter *topCutter, buf []byte) error {
	out := stuffer{w: w}
	size := c.Size()
	for off := int64(0); off < size; {
		piece := buf[:min(int64(len(buf)), size-off)]
		n, err := c.ReadAt(piece, off)
		if n < len(piece) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("%w at octet %d of %d: %w", errReadContent, off, size, err)
		}
		off += int64(n)
		done := false
		if cutter != nil {
			var keep int
			keep, done = cutter.cut(piece)
			piece = piece[:keep]
		}
		if err := out.write(piece); err != nil {
			return err
		}
		if done {
			break
		}
	}
	return out.end()
}

var errReadContent = errors.New("read message")
