package report

import (
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"time"
	"unicode"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/units"
)

// Config is the table [reports].
type Config struct {
	// DMARC and TLS: whether reports are collected and sent. Reports of others can be read in any case.
	DMARC bool `toml:"dmarc" doc:"tell other domains once a period how mail in their name fared here (DMARC aggregate reports, RFC 7489), if their DMARC record asks for it"`
	TLS   bool `toml:"tls" doc:"tell other domains once a day how TLS with their servers went (RFC 8460), if their record _smtp._tls asks for it"`

	OrgName string `toml:"org_name" doc:"who reports, as a person reads it; empty: the server's hostname"`
	From    string `toml:"from" doc:"address in From, in a domain of this file whose DKIM key signs the reports; empty: postmaster"`
	Email   string `toml:"email" doc:"address inside the reports for questions about them; empty: the one in From"`
	Contact string `toml:"contact" doc:"anything more inside the reports, such as an https address of a page about them; empty: nothing"`

	// Interval divides the day into periods. What a domain asks for with ri is not looked at: a report a day is what everybody
	// has to take, and nobody can make us send more (RFC 7489 section 6.3).
	Interval units.Duration `toml:"interval" doc:"how long the period of a DMARC report is: 24h, 12h, 8h, 6h, 4h, 3h, 2h or 1h; TLS reports are of whole days"`

	// OwnDomains: mail in our own name is reported like any other.
	OwnDomains bool `toml:"own_domains" doc:"write DMARC reports about the domains of this file too"`
}

// DefaultConfig is what holds for keys that are not written: nothing is sent.
func DefaultConfig() Config { return Config{Interval: units.Of(24 * time.Hour)} }

// Validate reports every problem at once, as *pipeline.FieldError joined. That From is in one of our domains is the
// caller's to check.
func (c *Config) Validate() error {
	var problems []error
	add := func(key, format string, args ...any) {
		problems = append(problems, &pipeline.FieldError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	for _, a := range []struct{ key, text string }{{"from", c.From}, {"email", c.Email}} {
		if a.text == "" {
			continue
		}
		if parsed, err := mail.ParseAddress(a.text); err != nil || parsed.Address != a.text || !isASCII(a.text) {
			add(a.key, "%q is not an address, expected one such as \"dmarc-reports@example.test\"", a.text)
		}
	}
	for _, t := range []struct{ key, text string }{{"org_name", c.OrgName}, {"contact", c.Contact}} {
		if len(t.text) > 200 || strings.ContainsFunc(t.text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			add(t.key, "is not one line of at most 200 octets")
		}
	}
	if d := c.Interval.Std(); d < time.Hour || d > 24*time.Hour || (24*time.Hour)%d != 0 || d%time.Hour != 0 {
		add("interval", "is %s, expected 24h, 12h, 8h, 6h, 4h, 3h, 2h or 1h", c.Interval)
	}
	return errors.Join(problems...)
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > '~' || r < ' ' })
}
