package wire

import (
	"flag"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sluicemail/sluice/sdk"
)

var update = flag.Bool("update", false, "write testdata/plugin.v1.txt; only for what was never released")

// describe writes every message, field, enum value and method as one line, sorted as declared.
func describe() string {
	var b strings.Builder
	file := File_plugin_proto
	line := func(parts ...string) { b.WriteString(strings.Join(parts, " ") + "\n") }
	var messages func(list protoreflect.MessageDescriptors)
	messages = func(list protoreflect.MessageDescriptors) {
		for i := range list.Len() {
			m := list.Get(i)
			for k := range m.Fields().Len() {
				f := m.Fields().Get(k)
				text, _ := prototext.MarshalOptions{}.Marshal(protodesc.ToFieldDescriptorProto(f))
				line("field", string(m.FullName()), strings.Join(strings.Fields(string(text)), " "))
			}
			messages(m.Messages())
		}
	}
	messages(file.Messages())
	for i := range file.Enums().Len() {
		e := file.Enums().Get(i)
		for k := range e.Values().Len() {
			v := e.Values().Get(k)
			line("value", string(e.FullName()), string(v.Name()), string('0'+rune(v.Number())))
		}
	}
	for i := range file.Services().Len() {
		s := file.Services().Get(i)
		for k := range s.Methods().Len() {
			text, _ := prototext.Marshal(protodesc.ToMethodDescriptorProto(s.Methods().Get(k)))
			line("method", string(s.FullName()), strings.Join(strings.Fields(string(text)), " "))
		}
	}
	return b.String()
}

// TestGolden: nothing that was released is removed, renumbered or retyped. New lines are allowed and
// then belong into the file (go test ./sdk/wire -update).
func TestGolden(t *testing.T) {
	const name = "testdata/plugin.v1.txt"
	now := describe()
	if *update {
		if err := os.WriteFile(name, []byte(now), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	have := make(map[string]bool)
	for _, line := range strings.Split(now, "\n") {
		have[line] = true
	}
	for _, line := range strings.Split(string(golden), "\n") {
		if !have[line] {
			t.Errorf("removed or changed: %s", line)
		}
		delete(have, line)
	}
	for line := range have {
		t.Errorf("new, and not in %s yet: %s", name, line)
	}
}

// TestReserved: the numbers that are kept for the rest of the contract.
func TestReserved(t *testing.T) {
	for name, numbers := range map[protoreflect.Name][]protoreflect.FieldNumber{
		"HostFrame": {5}, "PluginFrame": {2}, "Ask": {6}, "Verdict": {9}, "Change": {5}, "DescribeResponse": {8},
		"ConfigureRequest": {4}, "Envelope": {13}, "RecipientVerdict": {8},
	} {
		for _, n := range numbers {
			if !File_plugin_proto.Messages().ByName(name).ReservedRanges().Has(n) {
				t.Errorf("%s.%d is not reserved", name, n)
			}
		}
	}
}

func TestEnumsAreActions(t *testing.T) {
	for a := sdk.Accept; a <= sdk.Reject; a++ {
		if want := "ACTION_" + strings.ToUpper(a.String()); Action(a).String() != want {
			t.Errorf("%s on the wire is %s", a, Action(a))
		}
	}
	for _, k := range []sdk.ChangeKind{sdk.AddField, sdk.ReplaceField, sdk.RemoveField} {
		if want := "CHANGE_KIND_" + strings.ToUpper(strings.ReplaceAll(k.String(), " ", "_")); ChangeKind(k).String() != want {
			t.Errorf("%s on the wire is %s", k, ChangeKind(k))
		}
	}
}

func through[M proto.Message](t *testing.T, m, into M) M {
	t.Helper()
	octets, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(octets, into); err != nil {
		t.Fatal(err)
	}
	return into
}

func TestVerdict(t *testing.T) {
	part := sdk.RecipientVerdict{
		Recipient: "bob@example.test", Action: sdk.Reject, Score: 2.5, Reasons: []sdk.Reason{{Symbol: "B", Score: -1, Text: "ß"}},
		Detections: []string{"d"}, Reply: &sdk.Reply{Code: 550, Enhanced: "5.7.1", Text: "no"},
		Changes: []sdk.Change{{Kind: sdk.RemoveField, Name: "X", Index: -1}},
	}
	for _, v := range []sdk.Verdict{{}, {
		Action: sdk.Quarantine, Score: math.MaxFloat64, Reasons: part.Reasons, Detections: part.Detections, Reply: part.Reply,
		Changes: []sdk.Change{{Kind: sdk.AddField, Name: "A", Value: "v"}, {Kind: sdk.ReplaceField, Name: "B", Value: "w", Index: 2}},
		Tags:    map[string]string{"k": "v"}, Recipients: []sdk.RecipientVerdict{part, {Recipient: "x"}},
	}} {
		got, err := FromVerdict(through(t, ToVerdict(&v), &Verdict{}))
		if err != nil || !reflect.DeepEqual(got, v) {
			t.Errorf("%+v\n%+v %v", got, v, err)
		}
	}
	for name, v := range map[string]*Verdict{
		"nil": nil, "action": {Action: 6}, "negative action": {Action: -1}, "change": {Changes: []*Change{{Kind: 4}}},
		"no change": {Changes: []*Change{{}}}, "wide change": {Changes: []*Change{{Kind: 257}}},
		"his action": {Recipients: []*RecipientVerdict{{Action: 99}}},
		"his change": {Recipients: []*RecipientVerdict{{Changes: []*Change{{Kind: 99}}}}},
	} {
		if got, err := FromVerdict(v); err == nil {
			t.Errorf("%s: taken for %+v", name, got)
		}
	}
}

func TestEnvelope(t *testing.T) {
	e := sdk.Envelope{
		ID: "Q", Origin: sdk.Login, Received: time.Unix(1, 5), Listener: "mx", ClientAddr: "::1", ClientName: "n", Helo: "h",
		TLS: "TLS 1.3", Login: "a@b", Sender: "a@b", Tags: map[string]string{"a": "b"},
		Recipients: []sdk.Recipient{{Address: "ü@ü", Accounts: []string{"x", "y"}}, {Address: "z"}},
	}
	got := FromEnvelope(through(t, ToEnvelope(&e), &Envelope{}))
	if !reflect.DeepEqual(got, e) {
		t.Errorf("%+v\n%+v", got, e)
	}
	hostile := sdk.Envelope{Helo: "\xff", Sender: "\xc3", ClientName: "\x80", Tags: map[string]string{"\xfe": "\xfd"}, Recipients: []sdk.Recipient{{Address: "\xf0"}}}
	if got := FromEnvelope(through(t, ToEnvelope(&hostile), &Envelope{})); got.Helo != "\uFFFD" || !got.Received.IsZero() {
		t.Errorf("%+v", got)
	}
}

func TestManifest(t *testing.T) {
	m := sdk.Manifest{
		Name: "n", Version: "v", Phases: []sdk.Phase{sdk.PhaseContent}, Want: sdk.WantHeader,
		Changes: []sdk.ChangeKind{sdk.AddField, sdk.RemoveField}, MaxLanes: 3, Overlap: true,
	}
	d, err := ToManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := FromManifest(through(t, d, &DescribeResponse{})); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("%+v %v", got, err)
	}
	for name, bad := range map[string]sdk.Manifest{
		"phase": {Phases: []sdk.Phase{"lunch"}, Want: sdk.WantAll}, "want": {Want: "half"}, "no want": {}, "lanes": {Want: sdk.WantAll, MaxLanes: -1},
	} {
		if _, err := ToManifest(bad); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := FromManifest(&DescribeResponse{Want: 9}); err == nil {
		t.Error("an unknown want was taken")
	}
	newer, err := FromManifest(&DescribeResponse{Phases: []Phase{4, 5, 99}, Changes: []ChangeKind{1, 4, 0}})
	if err != nil || len(newer.Phases) != 1 || len(newer.Changes) != 1 {
		t.Errorf("a newer plugin: %+v %v", newer, err)
	}
}

func TestTable(t *testing.T) {
	table := map[string]any{
		"s": "ä", "i": int64(math.MinInt64), "f": 1.0, "b": true, "t": time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		"l": []any{"a", int64(1), []any{}}, "m": map[string]any{"x": map[string]any{}, "y": false},
	}
	list, err := ToTable(table)
	if err != nil {
		t.Fatal(err)
	}
	got, err := FromTable(through(t, &Table{Items: list}, &Table{}).GetItems())
	if err != nil || !reflect.DeepEqual(got, table) {
		t.Errorf("%#v %v", got, err)
	}
	deep := map[string]any{}
	for range 60 {
		deep = map[string]any{"a": deep}
	}
	for name, bad := range map[string]any{"type": struct{}{}, "deep": deep, "inside": []any{make(chan int)}} {
		if _, err := ToTable(map[string]any{"k": bad}); err == nil || !strings.HasPrefix(err.Error(), "k: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := FromTable(map[string]*Value{"k": {}}); err == nil {
		t.Error("a value of no kind was taken")
	}
}

// FuzzAnswer: whatever octets a plugin sends, reading them does not panic, and what is taken is
// written the same again.
func FuzzAnswer(f *testing.F) {
	seed, _ := proto.Marshal(&PluginFrame{Frame: &PluginFrame_Answer{Answer: &Answer{Id: 1, Result: &Answer_Verdict{
		Verdict: ToVerdict(&sdk.Verdict{Action: sdk.Reject, Score: 1, Reasons: []sdk.Reason{{Symbol: "X"}}, Reply: &sdk.Reply{Code: 550}}),
	}}}})
	f.Add(seed)
	f.Fuzz(func(t *testing.T, octets []byte) {
		var frame PluginFrame
		if proto.Unmarshal(octets, &frame) != nil {
			return
		}
		v, err := FromVerdict(frame.GetAnswer().GetVerdict())
		if err != nil {
			return
		}
		again, err := FromVerdict(ToVerdict(&v))
		if err != nil || (!reflect.DeepEqual(again, v) && v.Score == v.Score && finiteAll(v)) {
			t.Fatalf("%+v\n%+v %v", again, v, err)
		}
	})
}

func finiteAll(v sdk.Verdict) bool { // NaN is not equal to itself
	for _, r := range v.Reasons {
		if math.IsNaN(r.Score) {
			return false
		}
	}
	for _, r := range v.Recipients {
		if math.IsNaN(r.Score) || !finiteAll(sdk.Verdict{Reasons: r.Reasons}) {
			return false
		}
	}
	return true
}
