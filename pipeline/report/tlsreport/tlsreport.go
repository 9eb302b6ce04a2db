// Package tlsreport writes and reads the JSON document of SMTP TLS reports (RFC 8460 section 4), without the mail or the
// POST around it.
//
// Reports that are read come from strangers: before anything is decoded the document is looked through once, and refused if it
// has more levels, objects or list items than an honest one could. What is kept is bounded in number and cut to
// lines of printable text; a number that makes no sense counts as 0. The caller bounds the octets (package report does).
package tlsreport

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/sluicemail/sluice/pipeline/deliver/tlsrpt"
)

// Report is one report: how TLS went between one sender and the servers of one domain.
type Report struct {
	Organization string   `json:"organization-name"`
	Range        Range    `json:"date-range"`
	Contact      string   `json:"contact-info"`
	ID           string   `json:"report-id"`
	Policies     []Result `json:"policies"`

	// Left says how many policies and failure details are not here, because there were too many. For Read alone.
	Left int `json:"left-out,omitempty"`
}

// Range is the time that a report covers, in UTC.
type Range struct {
	Start time.Time `json:"start-datetime"`
	End   time.Time `json:"end-datetime"`
}

// Result is how TLS went under one policy.
type Result struct {
	Policy  Policy   `json:"policy"`
	Summary Summary  `json:"summary"`
	Details []Detail `json:"failure-details,omitempty"`
}

// Policy is the policy that was applied.
type Policy struct {
	Type   string `json:"policy-type"` // "tlsa", "sts" or "no-policy-found"
	String Texts  `json:"policy-string,omitempty"`
	Domain string `json:"policy-domain"`
	MXHost Texts  `json:"mx-host,omitempty"`
}

// Summary counts sessions.
type Summary struct {
	Success Count `json:"total-successful-session-count"`
	Failure Count `json:"total-failure-session-count"`
}

// Detail is a kind of failure, and how often it happened.
type Detail struct {
	Type       string `json:"result-type"`
	SendingIP  string `json:"sending-mta-ip,omitempty"`
	MXHostname string `json:"receiving-mx-hostname,omitempty"`
	MXHelo     string `json:"receiving-mx-helo,omitempty"`
	IP         string `json:"receiving-ip,omitempty"`
	Count      Count  `json:"failed-session-count"`
	Info       string `json:"additional-information,omitempty"`
	Code       string `json:"failure-reason-code,omitempty"`
}

// Texts is a list of strings; some senders write a single string instead.
type Texts []string

// UnmarshalJSON implements json.Unmarshaler.
func (t *Texts) UnmarshalJSON(text []byte) error {
	var list []string
	if json.Unmarshal(text, &list) == nil {
		*t = list
		return nil
	}
	var one string
	if json.Unmarshal(text, &one) == nil && one != "" {
		*t = Texts{one}
	}
	return nil
}

// Count is a number of sessions; what is none counts as 0.
type Count int64

const maxCount = 1 << 48 // more sessions than there are

// UnmarshalJSON implements json.Unmarshaler. Some senders write numbers as strings.
func (c *Count) UnmarshalJSON(text []byte) error {
	var n json.Number
	*c = 0
	if json.Unmarshal(text, &n) != nil {
		return nil
	}
	if v, err := n.Int64(); err == nil && 0 <= v && v <= maxCount {
		*c = Count(v)
	}
	return nil
}

// From makes a report of what was counted about a domain on a day. Organization, Contact and ID are the caller's.
func From(s *tlsrpt.Summary) *Report {
	r := &Report{Range: Range{Start: s.Day.UTC(), End: s.Day.UTC().Add(24*time.Hour - time.Second)}}
	for _, p := range s.Policies {
		one := Result{
			Policy:  Policy{Type: string(p.Policy.Type), String: p.Policy.String, Domain: p.Policy.Domain, MXHost: p.Policy.MXHost},
			Summary: Summary{Count(p.Totals.Success), Count(p.Totals.Failure)},
		}
		for _, d := range p.Details {
			one.Details = append(one.Details, Detail{
				Type: string(d.Type), SendingIP: d.SendingIP, MXHostname: d.MXHostname, MXHelo: d.MXHelo, IP: d.IP,
				Count: Count(d.Count), Info: d.Info, Code: d.Code,
			})
		}
		r.Policies = append(r.Policies, one)
	}
	return r
}

