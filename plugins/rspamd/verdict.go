package rspamd

import (
	"fmt"
	"strings"

	"github.com/sluicemail/sluice/plugins/internal/plain"
	"github.com/sluicemail/sluice/sdk"
)

// Bounds on what of an answer gets into a verdict.
const (
	maxSymbols = 200
	maxFields  = 50
	maxValue   = 8 << 10 // octets of a field
)

// verdict turns an answer into ours.
func (s *settings) verdict(a *answer) sdk.Verdict {
	v := sdk.Verdict{
		Score: a.score * s.Scale,
		Reasons: []sdk.Reason{{
			Symbol: "RSPAMD", Text: fmt.Sprintf("action %q, score %.2f of %.2f", a.action, a.score, a.required),
		}},
		Tags: map[string]string{"rspamd.action": a.action},
	}
	if s.UseActions {
		v.Action = s.Actions[a.action] // rspamd may have actions of its own that we know nothing of: the score counts
	}
	v.Reply = reply(v.Action, a.message)
	v.Reasons = append(v.Reasons, s.reasons(a)...)
	v.Changes = s.changes(a)
	return v
}

// reasons are the symbols, the weightiest first. Those that count nothing are left out
// unless the administrator wants them or there are no others.
func (s *settings) reasons(a *answer) []sdk.Reason {
	var out []sdk.Reason
	all := s.AllSymbols || a.skipped || len(a.symbols) > 0 && a.symbols[0].score == 0 && a.score != 0
	for i, x := range a.symbols {
		if x.score == 0 && !all {
			break // they are sorted
		}
		if i == maxSymbols {
			return append(out, sdk.Reason{Symbol: "RSPAMD_MORE", Text: fmt.Sprintf("and %d more symbols", len(a.symbols)-i)})
		}
		out = append(out, sdk.Reason{Symbol: x.name, Score: x.score * s.Scale, Text: x.text})
	}
	return out
}

// reply is what the peer is told; the text is rspamd's if it has one. nil leaves the
// words to the core.
func reply(action sdk.Action, message string) *sdk.Reply {
	message = plain.ASCII(plain.Line(message, 300))
	switch {
	case message == "":
		return nil
	case action == sdk.Reject:
		return &sdk.Reply{Code: 550, Enhanced: "5.7.1", Text: message}
	case action == sdk.Defer:
		return &sdk.Reply{Code: 451, Enhanced: "4.7.1", Text: message}
	}
	return nil
}

// changes are the fields of the milter block: first what goes, then what comes.
func (s *settings) changes(a *answer) []sdk.Change {
	var out []sdk.Change
	add := func(c sdk.Change) {
		if len(out) < maxFields && mayChange(c.Name) && len(c.Value) <= maxValue {
			out = append(out, c)
		}
	}
	if s.Fields {
		for _, r := range a.remove {
			add(sdk.Change{Kind: sdk.RemoveField, Name: r.name, Index: r.index})
		}
		for _, f := range a.add {
			add(sdk.Change{Kind: sdk.AddField, Name: f.name, Value: unfold(f.value)})
		}
	}
	if s.RewriteSubject && a.action == "rewrite subject" && a.subject != "" {
		add(sdk.Change{Kind: sdk.RemoveField, Name: "Subject"})
		add(sdk.Change{Kind: sdk.AddField, Name: "Subject", Value: unfold(a.subject)})
	}
	return out
}

// mayChange reports whether a field is any of rspamd's business. The name must be one (RFC
// 5322 section 2.2). What says who signed, authenticated or carried the message is the
// core's: it signs after the last change, and has evaluated DKIM, SPF and DMARC itself.
func mayChange(name string) bool {
	if name == "" || len(name) > 76 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' }) {
		return false
	}
	name = strings.ToLower(name)
	switch name {
	case "dkim-signature", "domainkey-signature", "authentication-results", "received", "received-spf", "return-path", "delivered-to", "bcc":
		return false
	}
	return !strings.HasPrefix(name, "arc-") && !strings.HasPrefix(name, "x-sluice-")
}

// unfold makes one line of a field's value (RFC 5322 section 2.2.3).
func unfold(value string) string {
	value = strings.NewReplacer("\r\n", "", "\n", "", "\r", "", "\x00", "", "\t", " ").Replace(value)
	return strings.TrimSpace(strings.ToValidUTF8(value, "\uFFFD"))
}
