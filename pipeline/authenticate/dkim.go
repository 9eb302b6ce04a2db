package authenticate

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/resolver"
)

const signatureField = "DKIM-Signature"

// What verifying may cost. go-msgauth hashes the body once per signature, appends continuation lines one at a time (which
// is quadratic), looks through all fields for each name in h=, and copies a run of empty lines again with each block.
const (
	maxSignatures  = 8
	maxHashed      = 128 << 20 // octets of body times signatures
	maxPicks       = 2 << 20   // names in h= times fields
	maxUnfold      = 64 << 20  // octets copied to unfold fields
	maxEmptyRun    = 64 << 10  // octets of empty lines in a row
	maxKeyRecord   = 2 << 10   // octets of a key record: an RSA key of 8192 bits has about 1450
	maxClockAhead  = 24 * time.Hour
	insecureLength = "dkim: message contains an insecure body length tag" // go-msgauth has no type for it
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
}

// verifySignatures verifies the signatures in the order in which they stand, over what arrived (RULES A4). Keys are looked
// up within lookups; hashing a large body may take longer and has until ctx ends.
func (s *Stage) verifySignatures(ctx, lookups context.Context, m *pipeline.Message) ([]dkimResult, error) {
	fields := m.Arrived().Fields()
	var list []dkimResult
	names, count := 0, 0
	for _, f := range fields {
		if !strings.EqualFold(f.Name, signatureField) {
			continue
		}
		if count++; count <= maxSignatures {
			r, n := describe(f.Value())
			list, names = append(list, r), names+n
		}
	}
	limit := min(maxSignatures, max(1, int(maxHashed/max(1, m.Content.Size()))))
	if why := tooCostly(fields, names); why != "" {
		return allOf(list, resultPolicy, why), nil
	}
	keys := &keyCollector{dns: s.DNS, ctx: lookups}
	body := &guard{ctx: ctx, r: wholeMessage(m)}
	verified, err := dkim.VerifyWithOptions(body, &dkim.VerifyOptions{LookupTXT: keys.lookup, MaxVerifications: limit})
	if body.err != nil {
		return nil, body.err
	}
	switch {
	case body.stopped != "":
		return allOf(list, resultPolicy, body.stopped), nil
	case ctx.Err() != nil:
		return allOf(list, resultTempError, "not done in time"), nil
	case err != nil && !errors.Is(err, dkim.ErrTooManySignatures):
		return allOf(list, resultPermError, err.Error()), nil
	}
	for i, v := range verified {
		if i < len(list) {
			list[i].take(v, s.Now())
			keys.apply(&list[i])
		}
	}
	for i := len(verified); i < len(list); i++ {
		list[i].result, list[i].why = resultPolicy, "not verified: there are too many signatures for a message of this size"
	}
	if count > maxSignatures {
		list = append(list, dkimResult{result: resultPolicy, why: plural(count-maxSignatures, "more signature") + " not looked at"})
	}
	return list, nil
}

// describe reads the tags of a signature that go-msgauth does not hand on, and counts the names in h=.
func describe(value string) (r dkimResult, names int) {
	r.result = resultNeutral // until verified; what stays so could not be read
	tags, ok := parseTags(value)
	if !ok {
		return r, 0
	}
	get := func(name string) string { v, _ := getTag(tags, name); return squeeze(v) }
	r.domain, _ = asciiDomain(get("d"))
	r.selector, r.algorithm = get("s"), get("a")
	r.signature = get("b")
	r.signature = r.signature[:min(8, len(r.signature))]
	return r, 1 + strings.Count(get("h"), ":")
}

// take adds the outcome of the verification. Where the library read another signature than we did, which takes a header
// that no honest sender writes, its word counts and ours is dropped.
func (r *dkimResult) take(v *dkim.Verification, now time.Time) {
	if domain, _ := asciiDomain(v.Domain); domain != r.domain {
		*r = dkimResult{domain: domain}
	}
	r.identity = v.Identifier
	switch {
	case v.Err == nil && r.domain == "":
		r.result, r.why = resultPermError, "d= is not a domain"
	case v.Err == nil && v.Time.After(now.Add(maxClockAhead)):
		r.result, r.why = resultPolicy, "signed in the future" // RFC 6376 section 3.5
	case v.Err == nil:
		r.result = resultPass
	case dkim.IsTempFail(v.Err):
		r.result, r.why = resultTempError, "the key cannot be looked up now"
	case dkim.IsPermFail(v.Err):
		r.result, r.why = resultPermError, strings.TrimPrefix(v.Err.Error(), "dkim: ")
	case v.Err.Error() == insecureLength:
		r.result, r.why = resultPolicy, "l= leaves part of the body unsigned" // RFC 6376 section 8.2
	default:
		r.result, r.why = resultFail, strings.TrimPrefix(v.Err.Error(), "dkim: ")
	}
}

