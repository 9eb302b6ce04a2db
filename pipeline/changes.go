package pipeline

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
)

// This file is what becomes of the changes that plugins ask for (RULES A4). Those to a
// message's octets make new versions of it; those to its envelope wait until the stage
// has obeyed the answers, and then Message.ApplyEnvelope carries them out. Whatever the
// plugin's manifest does not announce, or cannot be, is refused and recorded.

// change applies what one answer asks for. After an error nothing has changed.
func (p *Panel) change(m *Message, a *Answer, event *trace.Event) error {
	if len(a.Verdict.Changes) == 0 && !slices.ContainsFunc(a.Verdict.Recipients, func(v sdk.RecipientVerdict) bool { return len(v.Changes) > 0 }) {
		return nil
	}
	w := &wish{panel: p, m: m, a: a, event: event}
	octets := make([][]sdk.Change, len(m.Recipients))
	some := false
	all := w.allowed(a.Verdict.Changes, false)
	for _, i := range a.Recipients {
		octets[i] = all
		some = some || len(all) > 0
	}
	w.envelope(a.Verdict.Changes, w.general(), false)
	for _, v := range a.Verdict.Recipients {
		if len(v.Changes) == 0 {
			continue
		}
		own := w.allowed(v.Changes, true)
		for _, i := range a.Recipients {
			if m.Recipients[i].Address == v.Recipient {
				octets[i] = append(octets[i][:len(octets[i]):len(octets[i])], own...)
				some = some || len(own) > 0
				w.envelope(v.Changes, []int{i}, true)
			}
		}
	}
	if w.failure == nil {
		w.failure = m.roomFor(w.pending)
	}
	if w.failure == nil && some {
		w.failure = m.applyChanges(octets)
	}
	if w.failure != nil { // the trace tells of what was done
		event.Changes = slices.DeleteFunc(event.Changes, func(line string) bool { return !strings.HasPrefix(line, refusedPrefix) })
		return w.failure
	}
	if w.body != nil {
		m.bodyStage, m.bodyPlugin = p.Stage, a.Asker.Name()
	}
	if w.sender != nil {
		m.changeSender(*w.sender)
	}
	m.pending = append(m.pending, w.pending...)
	return nil
}

// Wishes tells, in the words of a trace, which changes a verdict asks for that nobody obeys, and which of them the manifest or the phase would
// not have allowed in any case. What depends on the message, and on other plugins, it does not know.
func Wishes(v *sdk.Verdict, m *sdk.Manifest, phase sdk.Phase) []string {
	var lines []string
	note := func(list []sdk.Change, to string) {
		for _, c := range list {
			line := "not made: " + changeLine(c) + to
			if !slices.Contains(m.Changes, c.Kind) || phase != sdk.PhaseContent && phase != sdk.PhaseRoute || reserved(c.Name) {
				line = refusedPrefix + changeLine(c) + to
			}
			if len(lines) < trace.MaxReasons && !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
		}
	}
	note(v.Changes, "")
	for i := range v.Recipients {
		note(v.Recipients[i].Changes, " for "+v.Recipients[i].Recipient)
	}
	if v.Route != nil || slices.ContainsFunc(v.Recipients, func(r sdk.RecipientVerdict) bool { return r.Route != nil }) {
		lines = append(lines, "not followed: route")
	}
	return lines
}

// wish is what one answer asks for, as it is looked through.
type wish struct {
	panel *Panel
	m     *Message
	a     *Answer
	event *trace.Event

	bodiless bool  // the changes that are looked through have a new body, which is refused
	failure  error // the answer counts as a failure: what it wanted changed may not go on as it was
	body     *Body
	sender   *string
	pending  []envelopeChange
}

