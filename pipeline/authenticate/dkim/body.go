package dkim

import (
	"bytes"
	"crypto/sha256"
	"hash"
)

// Body hashes the body of a message in the canonical forms that are wanted. Write takes it in pieces of any size.
type Body struct {
	forms [2]*form // simple, relaxed; nil: not wanted
}

// Want asks for a canonical form. It has to be called before the first Write.
func (b *Body) Want(relaxed bool) {
	if i := index(relaxed); b.forms[i] == nil {
		b.forms[i] = &form{hash: sha256.New(), relaxed: relaxed}
	}
}

// Wants reports whether any form is asked for: without one, nobody needs to read the body.
func (b *Body) Wants() bool { return b.forms[0] != nil || b.forms[1] != nil }

func index(relaxed bool) int {
	if relaxed {
		return 1
	}
	return 0
}

// Write implements io.Writer; it never fails.
func (b *Body) Write(p []byte) (int, error) {
	for _, f := range b.forms {
		if f != nil {
			f.write(p)
		}
	}
	return len(p), nil
}

// Close ends the body; the sums are there then.
func (b *Body) Close() {
	for _, f := range b.forms {
		if f != nil {
			f.close()
		}
	}
}

// Sum returns the hash of a form and how many octets it has; false: nobody has asked for it.
func (b *Body) Sum(relaxed bool) (sum Sum, size int64, ok bool) {
	f := b.forms[index(relaxed)]
	if f == nil {
		return sum, 0, false
	}
	return f.sum, f.size, true
}

// form makes one canonical form of a body (RFC 6376 section 3.4.3 and 3.4.4). What waits for the octet behind it is
// counted, so that it never has to be kept.
type form struct {
	hash    hash.Hash
	relaxed bool

	out  [4096]byte
	used int
	size int64 // octets of the form
	sum  Sum

	crlfs int64 // line ends not written yet: they may be the empty lines at the end
	space bool  // relaxed: white space in this line, not written yet: it may be at its end
	cr    bool  // the octet before was CR
	some  bool  // there is something in the body
}

// Octets that are put in; as variables they are not made again each time.
var (
	crlfs = bytes.Repeat([]byte("\r\n"), 512)
	crlf  = crlfs[:2:2]
	space = []byte(" ")
)

func (f *form) write(p []byte) {
	if f.cr && len(p) > 0 {
		f.cr = false
		if p[0] == '\n' {
			f.lineEnd()
			p = p[1:]
		} else {
			f.emit(crlf[:1])
		}
	}
	for len(p) > 0 {
		n := f.plain(p)
		if n > 0 {
			f.emit(p[:n])
			p = p[n:]
			continue
		}
		switch {
		case p[0] != '\r':
			f.space = true
			p = p[1:]
		case len(p) == 1:
			f.cr = true
			return
		case p[1] == '\n':
			f.lineEnd()
			p = p[2:]
		default:
			f.emit(p[:1])
			p = p[1:]
		}
	}
}

// plain returns how many octets p begins with that stay as they are.
func (f *form) plain(p []byte) int {
	if !f.relaxed {
		if i := bytes.IndexByte(p, '\r'); i >= 0 {
			return i
		}
		return len(p)
	}
	for i, c := range p {
		switch {
		case c > ' ':
		case c == ' ' && i > 0 && i+1 < len(p) && p[i+1] > ' ': // one space between words stays
		case c == ' ' || c == '\r' || c == '\t':
			return i
		}
	}
	return len(p)
}

func (f *form) lineEnd() {
	f.space = false
	f.crlfs++
}

// emit writes octets of a line, and before them what has waited.
func (f *form) emit(p []byte) {
	for f.crlfs > 0 {
		n := min(f.crlfs, int64(len(crlfs)/len(crlf)))
		f.put(crlfs[:n*int64(len(crlf))])
		f.crlfs -= n
	}
	if f.space {
		f.space = false
		f.put(space)
	}
	f.some = true
	f.put(p)
}

func (f *form) put(p []byte) {
	f.size += int64(len(p))
	if len(p) > len(f.out)-f.used {
		f.flush()
		if len(p) >= len(f.out) {
			f.hash.Write(p)
			return
		}
	}
	f.used += copy(f.out[f.used:], p)
}

func (f *form) flush() {
	f.hash.Write(f.out[:f.used])
	f.used = 0
}

// close ends the body: the last line ends with CRLF whether it did or not, the empty lines behind it are gone, and a body
// without anything in it is a CRLF in the simple form and nothing in the relaxed one.
func (f *form) close() {
	if f.cr {
		f.cr = false
		f.emit(crlf[:1])
	}
	f.crlfs, f.space = 0, false
	if f.some || !f.relaxed {
		f.put(crlf)
	}
	f.flush()
	f.hash.Sum(f.sum[:0])
}
