package authenticate

import (
	"errors"
	"fmt"

	"github.com/sluicemail/sluice/pipeline"
)

// DMARCMode says what becomes of DMARC's results.
type DMARCMode string

// The modes.
const (
	DMARCOff     DMARCMode = "off"     // not evaluated
	DMARCReport  DMARCMode = "report"  // evaluated and recorded
	DMARCEnforce DMARCMode = "enforce" // and obeyed
)

// Config is the table [pipeline.X.authenticate].
type Config struct {
	// SPF and DKIM are checked (RFC 7208, RFC 6376).
	SPF  bool `toml:"spf"`
	DKIM bool `toml:"dkim"`

	// DMARC (RFC 7489): "off"; "report": evaluated and recorded; "enforce": what the author's domain asks for is done:
	// p=reject is refused with 550, p=quarantine goes to Junk.
	DMARC DMARCMode `toml:"dmarc"`
}

// DefaultConfig is what holds for keys that are not written.
func DefaultConfig() Config { return Config{SPF: true, DKIM: true, DMARC: DMARCEnforce} }

// Validate reports every problem at once, as *pipeline.FieldError joined.
func (c *Config) Validate() error {
	var problems []error
	add := func(key, format string, args ...any) {
		problems = append(problems, &pipeline.FieldError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	switch c.DMARC {
	case DMARCOff, DMARCReport:
	case DMARCEnforce:
		// A domain may send with one of the two alone: to enforce without looking at it would refuse honest mail.
		if !c.SPF || !c.DKIM {
			add("dmarc", "\"enforce\" needs spf = true and dkim = true, expected \"report\" or \"off\" without them")
		}
	default:
		add("dmarc", "is %q, expected \"off\", \"report\" or \"enforce\"", string(c.DMARC))
	}
	return errors.Join(problems...)
}
