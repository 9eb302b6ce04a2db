package pluginhost

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/sluicemail/sluice/sdk"
)

// checkChanges refuses changes that cannot be, whatever the manifest allows. one says that they are
// for one recipient alone.
func checkChanges(changes []sdk.Change, q *Question, one bool) error {
	if len(changes) > maxChanges {
		return fmt.Errorf("more than %d changes", maxChanges)
	}
	for i := range changes {
		if err := checkChange(&changes[i], q, one); err != nil {
			return fmt.Errorf("change %d: %w", i+1, err)
		}
	}
	return nil
}

func checkChange(c *sdk.Change, q *Question, one bool) error {
	switch c.Kind {
	case sdk.AddField, sdk.ReplaceField, sdk.RemoveField:
		return checkField(c)
	case sdk.ReplaceBody:
		if q.phase() != sdk.PhaseContent {
			return fmt.Errorf("a new body in phase %s", q.phase())
		}
		return nil
	case sdk.AddRecipient:
		return checkAddress(c.Address)
	case sdk.RemoveRecipient:
		if !slices.ContainsFunc(q.Envelope.Recipients, func(r sdk.Recipient) bool { return r.Address == c.Address }) {
			return fmt.Errorf("%.80q, who is to be removed, is no recipient", c.Address)
		}
		return nil
	case sdk.ChangeSender:
		if one {
			return errors.New("a new sender for one recipient alone")
		}
		if c.Address == "" { // the null sender
			return nil
		}
		return checkAddress(c.Address)
	}
	return fmt.Errorf("unknown kind of change %d", c.Kind)
}

func checkField(c *sdk.Change) error {
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

// checkAddress refuses what could not stand between angle brackets. Whether anybody is there is the core's to find out.
func checkAddress(address string) error {
	local, domain, _ := cutLast(address, '@')
	bad := strings.ContainsFunc(address, func(r rune) bool { return unicode.IsControl(r) || r == '<' || r == '>' || r == unicode.ReplacementChar })
	if local == "" || domain == "" || bad || len(address) > maxAddress || strings.ContainsAny(domain, " \t") {
		return fmt.Errorf("%.80q is not an address", address)
	}
	return nil
}

func cutLast(s string, sep byte) (before, after string, found bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func checkRoute(r *sdk.Route, phase sdk.Phase) error {
	if r == nil {
		return nil
	}
	if phase != sdk.PhaseRoute {
		return fmt.Errorf("a route in phase %s", phase)
	}
	if len(r.To) > maxRoute {
		return fmt.Errorf("a route to more than %d addresses", maxRoute)
	}
	if len(r.Via) > maxVia { // package route reads it
		return fmt.Errorf("a route via a next hop of more than %d octets", maxVia)
	}
	for _, address := range r.To {
		if err := checkAddress(address); err != nil {
			return fmt.Errorf("the route: %w", err)
		}
	}
	return nil
}

func checkAlerts(alerts []sdk.Alert) error {
	if len(alerts) > maxAlerts {
		return fmt.Errorf("more than %d alerts", maxAlerts)
	}
	for _, a := range alerts {
		if a.Key == "" || len(a.Key) > maxSymbol || len(a.Text) > maxText || control(a.Key) || control(a.Text) {
			return fmt.Errorf("the alert %.40q is empty, too long or has control characters", a.Key)
		}
	}
	return nil
}
