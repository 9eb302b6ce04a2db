package mailfile

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// splitter reads an mbox, message by message: as an io.Reader it ends where the next one begins.
type splitter struct {
	r         *bufio.Reader
	lineStart bool   // the next octet is the first of a line
	first     bool   // nothing has been read yet
	blank     []byte // an empty line that may belong to the separator
	separator []byte // the separator line that was found, of the message that next begins
	out       []byte // of the current message, not yet handed out
	err       error  // of r
}

// next begins the next message and returns the sender that its separator names. The one before has been read to its end.
func (s *splitter) next() (sender string, err error) {
	if s.first {
		s.first = false
		s.fill() // the file begins with a separator
	}
	if s.separator == nil {
		if s.err == nil {
			return "", io.EOF
		}
		return "", s.err
	}
	words := bytes.Fields(s.separator)
	s.separator, s.lineStart = nil, true
	if len(words) > 1 {
		sender = string(bytes.Trim(words[1], "<>"))
	}
	if sender == "MAILER-DAEMON" || sender == "-" { // how the null sender is written
		sender = ""
	}
	return sender, nil
}

// Read implements io.Reader.
func (s *splitter) Read(p []byte) (int, error) {
	for len(s.out) == 0 {
		if s.separator != nil {
			return 0, io.EOF
		}
		if s.err != nil {
			return 0, s.err
		}
		s.fill()
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

// fill reads one line, or a piece of a long one.
func (s *splitter) fill() {
	line, err := s.r.ReadSlice('\n')
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
		s.err = err
	}
	if len(line) == 0 {
		return // the empty line before the end belonged to the separator
	}
	start := s.lineStart
	s.lineStart = line[len(line)-1] == '\n'
	switch {
	case start && (s.blank != nil || s.separator == nil && s.out == nil) && isSeparator(line):
		s.separator, s.blank, s.out = bytes.Clone(line[:min(len(line), 1000)]), nil, []byte{}
		for !s.lineStart && s.err == nil { // the rest of a long one
			line, err = s.r.ReadSlice('\n')
			if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
				s.err = err
			}
			s.lineStart = len(line) > 0 && line[len(line)-1] == '\n'
		}
		return
	case start && len(bytes.TrimRight(line, "\r\n")) == 0:
		s.out, s.blank = s.blank, bytes.Clone(line)
		return
	case start && isQuoted(line):
		line = line[1:]
	}
	s.out = append(append([]byte{}, s.blank...), line...)
	s.blank = nil
}

// isSeparator reports whether a line begins a message: "From ", and a time somewhere behind it. Writers of mboxo do not
// quote every "From " of a text.
func isSeparator(line []byte) bool {
	if !bytes.HasPrefix(line, []byte("From ")) {
		return false
	}
	for i := 5; i+2 < len(line); i++ {
		if line[i] == ':' && digit(line[i-1]) && digit(line[i+1]) && digit(line[i+2]) {
			return true
		}
	}
	return false
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// isQuoted recognises ">From ", ">>From " and so on: mboxrd quotes each, mboxo the first only.
func isQuoted(line []byte) bool {
	rest := bytes.TrimLeft(line, ">")
	return len(rest) < len(line) && bytes.HasPrefix(rest, []byte("From "))
}
