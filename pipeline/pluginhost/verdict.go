package pluginhost

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode"

	"github.com/sluicemail/sluice/sdk"
)

// Bounds on a verdict. What is over them is an invalid answer: a verdict is kept in the
// trace of every message.
const (
	maxReasons    = 500
	maxDetections = 100
	maxChanges    = 200
	maxTags       = 100
	maxText       = 2000 // octets of a reason's text, a reply or a tag
	maxSymbol     = 200  // octets of a symbol, a detection or a tag's name
	maxValue      = 60000
)

// checkVerdict refuses a verdict that breaks the contract.
func checkVerdict(v *sdk.Verdict, q *Question) error {
	err := checkOpinion(v.Action, v.Score, v.Reasons, v.Detections, v.Changes)
	if err != nil {
		return err
	}
	if len(v.Tags) > maxTags {
		return fmt.Errorf("more than %d tags", maxTags)
	}
	for name, text := range v.Tags {
		if name == "" || len(name) > maxSymbol || len(text) > maxText || control(name) || control(text) {
			return fmt.Errorf("the tag %.40q is too long or has control characters", name)
		}
	}
	if len(v.Recipients) == 0 {
		return nil
	}
	known := make(map[string]bool, len(q.Envelope.Recipients))
	for _, r := range q.Envelope.Recipients {
		known[r.Address] = true
	}
	for i := range v.Recipients {
		r := &v.Recipients[i]
		asked, ok := known[r.Recipient]
		switch {
		case !ok:
			return fmt.Errorf("a verdict for %.80q, who is no recipient", r.Recipient)
		case !asked:
			return fmt.Errorf("two verdicts for %.80q", r.Recipient)
		}
		known[r.Recipient] = false
		if err := checkOpinion(r.Action, r.Score, r.Reasons, r.Detections, r.Changes); err != nil {
			return fmt.Errorf("for %.80q: %w", r.Recipient, err)
		}
	}
	return nil
}

// checkOpinion leaves the reply alone: an opinion counts however badly it is worded, and the
// core replaces a reply that is not fit for the wire.
func checkOpinion(action sdk.Action, score float64, reasons []sdk.Reason, detections []string, changes []sdk.Change) error {
	if !finite(score) {
		return errors.New("the score is not a finite number")
	}
	if len(reasons) > maxReasons || len(detections) > maxDetections || len(changes) > maxChanges {
		return fmt.Errorf("more than %d reasons, %d detections or %d changes", maxReasons, maxDetections, maxChanges)
	}
	for _, r := range reasons {
		switch {
		case !finite(r.Score):
			return fmt.Errorf("the score of reason %.40q is not a finite number", r.Symbol)
		case r.Symbol == "" || len(r.Symbol) > maxSymbol || control(r.Symbol):
			return fmt.Errorf("the symbol %.40q is empty, too long or has control characters", r.Symbol)
		case len(r.Text) > maxText || control(r.Text):
			return fmt.Errorf("the text of reason %.40q is too long or has control characters", r.Symbol)
		}
	}
	for _, d := range detections {
		if d == "" || len(d) > maxSymbol || control(d) {
			return fmt.Errorf("the detection %.40q is empty, too long or has control characters", d)
		}
	}
	for i, c := range changes {
		if err := checkChange(c); err != nil {
			return fmt.Errorf("change %d: %w", i+1, err)
		}
	}
	return nil
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

// control finds what would break a line of a log, a trace or a header.
func control(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }

func checkChange(c sdk.Change) error {
	// RFC 5322 section 2.2: printable US-ASCII except colon; section 2.1.1: a line has 998 octets.
	if c.Name == "" || len(c.Name) > 200 || strings.ContainsFunc(c.Name, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' }) {
		return fmt.Errorf("%.80q is not the name of a field", c.Name)
	}
	if len(c.Value) > maxValue {
		return fmt.Errorf("the value of %.80q is longer than %d octets", c.Name, maxValue)
	}
	if strings.ContainsAny(c.Value, "\r\n\x00") {
		return fmt.Errorf("the value of %.80q has CR, LF or NUL", c.Name)
	}
	return nil
}
