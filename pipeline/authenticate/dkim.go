package authenticate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/authenticate/arc"
	"github.com/sluicemail/sluice/pipeline/authenticate/dkim"
	"github.com/sluicemail/sluice/pipeline/resolver"
)

const signatureField = "DKIM-Signature"

// What verifying may cost for one message. The body is hashed at most twice whatever stands in the header.
const (
	maxSignatures = 8
	maxKeyNames   = 24   // different keys that are looked up, for signatures and chain together
	maxSpent      = 1536 // in verifications with RSA of 1024 bits, about 12 us each
	spentOctets   = 8192 // of a header, whose hashing costs as much as one of those
)

// dkimResult is what became of one signature.
type dkimResult struct {
	result    string // RFC 8601 section 2.7.1
	why       string
	domain    string // d=, as A-labels
	identity  string // i=
	selector  string // s=
	algorithm string // a=
	signature string // the first octets of b= (RFC 6008)
	testing   bool   // the key says t=y
	names     string // h=
}

// checker verifies the signatures and the ARC chain of one message.
type checker struct {
	dns    resolver.Lookup
	m      *pipeline.Message
	now    time.Time
	header *dkim.Header
	body   dkim.Body
	keys   map[string]*keyAnswer
	cost   int // of hashing the header once
	spent  int
}

// keyAnswer is what DNS said about a key.
type keyAnswer struct {
	key *dkim.Key
	err error
}

// verifySignatures verifies the signatures in the order in which they stand, and the chain, over what arrived (RULES A4).
// Keys are looked up within lookups; hashing a large body may take longer and has until ctx ends.
func (s *Stage) verifySignatures(ctx, lookups context.Context, m *pipeline.Message, r *results) error {
	fields := m.Arrived().Fields()
	c := &checker{dns: s.DNS, m: m, now: s.Now(), header: dkim.NewHeader(fields)}
	c.cost = 1 + int(m.Arrived().HeaderSize()/spentOctets)
	signatures, more := c.parse(fields, r)
	r.chain = arc.Parse(fields)
	newest := r.chain.Newest()
	if err := c.hash(ctx, signatures, r.chain, newest); err != nil {
		return err
	}
	for i, signature := range signatures {
		if signature != nil {
			r.dkim[i].refuse(signature.CheckBody(&c.body))
			if r.dkim[i].result != resultNeutral {
				signatures[i] = nil
			}
		}
	}
	if newest != nil && newest.CheckBody(&c.body) != nil {
		newest = nil // fails whatever its keys are
	}
	c.lookUp(lookups, signatures, r.chain, newest)
	for i, signature := range signatures {
		if signature != nil {
			c.verify(signature, &r.dkim[i])
		}
	}
	if more > 0 {
		r.dkim = append(r.dkim, dkimResult{result: resultPolicy, why: plural(more, "more signature") + " not looked at"})
	}
	r.arc = r.chain.Verify(&arc.Check{Header: c.header, Body: &c.body, Now: c.now, Key: c.key, Spend: c.spend})
	return ctx.Err()
}

// parse reads the signatures; nil stands for one that cannot count, and more is how many were too many.
func (c *checker) parse(fields []pipeline.Field, r *results) (signatures []*dkim.Signature, more int) {
	for i := range fields {
		if len(fields[i].Name) != len(signatureField) || !strings.EqualFold(fields[i].Name, signatureField) {
			continue
		}
		if len(signatures) == maxSignatures {
			more++
			continue
		}
		signature, err := dkim.Parse(fields[i].Raw)
		if err == nil {
			err = signature.CheckTime(c.now)
		}
		result := dkimResult{
			result: resultNeutral, domain: signature.Domain, identity: clip(signature.Identity), selector: clip(signature.Selector),
			algorithm: clip(signature.Algorithm), signature: signature.Short(), names: signature.Names,
		}
		if err == nil && isLiteral(signature.Domain) {
			err = &dkim.Failure{Result: dkim.PermError, Why: "d= is an address"}
		}
		if result.refuse(err); err != nil {
			signature = nil
		}
		signatures, r.dkim = append(signatures, signature), append(r.dkim, result)
	}
	return signatures, more
}

// refuse takes an error for the result.
func (r *dkimResult) refuse(err error) {
	if err == nil {
		return
	}
	r.result, r.why = resultFail, err.Error()
	var f *dkim.Failure
	if errors.As(err, &f) {
		r.result, r.why = string(f.Result), f.Why
	}
}