// general returns whom the question was about, first those for whom the verdict says
// nothing of its own: what is added for all is a copy of what they get.
func (w *wish) general() []int {
	if len(w.a.Verdict.Recipients) == 0 {
		return w.a.Recipients
	}
	var list, own []int
	for _, i := range w.a.Recipients {
		if slices.ContainsFunc(w.a.Verdict.Recipients, func(v sdk.RecipientVerdict) bool { return v.Recipient == w.m.Recipients[i].Address }) {
			own = append(own, i)
		} else {
			list = append(list, i)
		}
	}
	return append(list, own...)
}

// allowed returns the changes to the octets that may be made, and says in the trace
// what was asked for and what was refused; one means that they are for one recipient.
func (w *wish) allowed(asked []sdk.Change, one bool) []sdk.Change {
	var out []sdk.Change
	w.bodiless = (replacesBody(asked) || one && replacesBody(w.a.Verdict.Changes)) && (!w.announced(sdk.ReplaceBody) || w.bodyTaken() != "")
	for _, c := range asked {
		line := changeLine(c)
		if c.Kind == sdk.ChangeSender {
			line += " instead of " + w.m.Sender
		}
		ok, why := w.check(c, one)
		if !ok {
			line = refusedPrefix + changeLine(c)
			if why != "" {
				line += ": " + why
			}
		}
		noteChange(w.event, line)
		switch {
		case !ok || toEnvelope(c.Kind):
			continue
		case c.Kind == sdk.ReplaceBody:
			c.Body = w.body
		}
		out = append(out, c)
	}
	return out
}

func toEnvelope(k sdk.ChangeKind) bool {
	return k == sdk.AddRecipient || k == sdk.RemoveRecipient || k == sdk.ChangeSender
}

// check reports whether a change may be made, and if not, why, where the plugin's
// manifest or the change itself does not say that.
func (w *wish) check(c sdk.Change, one bool) (ok bool, why string) {
	if !w.announced(c.Kind) {
		return false, ""
	}
	switch c.Kind {
	case sdk.RemoveField, sdk.ReplaceField:
		if strings.EqualFold(c.Name, "Received") && w.m.Origin != sdk.Login {
			return false, "the way of a message that came from elsewhere stays (RFC 5321 section 4.4)"
		}
		fallthrough
	case sdk.AddField:
		if w.bodiless && describesBody(c.Name) {
			return false, "the body that it describes is refused"
		}
		return !reserved(c.Name) && validFieldName(c.Name) && validValue(c.Value), ""
	case sdk.ReplaceBody:
		return w.checkBody()
	case sdk.AddRecipient:
		return ValidAddress(c.Address), "this is no address"
	case sdk.RemoveRecipient:
		for _, i := range w.a.Recipients {
			if sameAddress(w.m.Recipients[i].Address, c.Address) {
				return true, ""
			}
		}
		return false, "this is no recipient"
	case sdk.ChangeSender:
		if one {
			return false, "not for one recipient alone"
		}
		return c.Address == "" || ValidAddress(c.Address), "this is no address"
	}
	return false, ""
}

// announced reports whether the manifest has a kind of change.
func (w *wish) announced(k sdk.ChangeKind) bool { return slices.Contains(w.a.Manifest().Changes, k) }

func replacesBody(list []sdk.Change) bool {
	return slices.ContainsFunc(list, func(c sdk.Change) bool { return c.Kind == sdk.ReplaceBody })
}

// describesBody reports whether a field says how a body is to be read (RFC 2045 section 9): over another body than the one that it
// was written for it makes a message that nobody can read.
func describesBody(name string) bool {
	const prefix = "Content-"
	return len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
}

// bodyTaken says why no plugin, or not this one, may replace the body; "" if it may.
func (w *wish) bodyTaken() string {
	switch {
	case w.panel.phase() != sdk.PhaseContent:
		return "not in " + string(w.panel.phase())
	case w.m.bodyStage == w.panel.Stage && w.m.bodyPlugin != w.a.Asker.Name():
		return "plugin " + w.m.bodyPlugin + " has replaced it"
	}
	return ""
}

