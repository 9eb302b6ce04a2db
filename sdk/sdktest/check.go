package sdktest

import (
	"fmt"
	"math"
	"net/url"
	"strings"
	"unicode"

	"github.com/sluicemail/sluice/sdk"
)

// The limits of PROTOCOL.md section 11: a verdict over one of them is invalid as a whole.
const (
	maxReasons    = 500
	maxDetections = 100
	maxChanges    = 200
	maxTags       = 100
	maxAlerts     = 20
	maxRoute      = 100
	maxWord       = 200
	maxText       = 2000
	maxValue      = 60000
	maxAddress    = 320
)

// checkVerdict says which part of the contract a verdict breaks, for which the server would
// take it for a failure of the plugin (PROTOCOL.md sections 5, 7 and 11).
func checkVerdict(v *sdk.Verdict, m *sdk.Message) error {
	if len(v.Tags) > maxTags || len(v.Alerts) > maxAlerts {
		return breachf("%d tags and %d alerts, expected at most %d and %d", len(v.Tags), len(v.Alerts), maxTags, maxAlerts)
	}
	for name, text := range v.Tags {
		if !isWord(name) || !isText(text) {
			return breachf("the tag %.40q is empty, too long or has control characters", name)
		}
	}
	for _, a := range v.Alerts {
		if !isWord(a.Key) || !isText(a.Text) {
			return breachf("the alert %.40q is empty, too long or has control characters", a.Key)
		}
	}
	all := sdk.RecipientVerdict{
		Score: v.Score, Reasons: v.Reasons, Detections: v.Detections, Changes: v.Changes, Route: v.Route,
	}
	if err := checkOpinion(&all, m, false); err != nil {
		return err
	}
	unseen := make(map[string]bool)
	for _, r := range m.Recipients {
		unseen[r.Address] = true
	}
	for i := range v.Recipients {
		r := &v.Recipients[i]
		if !unseen[r.Recipient] {
			return breachf("a verdict for %.80q, who is no recipient, or the second one", r.Recipient)
		}
		unseen[r.Recipient] = false
		if err := checkOpinion(r, m, true); err != nil {
			return err
		}
	}
	return nil
}

func checkOpinion(r *sdk.RecipientVerdict, m *sdk.Message, one bool) error {
	if len(r.Reasons) > maxReasons || len(r.Detections) > maxDetections || len(r.Changes) > maxChanges {
		return breachf("%d reasons, %d detections and %d changes, expected at most %d, %d and %d",
			len(r.Reasons), len(r.Detections), len(r.Changes), maxReasons, maxDetections, maxChanges)
	}
	if !finite(r.Score) {
		return breachf("the score is %v", r.Score)
	}
	for _, reason := range r.Reasons {
		if !isWord(reason.Symbol) || !isText(reason.Text) || !finite(reason.Score) {
			return breachf("the reason %.40q has no symbol, is too long, has control characters, or the score %v", reason.Symbol, reason.Score)
		}
	}
	for _, d := range r.Detections {
		if !isWord(d) {
			return breachf("the detection %.40q is empty, too long or has control characters", d)
		}
	}
	for i := range r.Changes {
		if problem := changeProblem(&r.Changes[i], m, one); problem != "" {
			return breachf("it asks to %s %.80q%.80q: %s", r.Changes[i].Kind, r.Changes[i].Name, r.Changes[i].Address, problem)
		}
	}
	if r.Route == nil {
		return nil
	}
	if m.Phase != sdk.PhaseRoute || len(r.Route.To) > maxRoute {
		return breachf("a route to %d addresses in phase %q, expected at most %d in %s", len(r.Route.To), m.Phase, maxRoute, sdk.PhaseRoute)
	}
	if via := r.Route.Via; via != "" && !isVia(via) {
		return breachf("a route via %.80q, which is none of smtp://host:port, lmtp://host:port and lmtp:///path", via)
	}
	for _, address := range r.Route.To {
		if !isAddress(address) {
			return breachf("a route to %.80q, which is no address", address)
		}
	}
	return nil
}

// isVia reports whether a next hop has one of its forms; whether there is such a host nobody knows here.
func isVia(via string) bool {
	const longest = 300
	u, err := url.Parse(via)
	if err != nil || len(via) > longest || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return false
	}
	if u.Scheme == "lmtp" && u.Host == "" {
		return strings.HasPrefix(u.Path, "/")
	}
	return (u.Scheme == "smtp" || u.Scheme == "lmtp") && u.Hostname() != "" && (u.Path == "" || u.Path == "/")
}

func changeProblem(c *sdk.Change, m *sdk.Message, one bool) string {
	switch c.Kind {
	case sdk.AddField, sdk.ReplaceField, sdk.RemoveField:
		bad := strings.ContainsFunc(c.Name, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' })
		if c.Name == "" || len(c.Name) > maxWord || bad || len(c.Value) > maxValue || strings.ContainsAny(c.Value, "\r\n\x00") {
			return "that is no field name, or its value is too long or has CR, LF or NUL"
		}
	case sdk.ReplaceBody:
		if m.Phase != sdk.PhaseContent && m.Phase != "" {
			return fmt.Sprintf("not in phase %s", m.Phase)
		}
	case sdk.AddRecipient:
		if !isAddress(c.Address) {
			return "that is no address"
		}
	case sdk.RemoveRecipient:
		for _, r := range m.Recipients {
			if r.Address == c.Address {
				return ""
			}
		}
		return "that is no recipient"
	case sdk.ChangeSender:
		if one || (c.Address != "" && !isAddress(c.Address)) {
			return "that is no address, or for one recipient alone"
		}
	}
	return ""
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

func isWord(s string) bool {
	return s != "" && len(s) <= maxWord && !strings.ContainsFunc(s, unicode.IsControl)
}

func isText(s string) bool { return len(s) <= maxText && !strings.ContainsFunc(s, unicode.IsControl) }

func isAddress(s string) bool {
	at := strings.LastIndexByte(s, '@')
	bad := strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) || r == '<' || r == '>' || r == unicode.ReplacementChar
	})
	return at > 0 && at < len(s)-1 && len(s) <= maxAddress && !bad
}