// hash reads the body once, in the forms that somebody wants.
func (c *checker) hash(ctx context.Context, signatures []*dkim.Signature, chain *arc.Chain, newest *dkim.Signature) error {
	for _, s := range signatures {
		if s != nil {
			c.body.Want(s.BodyRelaxed)
		}
	}
	if newest != nil {
		for i := range chain.Sets {
			c.body.Want(chain.Sets[i].Message.BodyRelaxed)
		}
	}
	if !c.body.Wants() {
		return nil
	}
	size := c.m.Content.Size()
	if err := readBody(ctx, &c.body, c.m.Content, min(c.m.Arrived().HeaderSize(), size), size); err != nil {
		return fmt.Errorf("verify: read the message: %w", err)
	}
	return nil
}

// lookUp asks for all keys at once, each once.
func (c *checker) lookUp(ctx context.Context, signatures []*dkim.Signature, chain *arc.Chain, newest *dkim.Signature) {
	c.keys = make(map[string]*keyAnswer, len(signatures))
	var names []string
	need := func(s *dkim.Signature) {
		if name := s.KeyName(); c.keys[name] == nil && len(names) < maxKeyNames {
			c.keys[name] = &keyAnswer{}
			names = append(names, name)
		}
	}
	for _, s := range signatures {
		if s != nil {
			need(s)
		}
	}
	if newest != nil {
		for i := len(chain.Sets) - 1; i >= 0; i-- {
			need(chain.Sets[i].Message)
			need(chain.Sets[i].Seal)
		}
	}
	var side beside
	defer side.wait()
	for i, name := range names {
		answer := c.keys[name]
		if i == len(names)-1 { // here, rather than to wait
			answer.key, answer.err = c.ask(ctx, name)
			break
		}
		side.run(func() { answer.key, answer.err = c.ask(ctx, name) })
	}
}

// ask looks one key up. Of several records the first that is a key counts (RFC 6376 section 3.6.2.2 leaves it open).
func (c *checker) ask(ctx context.Context, name string) (*dkim.Key, error) {
	texts, err := c.dns.LookupTXT(ctx, name)
	switch {
	case err != nil && temporary(err):
		return nil, &dkim.Failure{Result: dkim.TempError, Why: "the key cannot be looked up now"}
	case err != nil || len(texts) == 0:
		return nil, &dkim.Failure{Result: dkim.PermError, Why: "there is no key"}
	}
	var first error
	for _, text := range texts[:min(len(texts), maxSignatures)] {
		key, err := dkim.ParseKey(text)
		if err == nil {
			return key, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// key returns the key of a signature.
func (c *checker) key(s *dkim.Signature) (*dkim.Key, error) {
	answer := c.keys[s.KeyName()]
	if answer == nil {
		return nil, &dkim.Failure{Result: dkim.Policy, Why: "too many keys to look up"}
	}
	return answer.key, answer.err
}

// spend counts what a verification with key costs, whole with hashing the header, and reports whether that is still within
// bounds.
func (c *checker) spend(key *dkim.Key, whole bool) bool {
	c.spent += key.Cost()
	if whole {
		c.spent += c.cost
	}
	return c.spent <= maxSpent
}

// verify finishes one signature whose body is right.
func (c *checker) verify(s *dkim.Signature, r *dkimResult) {
	key, err := c.key(s)
	if err == nil {
		r.testing = key.Testing
		err = s.CheckKey(key)
	}
	if err == nil && !c.spend(key, true) {
		err = &dkim.Failure{Result: dkim.Policy, Why: "it costs too much to verify"}
	}
	if err == nil {
		err = s.CheckHeader(c.header, key)
	}
	r.result = resultPass
	r.refuse(err)
	if r.testing {
		r.asUnsigned()
	}
}

// asUnsigned makes the result of a signature whose key says t=y one that means nothing: its message is to be treated like one
// without the signature, whether it passes or not (RFC 6376 section 3.6.1). The field still says which of the two, for the
// signer, who wants to know.
func (r *dkimResult) asUnsigned() {
	switch r.result {
	case resultPass:
		r.result, r.why = resultPolicy, "the signature passes, but its key is in testing mode"
	case resultFail:
		r.result, r.why = resultPolicy, "its key is in testing mode, and "+r.why
	}
}

// dkimSummary is one word for all signatures that are not made to test: pass if one passes, else the result of the first.
func dkimSummary(list []dkimResult) string {
	result := resultNone
	for i := range list {
		switch {
		case list[i].testing:
		case list[i].result == resultPass:
			return resultPass
		case result == resultNone:
			result = list[i].result
		}
	}
	return result
}
