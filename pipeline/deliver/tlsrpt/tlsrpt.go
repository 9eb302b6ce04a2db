// Package tlsrpt counts, for each domain that we deliver to and each day, how TLS went: what RFC 8460 reports are made of.
//
// tlspolicy tells the Collector of every attempt to set up TLS with a server, once for each policy that the domain has
// (section 4.2: DANE and MTA-STS stand in the report side by side). Take hands a finished day over to whoever writes
// and sends the reports.
//
// It is bounded: maxDomains domains a day, and what else one report can hold. What comes on top of that is counted
// (Dropped) and not reported. What strangers wrote (policies, names from greetings) is cut and made printable.
//
// With a Cache a day survives a restart: Save writes what has changed, which Collector does by itself every minute while
// it is told something; a crash loses at most that minute. Statistics are not worth a sync for each message.
package tlsrpt

import (
	"time"
)

// ResultType is a word of RFC 8460 section 4.3.
type ResultType string

// The result types.
const (
	STARTTLSNotSupported    ResultType = "starttls-not-supported"
	CertificateHostMismatch ResultType = "certificate-host-mismatch"
	CertificateExpired      ResultType = "certificate-expired"
	CertificateNotTrusted   ResultType = "certificate-not-trusted"
	ValidationFailure       ResultType = "validation-failure"
	TLSAInvalid             ResultType = "tlsa-invalid"
	DNSSECInvalid           ResultType = "dnssec-invalid"
	DANERequired            ResultType = "dane-required"
	STSPolicyFetchError     ResultType = "sts-policy-fetch-error"
	STSPolicyInvalid        ResultType = "sts-policy-invalid"
	STSWebPKIInvalid        ResultType = "sts-webpki-invalid"
)

// PolicyType is a word of RFC 8460 section 4.4, policy-type.
type PolicyType string

// The policy types.
const (
	TypeTLSA     PolicyType = "tlsa"
	TypeSTS      PolicyType = "sts"
	TypeNoPolicy PolicyType = "no-policy-found"
)

// Policy is the JSON object "policy" of RFC 8460 section 4.4.
type Policy struct {
	Type   PolicyType `json:"policy-type"`
	String []string   `json:"policy-string,omitempty"` // the lines of an MTA-STS policy, or TLSA records: "3 0 1 1F85...8CF0"
	Domain string     `json:"policy-domain"`           // with DANE the TLSA base domain, else the recipients' domain; A-labels
	MXHost []string   `json:"mx-host,omitempty"`       // the mx patterns of an MTA-STS policy
}

// Failure is an element of "failure-details" of RFC 8460 section 4.4, without its count.
type Failure struct {
	Type       ResultType `json:"result-type"`
	SendingIP  string     `json:"sending-mta-ip,omitempty"`
	MXHostname string     `json:"receiving-mx-hostname,omitempty"`
	MXHelo     string     `json:"receiving-mx-helo,omitempty"`
	IP         string     `json:"receiving-ip,omitempty"`
	Info       string     `json:"additional-information,omitempty"`
	Code       string     `json:"failure-reason-code,omitempty"`
}

// Detail is an element of "failure-details".
type Detail struct {
	Failure
	Count int64 `json:"failed-session-count"`
}

// Totals is the JSON object "summary" of RFC 8460 section 4.4.
type Totals struct {
	Success int64 `json:"total-successful-session-count"`
	Failure int64 `json:"total-failure-session-count"`
}

// PolicyResult is an element of "policies" of RFC 8460 section 4.4.
type PolicyResult struct {
	Policy  Policy   `json:"policy"`
	Totals  Totals   `json:"summary"`
	Details []Detail `json:"failure-details,omitempty"`
}

// Summary is what there is to report to one domain about one day. In JSON its field "policies" is that of the report;
// organization-name, date-range, contact-info and report-id are the sender's to add.
type Summary struct {
	Day      time.Time      `json:"-"` // midnight UTC with which the day begins; it ends 24 hours later
	Domain   string         `json:"-"` // the recipients' domain, whose _smtp._tls record says where to report; A-labels
	Policies []PolicyResult `json:"policies"`
}
