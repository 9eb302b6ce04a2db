package wire

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sluicemail/sluice/sdk"
)

func everyVerdict() []sdk.Verdict {
	part := sdk.RecipientVerdict{
		Recipient: "bob@example.test", Action: sdk.Reject, Score: 2.5, Reasons: []sdk.Reason{{Symbol: "B", Score: -1, Text: "ß"}},
		Detections: []string{"d"}, Reply: &sdk.Reply{Code: 550, Enhanced: "5.7.1", Text: "no"},
		Changes: []sdk.Change{{Kind: sdk.RemoveField, Name: "X", Index: -1}, {Kind: sdk.AddRecipient, Address: "c@example.test"}},
		Route:   &sdk.Route{To: []string{"d@example.test"}},
	}
	return []sdk.Verdict{{}, {
		Action: sdk.Quarantine, Score: math.MaxFloat64, Reasons: part.Reasons, Detections: part.Detections, Reply: part.Reply,
		Changes: []sdk.Change{
			{Kind: sdk.AddField, Name: "A", Value: "v"},
			{Kind: sdk.ReplaceField, Name: "B", Value: "w", Index: 2},
			{Kind: sdk.ReplaceBody},
			{Kind: sdk.RemoveRecipient, Address: "ü@example.test"},
			{Kind: sdk.ChangeSender},
		},
		Tags: map[string]string{"k": "v"}, Recipients: []sdk.RecipientVerdict{part, {Recipient: "x"}},
		Route: &sdk.Route{To: []string{"a@example.test", "b@example.test"}, Via: "lmtp:///run/lmtp"}, Alerts: []sdk.Alert{{Key: "k", Text: "t"}},
	}}
}

func TestVerdict(t *testing.T) {
	for _, v := range everyVerdict() {
		got, err := FromVerdict(through(t, ToVerdict(&v), &Verdict{}))
		if err != nil || !reflect.DeepEqual(got, v) {
			t.Errorf("%+v\n%+v %v", got, v, err)
		}
	}
	for name, v := range map[string]*Verdict{
		"nil": nil, "action": {Action: 6}, "negative action": {Action: -1}, "change": {Changes: []*Change{{Kind: 8}}},
		"no change": {Changes: []*Change{{}}}, "wide change": {Changes: []*Change{{Kind: 257}}},
		"his action": {Recipients: []*RecipientVerdict{{Action: 99}}},
		"his change": {Recipients: []*RecipientVerdict{{Changes: []*Change{{Kind: 99}}}}},
	} {
		if got, err := FromVerdict(v); err == nil {
			t.Errorf("%s: taken for %+v", name, got)
		}
	}
	hostile := sdk.Verdict{
		Detections: []string{"a", "\xff", "b"}, Tags: map[string]string{"\xff": "x"}, Alerts: []sdk.Alert{{Key: "\xff"}},
		Changes: []sdk.Change{{Kind: sdk.AddField, Value: "\xff", Index: math.MaxInt64, Address: "\xff"}}, Route: &sdk.Route{To: []string{"\xff"}},
	}
	got, err := FromVerdict(through(t, ToVerdict(&hostile), &Verdict{}))
	if err != nil || got.Changes[0].Index != math.MaxInt32 || !reflect.DeepEqual(got.Detections, []string{"a", "\uFFFD", "b"}) {
		t.Errorf("%+v %v", got, err)
	}
}

func TestEnvelope(t *testing.T) {
	e := sdk.Envelope{
		ID: "Q", Session: "S", Origin: sdk.Login, Received: time.Unix(1, 5), Server: "mx.example.test", Pipeline: "inbound", Listener: "mx",
		ClientAddr: "::1", ClientPort: 65535, ClientName: "n", Helo: "h", ESMTP: true, TLS: "TLS 1.3", Cipher: "c",
		Login: "a@b", Sender: "a@b", Size: 1 << 40, Body: "8BITMIME", SMTPUTF8: true, EnvID: "e", Ret: "HDRS",
		Auth: map[string]string{"spf": "pass"}, Score: -1.5, Tags: map[string]string{"a": "b"},
		Recipients: []sdk.Recipient{
			{Address: "ü@ü", Accounts: []string{"x", "y"}, Notify: []string{"NEVER"}, ORcpt: "rfc822;z", Hops: []string{"mailbox x"}},
			{Address: "z"},
		},
	}
	fields := reflect.ValueOf(e)
	for i := range fields.NumField() {
		if fields.Field(i).IsZero() {
			t.Errorf("the test has no %s", fields.Type().Field(i).Name)
		}
	}
	for _, e := range []sdk.Envelope{e, {}} {
		if got := FromEnvelope(through(t, ToEnvelope(&e), &Envelope{})); !reflect.DeepEqual(got, e) {
			t.Errorf("%+v\n%+v", got, e)
		}
	}
	hostile := sdk.Envelope{
		Helo: "\xff", Sender: "\xc3", ClientName: "\x80", Tags: map[string]string{"\xfe": "\xfd"}, EnvID: "\xff",
		Recipients: []sdk.Recipient{{Address: "\xf0", ORcpt: "\xf0", Accounts: []string{"\xf0"}}},
	}
	if got := FromEnvelope(through(t, ToEnvelope(&hostile), &Envelope{})); got.Helo != "\uFFFD" || !got.Received.IsZero() {
		t.Errorf("%+v", got)
	}
	if hostile.Recipients[0].Accounts[0] != "\xf0" || hostile.Tags["\xfe"] != "\xfd" {
		t.Error("the envelope itself was changed")
	}
}

