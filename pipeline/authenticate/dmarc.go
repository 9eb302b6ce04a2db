package authenticate

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
)

// The policies that a domain may ask for (RFC 7489 section 6.3), in rising order.
const (
	policyNone       = "none"
	policyQuarantine = "quarantine"
	policyReject     = "reject"
)

// dmarcRecord is a DMARC record with the defaults filled in.
type dmarcRecord struct {
	policy      string // p
	subdomain   string // sp; the same as p if not given
	nonexistent string // np (RFC 9989); the same as sp if not given
	strictSPF   bool   // aspf=s
	strictDKIM  bool   // adkim=s
	percent     int    // pct
	testing     bool   // t=y (RFC 9989)
}

// parseDMARC reads a record. It is as tolerant as RFC 7489 section 6.3 wants it: what is unknown or malformed is ignored
// in favour of the default; values count without case. false: this is no DMARC record, or one that asks for nothing.
func parseDMARC(text string) (dmarcRecord, bool) {
	r := dmarcRecord{percent: 100}
	first, rest, _ := strings.Cut(text, ";")
	name, version, _ := strings.Cut(first, "=")
	if trimSpace(name) != "v" || trimSpace(version) != "DMARC1" {
		return r, false
	}
	seen := make([]string, 0, 12)
	reports := false
	for rest != "" && len(seen) < maxTags {
		var item string
		item, rest, _ = strings.Cut(rest, ";")
		name, value, found := strings.Cut(item, "=")
		name, value = strings.ToLower(trimSpace(name)), strings.ToLower(trimSpace(value))
		if !found || contains(seen, name) {
			continue
		}
		seen = append(seen, name)
		switch name {
		case "p":
			r.policy = policyOr(value, "")
		case "sp":
			r.subdomain = policyOr(value, "")
		case "np":
			r.nonexistent = policyOr(value, "")
		case "aspf":
			r.strictSPF = value == "s"
		case "adkim":
			r.strictDKIM = value == "s"
		case "t":
			r.testing = value == "y"
		case "pct":
			if n, err := strconv.Atoi(value); err == nil && 0 <= n && n <= 100 {
				r.percent = n
			}
		case "rua":
			reports = value != ""
		}
	}
	if r.policy == "" {
		if !reports { // RFC 7489 section 6.6.3 step 6
			return r, false
		}
		r.policy, r.subdomain, r.nonexistent = policyNone, policyNone, policyNone
	}
	if r.subdomain == "" {
		r.subdomain = r.policy
	}
	if r.nonexistent == "" {
		r.nonexistent = r.subdomain
	}
	return r, true
}

func policyOr(value, fallback string) string {
	switch value {
	case policyNone, policyQuarantine, policyReject:
		return value
	}
	return fallback
}

func trimSpace(s string) string { return strings.Trim(s, " \t\r\n") }

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// dmarcResult is DMARC's result for one author's domain.
type dmarcResult struct {
	domain      string // the author's, as A-labels
	result      string // RFC 8601 section 2.7.4
	policy      string // what the domain asks for: p, sp or np; "" if nothing
	disposition string // what that means for this message, after pct and t
	why         string
}

// evaluate does DMARC for each of the authors' domains; nothing at all if there is no From field.
func (s *Stage) evaluate(ctx context.Context, r *results) []dmarcResult {
	if r.author.fields > 1 {
		return []dmarcResult{{result: resultPermError, disposition: policyReject, why: "more than one From field (RFC 5322 section 3.6)"}}
	}
	var list []dmarcResult
	for _, domain := range r.author.domains {
		list = append(list, s.evaluateDomain(ctx, r, domain))
	}
	if r.author.unreadable {
		list = append(list, dmarcResult{result: resultPermError, disposition: policyQuarantine, why: "the From field names no readable domain"})
	}
	return list
}

func (s *Stage) evaluateDomain(ctx context.Context, r *results, domain string) dmarcResult {
	d := dmarcResult{domain: domain, result: resultNone, disposition: policyNone}
	record, at, err := s.discover(ctx, domain)
	if err != nil {
		d.result, d.why = resultTempError, "the policy cannot be looked up now"
		return d
	}
	if at == "" {
		return d
	}
	d.policy = record.policy
	if at != domain {
		d.policy = record.subdomain
		if record.nonexistent != record.subdomain && s.missing(ctx, domain) {
			d.policy = record.nonexistent
		}
	}
	switch passed, undecided := identifiers(r, domain, record); {
	case passed:
		d.result = resultPass
		return d
	case undecided: // what is not known yet must not cost the message (RFC 7489 section 6.6.2)
		d.result, d.why = resultTempError, "an aligned identifier could not be checked now"
		return d
	}
	d.result, d.disposition = resultFail, d.policy
	if record.testing || record.percent < 100 && s.Percent() >= record.percent {
		d.disposition = stepDown(d.policy) // RFC 7489 section 6.6.4
		d.why = "the domain asks for a test only"
	}
	return d
}

// identifiers reports whether one of the authenticated identifiers is aligned with domain (RFC 7489 section 3.1), or
// whether that could not be found out.
func identifiers(r *results, domain string, record dmarcRecord) (passed, undecided bool) {
	if r.spf != nil && aligned(r.spf.domain, domain, record.strictSPF) {
		passed = r.spf.result == resultPass
		undecided = r.spf.result == resultTempError
	}
	for i := range r.dkim {
		k := &r.dkim[i]
		if (k.result == resultPass || k.result == resultTempError) && aligned(k.domain, domain, record.strictDKIM) {
			passed = passed || k.result == resultPass
			undecided = undecided || k.result == resultTempError
		}
	}
	return passed, undecided
}

// discover finds the record that holds for a domain: its own, else that of its organisation (RFC 7489 section 6.6.3).
// at is where it was found, "" if nowhere; an error means that this could not be found out.
func (s *Stage) discover(ctx context.Context, domain string) (record dmarcRecord, at string, err error) {
	places := []string{domain, organizational(domain)}
	if places[0] == places[1] {
		places = places[:1]
	}
	for _, place := range places {
		texts, err := s.DNS.LookupTXT(ctx, "_dmarc."+place)
		if err != nil {
			if temporary(err) {
				return record, "", err
			}
			continue
		}
		versions := 0
		for _, text := range texts {
			if isDMARC(text) {
				versions++
			}
		}
		if versions != 1 { // several records are none (section 6.6.3 step 5)
			continue
		}
		for _, text := range texts {
			if record, ok := parseDMARC(text); ok {
				return record, place, nil
			}
		}
	}
	return record, "", nil
}

func isDMARC(text string) bool {
	first, _, _ := strings.Cut(text, ";")
	name, version, _ := strings.Cut(first, "=")
	return trimSpace(name) == "v" && trimSpace(version) == "DMARC1"
}

// missing reports whether a domain does not exist as RFC 9091 section 2.6 means it: no A, AAAA or MX record.
func (s *Stage) missing(ctx context.Context, domain string) bool {
	if _, err := s.DNS.LookupMX(ctx, domain); err == nil || temporary(err) {
		return false
	}
	_, err := s.DNS.LookupIP(ctx, "ip", domain)
	return err != nil && !temporary(err)
}

func stepDown(policy string) string {
	if policy == policyReject {
		return policyQuarantine
	}
	return policyNone
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

func rank(d *dmarcResult) int {
	n := map[string]int{policyQuarantine: 10, policyReject: 20}[d.disposition]
	if d.result != resultPass {
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
