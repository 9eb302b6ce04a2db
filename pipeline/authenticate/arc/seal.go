package arc

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"strconv"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline/authenticate/dkim"
)

// Seal is what a new set is made of.
type Seal struct {
	Header  *dkim.Header // as it leaves, DKIM signatures included
	Chain   *Chain       // what of it is in that header
	CV      string       // what was found of the chain when the message arrived
	Results string       // the value of our Authentication-Results: "mx.example.test; spf=pass ..."
	Signer  *dkim.Signer
	Body    dkim.Sum // of the body in relaxed form
	Now     time.Time
}

// Make returns the three fields of a set, the seal on top, or none if the chain takes no more: its last sealer found it
// broken, or it is as long as a chain may be.
func (s *Seal) Make() ([][]byte, error) {
	n := s.Chain.Highest + 1
	if s.Chain.Ended || n > MaxSets {
		return nil, nil
	}
	cv := s.CV
	if cv == Pass && s.Chain.Why != "" || n > 1 && cv == None { // what has arrived is not what leaves
		cv = Fail
	}
	if n == 1 && cv != Fail {
		cv = None
	}
	results := []byte(ResultsField + ": i=" + strconv.Itoa(n) + "; " + s.Results + "\r\n")
	names := s.names()
	message, err := s.Signer.SignARC(n, dkim.Hash(s.Header, names), names, s.Body, s.Now)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	digest, err := s.digest(cv)
	if err != nil {
		return nil, err
	}
	var buf []byte
	for _, raw := range [][]byte{results, message} {
		buf = dkim.AppendField(buf[:0], raw, true)
		digest.Write(buf)
	}
	seal, err := s.Signer.Seal(n, cv, digest, s.Now)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return [][]byte{seal, message, results}, nil
}

// names is h= of the message signature: the author's fields and the signatures that are there already (section 4.1.2). It
// leaves room for fields that a later server adds, which would break the chain for nothing.
func (s *Seal) names() []string {
	var names []string
	last, count := "", 0
	for _, name := range append(dkim.Names(s.Header), dkim.Present(s.Header, "DKIM-Signature")...) {
		if name != last {
			last, count = name, len(dkim.Present(s.Header, name))
		}
		if count > 0 {
			names = append(names, name)
			count--
		}
	}
	if len(names) == 0 {
		return []string{"From"}
	}
	return names
}

// digest hashes the sets below; a seal on a broken chain covers itself alone (section 5.1.2).
func (s *Seal) digest(cv string) (hash.Hash, error) {
	if cv == Fail || len(s.Chain.Sets) == 0 {
		return sha256.New(), nil
	}
	digests, err := s.Chain.digests()
	if err != nil {
		return nil, err
	}
	last := len(digests) - 1
	digests[last].Write(dkim.AppendField(nil, s.Chain.Sets[last].Seal.Raw, true))
	return digests[last], nil
}

// Vouched returns the instance of a set by a trusted sealer, with nothing but trusted sealers above it, that says that
// DMARC passed for that author's domain; the oldest such set, or 0. The chain has to have passed.
func (c *Chain) Vouched(author string, trusted func(domain string) bool) int {
	found := 0
	for i := len(c.Sets) - 1; i >= 0 && trusted(c.Sets[i].Seal.Domain); i-- {
		if dmarcPass(c.Sets[i].Results, author) {
			found = i + 1
		}
	}
	return found
}

// dmarcPass reports whether results say dmarc=pass for a domain (RFC 8601 section 2.2).
func dmarcPass(raw []byte, author string) bool {
	_, value, _ := strings.Cut(string(raw), ":")
	for i, item := range items(value) {
		if i < 2 { // the instance and who speaks
			continue
		}
		words := strings.Fields(strings.ReplaceAll(strings.ReplaceAll(item, " =", "="), "= ", "="))
		if len(words) == 0 || !strings.EqualFold(words[0], "dmarc=pass") {
			continue
		}
		for _, word := range words[1:] {
			name, value, _ := strings.Cut(word, "=")
			if domain, ok := dkim.Domain(value); strings.EqualFold(name, "header.from") && ok && domain == author {
				return true
			}
		}
	}
	return false
}

// items splits results at semicolons outside quoted strings and comments, and leaves both out.
func items(value string) []string {
	var list []string
	var item []byte
	depth := 0
	quoted := false
	for i := 0; i < len(value); i++ {
		c := value[i]
		switch {
		case c == '\\' && (quoted || depth > 0):
			i++
		case c == '"' && depth == 0:
			quoted = !quoted
			item = append(item, '"')
		case quoted:
		case c == '(':
			depth++
			item = append(item, ' ')
		case c == ')' && depth > 0:
			depth--
		case depth > 0:
		case c == ';':
			list, item = append(list, string(item)), nil
		case c == '\r' || c == '\n' || c == '\t':
			item = append(item, ' ')
		default:
			item = append(item, c)
		}
	}
	return append(list, string(item))
}
