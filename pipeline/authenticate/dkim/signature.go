package dkim

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"hash"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Signature is a DKIM-Signature, or an ARC-Message-Signature or ARC-Seal (RFC 8617 section 4.1). What could be read of it
// is there even if it is malformed, for the record; domains are A-labels in lower case.
type Signature struct {
	Raw       []byte // the whole field
	Tags      Tags
	Domain    string // d=; "" if it is no domain
	Selector  string // s=
	Algorithm string // a=
	Identity  string // i= of a DKIM-Signature; "@" and d= if it has none
	Names     string // h=, without white space

	HeaderRelaxed, BodyRelaxed bool

	bodyHash []byte // bh=
	sign     []byte // b=
	length   int64  // l=; -1: none
	signed   int64  // t=, Unix time; -1: none
	expires  int64  // x=; -1: none
}

// maxSelector bounds s= and d= together with what joins them: it is a name in DNS.
const maxSelector = 253 - len("._domainkey.")

// Parse reads a DKIM-Signature. The signature is never nil; an error, a *Failure, means that it cannot count whatever its
// key says.
func Parse(raw []byte) (*Signature, error) {
	s, err := parse(raw)
	if err != nil {
		return s, err
	}
	if s.Tags[0].Name != "v" && !hasTag(s.Tags, "v") || s.Tags.Squeezed("v") != "1" { // RFC 6376 section 3.5
		return s, permError("v= is not 1")
	}
	if err := s.parseMessage(); err != nil {
		return s, err
	}
	if err := s.parseIdentity(); err != nil {
		return s, err
	}
	return s, s.signsFrom()
}

// ParseARCMessage reads an ARC-Message-Signature: i= is its instance, and there is no v= (RFC 8617 section 4.1.2).
func ParseARCMessage(raw []byte) (*Signature, error) {
	s, err := parse(raw)
	if err != nil {
		return s, err
	}
	if err := s.parseMessage(); err != nil {
		return s, err
	}
	return s, s.signsFrom()
}

// signsFrom returns an error for a signature that lets anybody be the author (section 5.4).
func (s *Signature) signsFrom() error {
	if !hasName(s.Names, "from") {
		return permError("h= does not name From")
	}
	return nil
}

// ParseARCSeal reads an ARC-Seal, which signs no body and names no fields (RFC 8617 section 4.1.3).
func ParseARCSeal(raw []byte) (*Signature, error) {
	s, err := parse(raw)
	if err != nil {
		return s, err
	}
	if hasTag(s.Tags, "h") { // section 4.1.3; other tags have no meaning there
		return s, permError("h= has no place in a seal")
	}
	s.HeaderRelaxed = true
	return s, nil
}

func hasTag(t Tags, name string) bool { _, ok := t.Get(name); return ok }

// maxOnce is how far fields that may occur once are counted.
const maxOnce = 100

// CountName returns how often names, an h=, has one: of the fields of that name it covers as many, from the lowest up (RFC 6376
// section 5.4.2).
func CountName(names, want string) (n int) {
	for name := range strings.SplitSeq(names, ":") {
		if strings.EqualFold(name, want) {
			n++
		}
	}
	return n
}

func hasName(names, want string) bool {
	for name := range strings.SplitSeq(names, ":") {
		if strings.EqualFold(name, want) {
			return true
		}
	}
	return false
}

// parse reads the tags that all three fields have.
func parse(raw []byte) (*Signature, error) {
	s := &Signature{Raw: raw, length: -1, signed: -1, expires: -1}
	tags, ok := ParseTags(value(raw))
	if !ok || len(tags) == 0 {
		return s, permError("it is no list of tags")
	}
	s.Tags = tags
	s.Algorithm = strings.ToLower(tags.Squeezed("a"))
	s.Selector = tags.Squeezed("s")
	s.Domain, ok = Domain(tags.Squeezed("d"))
	if _, clean := Domain(s.Selector); !ok || !clean || len(s.Domain)+len(s.Selector) > maxSelector {
		return s, permError("d= or s= is not a name")
	}
	switch s.Algorithm {
	case RSA, Ed25519:
	case "rsa-sha1":
		return s, permError("SHA-1 is not safe") // RFC 8301 section 3.1
	default:
		return s, permError("the algorithm is unknown")
	}
	var err error
	if s.sign, err = base64.StdEncoding.DecodeString(tags.Squeezed("b")); err != nil || len(s.sign) == 0 {
		return s, permError("b= is not base64")
	}
	if s.signed, ok = number(tags, "t"); !ok {
		return s, permError("t= is not a time")
	}
	return s, nil
}

// parseMessage reads what signatures of a message have beyond seals.
func (s *Signature) parseMessage() error {
	header, body, _ := strings.Cut(strings.ToLower(s.Tags.Squeezed("c")), "/")
	var known bool
	if s.HeaderRelaxed, known = canonicalization(header); !known {
		return permError("c= is unknown")
	}
	if s.BodyRelaxed, known = canonicalization(body); !known {
		return permError("c= is unknown")
	}
	var err error
	if s.bodyHash, err = base64.StdEncoding.DecodeString(s.Tags.Squeezed("bh")); err != nil || len(s.bodyHash) == 0 {
		return permError("bh= is not base64")
	}
	if s.Names = s.Tags.Squeezed("h"); s.Names == "" {
		return permError("h= is missing")
	}
	if q, ok := s.Tags.Get("q"); ok && !hasName(strings.ToLower(Squeeze(q)), "dns/txt") {
		return permError("q= names no way to the key that we know")
	}
	if s.length, known = number(s.Tags, "l"); !known {
		return permError("l= is not a number")
	}
	if s.expires, known = number(s.Tags, "x"); !known || s.expires >= 0 && s.signed >= 0 && s.expires <= s.signed {
		return permError("x= is not a time after t=") // RFC 6376 section 3.5
	}
	return nil
}

