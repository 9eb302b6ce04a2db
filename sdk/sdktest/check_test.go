package sdktest

import (
	"math"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/sdk"
)

// TestVerdicts: what the server would take for a failure fails the author's test.
func TestVerdicts(t *testing.T) {
	content, route := Mail("A: b\n\n"), Route("A: b\n\n", "alice@example.test")
	change := func(c sdk.Change) sdk.Verdict { return sdk.Verdict{Changes: []sdk.Change{c}} }
	his := func(r sdk.RecipientVerdict) sdk.Verdict {
		if r.Recipient == "" {
			r.Recipient = "alice@example.test"
		}
		return sdk.Verdict{Recipients: []sdk.RecipientVerdict{r}}
	}
	good := []struct {
		m *sdk.Message
		v sdk.Verdict
	}{
		{content, sdk.Verdict{}},
		{content, sdk.Verdict{Action: sdk.Reject, Score: -1, Reasons: []sdk.Reason{{Symbol: "A", Text: "ä"}}, Tags: map[string]string{"a": ""}, Alerts: []sdk.Alert{{Key: "k"}}}},
		{content, change(sdk.Change{Kind: sdk.AddField, Name: "X-A", Value: strings.Repeat("x ", 30000)})},
		{content, change(sdk.Change{Kind: sdk.RemoveRecipient, Address: "alice@example.test"})},
		{content, change(sdk.Change{Kind: sdk.ChangeSender})},
		{content, change(sdk.Change{Kind: sdk.ReplaceBody})},
		{route, sdk.Verdict{Route: &sdk.Route{To: []string{"b@example.test"}}}},
		{content, his(sdk.RecipientVerdict{Action: sdk.Defer, Changes: []sdk.Change{{Kind: sdk.AddRecipient, Address: "b@example.test"}}})},
	}
	for i, c := range good {
		if err := checkVerdict(&c.v, c.m); err != nil {
			t.Errorf("good %d: %v", i, err)
		}
	}
	for name, c := range map[string]struct {
		m *sdk.Message
		v sdk.Verdict
	}{
		"score":            {content, sdk.Verdict{Score: math.NaN()}},
		"his score":        {content, his(sdk.RecipientVerdict{Score: math.Inf(1)})},
		"reason":           {content, sdk.Verdict{Reasons: []sdk.Reason{{Text: "no symbol"}}}},
		"text":             {content, sdk.Verdict{Reasons: []sdk.Reason{{Symbol: "A", Text: "a\nb"}}}},
		"long text":        {content, sdk.Verdict{Reasons: []sdk.Reason{{Symbol: "A", Text: strings.Repeat("a", 2001)}}}},
		"reasons":          {content, sdk.Verdict{Reasons: make([]sdk.Reason, 501)}},
		"detection":        {content, sdk.Verdict{Detections: []string{""}}},
		"tag":              {content, sdk.Verdict{Tags: map[string]string{"": "x"}}},
		"alert":            {content, sdk.Verdict{Alerts: []sdk.Alert{{Text: "no key"}}}},
		"alerts":           {content, sdk.Verdict{Alerts: make([]sdk.Alert, 21)}},
		"field":            {content, change(sdk.Change{Kind: sdk.AddField, Name: "A b"})},
		"value":            {content, change(sdk.Change{Kind: sdk.AddField, Name: "A", Value: "b\r\nC: d"})},
		"recipient":        {content, his(sdk.RecipientVerdict{Recipient: "x@example.test"})},
		"address":          {content, change(sdk.Change{Kind: sdk.AddRecipient, Address: "nobody"})},
		"not there":        {content, change(sdk.Change{Kind: sdk.RemoveRecipient, Address: "x@example.test"})},
		"sender":           {content, change(sdk.Change{Kind: sdk.ChangeSender, Address: "<a@b>"})},
		"his sender":       {content, his(sdk.RecipientVerdict{Changes: []sdk.Change{{Kind: sdk.ChangeSender}}})},
		"body in route":    {route, change(sdk.Change{Kind: sdk.ReplaceBody})},
		"route in content": {content, sdk.Verdict{Route: &sdk.Route{}}},
		"routed nowhere":   {route, his(sdk.RecipientVerdict{Route: &sdk.Route{To: []string{"x"}}})},
		"twice": {content, sdk.Verdict{Recipients: []sdk.RecipientVerdict{
			{Recipient: "alice@example.test"}, {Recipient: "alice@example.test"},
		}}},
	} {
		if err := checkVerdict(&c.v, c.m); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
