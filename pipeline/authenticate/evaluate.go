package authenticate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/authenticate/arc"
	"github.com/sluicemail/sluice/sdk"
)

// dmarcResult is DMARC's result for one author's domain.
type dmarcResult struct {
	domain      string // the author's, as A-labels
	result      string // RFC 8601 section 2.7.4
	policy      string // what the domain asks for: p, sp or np; "" if nothing
	disposition string // what that means for this message, after pct, t and trusted sealers
	why         string

	record   dmarcRecord
	at       string // where the record is
	spf      bool   // SPF passed and is aligned
	dkim     bool   // a signature passed and is aligned
	override *pipeline.DMARCOverride
}

// evaluate does DMARC for each of the authors' domains. No From field, or several, is for DMARC not to decide (RFC 7489 section
// 6.6.1, RFC 9989 section 5.3.1), and no way around it (RFC 9989 section 11.5): such a message is refused like one of a domain
// that asks for it.
func (s *Stage) evaluate(ctx context.Context, w *walker, r *results) []dmarcResult {
	switch {
	case r.author.fields == 0:
		return []dmarcResult{{result: resultPermError, disposition: policyReject, why: "no From field (RFC 5322 section 3.6)"}}
	case r.author.fields > 1:
		return []dmarcResult{{result: resultPermError, disposition: policyReject, why: "more than one From field (RFC 5322 section 3.6)"}}
	case len(r.author.domains) == 0 && !r.author.unreadable:
		return []dmarcResult{{result: resultNone, disposition: policyNone, why: "the author's address has no domain"}}
	}
	list := make([]dmarcResult, len(r.author.domains))
	var side beside
	defer side.wait()
	for i, domain := range r.author.domains {
		if i == len(list)-1 { // here, rather than to wait
			list[i] = s.evaluateDomain(ctx, w, r, domain)
			break
		}
		// Each with questions of its own: one whose DNS is slow must not take the time of the others.
		own := &walker{dns: w.dns, list: w.list}
		side.run(func() { list[i] = s.evaluateDomain(ctx, own, r, domain) })
	}
	side.wait()
	if r.author.unreadable {
		list = append(list, dmarcResult{result: resultPermError, disposition: policyQuarantine, why: "the From field names no readable domain"})
	}
	return list
}

func (s *Stage) evaluateDomain(ctx context.Context, w *walker, r *results, domain string) dmarcResult {
	d := dmarcResult{domain: domain, result: resultNone, disposition: policyNone}
	record, at, err := w.policy(ctx, domain)
	if err != nil {
		d.result, d.why = resultTempError, "the policy cannot be looked up now"
		return d
	}
	if at == "" {
		return d
	}
	d.policy, d.record, d.at = record.policy, record, at
	if at != domain {
		d.policy = record.subdomain
		if record.nonexistent != record.subdomain && s.missing(ctx, domain) {
			d.policy = record.nonexistent
		}
	}
	undecided := d.identifiers(ctx, w, r)
	switch {
	case d.spf || d.dkim:
		d.result = resultPass
		return d
	case undecided: // what is not known yet must not cost the message (RFC 7489 section 6.6.2)
		d.result, d.why = resultTempError, "an aligned identifier could not be checked now"
		return d
	}
	d.result, d.disposition = resultFail, d.policy
	s.spare(r, &d)
	return d
}

// spare weakens what a failure means: by a trusted sealer's word, or because the domain asks for a test only.
func (s *Stage) spare(r *results, d *dmarcResult) {
	if i := s.vouched(r, d.domain); i > 0 {
		d.override = &pipeline.DMARCOverride{Type: "local_policy", Comment: arcComment(r)} // RFC 8617 section 7.2.2
		d.why = fmt.Sprintf("passed at %s, whose ARC seal is trusted", r.chain.Sets[i-1].Seal.Domain)
		d.disposition = policyNone
		return
	}
	switch {
	case d.record.testing:
		d.override = &pipeline.DMARCOverride{Type: "other", Comment: "policy test mode (t=y)"}
	case d.record.percent < 100 && s.Percent() >= d.record.percent:
		d.override = &pipeline.DMARCOverride{Type: "sampled_out"}
	default:
		return
	}
	d.disposition = stepDown(d.policy) // RFC 7489 section 6.6.4, RFC 9989 section 4.7
	d.why = "the domain asks for a test only"
}

