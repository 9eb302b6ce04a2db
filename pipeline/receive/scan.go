package receive

import (
	"bytes"
	"io"
)

// flaw is why a message's content is refused.
type flaw uint8

const (
	flawNone       flaw = iota
	flawSize            // more octets than max_size
	flawBareCR          // a CR that no LF follows (RULES A5)
	flawBareLF          // an LF that follows no CR (RULES A5)
	flawNUL             // an octet 0 from a stranger
	flawHeader          // the header is larger than max_header
	flawFields          // more header fields than max_header_fields
	flawLine            // a line longer than max_line
	flawLoop            // more Received fields than max_received
	flawSpool           // we could not store it
	flawIncomplete      // the peer went away, or was too slow
)

// scan reads the content of a message as it comes off the wire, piece by piece: it finds the line with the final dot, takes
// away the dots that the client has put in front of others (RFC 5321 section 4.5.2), holds the limits, and writes what
// remains, octet for octet, to a spool. It looks for octets with bytes.IndexByte instead of going through them one by one
// as the library's reader does, which makes it about twenty times as fast.
//
// A line of SMTP ends in CRLF and in nothing else (RFC 5321 section 2.3.8), so the content ends with CRLF.CRLF only:
// "LF.LF", "LF.CRLF" and "CR.CR" are content (no smuggling), and CR CR LF ends a line whose last octet is a bare CR.
type scan struct {
	dots    bool // DATA: there are dots to take away and a final one to find; BDAT has neither
	repair  bool // a bare LF becomes CRLF (RULES A5: login, trusted, lmtp); else it is a flaw
	refuse0 bool // NUL is a flaw
	limits  scanLimits

	mid      bool  // what comes next is the rest of a line
	afterLF  bool  // the line before ended in a bare LF: for dots this is no beginning of a line
	inBody   bool  // the empty line after the header is behind us
	lineSize int64 // octets of the line so far, if mid

	size     int64 // octets of content, those included that were not written
	header   int64 // octets of the header
	fields   int   // header fields
	received int   // of these, Received
	flaw     flaw  // the first one that was found; nothing is written from then on
	err      error // of the spool, with flawSpool
}

// scanLimits are the limits that scan holds.
type scanLimits struct {
	size, header, line int64
	fields, received   int
}

// least is how many octets of a line must be known to tell what it is: a dot, and the name Received with its colon.
const (
	loopField = "received:"
	least     = 1 + len(loopField)
)

// flag records the first flaw.
func (s *scan) flag(f flaw) {
	if s.flaw == flawNone {
		s.flaw = f
	}
}

// next takes in p, which begins where the part of the last p that was not consumed began, and writes the content in it
// to w. It returns how much of p it consumed; fewer than least octets remain. end reports that the final dot was consumed.
// With eof nothing follows p, and all of it is consumed.
func (s *scan) next(p []byte, w io.Writer, eof bool) (n int, end bool) {
	done := 0 // p[:done] is written
	for at := 0; at < len(p); {
		feed := bytes.IndexByte(p[at:], '\n')
		if feed < 0 {
			return s.partial(p, done, at, w, eof), false
		}
		stop := at + feed + 1
		line := p[at:stop]
		if !s.mid && s.dots && !s.afterLF && line[0] == '.' {
			s.write(w, p[done:at])
			if len(line) == 3 && line[1] == '\r' {
				return stop, true
			}
			done = at + 1
			line = line[1:]
		}
		text := line[:len(line)-1]
		crlf := len(text) > 0 && text[len(text)-1] == '\r'
		if crlf {
			text = text[:len(text)-1]
		}
		s.line(text, int64(len(line)), true)
		if !crlf {
			s.bareLF(w, p[done:stop])
			done = stop
		}
		s.mid, s.afterLF, s.lineSize = false, !crlf, 0
		at = stop
	}
	s.write(w, p[done:])
	return len(p), false
}

// partial takes in the end of p, a line from at on whose end is not known yet.
func (s *scan) partial(p []byte, done, at int, w io.Writer, eof bool) int {
	line := p[at:]
	if !eof && !s.mid && len(line) < least { // too little to tell what it is
		s.write(w, p[done:at])
		return at
	}
	stop := len(p)
	if !eof && p[stop-1] == '\r' { // perhaps a CRLF
		stop--
	}
	if !s.mid && s.dots && !s.afterLF && line[0] == '.' {
		s.write(w, p[done:at])
		done, at = at+1, at+1
	}
	if at < stop {
		s.line(p[at:stop], int64(stop-at), false)
		s.mid = true
	}
	s.write(w, p[done:stop])
	return stop
}

// line looks at a line, or a part of one if it is not whole: text is without the line's end, size is with it.
func (s *scan) line(text []byte, size int64, whole bool) {
	if bytes.IndexByte(text, '\r') >= 0 {
		s.flag(flawBareCR)
	}
	s.lineSize += size
	if s.lineSize > s.limits.line {
		s.flag(flawLine)
	}
	if s.inBody {
		return
	}
	if !s.mid && whole && len(text) == 0 {
		s.inBody = true
		return
	}
	if s.header += size; s.header > s.limits.header {
		s.flag(flawHeader)
	}
	if s.mid || text[0] == ' ' || text[0] == '\t' { // RFC 5322 section 2.2.3: a folded line goes on with the field
		return
	}
	if s.fields++; s.fields > s.limits.fields {
		s.flag(flawFields)
	}
	if len(text) >= len(loopField) && text[0]|0x20 == 'r' && bytes.EqualFold(text[:len(loopField)], []byte(loopField)) {
		if s.received++; s.received > s.limits.received {
			s.flag(flawLoop)
		}
	}
}

// bareLF writes p, which ends in a bare LF.
func (s *scan) bareLF(w io.Writer, p []byte) {
	if !s.repair {
		s.flag(flawBareLF)
		s.write(w, p)
		return
	}
	s.write(w, p[:len(p)-1])
	s.write(w, []byte("\r\n"))
}

// write hands content to the spool.
func (s *scan) write(w io.Writer, p []byte) {
	if len(p) == 0 {
		return
	}
	if s.size += int64(len(p)); s.size > s.limits.size {
		s.flag(flawSize)
	}
	if s.refuse0 && bytes.IndexByte(p, 0) >= 0 {
		s.flag(flawNUL)
	}
	if s.flaw != flawNone {
		return
	}
	if _, err := w.Write(p); err != nil {
		s.err = err
		s.flag(flawSpool)
	}
}
