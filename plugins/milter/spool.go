package milter

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// inMemory is how many octets of a new body stay in memory.
const inMemory = 256 << 10

// spool keeps a new body that comes in pieces: in memory while it is small, then in a file that has
// no name any more, so that nothing is left behind however the process ends.
type spool struct {
	max  int64
	size int64
	mem  []byte
	file *os.File
}

// write keeps a piece.
func (s *spool) write(piece []byte) error {
	if s.size += int64(len(piece)); s.size > s.max {
		return fmt.Errorf("it replaces the body by more than max_body, %d octets", s.max)
	}
	if s.file == nil && len(s.mem)+len(piece) <= inMemory {
		s.mem = append(s.mem, piece...)
		return nil
	}
	if s.file == nil {
		f, err := os.CreateTemp("", "milter-*")
		if err != nil {
			return fmt.Errorf("keep the new body: %w", err)
		}
		s.file = f
		if err := os.Remove(f.Name()); err != nil {
			return fmt.Errorf("keep the new body: %w", err)
		}
		if _, err := f.Write(s.mem); err != nil {
			return fmt.Errorf("keep the new body: %w", err)
		}
		s.mem = nil
	}
	if _, err := s.file.Write(piece); err != nil {
		return fmt.Errorf("keep the new body: %w", err)
	}
	return nil
}

// reader returns the body from its start; who reads it closes it.
func (s *spool) reader() (io.Reader, error) {
	if s.file == nil {
		return bytes.NewReader(s.mem), nil
	}
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("keep the new body: %w", err)
	}
	return s.file, nil
}

// drop throws the body away.
func (s *spool) drop() {
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
	s.mem = nil
}
