package wire

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

var phases = map[sdk.Phase]Phase{sdk.PhaseContent: Phase_PHASE_CONTENT}

// FromPhase returns the sdk's word for a phase, and false for one that this
// version does not know.
func FromPhase(p Phase) (sdk.Phase, bool) {
	for word, number := range phases {
		if number == p {
			return word, true
		}
	}
	return "", false
}

// ToPhase is the inverse of FromPhase.
func ToPhase(p sdk.Phase) (Phase, error) {
	number, ok := phases[p]
	if !ok {
		return 0, fmt.Errorf("unknown phase %q", p)
	}
	return number, nil
}

// ToManifest puts a manifest on the wire.
func ToManifest(m sdk.Manifest) (*DescribeResponse, error) {
	out := &DescribeResponse{Name: m.Name, Version: m.Version, Overlap: m.Overlap}
	for _, p := range m.Phases {
		number, err := ToPhase(p)
		if err != nil {
			return nil, err
		}
		out.Phases = append(out.Phases, number)
	}
	switch m.Want {
	case sdk.WantNone:
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
	if m.MaxLanes < 0 {
		return nil, fmt.Errorf("max_lanes is %d", m.MaxLanes)
	}
	out.MaxLanes = uint32(m.MaxLanes)
	return out, nil
}

// FromManifest reads a manifest. Phases and kinds of change that this version
// does not know are left out: they are of a newer plugin, which will not be
// asked about the ones and not be obeyed in the others.
func FromManifest(d *DescribeResponse) (sdk.Manifest, error) {
	m := sdk.Manifest{
		Name: d.GetName(), Version: d.GetVersion(),
		MaxLanes: int(min(d.GetMaxLanes(), 1<<16)), Overlap: d.GetOverlap(),
	}
	for _, p := range d.GetPhases() {
		if word, ok := FromPhase(p); ok {
			m.Phases = append(m.Phases, word)
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
	for _, k := range d.GetChanges() {
		if kind, err := fromChangeKind(k); err == nil {
			m.Changes = append(m.Changes, kind)
		}
	}
	return m, nil
}

func fromChangeKind(k ChangeKind) (sdk.ChangeKind, error) {
	if _, known := ChangeKind_name[int32(k)]; !known || k == ChangeKind_CHANGE_KIND_UNSPECIFIED {
		return 0, fmt.Errorf("unknown kind of change %d", k)
	}
	return sdk.ChangeKind(k), nil
}

// ToEnvelope puts an envelope on the wire. proto3 strings are UTF-8: octets of
// the peer that are not become U+FFFD.
func ToEnvelope(e *sdk.Envelope) *Envelope {
	out := &Envelope{
		Id: e.ID, Origin: string(e.Origin), Listener: e.Listener,
		ClientAddr: e.ClientAddr, ClientName: valid(e.ClientName), Helo: valid(e.Helo),
		Tls: e.TLS, Login: valid(e.Login), Sender: valid(e.Sender),
	}
	if !e.Received.IsZero() {
		out.ReceivedUnixNano = e.Received.UnixNano()
	}
	list := make([]Recipient, len(e.Recipients))
	out.Recipients = make([]*Recipient, len(list))
	for i, r := range e.Recipients {
		list[i].Address, list[i].Accounts = valid(r.Address), r.Accounts
		out.Recipients[i] = &list[i]
	}
	if len(e.Tags) > 0 {
		out.Tags = make(map[string]string, len(e.Tags))
		for k, v := range e.Tags {
			out.Tags[valid(k)] = valid(v)
		}
	}
	return out
}

func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// FromEnvelope reads an envelope.
func FromEnvelope(e *Envelope) sdk.Envelope {
	out := sdk.Envelope{
		ID: e.GetId(), Origin: sdk.Origin(e.GetOrigin()), Listener: e.GetListener(),
		ClientAddr: e.GetClientAddr(), ClientName: e.GetClientName(), Helo: e.GetHelo(),
		TLS: e.GetTls(), Login: e.GetLogin(), Sender: e.GetSender(), Tags: e.GetTags(),
	}
	if n := e.GetReceivedUnixNano(); n != 0 {
		out.Received = time.Unix(0, n)
	}
	out.Recipients = make([]sdk.Recipient, 0, len(e.GetRecipients()))
	for _, r := range e.GetRecipients() {
		out.Recipients = append(out.Recipients, sdk.Recipient{Address: r.GetAddress(), Accounts: r.GetAccounts()})
	}
	return out
}

// ToVerdict puts a verdict on the wire.
func ToVerdict(v *sdk.Verdict) *Verdict {
	out := &Verdict{
		Action: Action(v.Action), Score: v.Score, Detections: validAll(v.Detections),
		Reasons: toReasons(v.Reasons), Reply: toReply(v.Reply), Changes: toChanges(v.Changes),
	}
	if len(v.Tags) > 0 {
		out.Tags = make(map[string]string, len(v.Tags))
		for k, t := range v.Tags {
			out.Tags[valid(k)] = valid(t)
		}
	}
	for _, r := range v.Recipients {
		out.Recipients = append(out.Recipients, &RecipientVerdict{
			Recipient: valid(r.Recipient), Action: Action(r.Action), Score: r.Score,
			Detections: validAll(r.Detections), Reasons: toReasons(r.Reasons),
			Reply: toReply(r.Reply), Changes: toChanges(r.Changes),
		})
	}
	return out
}

func validAll(list []string) []string {
	var out []string
	for _, s := range list {
		out = append(out, valid(s))
	}
	return out
}

func toReasons(list []sdk.Reason) []*Reason {
	var out []*Reason
	for _, r := range list {
		out = append(out, &Reason{Symbol: valid(r.Symbol), Score: r.Score, Text: valid(r.Text)})
	}
	return out
}

func toReply(r *sdk.Reply) *Reply {
	if r == nil {
		return nil
	}
	return &Reply{Code: uint32(max(r.Code, 0)), Enhanced: valid(r.Enhanced), Text: valid(r.Text)}
}

func toChanges(list []sdk.Change) []*Change {
	var out []*Change
	for _, c := range list {
		out = append(out, &Change{
			Kind: ChangeKind(c.Kind), Name: valid(c.Name), Value: valid(c.Value), Index: int32(c.Index),
		})
	}
	return out
}

// FromVerdict reads a verdict and refuses actions and kinds of change that this
// version does not know: an opinion half understood is none.
func FromVerdict(v *Verdict) (sdk.Verdict, error) {
	var out sdk.Verdict
	if v == nil {
		return out, errors.New("the answer has no verdict")
	}
	var err error
	if out.Action, err = fromAction(v.GetAction()); err != nil {
		return out, err
	}
	if out.Changes, err = fromChanges(v.GetChanges()); err != nil {
		return out, err
	}
	out.Score, out.Detections, out.Tags = v.GetScore(), v.GetDetections(), v.GetTags()
	out.Reasons, out.Reply = fromReasons(v.GetReasons()), fromReply(v.GetReply())
	for _, r := range v.GetRecipients() {
		rv := sdk.RecipientVerdict{
			Recipient: r.GetRecipient(), Score: r.GetScore(), Detections: r.GetDetections(),
			Reasons: fromReasons(r.GetReasons()), Reply: fromReply(r.GetReply()),
		}
		if rv.Action, err = fromAction(r.GetAction()); err != nil {
			return out, err
		}
		if rv.Changes, err = fromChanges(r.GetChanges()); err != nil {
			return out, err
		}
		out.Recipients = append(out.Recipients, rv)
	}
	return out, nil
}

func fromAction(a Action) (sdk.Action, error) {
	if _, known := Action_name[int32(a)]; !known {
		return sdk.Accept, fmt.Errorf("unknown action %d", a)
	}
	return sdk.Action(a), nil
}

func fromReasons(list []*Reason) []sdk.Reason {
	var out []sdk.Reason
	for _, r := range list {
		out = append(out, sdk.Reason{Symbol: r.GetSymbol(), Score: r.GetScore(), Text: r.GetText()})
	}
	return out
}

func fromReply(r *Reply) *sdk.Reply {
	if r == nil {
		return nil
	}
	return &sdk.Reply{Code: int(r.GetCode()), Enhanced: r.GetEnhanced(), Text: r.GetText()}
}

func fromChanges(list []*Change) ([]sdk.Change, error) {
	var out []sdk.Change
	for _, c := range list {
		kind, err := fromChangeKind(c.GetKind())
		if err != nil {
			return nil, err
		}
		out = append(out, sdk.Change{Kind: kind, Name: c.GetName(), Value: c.GetValue(), Index: int(c.GetIndex())})
	}
	return out, nil
}