// vouched returns the instance of the trusted set that says that DMARC passed for a domain, or 0.
func (s *Stage) vouched(r *results, domain string) int {
	if r.chain == nil || r.arc.Result != arc.Pass || len(s.Config.ARCTrusted) == 0 {
		return 0
	}
	return r.chain.Vouched(domain, func(sealer string) bool { return slices.Contains(s.Config.ARCTrusted, sealer) })
}

// arcComment is what a report tells of a chain (RFC 8617 section 7.2.2).
func arcComment(r *results) string {
	var b strings.Builder
	b.WriteString("arc=pass")
	for i := len(r.chain.Sets) - 1; i >= 0 && b.Len() < 400; i-- {
		seal := r.chain.Sets[i].Seal
		fmt.Fprintf(&b, " as[%d].d=%s as[%d].s=%s", i+1, seal.Domain, i+1, seal.Selector)
	}
	return b.String()
}

// identifiers finds out which of the authenticated identifiers are aligned (RFC 7489 section 3.1), and reports whether
// some that could decide are not known.
func (d *dmarcResult) identifiers(ctx context.Context, w *walker, r *results) (undecided bool) {
	if p := r.spf; p != nil && (p.result == resultPass || p.result == resultTempError) {
		is, err := w.aligned(ctx, p.domain, d.domain, d.record.strictSPF)
		d.spf = is && p.result == resultPass
		undecided = err != nil || is && p.result == resultTempError
	}
	for i := range r.dkim {
		k := &r.dkim[i]
		if k.result != resultPass && k.result != resultTempError {
			continue
		}
		is, err := w.aligned(ctx, k.domain, d.domain, d.record.strictDKIM)
		d.dkim = d.dkim || is && k.result == resultPass
		undecided = undecided || err != nil || is && k.result == resultTempError
	}
	return undecided
}

// verifiedSender reports whether MAIL FROM is known not to be forged (RULES A7).
func verifiedSender(ctx context.Context, w *walker, m *pipeline.Message, r *results) bool {
	if m.Sender == "" {
		return false
	}
	if r.spf != nil && !r.spf.helo && r.spf.result == resultPass {
		return true
	}
	_, domain := splitAddress(m.Sender)
	domain, ok := asciiDomain(domain)
	if !ok {
		return false
	}
	for i := range r.dkim {
		if r.dkim[i].result == resultPass {
			if is, err := w.aligned(ctx, r.dkim[i].domain, domain, false); is && err == nil {
				return true
			}
		}
	}
	return false
}

// missing reports whether a domain does not exist as RFC 9091 section 2.6 means it: no A, AAAA or MX record.
func (s *Stage) missing(ctx context.Context, domain string) bool {
	if _, err := s.DNS.LookupMX(ctx, domain); err == nil || temporary(err) {
		return false
	}
	_, err := s.DNS.LookupIP(ctx, "ip", domain)
	return err != nil && !temporary(err)
}

// strictest returns the result that decides about the message: that with the strongest disposition; nil if there is none.
func strictest(list []dmarcResult) *dmarcResult {
	var worst *dmarcResult
	for i := range list {
		if worst == nil || rank(&list[i]) > rank(worst) {
			worst = &list[i]
		}
	}
	return worst
}

// rank orders results by what they do to the message, then by how bad they are.
func rank(d *dmarcResult) int {
	n := 0
	switch d.disposition {
	case policyQuarantine:
		n = 10
	case policyReject:
		n = 20
	}
	switch d.result {
	case resultFail:
		n += 3
	case resultPermError, resultTempError:
		n += 2
	case resultNone:
		n++
	}
	return n
}

// decide lets the recipients take DMARC's opinion, where it is to be obeyed.
func (s *Stage) decide(m *pipeline.Message, r *results) {
	d := strictest(r.dmarc)
	if d == nil || s.Config.DMARC != DMARCEnforce {
		return
	}
	o := pipeline.Opinion{Stage: s.Name(), Why: d.why}
	if d.result == resultFail {
		o.Why = fmt.Sprintf("neither SPF nor DKIM passes for %s, which asks for p=%s", d.domain, d.policy)
	}
	switch d.disposition {
	case policyQuarantine:
		o.Action = sdk.Junk
	case policyReject:
		o.Action = sdk.Reject
		o.Reply = pipeline.Reply{Code: 550, Enhanced: "5.7.1", Text: "A message must have exactly one From field (RFC 5322)"}
		if d.result == resultFail {
			o.Reply.Text = "The DMARC policy of " + d.domain + " does not allow this message (RFC 7489)"
		}
	default:
		return
	}
	m.TakeAll(o)
}
