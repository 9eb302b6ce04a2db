// Package arc checks and makes chains of ARC sets (RFC 8617): what each server that handled a message says that it found
// (ARC-Authentication-Results), signed with the message (ARC-Message-Signature) and sealed with all that was said before
// (ARC-Seal).
//
// What it promises:
//
//   - A chain is at most 50 sets (RFC 8617 section 4.2.1); with more fields than that it is broken before anything is looked up.
//   - The hashes of all seals together are linear in the size of the chain: each goes on from that of the one before.
//   - What DNS cannot tell makes a chain fail (section 5.2.2); it is the caller's to look keys up, and to bound how many.
//   - A chain says what others claim. It is worth as much as those who sealed it: whoever sealed last may have taken what
//     is below from another message. Vouched therefore believes a set only if all sets above it are by trusted sealers.
//
// It owns nothing. All fields are hostile.
package arc

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"strconv"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/authenticate/dkim"
)

// MaxSets is the length of a chain (RFC 8617 section 4.2.1).
const MaxSets = 50

// The fields of a set.
const (
	ResultsField = "ARC-Authentication-Results"
	MessageField = "ARC-Message-Signature"
	SealField    = "ARC-Seal"
)

// The chain validation statuses (section 4.4).
const (
	None = "none"
	Pass = "pass"
	Fail = "fail"
)

// Set is one ARC set.
type Set struct {
	Results []byte // the whole ARC-Authentication-Results
	Message *dkim.Signature
	Seal    *dkim.Signature
	CV      string // what its sealer found of the chain below
}

// Chain is the sets of a message.
type Chain struct {
	Sets    []Set  // in the order of their instances; complete only if Why is ""
	Highest int    // the highest instance that any field has, also of a broken chain
	Some    bool   // there is some ARC field
	Ended   bool   // the highest seal says cv=fail: nobody adds to such a chain (section 5.1)
	Why     string // why it cannot pass, whatever the keys say; "" if it may
}

// kind returns which of the three fields a name is, or -1.
func kind(name string) int {
	if len(name) < len(SealField) || name[0]|0x20 != 'a' {
		return -1
	}
	switch {
	case strings.EqualFold(name, ResultsField):
		return 0
	case strings.EqualFold(name, MessageField):
		return 1
	case strings.EqualFold(name, SealField):
		return 2
	}
	return -1
}

// Parse finds the chain in a header (section 5.2 steps 1 to 3).
func Parse(fields []pipeline.Field) *Chain {
	c := &Chain{}
	var raw [MaxSets][3][]byte
	for i := range fields {
		k := kind(fields[i].Name)
		if k < 0 {
			continue
		}
		c.Some = true
		n := instance(fields[i].Raw, k)
		switch {
		case n < 1 || n > MaxSets:
			c.broken("a field has no instance from 1 to 50")
			continue
		case raw[n-1][k] != nil:
			c.broken("set %d has a field twice", n)
		}
		raw[n-1][k] = fields[i].Raw
		c.Highest = max(c.Highest, n)
	}
	for n := 1; n <= c.Highest; n++ {
		c.add(n, &raw[n-1])
	}
	return c
}

func (c *Chain) broken(format string, args ...any) {
	if c.Why == "" {
		c.Why = fmt.Sprintf(format, args...)
	}
}

// add takes a set into the chain.
func (c *Chain) add(n int, raw *[3][]byte) {
	highest := n == c.Highest
	if raw[2] != nil {
		seal, err := dkim.ParseARCSeal(raw[2])
		cv := strings.ToLower(seal.Tags.Squeezed("cv"))
		c.Ended = highest && cv == Fail
		switch {
		case c.Ended:
			c.broken("the last sealer found the chain broken")
		case err != nil:
			c.broken("seal %d: %s", n, why(err))
		case n == 1 && cv != None, n > 1 && cv != Pass:
			c.broken("seal %d has a wrong cv=", n)
		}
		if c.Why != "" {
			return
		}
		c.Sets = append(c.Sets, Set{Seal: seal, CV: cv})
	}
	if c.Why != "" {
		return
	}
	if raw[0] == nil || raw[1] == nil || raw[2] == nil {
		c.broken("set %d is not complete", n)
		return
	}
	set := &c.Sets[n-1]
	set.Results = raw[0]
	var err error
	if set.Message, err = dkim.ParseARCMessage(raw[1]); err == nil && signsSeals(set.Message.Names) {
		err = &dkim.Failure{Result: dkim.PermError, Why: "h= names ARC-Seal"} // section 4.1.2
	}
	if err != nil {
		c.broken("message signature %d: %s", n, why(err))
	}
}

func why(err error) string {
	if f, ok := err.(*dkim.Failure); ok {
		return f.Why
	}
	return err.Error()
}

