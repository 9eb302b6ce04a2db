package pipeline

import (
	"net/netip"
	"strings"
	"time"
)

// DMARCObservation is what DMARC found out about one message for one author's domain that has a policy. It is plain data
// for aggregate reports (RFC 7489 section 7.2); domains are A-labels in lower case.
type DMARCObservation struct {
	Time         time.Time
	Source       netip.Addr // the client (RULES D3)
	HeaderFrom   string     // the author's domain
	EnvelopeFrom string     // domain of MAIL FROM, or "" for the null sender
	EnvelopeTo   []string   // domains of RCPT TO, each once
	Policy       DMARCPolicy
	Disposition  string          // what was done for DMARC's sake: "none", "quarantine" or "reject"
	Overrides    []DMARCOverride // why that is not what the policy asks for; empty if it is
	SPF          DMARCSPF
	SPFAligned   bool // SPF passed and is aligned
	DKIM         []DMARCDKIM
	DKIMAligned  bool // a signature passed and is aligned
	Report       bool // the message is itself such a report (IsReport) and passed: no report about it, or two servers would write each other for ever
}

// DMARCPolicy is the policy record that was found (RFC 7489 section 6.3, RFC 9989).
type DMARCPolicy struct {
	Domain      string   // where it was found: the policy domain
	Discovery   string   // "psl" or "treewalk"
	P, SP, NP   string   // "none", "quarantine" or "reject"; SP and NP "" where the record has none
	ADKIM, ASPF string   // "r" or "s"
	Percent     int      // pct; 100 if the record has none
	Testing     bool     // t=y
	FO          string   // as published; "" if the record has none
	RUA         []string // URIs as published, still escaped, a size limit included: "mailto:dmarc@example.net!10m"
}

// DMARCOverride is a reason (RFC 7489 appendix C, PolicyOverrideType).
type DMARCOverride struct {
	Type    string // "forwarded", "sampled_out", "trusted_forwarder", "mailing_list", "local_policy" or "other"
	Comment string
}

// DMARCSPF is SPF's result without regard to alignment.
type DMARCSPF struct {
	Domain string // "" if SPF was not checked
	Scope  string // "mfrom" or "helo"
	Result string // RFC 8601 section 2.7.2
}

// DMARCDKIM is one signature's result without regard to alignment.
type DMARCDKIM struct {
	Domain, Selector string
	Result           string // RFC 8601 section 2.7.1
}

// DMARCObserver collects observations for aggregate reports. ObserveDMARC is called from the goroutines of sessions, many
// at a time; it must not block and must not keep o.
type DMARCObserver interface {
	ObserveDMARC(o *DMARCObservation)
}

// IsReport tells from a message's Subject and Content-Type, unfolded, whether it is a DMARC aggregate report (RFC 7489
// section 7.2.1.1) or a TLS report (RFC 8460 section 5.3). Anybody can write so: it counts only for a message that passed DMARC.
func IsReport(subject, contentType string) bool {
	subject, contentType = strings.ToLower(subject), strings.ToLower(contentType)
	if strings.HasPrefix(strings.TrimSpace(subject), "report domain:") {
		return true
	}
	return strings.HasPrefix(strings.TrimSpace(contentType), "multipart/report") && strings.Contains(contentType, "tlsrpt")
}