func allOf(list []dkimResult, result, why string) []dkimResult {
	for i := range list {
		list[i].result, list[i].why = result, why
	}
	return list
}

// tooCostly says why a header is not to be given to the library, or "".
func tooCostly(fields []pipeline.Field, names int) string {
	if names*len(fields) > maxPicks {
		return "too many fields to verify"
	}
	unfold := 0
	for _, f := range fields {
		if lines := bytes.Count(f.Raw, []byte{'\n'}); lines > 2 {
			unfold += lines * len(f.Raw) / 2
		}
	}
	if unfold > maxUnfold {
		return "too much folding to verify"
	}
	return ""
}

// wholeMessage reads the message as it arrived, with the empty line after a header that has none.
func wholeMessage(m *pipeline.Message) io.Reader {
	size := m.Content.Size()
	var header int64
	for _, f := range m.Arrived().Fields() {
		header += int64(len(f.Raw))
	}
	if header < size {
		return io.NewSectionReader(m.Content, 0, size)
	}
	return io.MultiReader(io.NewSectionReader(m.Content, 0, size), strings.NewReader("\r\n\r\n"))
}

// guard hides from go-msgauth everything at which it leaves goroutines behind or works without end: it never returns an
// error other than io.EOF, and says afterwards why it stopped early. A result from a body that was cut short is worthless.
type guard struct {
	ctx     context.Context
	r       io.Reader
	run     int    // octets of empty lines until here
	stopped string // why the reading was ended on purpose
	err     error  // of r
}

func (g *guard) Read(p []byte) (int, error) {
	if g.stopped != "" || g.err != nil || g.ctx.Err() != nil {
		return 0, io.EOF
	}
	n, err := g.r.Read(p)
	for _, c := range p[:n] {
		if c != '\r' && c != '\n' {
			g.run = 0
		} else if g.run++; g.run > maxEmptyRun {
			g.stopped = "too many empty lines to verify"
			return 0, io.EOF
		}
	}
	if err != nil && err != io.EOF {
		g.err, err = err, io.EOF
	}
	return n, err
}

// keyCollector looks keys up for go-msgauth and remembers their flags, which it ignores.
type keyCollector struct {
	dns resolver.Lookup
	ctx context.Context // go-msgauth's hook has none

	mu    sync.Mutex
	flags map[string]string // t= by name
}

func (k *keyCollector) lookup(name string) ([]string, error) {
	texts, err := k.dns.LookupTXT(k.ctx, name)
	if err != nil {
		return nil, err
	}
	for _, text := range texts {
		if len(text) > maxKeyRecord {
			return nil, &net.DNSError{Err: "the key record is too large", Name: name}
		}
		if tags, ok := parseTags(text); ok {
			if flags, ok := getTag(tags, "t"); ok {
				k.remember(name, flags)
			}
		}
	}
	return texts, nil
}

func (k *keyCollector) remember(name, flags string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.flags == nil {
		k.flags = make(map[string]string)
	}
	k.flags[strings.ToLower(name)] = flags
}

// apply obeys the key's flags (RFC 6376 section 3.6.1): with "s", i= must be at d= itself; with "y" the signer is still
// trying things out, which is written down and changes nothing, since neither does an absent signature harm anybody here.
func (k *keyCollector) apply(r *dkimResult) {
	k.mu.Lock()
	flags, ok := k.flags[strings.ToLower(r.selector+"._domainkey."+r.domain)]
	k.mu.Unlock()
	if !ok {
		return
	}
	for flag := range strings.SplitSeq(squeeze(flags), ":") {
		switch flag {
		case "y":
			r.testing = true
		case "s":
			_, at := splitAddress(r.identity)
			if at, _ = asciiDomain(at); r.result == resultPass && at != r.domain {
				r.result, r.why = resultPermError, "the key is not for subdomains in i="
			}
		}
	}
}

// dkimSummary is one word for all signatures: pass if one passes, else the result of the first.
func dkimSummary(list []dkimResult) string {
	if len(list) == 0 {
		return resultNone
	}
	for i := range list {
		if list[i].result == resultPass {
			return resultPass
		}
	}
	return list[0].result
}