func TestManifest(t *testing.T) {
	m := sdk.Manifest{
		Name: "n", Version: "v", Phases: []sdk.Phase{sdk.PhaseConnect, sdk.PhaseSender, sdk.PhaseRecipient, sdk.PhaseContent, sdk.PhaseRoute, sdk.PhaseEvent},
		Events: []sdk.EventKind{sdk.EventDelivered, sdk.EventCommand}, Want: sdk.WantHeader, MaxContent: 1 << 33, Parsed: true,
		Changes: []sdk.ChangeKind{sdk.AddField, sdk.RemoveField, sdk.ReplaceBody, sdk.ChangeSender}, MaxLanes: 3, Overlap: true, CheckOnly: true,
	}
	d, err := ToManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := FromManifest(through(t, d, &DescribeResponse{})); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("%+v %v", got, err)
	}
	if d, err := ToManifest(sdk.Manifest{}); err != nil || d.GetWant() != Want_WANT_NONE {
		t.Errorf("an empty manifest: %v %v", d, err)
	}
	for name, bad := range map[string]sdk.Manifest{
		"phase": {Phases: []sdk.Phase{"lunch"}}, "no phase": {Phases: []sdk.Phase{""}}, "want": {Want: "half"}, "lanes": {MaxLanes: -1},
		"content": {MaxContent: -1}, "event": {Events: []sdk.EventKind{11}}, "no event": {Events: []sdk.EventKind{0}},
	} {
		if _, err := ToManifest(bad); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for name, bad := range map[string]*DescribeResponse{"want": {Want: 9}, "content": {MaxContent: -1}} {
		if _, err := FromManifest(bad); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	newer, err := FromManifest(&DescribeResponse{
		Phases: []Phase{4, 0, -1, 7, 99}, Changes: []ChangeKind{1, 8, 0, -1, 300}, Events: []EventKind{1, 11, 0, -1, 257},
	})
	if err != nil || len(newer.Phases) != 1 || len(newer.Changes) != 1 || len(newer.Events) != 1 {
		t.Errorf("a newer plugin: %+v %v", newer, err)
	}
}

func TestEvent(t *testing.T) {
	e := &sdk.Event{
		Kind: sdk.EventLearnSpam, At: time.Unix(5, 6), Recipient: "r", Account: "a", Text: "\xff", Words: []string{"w", "x"},
	}
	out, err := ToEvent(e)
	if err != nil {
		t.Fatal(err)
	}
	got, err := FromEvent(through(t, out, &Event{}))
	e.Text = "\uFFFD"
	if err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("%+v %v", got, err)
	}
	if out, err := ToEvent(nil); out != nil || err != nil {
		t.Errorf("%v %v", out, err)
	}
	if got, err := FromEvent(nil); got != nil || err != nil {
		t.Errorf("%v %v", got, err)
	}
	if _, err := ToEvent(&sdk.Event{Kind: 11}); err == nil {
		t.Error("an unknown kind was sent")
	}
	for _, kind := range []EventKind{0, 11, -1, 257} {
		if got, err := FromEvent(&Event{Kind: kind}); err == nil {
			t.Errorf("%d was taken for %+v", kind, got)
		}
	}
}

