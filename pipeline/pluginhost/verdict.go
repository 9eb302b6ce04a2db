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
	maxAlerts     = 20
	maxRoute      = 100 // addresses of a Route
	maxVia        = 300 // octets of its next hop
	maxAddress    = 320 // octets; RFC 5321 section 4.5.3.1 has 64 and 255
)

// checkVerdict refuses a verdict that breaks the contract.
func checkVerdict(v *sdk.Verdict, q *Question) error {
	phase := q.phase()
	err := checkOpinion(v.Action, v.Score, v.Reasons, v.Detections)
	if err == nil {
		err = checkChanges(v.Changes, q, false)
	}
	if err == nil {
		err = checkRoute(v.Route, phase)
	}
	if err == nil {
		err = checkAlerts(v.Alerts)
	}
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
		err := checkOpinion(r.Action, r.Score, r.Reasons, r.Detections)
		if err == nil {
			err = checkChanges(r.Changes, q, true)
		}
		if err == nil {
			err = checkRoute(r.Route, phase)
		}
		if err != nil {
			return fmt.Errorf("for %.80q: %w", r.Recipient, err)
		}
	}
	return nil
}

// checkOpinion leaves the reply alone: an opinion counts however badly it is worded, and the
// core replaces a reply that is not fit for the wire.
func checkOpinion(action sdk.Action, score float64, reasons []sdk.Reason, detections []string) error {
	if action > sdk.Reject {
		return fmt.Errorf("unknown action %d", action)
	}
	if !finite(score) {
		return errors.New("the score is not a finite number")
	}
	if len(reasons) > maxReasons || len(detections) > maxDetections {
		return fmt.Errorf("more than %d reasons or %d detections", maxReasons, maxDetections)
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
	return nil
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

// control finds what would break a line of a log, a trace or a header.
func control(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }
