package wire

import (
	"flag"
	"math"
	"os"
	"reflect"
	"slices"
	"strconv"
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
			line("value", string(e.FullName()), string(v.Name()), strconv.Itoa(int(v.Number())))
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
// then belong into the file (go test ./sdk/wire -update, which never takes a line away).
func TestGolden(t *testing.T) {
	const name = "testdata/plugin.v1.txt"
	now := describe()
	golden, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	gone, added := compare(string(golden), now)
	for _, line := range gone {
		t.Errorf("removed or changed: %s", line)
	}
	if *update && len(gone) == 0 {
		if err := os.WriteFile(name, []byte(now), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, line := range added {
		t.Errorf("new, and not in %s yet: %s", name, line)
	}
	// The comparison itself: a field that is gone, one of another type, another number.
	for _, change := range [][2]string{
		{"field sluice.plugin.v1.Ask name:\"size\"", "field sluice.plugin.v1.Ask name:\"length\""},
		{"name:\"score\" number:2 label:LABEL_OPTIONAL type:TYPE_DOUBLE", "name:\"score\" number:2 label:LABEL_OPTIONAL type:TYPE_FLOAT"},
		{"ACTION_REJECT 5", "ACTION_REJECT 6"},
		{"name:\"Lane\"", "name:\"Line\""},
	} {
		other := strings.ReplaceAll(now, change[0], change[1])
		if gone, _ := compare(string(golden), other); other == now || len(gone) == 0 {
			t.Errorf("%q instead of %q would not be seen", change[1], change[0])
		}
	}
}

// compare lists the lines of the released description that are gone, and the new ones.
func compare(golden, now string) (gone, added []string) {
	have := make(map[string]bool)
	for _, line := range strings.Split(now, "\n") {
		have[line] = true
	}
	for _, line := range strings.Split(golden, "\n") {
		if !have[line] {
			gone = append(gone, line)
		}
		delete(have, line)
	}
	for line := range have {
		added = append(added, line)
	}
	return gone, added
}

// TestVersions: a host offers its own version and the one before, once there is one. Today there is
// none before 1.
func TestVersions(t *testing.T) {
	for newest, want := range map[int][]int{1: {1}, 2: {2, 1}, 7: {7, 6}} {
		if got := versions(newest); !slices.Equal(got, want) {
			t.Errorf("%d: %v, expected %v", newest, got, want)
		}
	}
	if !slices.Equal(Versions(), []int{1}) {
		t.Errorf("%v are offered", Versions())
	}
}

// TestReserved: the numbers that are kept for the rest of the contract.
func TestReserved(t *testing.T) {
	for name, numbers := range map[protoreflect.Name][]protoreflect.FieldNumber{
		"HostFrame": {6, 15}, "PluginFrame": {3, 15}, "Ask": {7, 15}, "Verdict": {11, 15}, "Change": {6, 15}, "DescribeResponse": {14, 15},
		"ConfigureRequest": {6, 15}, "Envelope": {26, 40}, "RecipientVerdict": {9, 15}, "Route": {3, 15}, "Parsed": {6, 15},
		"Part": {11, 15}, "Event": {7, 15}, "Recipient": {6, 15},
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
	for k := sdk.AddField; k <= sdk.ChangeSender; k++ {
		if want := "CHANGE_KIND_" + strings.ToUpper(strings.ReplaceAll(k.String(), " ", "_")); ChangeKind(k).String() != want {
			t.Errorf("%s on the wire is %s", k, ChangeKind(k))
		}
	}
}

func TestEnumsAreEvents(t *testing.T) {
	for k := sdk.EventDelivered; k <= sdk.EventCommand; k++ {
		if want := "EVENT_KIND_" + strings.ToUpper(strings.ReplaceAll(k.String(), "-", "_")); EventKind(k).String() != want {
			t.Errorf("%s on the wire is %s", k, EventKind(k))
		}
	}
	for number, name := range Phase_name {
		word, ok := FromPhase(Phase(number))
		if back, err := ToPhase(word); ok != (number != 0) || (ok && (back != Phase(number) || err != nil || name != "PHASE_"+strings.ToUpper(string(word)))) {
			t.Errorf("%s is %q and then %d, %v", name, word, back, err)
		}
	}
	for name, e := range map[string]protoreflect.EnumDescriptor{"Action": Action(0).Descriptor(), "ChangeKind": ChangeKind(0).Descriptor(), "EventKind": EventKind(0).Descriptor()} {
		if last := e.Values().Get(e.Values().Len() - 1).Number(); last != map[string]protoreflect.EnumNumber{"Action": 5, "ChangeKind": 7, "EventKind": 10}[name] {
			t.Errorf("%s ends with %d, of which the conversions do not know", name, last)
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