func TestParsed(t *testing.T) {
	p := &sdk.Parsed{
		Parts: []sdk.Part{{Parent: -1, Type: "multipart/mixed", Length: 1 << 40}, {
			Section: "1", Type: "text/plain", Charset: "utf-8", Encoding: "base64", Disposition: "inline", Name: "ä", Offset: 5, Length: 6, Text: "ß",
		}},
		URLs: []string{"http://example.org/"}, Ambiguities: []sdk.Ambiguity{{Kind: "k", Part: -1, Text: "t"}}, Truncated: true,
	}
	for _, p := range []*sdk.Parsed{p, {}} {
		wired := through(t, ToParsed(7, p), &Parsed{})
		if got := FromParsed(wired); !reflect.DeepEqual(got, p) || wired.GetId() != 7 {
			t.Errorf("%+v", got)
		}
	}
	if _, err := proto.Marshal(ToParsed(1, &sdk.Parsed{URLs: []string{"\xff"}, Parts: []sdk.Part{{Text: "\xff", Name: "\xff"}}})); err != nil {
		t.Error(err)
	}
}

// question is a usual one.
func question() sdk.Envelope {
	return sdk.Envelope{
		ID: "4F2K", Session: "s1", Origin: sdk.Stranger, Received: time.Now(), Server: "mx.example.test", Pipeline: "inbound", Listener: "mx",
		ClientAddr: "192.0.2.1", ClientName: "mail.example.org", Helo: "mail.example.org", ESMTP: true, TLS: "TLS 1.3", Cipher: "c",
		Sender: "s@example.org", Recipients: []sdk.Recipient{{Address: "alice@example.test", Accounts: []string{"alice@example.test"}}},
		Auth: map[string]string{"spf": "pass", "dkim": "pass", "dmarc": "pass"},
	}
}

// TestAllocations: the conversions of a usual question and of its answer.
func TestAllocations(t *testing.T) {
	e := question()
	if n := testing.AllocsPerRun(100, func() { _ = ToEnvelope(&e) }); n > 3 {
		t.Errorf("%v for an envelope to the wire", n)
	}
	w := ToEnvelope(&e)
	if n := testing.AllocsPerRun(100, func() { _ = FromEnvelope(w) }); n > 1 {
		t.Errorf("%v for an envelope from the wire", n)
	}
	v := sdk.Verdict{Score: 1, Reasons: []sdk.Reason{{Symbol: "A"}, {Symbol: "B"}}}
	if n := testing.AllocsPerRun(100, func() { _ = ToVerdict(&v) }); n > 3 {
		t.Errorf("%v for a verdict to the wire", n)
	}
	answer := ToVerdict(&v)
	if n := testing.AllocsPerRun(100, func() { _, _ = FromVerdict(answer) }); n > 1 {
		t.Errorf("%v for a verdict from the wire", n)
	}
}

func BenchmarkQuestion(b *testing.B) {
	e := question()
	b.ReportAllocs()
	for b.Loop() {
		octets, err := proto.Marshal(&HostFrame{Frame: &HostFrame_Ask{Ask: &Ask{Id: 1, Phase: 4, Envelope: ToEnvelope(&e)}}})
		if err != nil {
			b.Fatal(err)
		}
		var f HostFrame
		if err := proto.Unmarshal(octets, &f); err != nil {
			b.Fatal(err)
		}
		_ = FromEnvelope(f.GetAsk().GetEnvelope())
	}
}

// FuzzQuestion: whatever octets a host sends, reading them does not panic.
func FuzzQuestion(f *testing.F) {
	e := question()
	for _, frame := range []*HostFrame{
		{Frame: &HostFrame_Ask{Ask: &Ask{Id: 1, Phase: 4, Envelope: ToEnvelope(&e), Event: &Event{Kind: 3}}}},
		{Frame: &HostFrame_Parsed{Parsed: ToParsed(1, &sdk.Parsed{Parts: []sdk.Part{{Parent: -1, Text: "x"}}, URLs: []string{"u"}})}},
	} {
		octets, err := proto.Marshal(frame)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(octets)
	}
	f.Fuzz(func(t *testing.T, octets []byte) {
		var frame HostFrame
		if proto.Unmarshal(octets, &frame) != nil {
			return
		}
		_ = FromEnvelope(frame.GetAsk().GetEnvelope())
		if event, err := FromEvent(frame.GetAsk().GetEvent()); err == nil && event != nil && strings.HasPrefix(event.Kind.String(), "event(") {
			t.Fatalf("an event without a name: %d", event.Kind)
		}
		if p := frame.GetParsed(); p != nil {
			got := FromParsed(p)
			if again := FromParsed(ToParsed(p.GetId(), got)); !reflect.DeepEqual(again, got) {
				t.Fatalf("%+v\n%+v", again, got)
			}
		}
	})
}
