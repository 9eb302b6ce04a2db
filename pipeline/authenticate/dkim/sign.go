package dkim

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
	"time"
)

// Signer makes signatures with one key. It may be used from many goroutines.
type Signer struct {
	Domain    string // d=, in A-labels
	Selector  string // s=
	Algorithm string // a=
	Key       crypto.Signer
	Expire    time.Duration // x= after t=; 0: none
}

// NewSigner returns a signer for an RSA or Ed25519 key.
func NewSigner(domain, selector string, key crypto.Signer, expire time.Duration) (*Signer, error) {
	s := &Signer{Domain: domain, Selector: selector, Key: key, Expire: expire}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		if bits := key.N.BitLen(); bits < MinBits || bits > MaxBits {
			return nil, fmt.Errorf("the RSA key has %d bits, expected %d to %d", bits, MinBits, MaxBits)
		}
		s.Algorithm = RSA
	case ed25519.PrivateKey:
		s.Algorithm = Ed25519
	default:
		return nil, errors.New("the key is neither RSA nor Ed25519")
	}
	return s, nil
}

// oversigned are the fields of which none may be added behind our back: h= names each once more than the message has it
// (RFC 6376 section 8.15). signed are those that are signed as often as they are there; a list may add to them.
var (
	oversigned = []string{"From", "To", "Cc", "Subject", "Date", "Message-ID", "Reply-To", "In-Reply-To", "References",
		"MIME-Version", "Content-Type", "Content-Transfer-Encoding"}
	signed = []string{"Sender", "Content-Disposition", "Content-Language", "Auto-Submitted", "Feedback-ID", "List-Id", "List-Help", "List-Post",
		"List-Unsubscribe", "List-Unsubscribe-Post", "Resent-From", "Resent-To", "Resent-Date", "Resent-Message-ID"}
)

// mostSigned bounds how many fields of one name are signed, so that h= stays of a bearable size; no reader looks further.
const mostSigned = 10

// Names returns h= for a message that we answer for.
func Names(h *Header) []string {
	names := make([]string, 0, 2*len(oversigned))
	for _, name := range oversigned {
		for range h.count(name, mostSigned) + 1 {
			names = append(names, name)
		}
	}
	for _, name := range signed {
		for range h.count(name, mostSigned) {
			names = append(names, name)
		}
	}
	return names
}

// Hash hashes the fields that names pick, in relaxed form. Several signatures of one header use clones of it.
func Hash(h *Header, names []string) hash.Cloner {
	digest, _ := sha256.New().(hash.Cloner) // the standard library's is one
	h.write(digest, strings.Join(names, ":"), true)
	return digest
}

// Sign returns a DKIM-Signature, relaxed/relaxed, over fields that were hashed by Hash with these names, and a body with
// that hash in relaxed form.
func (s *Signer) Sign(fields hash.Cloner, names []string, body Sum, now time.Time) ([]byte, error) {
	return s.message("DKIM-Signature", "v=1", fields, names, body, now)
}

// SignARC returns an ARC-Message-Signature for an instance (RFC 8617 section 4.1.2).
func (s *Signer) SignARC(instance int, fields hash.Cloner, names []string, body Sum, now time.Time) ([]byte, error) {
	return s.message("ARC-Message-Signature", "i="+strconv.Itoa(instance), fields, names, body, now)
}

func (s *Signer) message(name, first string, fields hash.Cloner, names []string, body Sum, now time.Time) ([]byte, error) {
	w := newTagWriter(name, first)
	w.tag("a", s.Algorithm)
	w.tag("c", "relaxed/relaxed")
	w.tag("d", s.Domain)
	w.tag("s", s.Selector)
	w.tag("t", strconv.FormatInt(now.Unix(), 10))
	if s.Expire > 0 {
		w.tag("x", strconv.FormatInt(now.Add(s.Expire).Unix(), 10))
	}
	w.list("h", names)
	w.long("bh", base64.StdEncoding.EncodeToString(body[:]))
	digest, err := fields.Clone()
	if err != nil {
		return nil, fmt.Errorf("sign for %s: %w", s.Domain, err)
	}
	return s.finish(w, digest)
}

// Seal returns an ARC-Seal for an instance over what was hashed (RFC 8617 section 4.1.3).
func (s *Signer) Seal(instance int, cv string, digest hash.Hash, now time.Time) ([]byte, error) {
	w := newTagWriter("ARC-Seal", "i="+strconv.Itoa(instance))
	w.tag("a", s.Algorithm)
	w.tag("t", strconv.FormatInt(now.Unix(), 10))
	w.tag("cv", cv)
	w.tag("d", s.Domain)
	w.tag("s", s.Selector)
	return s.finish(w, digest)
}

// finish adds b= over what was hashed and the field itself.
func (s *Signer) finish(w *tagWriter, digest hash.Hash) ([]byte, error) {
	w.line("b=")
	own := AppendField(make([]byte, 0, len(w.b)+2), w.b, true)
	digest.Write(own[:len(own)-len(crlf)])
	sum := digest.Sum(nil)
	opts := crypto.SignerOpts(crypto.SHA256)
	if s.Algorithm == Ed25519 {
		opts = crypto.Hash(0) // of the hash, without a further one (RFC 8463 section 3)
	}
	signature, err := s.Key.Sign(rand.Reader, sum, opts)
	if err != nil {
		return nil, fmt.Errorf("sign for %s with %s: %w", s.Domain, s.Selector, err)
	}
	w.fold(base64.StdEncoding.EncodeToString(signature))
	return append(w.b, crlf...), nil
}

// tagWriter writes a field of tags in lines of at most 78 octets.
type tagWriter struct {
	b  []byte
	at int // where the current line begins
}

const width = 78

func newTagWriter(name, first string) *tagWriter {
	w := &tagWriter{b: make([]byte, 0, 1024)}
	w.b = append(append(append(w.b, name...), ": "...), first...)
	return w
}

// room begins a new line if n more octets do not fit.
func (w *tagWriter) room(n int) bool {
	if len(w.b)-w.at+n <= width {
		return false
	}
	w.newLine()
	return true
}

func (w *tagWriter) newLine() {
	w.b = append(w.b, crlf...)
	w.at = len(w.b)
	w.b = append(w.b, '\t')
}

func (w *tagWriter) tag(name, value string) {
	w.b = append(w.b, ';')
	if !w.room(len(name) + len(value) + 3) {
		w.b = append(w.b, ' ')
	}
	w.b = append(append(append(w.b, name...), '='), value...)
}

// line begins a tag on a line of its own.
func (w *tagWriter) line(start string) {
	w.b = append(w.b, ';')
	w.newLine()
	w.b = append(w.b, start...)
}

func (w *tagWriter) list(name string, items []string) {
	w.line(name + "=")
	for i, item := range items {
		if i > 0 {
			w.b = append(w.b, ':')
		}
		w.room(len(item) + 1)
		w.b = append(w.b, item...)
	}
}

func (w *tagWriter) long(name, value string) {
	w.line(name + "=")
	w.b = append(w.b, value...)
}

// fold writes base64 over as many lines as it takes.
func (w *tagWriter) fold(text string) {
	for text != "" {
		n := min(len(text), width-(len(w.b)-w.at))
		w.b = append(w.b, text[:n]...)
		if text = text[n:]; text != "" {
			w.newLine()
		}
	}
}

// Present returns a name as often as a header has it.
func Present(h *Header, name string) []string {
	names := make([]string, h.count(name, mostSigned))
	for i := range names {
		names[i] = name
	}
	return names
}
