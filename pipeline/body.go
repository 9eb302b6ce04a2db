package pipeline

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/blob"
)

// Body is a message's new body, which a plugin gave: sdk.Change.Body of a change on its
// way through the pipeline. Its lines end with CRLF.
type Body struct {
	io.Reader // all of it, once

	draft *blob.Draft
}

// NewBody returns a body that a draft holds, for a change of the message. The message owns
// the draft from then on.
func (m *Message) NewBody(d *blob.Draft) *Body {
	m.bodies = append(m.bodies, d)
	return &Body{Reader: io.NewSectionReader(d, 0, d.Size()), draft: d}
}

// maxBody bounds a new body where nothing bounds messages.
const maxBody = 1 << 30

var (
	errBareCR       = errors.New("the new body has a bare CR (RFC 5321 section 2.3.8)")
	errBodyTooLarge = errors.New("the new body is larger than a message may be")
	errBodyLate     = errors.New("the new body came after the answer")
)

// bodySink takes in the new body that one plugin sends, in pieces: LF becomes CRLF, and
// a bare CR is refused (RULES A5).
type bodySink struct {
	mu     sync.Mutex
	spool  *blob.Spool // nil: thrown away
	left   int64       // octets that may still come, line ends counted as they will be
	cr     bool        // the last octet was CR, and waits for its LF
	err    error       // the first failure; everything later fails with it
	out    []byte
	closed bool
	ended  bool // for good
}

// open begins a body; one that was begun before is forgotten, since a plugin that died
// is asked again. It is taken in where it may be asked for, and thrown away elsewhere: by the host already
// if the manifest of whoever sends it does not announce one.
func (s *bodySink) open(via *Pipeline, phase sdk.Phase) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	if s.spool != nil {
		s.spool.Discard()
		s.spool = nil
	}
	s.closed, s.left, s.cr, s.err = false, maxBody, false, nil
	if via == nil {
		return
	}
	if via.MaxSize > 0 {
		s.left = via.MaxSize + ownFields
	}
	if phase == sdk.PhaseContent && via.Blobs != nil {
		s.spool = via.Blobs.NewSpool()
	}
}

// Write implements io.Writer.
func (s *bodySink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return 0, errBodyLate
	case s.err == nil:
		s.err = s.take(p)
	}
	if s.err != nil {
		return 0, s.err
	}
	return len(p), nil
}

func (s *bodySink) take(p []byte) error {
	s.out = s.out[:0]
	for len(p) > 0 {
		if s.cr {
			if p[0] != '\n' {
				return errBareCR
			}
			s.out, p, s.cr = append(s.out, '\r', '\n'), p[1:], false
			continue
		}
		line, rest := p, []byte(nil)
		if at := bytes.IndexByte(p, '\n'); at >= 0 {
			line, rest = p[:at], p[at+1:]
			if at > 0 && p[at-1] == '\r' {
				line = p[:at-1]
			}
		} else if p[len(p)-1] == '\r' {
			line, s.cr = p[:len(p)-1], true
		}
		if bytes.IndexByte(line, '\r') >= 0 {
			return errBareCR
		}
		s.out = append(s.out, line...)
		if rest != nil {
			s.out = append(s.out, '\r', '\n')
		}
		p = rest
	}
	if s.left -= int64(len(s.out)); s.left < 0 {
		return errBodyTooLarge
	}
	if s.spool == nil {
		return nil
	}
	_, err := s.spool.Write(s.out)
	return err
}

// close ends the writing, whoever is late, and returns what was written; an error
// means that it is no body. Nobody has to discard it then.
func (s *bodySink) close() (*blob.Spool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.ended = true, true
	if s.err == nil && s.cr {
		s.err = errBareCR
	}
	if s.err != nil && s.spool != nil {
		s.spool.Discard()
		s.spool = nil
	}
	return s.spool, s.err
}
