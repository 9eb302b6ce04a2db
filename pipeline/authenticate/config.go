package authenticate

import (
	"errors"
	"fmt"
	"strings"

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

	Discovery Discovery `toml:"dmarc_discovery" oneof:"tree-walk psl" doc:"how a DMARC policy and an organisation are found: tree-walk (RFC 9989, with the public suffix list where DNS is silent) or psl (RFC 7489, the list alone)"`

	// ARCTrusted are A-labels after Validate.
	ARCTrusted []string `toml:"arc_trusted" doc:"domains of forwarders and mailing lists whose ARC seal is believed: what passed DMARC there is not refused here because they changed it"`
}

// DefaultConfig is what holds for keys that are not written.
func DefaultConfig() Config {
	return Config{SPF: true, DKIM: true, DMARC: DMARCEnforce, Discovery: TreeWalk}
}

// maxTrusted bounds arc_trusted.
const maxTrusted = 1000

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
	switch c.Discovery {
	case TreeWalk, ListOnly, "":
	default:
		add("dmarc_discovery", "is %q, expected \"tree-walk\" or \"psl\"", string(c.Discovery))
	}
	if len(c.ARCTrusted) > maxTrusted {
		add("arc_trusted", "has %d domains, expected at most %d", len(c.ARCTrusted), maxTrusted)
	}
	if len(c.ARCTrusted) > 0 && !c.DKIM {
		add("arc_trusted", "needs dkim = true, which verifies the seals")
	}
	for i, name := range c.ARCTrusted {
		domain, ok := asciiDomain(name)
		if !ok || !strings.Contains(domain, ".") {
			add("arc_trusted", "%q is not a domain, expected one such as \"lists.example.net\"", name)
			continue
		}
		c.ARCTrusted[i] = domain
	}
	return errors.Join(problems...)
}