// checkBody reports whether the body may be replaced, and finishes the new one.
func (w *wish) checkBody() (ok bool, why string) {
	if why := w.bodyTaken(); why != "" {
		return false, why
	}
	switch {
	case w.body != nil:
		return true, ""
	case w.a.Body == nil:
		w.failure = errors.New("replace the body: there is no new one")
		return false, ""
	}
	draft, err := w.a.Body.Finish()
	w.a.Body = nil
	if err != nil {
		w.failure = fmt.Errorf("keep the new body: %w", err)
		return false, ""
	}
	w.body = w.m.NewBody(draft)
	return true, ""
}

// envelope collects the changes to the envelope that may be made, on behalf of some
// recipients.
func (w *wish) envelope(asked []sdk.Change, behalf []int, one bool) {
	for _, c := range asked {
		if !toEnvelope(c.Kind) {
			continue
		}
		if ok, _ := w.check(c, one); !ok {
			continue
		}
		if c.Kind == sdk.ChangeSender {
			w.sender = &c.Address
			continue
		}
		w.pending = append(w.pending, envelopeChange{
			kind: c.Kind, address: c.Address, behalf: behalf,
			stage: w.panel.Stage, plugin: w.a.Asker.Name(), version: w.a.Manifest().Version,
		})
	}
}

// validValue reports whether a value can be folded into lines of at most 998 octets
// (RFC 5322 section 2.1.1), and has nothing in it that would end the field.
func validValue(value string) bool {
	const longest = 700 // beside the longest name. FormatField folds before words, not among spaces
	if strings.ContainsAny(value, "\r\n\x00") {
		return false
	}
	length := 0 // of a word and the spaces behind it
	for word := range strings.SplitSeq(value, " ") {
		if length++; word != "" {
			length = len(word)
		}
		if length > longest {
			return false
		}
	}
	return true
}

// reserved reports whether a field is the core's alone (RULES A4).
func reserved(name string) bool {
	return strings.EqualFold(name, "Authentication-Results") || strings.EqualFold(name, "Return-Path") ||
		len(name) >= len(ownPrefix) && strings.EqualFold(name[:len(ownPrefix)], ownPrefix)
}

const ownPrefix = "X-Sluice-"

// applyChanges applies what a plugin asked for, each recipient its own list, and
// keeps equal results shared. After an error nothing has changed.
func (m *Message) applyChanges(changes [][]sdk.Change) error {
	type key struct {
		from *Version
		list string
	}
	done := make(map[key]*Version, 1)
	next := make([]*Version, len(m.Recipients))
	different := make(map[*Version]bool, 1)
	for i, r := range m.Recipients {
		next[i] = r.Version
		if len(changes[i]) > 0 {
			k := key{r.Version, listed(changes[i])}
			v, ok := done[k]
			if !ok {
				var err error
				if v, err = m.grow(r.Version, changes[i]); err != nil {
					return err
				}
				done[k] = v
			}
			next[i] = v
		}
		different[next[i]] = true
	}
	if len(different) > MaxVersions {
		return fmt.Errorf("more than %d versions of one message", MaxVersions)
	}
	for i, r := range m.Recipients {
		r.Version = next[i]
	}
	return nil
}

// listed tells equal lists of changes from others.
func listed(changes []sdk.Change) string {
	var b strings.Builder
	for _, c := range changes {
		fmt.Fprintf(&b, "%d %q %q %d %p\n", c.Kind, c.Name, c.Value, c.Index, c.Body)
	}
	return b.String()
}

// grow applies changes that keep the header within its bound.
func (m *Message) grow(v *Version, changes []sdk.Change) (*Version, error) {
	next, err := v.Apply(changes)
	if err != nil {
		return nil, err
	}
	if size := next.HeaderSize(); size > m.arrived.HeaderSize()+maxGrowth {
		return nil, fmt.Errorf("the header would have %d octets, more than %d above what arrived", size, maxGrowth)
	}
	return next, nil
}
