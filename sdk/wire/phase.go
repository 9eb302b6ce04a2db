package wire

import (
	"fmt"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// phases has the sdk's word at each number of Phase.
func phases() [7]sdk.Phase {
	return [...]sdk.Phase{
		Phase_PHASE_CONNECT: sdk.PhaseConnect, Phase_PHASE_SENDER: sdk.PhaseSender, Phase_PHASE_RECIPIENT: sdk.PhaseRecipient,
		Phase_PHASE_CONTENT: sdk.PhaseContent, Phase_PHASE_ROUTE: sdk.PhaseRoute, Phase_PHASE_EVENT: sdk.PhaseEvent,
	}
}

// FromPhase returns the sdk's word for a phase, and false for one that this
// version does not know.
func FromPhase(p Phase) (sdk.Phase, bool) {
	words := phases()
	if p <= Phase_PHASE_UNSPECIFIED || int(p) >= len(words) {
		return "", false
	}
	return words[p], true
}

// ToPhase is the inverse of FromPhase.
func ToPhase(p sdk.Phase) (Phase, error) {
	for number, word := range phases() {
		if word == p && number > 0 {
			return Phase(number), nil
		}
	}
	return 0, fmt.Errorf("unknown phase %q", p)
}

// ToManifest puts a manifest on the wire. Want may be empty: the envelope alone.
func ToManifest(m sdk.Manifest) (*DescribeResponse, error) {
	out := &DescribeResponse{
		Name: valid(m.Name), Version: valid(m.Version), Overlap: m.Overlap, Parsed: m.Parsed, MaxContent: m.MaxContent,
		CheckOnly: m.CheckOnly,
	}
	for _, p := range m.Phases {
		number, err := ToPhase(p)
		if err != nil {
			return nil, err
		}
		out.Phases = append(out.Phases, number)
	}
	for _, k := range m.Events {
		number, err := toEventKind(k)
		if err != nil {
			return nil, err
		}
		out.Events = append(out.Events, number)
	}
	switch m.Want {
	case sdk.WantNone, "":
		out.Want = Want_WANT_NONE
	case sdk.WantHeader:
		out.Want = Want_WANT_HEADER
	case sdk.WantAll:
		out.Want = Want_WANT_ALL
	default:
		return nil, fmt.Errorf("the manifest wants %q, expected none, header or all", m.Want)
	}
	for _, k := range m.Changes {
		out.Changes = append(out.Changes, ChangeKind(k))
	}
	if m.MaxLanes < 0 || m.MaxContent < 0 {
		return nil, fmt.Errorf("the manifest has max_lanes %d and max_content %d, expected none below 0", m.MaxLanes, m.MaxContent)
	}
	out.MaxLanes = uint32(min(m.MaxLanes, maxLanes))
	return out, nil
}

// maxLanes bounds what a manifest says about lanes.
const maxLanes = 1 << 16

// FromManifest reads a manifest. Phases, events and kinds of change that this version
// does not know are left out: they are of a newer plugin, which will not be
// asked about or told the ones and not be obeyed in the others.
func FromManifest(d *DescribeResponse) (sdk.Manifest, error) {
	m := sdk.Manifest{
		Name: d.GetName(), Version: d.GetVersion(), MaxLanes: int(min(d.GetMaxLanes(), maxLanes)),
		Overlap: d.GetOverlap(), Parsed: d.GetParsed(), MaxContent: d.GetMaxContent(), CheckOnly: d.GetCheckOnly(),
	}
	for _, p := range d.GetPhases() {
		if word, ok := FromPhase(p); ok {
			m.Phases = append(m.Phases, word)
		}
	}
	for _, k := range d.GetEvents() {
		if kind, err := fromEventKind(k); err == nil {
			m.Events = append(m.Events, kind)
		}
	}
	switch d.GetWant() {
	case Want_WANT_NONE:
		m.Want = sdk.WantNone
	case Want_WANT_HEADER:
		m.Want = sdk.WantHeader
	case Want_WANT_ALL:
		m.Want = sdk.WantAll
	default:
		return m, fmt.Errorf("the manifest wants %d, expected 0, 1 or 2", d.GetWant())
	}
	if m.MaxContent < 0 {
		return m, fmt.Errorf("the manifest has max_content %d, expected none below 0", m.MaxContent)
	}
	for _, k := range d.GetChanges() {
		if kind, err := fromChangeKind(k); err == nil {
			m.Changes = append(m.Changes, kind)
		}
	}
	return m, nil
}

// The kinds of event have the same numbers in sdk and on the wire.
func toEventKind(k sdk.EventKind) (EventKind, error) {
	if k < sdk.EventDelivered || k > sdk.EventCommand {
		return 0, fmt.Errorf("unknown kind of event %d", k)
	}
	return EventKind(k), nil
}

func fromEventKind(k EventKind) (sdk.EventKind, error) {
	if k <= EventKind_EVENT_KIND_UNSPECIFIED || k > EventKind_EVENT_KIND_COMMAND {
		return 0, fmt.Errorf("unknown kind of event %d", k)
	}
	return sdk.EventKind(k), nil
}

// ToEvent puts an event on the wire; nil stays nil.
func ToEvent(e *sdk.Event) (*Event, error) {
	if e == nil {
		return nil, nil
	}
	kind, err := toEventKind(e.Kind)
	if err != nil {
		return nil, err
	}
	out := &Event{
		Kind: kind, Recipient: valid(e.Recipient), Account: valid(e.Account),
		Text: valid(e.Text), Words: validAll(e.Words),
	}
	if !e.At.IsZero() {
		out.AtUnixNano = e.At.UnixNano()
	}
	return out, nil
}

// FromEvent reads an event; nil stays nil. A kind that this version does not know is an
// error: a host tells only what a manifest lists.
func FromEvent(e *Event) (*sdk.Event, error) {
	if e == nil {
		return nil, nil
	}
	kind, err := fromEventKind(e.GetKind())
	if err != nil {
		return nil, err
	}
	out := &sdk.Event{Kind: kind, Recipient: e.GetRecipient(), Account: e.GetAccount(), Text: e.GetText(), Words: e.GetWords()}
	if n := e.GetAtUnixNano(); n != 0 {
		out.At = time.Unix(0, n)
	}
	return out, nil
}
