package dmarc

import (
	"encoding/json"
	"encoding/xml"
	"strconv"
	"strings"
	"time"
)

// Feedback is one report: what one receiver saw of the mail of one domain.
type Feedback struct {
	XMLName  xml.Name `xml:"feedback" json:"-"`
	Version  string   `xml:"version,omitempty" json:"version,omitempty"`
	Metadata Metadata `xml:"report_metadata" json:"report_metadata"`
	Policy   Policy   `xml:"policy_published" json:"policy_published"`
	Records  []Record `xml:"record" json:"records"`

	// Left says how many records are not in Records: they made no sense, or there were more than MaxRecords. For Read alone.
	Left int `xml:"-" json:"records_left_out,omitempty"`
}

// Metadata says who reports, and about which time.
type Metadata struct {
	OrgName  string    `xml:"org_name" json:"org_name"`
	Email    string    `xml:"email" json:"email"`
	Contact  string    `xml:"extra_contact_info,omitempty" json:"extra_contact_info,omitempty"`
	ReportID string    `xml:"report_id" json:"report_id"`
	Range    DateRange `xml:"date_range" json:"date_range"`
	Errors   []string  `xml:"error" json:"errors,omitempty"`
}

// DateRange is a period; both ends are seconds since 1970 in UTC.
type DateRange struct {
	Begin Seconds `xml:"begin" json:"begin"`
	End   Seconds `xml:"end" json:"end"`
}

// Policy is the record that the domain published.
type Policy struct {
	Domain    string `xml:"domain" json:"domain"`
	ADKIM     string `xml:"adkim,omitempty" json:"adkim,omitempty"` // "r" or "s"
	ASPF      string `xml:"aspf,omitempty" json:"aspf,omitempty"`
	P         string `xml:"p" json:"p"`
	SP        string `xml:"sp,omitempty" json:"sp,omitempty"`
	Percent   string `xml:"pct,omitempty" json:"pct,omitempty"`
	FO        string `xml:"fo,omitempty" json:"fo,omitempty"`
	NP        string `xml:"np,omitempty" json:"np,omitempty"`                             // RFC 9990; never written
	Testing   string `xml:"testing,omitempty" json:"testing,omitempty"`                   // RFC 9990; never written
	Discovery string `xml:"discovery_method,omitempty" json:"discovery_method,omitempty"` // RFC 9990; never written
}

// Record counts messages that are alike in everything that is told here.
type Record struct {
	Row         Row         `xml:"row" json:"row"`
	Identifiers Identifiers `xml:"identifiers" json:"identifiers"`
	Results     Results     `xml:"auth_results" json:"auth_results"`
}

// Row says from where they came, how many they were, and what DMARC made of them.
type Row struct {
	SourceIP  string    `xml:"source_ip" json:"source_ip"`
	Count     Count     `xml:"count" json:"count"`
	Evaluated Evaluated `xml:"policy_evaluated" json:"policy_evaluated"`
}

// Evaluated is what was done, and whether DKIM and SPF passed and were aligned.
type Evaluated struct {
	Disposition string   `xml:"disposition" json:"disposition"` // "none", "quarantine" or "reject"; "pass" in RFC 9990
	DKIM        string   `xml:"dkim" json:"dkim"`               // "pass" or "fail"
	SPF         string   `xml:"spf" json:"spf"`
	Reasons     []Reason `xml:"reason" json:"reasons,omitempty"`
}

// Reason says why something else was done than the policy asks for.
type Reason struct {
	Type    string `xml:"type" json:"type"`
	Comment string `xml:"comment,omitempty" json:"comment,omitempty"`
}

// Identifiers are the domains of the message. The envelope's sender is written even when it is empty (RFC 7489 appendix C).
type Identifiers struct {
	EnvelopeTo   string `xml:"envelope_to,omitempty" json:"envelope_to,omitempty"`
	EnvelopeFrom string `xml:"envelope_from" json:"envelope_from"`
	HeaderFrom   string `xml:"header_from" json:"header_from"`
}

// Results are DKIM's and SPF's, whether aligned or not.
type Results struct {
	DKIM []DKIM `xml:"dkim" json:"dkim,omitempty"`
	SPF  []SPF  `xml:"spf" json:"spf,omitempty"`
}

// DKIM is one signature's result.
type DKIM struct {
	Domain   string `xml:"domain" json:"domain"`
	Selector string `xml:"selector,omitempty" json:"selector,omitempty"`
	Result   string `xml:"result" json:"result"`
	Human    string `xml:"human_result,omitempty" json:"human_result,omitempty"`
}

// SPF is SPF's result.
type SPF struct {
	Domain string `xml:"domain" json:"domain"`
	Scope  string `xml:"scope,omitempty" json:"scope,omitempty"`
	Result string `xml:"result" json:"result"`
}

// Count is a number of messages. One that cannot be read is badCount, so that it costs its record and not the report.
type Count uint64

const (
	maxCount = 1 << 48 // in one record: more mail than there is
	badCount = ^Count(0)
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Count) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	*c = Count(n)
	if err != nil || n > maxCount {
		*c = badCount
	}
	return nil
}

// UnmarshalJSON implements json.Unmarshaler for what this package wrote.
func (c *Count) UnmarshalJSON(text []byte) error { return c.UnmarshalText(text) }

// Seconds is a moment in seconds since 1970; one that cannot be read is 0.
type Seconds int64

const maxSeconds = 253402300799 // the last second that has four digits for its year

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Seconds) UnmarshalText(text []byte) error {
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	*s = Seconds(n)
	if err != nil || n < 0 || n > maxSeconds {
		*s = 0
	}
	return nil
}

// MarshalJSON writes it as RFC 3339 has it.
func (s Seconds) MarshalJSON() ([]byte, error) { return json.Marshal(s.Time()) }

// UnmarshalJSON implements json.Unmarshaler for what MarshalJSON wrote.
func (s *Seconds) UnmarshalJSON(text []byte) error {
	var t time.Time
	if err := json.Unmarshal(text, &t); err != nil {
		return err
	}
	*s = Seconds(t.Unix())
	return nil
}

// Time is the moment in UTC.
func (s Seconds) Time() time.Time { return time.Unix(int64(s), 0).UTC() }
