package mailfile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// Spool holds one message at a time in a file without a name.
type Spool struct {
	f          *os.File
	Size       int64 // octets of header and body
	HeaderSize int64 // octets up to and including the empty line
}

// NewSpool makes an empty one.
func NewSpool() (*Spool, error) {
	f, err := os.CreateTemp("", "sluice-ask-")
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("make a temporary file: %w", err), f.Close())
	}
	return &Spool{f: f}, nil
}

// Close gives the room back.
func (s *Spool) Close() error { return s.f.Close() }

// Reader reads the message from its start. Several may read at a time.
func (s *Spool) Reader() io.Reader { return io.NewSectionReader(s.f, 0, s.Size) }

// ReaderAt is the message.
func (s *Spool) ReaderAt() io.ReaderAt { return s.f }

// ErrTooLarge is the error of Fill for a message over the bound.
var ErrTooLarge = errors.New("the message is too large")

// Fill takes the message of r in place of the one before. Lines that end with LF end with CR LF afterwards, the last line
// too: so they do when a message comes by SMTP (RFC 5321 section 2.3.8). A message of more than most octets is an error.
func (s *Spool) Fill(r io.Reader, most int64) error {
	if _, err := s.f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("spool a message: %w", err)
	}
	if err := s.f.Truncate(0); err != nil {
		return fmt.Errorf("spool a message: %w", err)
	}
	c := canonical{w: bufio.NewWriterSize(s.f, 64<<10)}
	n, err := io.Copy(&c, io.LimitReader(r, most+1))
	if err == nil && n > most {
		return ErrTooLarge
	}
	if err == nil {
		err = c.end()
	}
	if err == nil {
		err = c.w.Flush()
	}
	s.Size, s.HeaderSize = c.size, c.header
	if c.header == 0 {
		s.HeaderSize = c.size
	}
	if err != nil {
		return fmt.Errorf("spool a message: %w", err)
	}
	return nil
}

// canonical writes lines that end with CR LF, and notes where the header ends.
type canonical struct {
	w      *bufio.Writer
	size   int64
	header int64
	cr     bool  // the last octet was CR
	line   int64 // octets of this line so far, CR included
}

func (c *canonical) Write(p []byte) (int, error) {
	whole := len(p)
	for len(p) > 0 {
		n := bytes.IndexByte(p, '\n')
		text := p
		if n >= 0 {
			text = p[:n]
		}
		if err := c.text(text); err != nil {
			return 0, err
		}
		p = p[len(text):]
		if n >= 0 {
			p = p[1:]
			if err := c.newline(); err != nil {
				return 0, err
			}
		}
	}
	return whole, nil
}

func (c *canonical) text(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	n, err := c.w.Write(text)
	c.size, c.line, c.cr = c.size+int64(n), c.line+int64(n), text[len(text)-1] == '\r'
	return err
}

func (c *canonical) newline() error {
	if !c.cr {
		if err := c.text([]byte{'\r'}); err != nil {
			return err
		}
	}
	c.size++
	if c.line == 1 && c.header == 0 {
		c.header = c.size
	}
	c.line, c.cr = 0, false
	return c.w.WriteByte('\n')
}

func (c *canonical) end() error {
	if c.line == 0 {
		return nil
	}
	return c.newline()
}
