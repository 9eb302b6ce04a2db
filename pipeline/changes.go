package pipeline

import (
	"fmt"
	"strings"

	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
)

// change applies what one answer asks for and the plugin's manifest announces.
func (p *Panel) change(m *Message, a *Answer, event *trace.Event) error {
	changes, some := make([][]sdk.Change, len(m.Recipients)), false
	for _, r := range a.Recipients {
		changes[r] = p.allowed(a, a.For(m.Recipients[r].Address).Changes, event)
		some = some || len(changes[r]) > 0
	}
	if !some {
		return nil
	}
	return m.applyChanges(changes)
}

// allowed drops the changes that the plugin's manifest does not announce, and
// says so in the trace.
func (p *Panel) allowed(a *Answer, asked []sdk.Change, event *trace.Event) []sdk.Change {
	if len(asked) == 0 {
		return nil
	}
	may := make(map[sdk.ChangeKind]bool)
	for _, k := range a.Asker.Manifest().Changes {
		may[k] = true
	}
	var out []sdk.Change
	for _, c := range asked {
		line := fmt.Sprintf("%s %s", c.Kind, c.Name)
		if !may[c.Kind] || reserved(c.Name) || !validFieldName(c.Name) || !validValue(c.Value) {
			line = "refused: " + line
		} else {
			out = append(out, c)
		}
		if len(event.Changes) < trace.MaxReasons && !contains(event.Changes, line) {
			event.Changes = append(event.Changes, line)
		}
	}
	return out
}

// validValue reports whether a value can be folded into lines of at most 998 octets
// (RFC 5322 section 2.1.1), and has nothing in it that would end the field.
func validValue(value string) bool {
	const longest = 700 // beside the longest name
	if strings.ContainsAny(value, "\r\n\x00") {
		return false
	}
	for word := range strings.SplitSeq(value, " ") {
		if len(word) > longest {
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
		fmt.Fprintf(&b, "%d %q %q %d\n", c.Kind, c.Name, c.Value, c.Index)
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