func signsSeals(names string) bool {
	for name := range strings.SplitSeq(names, ":") {
		if strings.EqualFold(name, SealField) {
			return true
		}
	}
	return false
}

// instance returns the i= of a field, or 0. That of results stands before a list that is no list of tags (section 4.1.1).
func instance(raw []byte, kind int) int {
	_, rest, _ := strings.Cut(string(raw), ":")
	for rest != "" {
		var item string
		item, rest, _ = strings.Cut(rest, ";")
		name, value, found := strings.Cut(item, "=")
		if found && strings.Trim(name, " \t\r\n") == "i" {
			value = strings.Trim(value, " \t\r\n")
			n, err := strconv.Atoi(value)
			if err != nil || len(value) > 2 || value[0] < '0' || value[0] > '9' {
				return 0
			}
			return n
		}
		if kind == 0 {
			return 0
		}
	}
	return 0
}

// Newest returns the message signature of the last set; nil if the chain is broken or empty.
func (c *Chain) Newest() *dkim.Signature {
	if c.Why != "" || len(c.Sets) == 0 {
		return nil
	}
	return c.Sets[len(c.Sets)-1].Message
}

// Check is what Verify needs.
type Check struct {
	Header *dkim.Header
	Body   *dkim.Body // with the sums of the forms that the message signatures want
	Now    time.Time  // at which the newest of them has to hold; zero: they are not asked
	Key    func(*dkim.Signature) (*dkim.Key, error)

	// Spend counts a verification, with whole of one for which the header is hashed; false: enough has been spent on this message.
	Spend func(key *dkim.Key, whole bool) bool
}

// Verdict is what became of a chain.
type Verdict struct {
	Result string // none, pass or fail
	Why    string // of fail
	Oldest int    // the lowest instance from which on the message has not changed; 0: since the first (section 5.2 step 5)
}

// Verify checks a chain (section 5.2). Message signatures below the newest do not expire: when they were sealed, they were
// good.
func (c *Chain) Verify(k *Check) Verdict {
	switch {
	case !c.Some:
		return Verdict{Result: None}
	case c.Why != "":
		return Verdict{Result: Fail, Why: c.Why}
	}
	n := len(c.Sets)
	if !k.Now.IsZero() {
		if err := c.Sets[n-1].Message.CheckTime(k.Now); err != nil {
			return Verdict{Result: Fail, Why: fmt.Sprintf("message signature %d: %s", n, why(err))}
		}
	}
	if err := k.message(c.Sets[n-1].Message); err != nil {
		return Verdict{Result: Fail, Why: fmt.Sprintf("message signature %d: %s", n, why(err))}
	}
	digests, err := c.digests()
	if err != nil {
		return Verdict{Result: Fail, Why: err.Error()}
	}
	for i := n - 1; i >= 0; i-- {
		seal := c.Sets[i].Seal
		key, err := k.key(seal, false)
		if err == nil {
			err = seal.Verify(digests[i], key)
		}
		if err != nil {
			return Verdict{Result: Fail, Why: fmt.Sprintf("seal %d: %s", i+1, why(err))}
		}
	}
	for i := n - 2; i >= 0; i-- {
		if k.message(c.Sets[i].Message) != nil {
			return Verdict{Result: Pass, Oldest: i + 2}
		}
	}
	return Verdict{Result: Pass}
}

func (k *Check) message(s *dkim.Signature) error {
	if err := s.CheckBody(k.Body); err != nil {
		return err
	}
	key, err := k.key(s, true)
	if err != nil {
		return err
	}
	return s.CheckHeader(k.Header, key)
}

func (k *Check) key(s *dkim.Signature, whole bool) (*dkim.Key, error) {
	key, err := k.Key(s)
	if err == nil && !k.Spend(key, whole) {
		err = &dkim.Failure{Result: dkim.Policy, Why: "the chain costs too much to verify"}
	}
	return key, err
}

// digests returns the hash of what each seal covers but itself (section 5.1.1): all sets below, and the results and the
// message signature of its own.
func (c *Chain) digests() ([]hash.Cloner, error) {
	running, _ := sha256.New().(hash.Cloner) // the standard library's is one
	digests := make([]hash.Cloner, len(c.Sets))
	var buf []byte
	for i := range c.Sets {
		set := &c.Sets[i]
		for _, raw := range [][]byte{set.Results, set.Message.Raw} {
			buf = dkim.AppendField(buf[:0], raw, true)
			running.Write(buf)
		}
		var err error
		if digests[i], err = running.Clone(); err != nil {
			return nil, fmt.Errorf("hash the chain: %w", err)
		}
		buf = dkim.AppendField(buf[:0], set.Seal.Raw, true)
		running.Write(buf)
	}
	return digests, nil
}
