// Package authenticate is the stage that finds out who sent a message: SPF, iprev, DKIM, ARC and DMARC. It writes what it
// found into an Authentication-Results field and into Message.Auth for later stages and plugins, and, with dmarc = "enforce",
// obeys what the author's domain asks for. Its Sealer signs what leaves.
//
// Who gets what (RULES A1): a stranger's message gets all; SPF, iprev and DMARC say something about the peer that
// hands a message over to us, so for everybody else only DKIM and ARC are verified; a login gets auth=pass; what Sluice makes
// itself passes untouched. What is verified is the message as it arrived.
//
// What it promises:
//
//   - It never defers: what DNS cannot tell is recorded as temperror and the message goes on (RULES D4). All look-ups of
//     one message share five seconds. Only signing may defer: mail that has to be signed does not leave unsigned.
//   - Fields that only we may write are removed first: Authentication-Results with our name (RFC 8601 section 5) and
//     X-Sluice-*; from strangers also X-Spam-*, X-Quarantine-* and Received-SPF, because people's filters believe them.
//   - The cost of hostile messages is bounded: the body is hashed at most twice, however many signatures there are; at most
//     8 signatures, 50 ARC sets and 24 keys; keys up to 8192 bits, and a sum of what all of it may cost; SPF stops at 10
//     look-ups and 2 void ones; a tree walk asks for 8 names.
//
// What DMARC decides with "enforce" (RFC 7489 section 6.6.2): p=reject is a reject with 550 5.7.1; p=quarantine is junk,
// not quarantine, since the domain asks for suspicion and only the reader can tell a broken mailing list from a fraud, while
// our quarantine would keep the message from the reader. pct and t=y (RFC 9989) take the message one step down. A message
// with several From fields is rejected: a reader may be shown any of them. So is one without: a reader is shown Sender,
// Reply-To or the envelope's sender in place of an author. Both are permerror. With several authors in one field each
// author's domain is asked and the strictest answer holds. A From field in which no domain can be found is junk; one with
// address literals alone has no DMARC result. A message that fails, but passed at a forwarder whose ARC seal the
// administrator trusts (RFC 8617 section 7.2.1), goes on.
//
// What plugins see of Message.Auth is sdk.Envelope.Auth. No plugin can change it, and tags of the same names mean nothing.
//
// Packages below: dkim (signatures and the canonicaliser), arc (chains), keyring (our keys).
//
// RFCs: 5322, 6376, 8463, 7208, 7489, 8301, 8601, 8617, 9989.
package authenticate

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/authenticate/arc"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
)

// lookupTime is what all look-ups for one message share (RULES D4). Of that, policyTime is kept for the author's policy:
// else a signature whose key never comes would use up the time in which p=reject could be found.
const (
	lookupTime = 5 * time.Second
	policyTime = 1500 * time.Millisecond
)

// Options is what New needs.
type Options struct {
	Config   Config
	Hostname string          // our name in Authentication-Results (RFC 8601 section 2.5)
	DNS      resolver.Lookup //
	Now      func() time.Time
	Percent  func() int             // 0 to 99, for pct; nil: random
	Reports  pipeline.DMARCObserver // hears what DMARC found, for aggregate reports; nil: nobody does
}

// Stage implements pipeline.Stage. It keeps nothing between messages.
type Stage struct {
	Options
	authserv string
}

var _ pipeline.Stage = (*Stage)(nil)

// New returns the stage for a valid configuration.
func New(o Options) *Stage {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Percent == nil {
		o.Percent = func() int { return rand.IntN(100) }
	}
	return &Stage{Options: o, authserv: strings.ToLower(strings.TrimSuffix(o.Hostname, "."))}
}

// Name implements pipeline.Stage.
func (s *Stage) Name() string { return pipeline.StageAuthenticate }

// Process implements pipeline.Stage. It returns an error only if the message cannot be changed or read, or ctx has ended.
func (s *Stage) Process(ctx context.Context, m *pipeline.Message) error {
	if m.Origin == sdk.Generated {
		return nil
	}
	start := s.Now()
	r := results{signed: s.Config.DKIM && hasSignature(m.Arrived().Fields())}
	if r.signed || m.Origin == sdk.Stranger {
		if err := s.verify(ctx, m, &r); err != nil {
			return err
		}
	}
	field := s.fieldOf(m, &r)
	removed, err := s.mark(m, field)
	if err != nil {
		return err
	}
	m.Auth = s.auth(m, &r)
	m.Auth.Results = string(field[len(resultsField)+2 : len(field)-2])
	s.decide(m, &r)
	s.observe(m, &r)
	s.record(m, &r, removed, start)
	return nil
}

