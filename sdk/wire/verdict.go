package wire

import (
	"errors"
	"fmt"
	"math"

	"github.com/sluicemail/sluice/sdk"
)

func fromChangeKind(k ChangeKind) (sdk.ChangeKind, error) {
	if k <= ChangeKind_CHANGE_KIND_UNSPECIFIED || k > ChangeKind_CHANGE_KIND_CHANGE_SENDER {
		return 0, fmt.Errorf("unknown kind of change %d", k)
	}
	return sdk.ChangeKind(k), nil
}

// ToVerdict puts a verdict on the wire, but for the new body of ReplaceBody: that
// goes in Body frames before the answer. The result shares maps and slices with v.
func ToVerdict(v *sdk.Verdict) *Verdict {
	out := &Verdict{
		Action: Action(v.Action), Score: v.Score, Detections: validAll(v.Detections), Tags: validMap(v.Tags),
		Reasons: toReasons(v.Reasons), Reply: toReply(v.Reply), Changes: toChanges(v.Changes), Route: toRoute(v.Route),
	}
	for _, r := range v.Recipients {
		out.Recipients = append(out.Recipients, &RecipientVerdict{
			Recipient: valid(r.Recipient), Action: Action(r.Action), Score: r.Score,
			Detections: validAll(r.Detections), Reasons: toReasons(r.Reasons),
			Reply: toReply(r.Reply), Changes: toChanges(r.Changes), Route: toRoute(r.Route),
		})
	}
	for _, a := range v.Alerts {
		out.Alerts = append(out.Alerts, &Alert{Key: valid(a.Key), Text: valid(a.Text)})
	}
	return out
}

func toRoute(r *sdk.Route) *Route {
	if r == nil {
		return nil
	}
	return &Route{To: validAll(r.To), Via: valid(r.Via)}
}

func toReasons(list []sdk.Reason) []*Reason {
	if len(list) == 0 {
		return nil
	}
	reasons, out := make([]Reason, len(list)), make([]*Reason, len(list))
	for i, r := range list {
		reasons[i].Symbol, reasons[i].Score, reasons[i].Text = valid(r.Symbol), r.Score, valid(r.Text)
		out[i] = &reasons[i]
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
	if len(list) == 0 {
		return nil
	}
	changes, out := make([]Change, len(list)), make([]*Change, len(list))
	for i := range list {
		from, to := &list[i], &changes[i]
		to.Kind, to.Name, to.Value, to.Address = ChangeKind(from.Kind), valid(from.Name), valid(from.Value), valid(from.Address)
		to.Index = int32(min(max(from.Index, math.MinInt32), math.MaxInt32))
		out[i] = to
	}
	return out
}

// FromVerdict reads a verdict and refuses actions and kinds of change that this
// version does not know: an opinion half understood is none. The new body of
// ReplaceBody is for the caller to fill in. The result shares maps and slices with v.
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
	out.Score, out.Detections = v.GetScore(), v.GetDetections()
	if len(v.GetTags()) > 0 {
		out.Tags = v.GetTags()
	}
	out.Reasons, out.Reply, out.Route = fromReasons(v.GetReasons()), fromReply(v.GetReply()), fromRoute(v.GetRoute())
	if n := len(v.GetRecipients()); n > 0 {
		out.Recipients = make([]sdk.RecipientVerdict, n)
	}
	for i, r := range v.GetRecipients() {
		if out.Recipients[i], err = fromRecipient(r); err != nil {
			return out, err
		}
	}
	for _, a := range v.GetAlerts() {
		out.Alerts = append(out.Alerts, sdk.Alert{Key: a.GetKey(), Text: a.GetText()})
	}
	return out, nil
}

func fromRecipient(r *RecipientVerdict) (sdk.RecipientVerdict, error) {
	out := sdk.RecipientVerdict{
		Recipient: r.GetRecipient(), Score: r.GetScore(), Detections: r.GetDetections(),
		Reasons: fromReasons(r.GetReasons()), Reply: fromReply(r.GetReply()), Route: fromRoute(r.GetRoute()),
	}
	var err error
	if out.Action, err = fromAction(r.GetAction()); err != nil {
		return out, err
	}
	out.Changes, err = fromChanges(r.GetChanges())
	return out, err
}

func fromAction(a Action) (sdk.Action, error) {
	if a < Action_ACTION_ACCEPT || a > Action_ACTION_REJECT {
		return sdk.Accept, fmt.Errorf("unknown action %d", a)
	}
	return sdk.Action(a), nil
}

func fromRoute(r *Route) *sdk.Route {
	if r == nil {
		return nil
	}
	return &sdk.Route{To: r.GetTo(), Via: r.GetVia()}
}

func fromReasons(list []*Reason) []sdk.Reason {
	if len(list) == 0 {
		return nil
	}
	out := make([]sdk.Reason, len(list))
	for i, r := range list {
		out[i] = sdk.Reason{Symbol: r.GetSymbol(), Score: r.GetScore(), Text: r.GetText()}
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
	if len(list) == 0 {
		return nil, nil
	}
	out := make([]sdk.Change, len(list))
	for i, c := range list {
		kind, err := fromChangeKind(c.GetKind())
		if err != nil {
			return nil, err
		}
		out[i] = sdk.Change{Kind: kind, Name: c.GetName(), Value: c.GetValue(), Index: int(c.GetIndex()), Address: c.GetAddress()}
	}
	return out, nil
}