// parseIdentity reads i=, whose domain has to be d= or below it (RFC 6376 section 3.5); domains compare without case.
func (s *Signature) parseIdentity() error {
	identity, ok := s.Tags.Get("i")
	if !ok {
		s.Identity = "@" + s.Domain
		return nil
	}
	s.Identity = Squeeze(identity)
	domain, ok := Domain(s.Identity[strings.LastIndexByte(s.Identity, '@')+1:])
	if !ok || !strings.Contains(s.Identity, "@") || domain != s.Domain && !strings.HasSuffix(domain, "."+s.Domain) {
		return permError("i= is not at d=")
	}
	return nil
}

func canonicalization(name string) (relaxed, known bool) {
	switch name {
	case "", "simple": // what is left out is simple (section 3.5)
		return false, true
	case "relaxed":
		return true, true
	}
	return false, false
}

// number reads a tag of digits; -1: there is none. Times of the far future, which section 3.5 allows, are clipped.
func number(tags Tags, name string) (int64, bool) {
	text, ok := tags.Get(name)
	if !ok {
		return -1, true
	}
	if text == "" || len(text) > 76 || strings.Trim(text, "0123456789") != "" {
		return -1, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 1<<62 - 1, true
	}
	return n, err == nil
}

// KeyName returns the name in DNS at which the key is (RFC 6376 section 3.6.2.1).
func (s *Signature) KeyName() string { return s.Selector + "._domainkey." + s.Domain }

// Short returns the first octets of b=, by which a record names a signature (RFC 6008).
func (s *Signature) Short() string {
	b := s.Tags.Squeezed("b")
	return b[:min(8, len(b))]
}

// clockSkew is how far in the future a signature may have been made.
const clockSkew = 24 * time.Hour

// CheckTime returns an error for a signature that is not valid at that time.
func (s *Signature) CheckTime(now time.Time) error {
	switch {
	case s.expires >= 0 && now.Unix() > s.expires:
		return permError("it has expired")
	case s.signed >= 0 && s.signed > now.Add(clockSkew).Unix():
		return &Failure{Policy, "signed in the future"} // section 3.5
	}
	return nil
}

// CheckBody compares the body's hash; body has been asked for BodyRelaxed, and is closed.
func (s *Signature) CheckBody(body *Body) error {
	sum, size, ok := body.Sum(s.BodyRelaxed)
	switch {
	case !ok:
		return errors.New("check the signature: the body was not hashed")
	case s.length > size:
		return permError("l= is more than the body has")
	case s.length >= 0 && s.length < size:
		return &Failure{Policy, "l= leaves part of the body unsigned"} // section 8.2
	case string(sum[:]) != string(s.bodyHash):
		return &Failure{Fail, "the body has changed"}
	}
	return nil
}

// once are the fields that a reader shows or goes by, and of which there may be one (RFC 5322 section 3.6, RFC 2045 section 3).
var once = []string{"From", "Subject", "Reply-To", "Content-Type"}

// CheckHeader verifies the signature of a DKIM-Signature or ARC-Message-Signature over the header in which it stands. Where
// one of the fields that may occur once is signed and occurs again, unsigned, it does not count: h= picks the lowest, and
// readers show the highest (RFC 6376 section 8.15).
func (s *Signature) CheckHeader(h *Header, key *Key) error {
	for _, name := range once {
		if slices.Contains(h.crooked, name) && hasName(s.Names, name) {
			return &Failure{Policy, name + " is signed, and there is a line that may pass for another one"}
		}
		if n := h.count(name, maxOnce); n > 1 {
			if in := CountName(s.Names, name); 0 < in && in < n {
				return &Failure{Policy, name + " is signed, and there is another one that is not"}
			}
		}
	}
	digest := sha256.New()
	h.write(digest, s.Names, s.HeaderRelaxed)
	return s.Verify(digest, key)
}

// Verify adds the signature's own field without b= to what was hashed, and verifies b=.
func (s *Signature) Verify(digest hash.Hash, key *Key) error {
	own := AppendField(nil, withoutSignature(nil, s.Raw), s.HeaderRelaxed)
	digest.Write(own[:len(own)-len(crlf)])
	if key.Algorithm() != s.Algorithm {
		return permError("the key is for another algorithm")
	}
	if !key.verify(digest.Sum(nil), s.sign) {
		return &Failure{Fail, "the signature does not verify"}
	}
	return nil
}

// CheckKey returns an error for a key that is not for this signature: with the flag "s", i= must be at d= itself (section
// 3.6.1).
func (s *Signature) CheckKey(key *Key) error {
	at, _ := Domain(s.Identity[strings.LastIndexByte(s.Identity, '@')+1:])
	if key.Strict && at != s.Domain {
		return permError("the key is not for subdomains in i=")
	}
	return nil
}