// results is what was found out about one message.
type results struct {
	signed bool
	iprev  *iprevResult
	spf    *spfResult
	dkim   []dkimResult
	chain  *arc.Chain // nil: nobody looked
	arc    arc.Verdict
	dmarc  []dmarcResult // one for each author's domain
	author authors
	sender bool // MAIL FROM is not forged
}

// hasSignature reports whether there is something to verify.
func hasSignature(fields []pipeline.Field) bool {
	for i := range fields {
		switch name := fields[i].Name; {
		case len(name) == len(signatureField) && strings.EqualFold(name, signatureField),
			len(name) > 4 && strings.EqualFold(name[:4], "ARC-"):
			return true
		}
	}
	return false
}

// verify asks everything that there is to ask. The look-ups do not need each other, and one that hangs must not take the
// time of the others, so they run side by side; with a warm cache a second goroutine costs more than the look-ups
// themselves, hence only iprev, whose zone is the one most often broken, and signatures get one.
func (s *Stage) verify(ctx context.Context, m *pipeline.Message, r *results) error {
	limited, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	early, cancelEarly := context.WithTimeout(limited, lookupTime-policyTime)
	defer cancelEarly()
	stranger := m.Origin == sdk.Stranger
	var side beside
	defer side.wait() // also when what runs here panics
	var dkimErr error
	if r.signed {
		side.run(func() { dkimErr = s.verifySignatures(ctx, early, m, r) })
	}
	if stranger && m.Peer != nil && m.Peer.Addr.IsValid() {
		if m.Peer.Reverse == "" {
			side.run(func() { r.iprev = s.checkReverse(early, m.Peer) })
		} else {
			r.iprev = s.checkReverse(early, m.Peer)
		}
		if s.Config.SPF {
			r.spf = s.checkSPF(early, m)
		}
	}
	side.wait()
	if dkimErr != nil {
		return dkimErr
	}
	w := &walker{dns: s.DNS, list: s.Config.Discovery == ListOnly}
	if stranger && s.Config.DMARC != DMARCOff {
		r.author = authorsOf(m.Arrived())
		r.dmarc = s.evaluate(limited, w, r)
	}
	r.sender = verifiedSender(limited, w, m, r)
	return ctx.Err() // the peer's time, not our five seconds
}

// auth is what later stages and plugins are told.
func (s *Stage) auth(m *pipeline.Message, r *results) *pipeline.Auth {
	a := &pipeline.Auth{}
	if r.iprev != nil {
		a.IPRev = r.iprev.result
	}
	if r.spf != nil {
		a.SPF, a.SPFDomain = r.spf.result, r.spf.domain
	}
	if s.Config.DKIM {
		a.DKIM = dkimSummary(r.dkim)
		for i := range r.dkim {
			if r.dkim[i].result == resultPass && !slices.Contains(a.DKIMDomains, r.dkim[i].domain) {
				a.DKIMDomains = append(a.DKIMDomains, r.dkim[i].domain)
			}
		}
		if len(a.DKIMDomains) > 0 {
			a.Signatures, a.Named = replay(m, r.dkim)
		}
	}
	if d := strictest(r.dmarc); d != nil {
		a.DMARC, a.DMARCDomain = d.result, d.domain
	}
	for i := range r.dmarc {
		if r.dmarc[i].result == resultFail {
			a.DMARCFailed = append(a.DMARCFailed, r.dmarc[i].domain)
		}
	}
	if m.Origin == sdk.Login {
		a.Login = resultPass
	}
	if s.Config.DKIM && m.Origin != sdk.Login {
		if a.ARC = arc.None; r.chain != nil {
			a.ARC = r.arc.Result
		}
	}
	a.SenderVerified = r.sender || m.Origin == sdk.Login || m.Origin == sdk.Trusted
	return a
}

// record writes the message's trace.
func (s *Stage) record(m *pipeline.Message, r *results, removed int, start time.Time) {
	if m.Trace == nil {
		return
	}
	action, why := sdk.Accept, ""
	for _, rcpt := range m.Recipients {
		if rcpt.Opinion.Stage == s.Name() && rcpt.Opinion.Action > action {
			action, why = rcpt.Opinion.Action, rcpt.Opinion.Why
		}
	}
	e := trace.Event{Stage: s.Name(), Action: action.String(), Text: summary(m, r)}
	if why != "" {
		e.Reasons = []sdk.Reason{{Symbol: "DMARC", Text: why}}
	}
	if removed > 0 {
		e.Changes = []string{"removed " + plural(removed, "forged field")}
	}
	e.At = s.Now()
	e.Took = e.At.Sub(start)
	m.Trace.Add(e)
}
