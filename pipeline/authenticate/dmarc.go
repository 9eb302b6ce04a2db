package authenticate

import (
	"strconv"
	"strings"

	"github.com/sluicemail/sluice/pipeline/authenticate/dkim"
)

// The policies that a domain may ask for (RFC 7489 section 6.3), in rising order.
const (
	policyNone       = "none"
	policyQuarantine = "quarantine"
	policyReject     = "reject"
)

// dmarcRecord is a DMARC record with the defaults filled in.
type dmarcRecord struct {
	policy      string   // p
	subdomain   string   // sp; the same as p if not given
	nonexistent string   // np (RFC 9989); the same as sp if not given
	sp, np      string   // as given, or ""
	strictSPF   bool     // aspf=s
	strictDKIM  bool     // adkim=s
	percent     int      // pct
	testing     bool     // t=y (RFC 9989)
	psd         byte     // 'y', 'n', or 0 (RFC 9989)
	fo          string   // as given
	rua         []string // URIs as given
}

// maxReports bounds the addresses for reports that are kept of one record.
const maxReports = 10

// parseDMARC reads a record. It is as tolerant as RFC 7489 section 6.3 wants it: what is unknown or malformed is ignored
// in favour of the default; values count without case. false: this is no DMARC record, or one that asks for nothing.
func parseDMARC(text string) (dmarcRecord, bool) {
	r := dmarcRecord{percent: 100}
	if !isDMARC(text) {
		return r, false
	}
	_, rest, _ := strings.Cut(text, ";")
	seen := make([]string, 0, 12)
	bad := false // p, sp or np says something that is none of the policies
	for rest != "" && len(seen) < dkim.MaxTags {
		var item string
		item, rest, _ = strings.Cut(rest, ";")
		name, value, found := strings.Cut(item, "=")
		name, value = strings.ToLower(trimSpace(name)), trimSpace(value)
		if !found || contains(seen, name) {
			continue
		}
		seen = append(seen, name)
		bad = r.take(name, value) || bad
	}
	if bad || r.policy == "" {
		if !someReport(r.rua) { // RFC 7489 section 6.6.3 step 6, RFC 9989 section 4.10.1
			return r, false
		}
		r.policy, r.sp, r.np = policyNone, "", ""
	}
	r.subdomain = policyOr(r.sp, r.policy)
	r.nonexistent = policyOr(r.np, r.subdomain)
	return r, true
}

// take reads one tag; true: it is a policy that does not exist.
func (r *dmarcRecord) take(name, value string) (bad bool) {
	word := strings.ToLower(value)
	switch name {
	case "p":
		r.policy = policyOr(word, "")
		return r.policy == ""
	case "sp":
		r.sp = policyOr(word, "")
		return r.sp == ""
	case "np":
		r.np = policyOr(word, "")
		return r.np == ""
	case "aspf":
		r.strictSPF = word == "s"
	case "adkim":
		r.strictDKIM = word == "s"
	case "t":
		r.testing = word == "y"
	case "psd":
		if word == "y" || word == "n" {
			r.psd = word[0]
		}
	case "pct":
		if n, err := strconv.Atoi(word); err == nil && 0 <= n && n <= 100 {
			r.percent = n
		}
	case "fo":
		r.fo = clip(value)
	case "rua":
		for uri := range strings.SplitSeq(value, ",") {
			if uri = trimSpace(uri); uri != "" && len(uri) <= 512 && len(r.rua) < maxReports {
				r.rua = append(r.rua, uri)
			}
		}
	}
	return false
}

// someReport reports whether one of the URIs is an address to write to.
func someReport(uris []string) bool {
	for _, uri := range uris {
		if scheme, rest, _ := strings.Cut(uri, ":"); strings.EqualFold(scheme, "mailto") && strings.Contains(rest, "@") {
			return true
		}
	}
	return false
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

func isDMARC(text string) bool {
	first, _, _ := strings.Cut(text, ";")
	name, version, _ := strings.Cut(first, "=")
	return trimSpace(name) == "v" && trimSpace(version) == "DMARC1"
}

// stepDown is the next weaker policy.
func stepDown(policy string) string {
	if policy == policyReject {
		return policyQuarantine
	}
	return policyNone
}