// Write returns the document of r.
func Write(r *Report) ([]byte, error) {
	if len(r.Policies) == 0 {
		return nil, errors.New("write the TLS report: there is nothing in it")
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return nil, fmt.Errorf("write the TLS report: %w", err)
	}
	return append(text, '\n'), nil
}

// ErrNotReport is wrapped by the error about JSON that is no TLS report.
var ErrNotReport = errors.New("it is not a TLS report")

// Bounds on what is read.
const (
	maxDepth    = 16 // a report has 6
	maxObjects  = 100_000
	maxItems    = 1_000_000
	maxPolicies = 1000
	maxDetails  = 10_000 // of one report
	maxTexts    = 100
	maxText     = 300
)

// Read reads one document.
func Read(text []byte) (*Report, error) {
	if err := measure(text); err != nil {
		return nil, fmt.Errorf("read the TLS report: %w", err)
	}
	r := &Report{}
	var raw struct {
		Organization string   `json:"organization-name"`
		Range        rawRange `json:"date-range"`
		Contact      string   `json:"contact-info"`
		ID           string   `json:"report-id"`
		Policies     []Result `json:"policies"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, fmt.Errorf("read the TLS report: %w: %s", ErrNotReport, clean(err.Error()))
	}
	if len(raw.Policies) == 0 {
		return nil, fmt.Errorf("read the TLS report: %w: it has no policies", ErrNotReport)
	}
	r.Organization, r.Contact, r.ID = clean(raw.Organization), clean(raw.Contact), clean(raw.ID)
	r.Range = Range{moment(raw.Range.Start), moment(raw.Range.End)}
	r.keep(raw.Policies)
	return r, nil
}

type rawRange struct {
	Start string `json:"start-datetime"`
	End   string `json:"end-datetime"`
}

func moment(text string) time.Time {
	t, err := time.Parse(time.RFC3339, strings.TrimSpace(text))
	if err != nil || t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}
	}
	return t.UTC()
}

// keep takes as many of the policies as there may be.
func (r *Report) keep(policies []Result) {
	details := 0
	for _, p := range policies {
		if len(r.Policies) == maxPolicies {
			r.Left++
			continue
		}
		kept := Result{Policy: p.Policy, Summary: p.Summary}
		cleanAll(&kept.Policy.Type, &kept.Policy.Domain)
		kept.Policy.String, kept.Policy.MXHost = cleanTexts(p.Policy.String), cleanTexts(p.Policy.MXHost)
		for _, d := range p.Details {
			if details == maxDetails {
				r.Left++
				continue
			}
			details++
			cleanAll(&d.Type, &d.SendingIP, &d.MXHostname, &d.MXHelo, &d.IP, &d.Info, &d.Code)
			kept.Details = append(kept.Details, d)
		}
		r.Policies = append(r.Policies, kept)
	}
}

// measure looks through a document once, without keeping anything of it: its levels, objects and lists, and what is
// between commas. What is inside strings does not count.
func measure(text []byte) error {
	depth, objects, items := 0, 0, 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			for i++; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
			objects++
		case '}', ']':
			depth--
		case ',':
			items++
		}
		if depth > maxDepth || objects > maxObjects || items > maxItems {
			return errors.New("it is nested too deep or has too many elements")
		}
	}
	return nil
}

func cleanTexts(list Texts) Texts {
	if len(list) == 0 {
		return nil
	}
	out := make(Texts, 0, min(len(list), maxTexts))
	for _, t := range list[:min(len(list), maxTexts)] {
		out = append(out, clean(t))
	}
	return out
}

func cleanAll(texts ...*string) {
	for _, t := range texts {
		*t = clean(*t)
	}
}

// clean makes one line of printable text of bounded length of s.
func clean(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.Clone(strings.ToValidUTF8(s, "?")))
}
