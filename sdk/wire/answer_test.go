package wire

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"
)

func answers() map[string]*PluginFrame {
	full := &Verdict{}
	fill(full.ProtoReflect(), "reply", "changes", "recipients", "route", "alerts")
	list := make(map[string]*PluginFrame)
	for name, a := range map[string]*Answer{
		"empty": {Result: &Answer_Verdict{Verdict: &Verdict{}}}, "full": {Id: 1 << 60, Result: &Answer_Verdict{Verdict: full}},
	} {
		list[name] = &PluginFrame{Frame: &PluginFrame_Answer{Answer: a}}
	}
	return list
}

// TestAnswerHasAllFields: the short cut writes what package proto reads, and reads what it writes.
func TestAnswerHasAllFields(t *testing.T) {
	for name, f := range answers() {
		got, ok := appendAnswer([]byte("before"), f.GetAnswer())
		var back PluginFrame
		if err := proto.Unmarshal(bytes.TrimPrefix(got, []byte("before")), &back); !ok || err != nil || !proto.Equal(&back, f) {
			t.Errorf("%s: %v %v, expected %v", name, ok, &back, f)
		}
		octets, err := proto.Marshal(f)
		back.Reset()
		if !parseAnswer(octets, &back) || err != nil || !proto.Equal(&back, f) {
			t.Errorf("%s: read as %v, expected %v", name, &back, f)
		}
	}
}

// TestAnswerLongWay: every field that the short cut does not know, alone, sends an answer the long way.
func TestAnswerLongWay(t *testing.T) {
	all := &Verdict{}
	fill(all.ProtoReflect())
	list := []*Answer{nil, {Id: 1}, {Result: &Answer_Error{Error: &Error{Text: "x"}}}}
	fields := all.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		switch f := fields.Get(i); f.Name() {
		case "action", "score", "reasons", "detections", "tags":
		default:
			v := &Verdict{}
			v.ProtoReflect().Set(f, all.ProtoReflect().Get(f))
			list = append(list, &Answer{Result: &Answer_Verdict{Verdict: v}})
		}
	}
	list = append(list, &Answer{Result: &Answer_Verdict{Verdict: &Verdict{Detections: []string{"\xff"}}}})
	for _, a := range list {
		if b, ok := appendAnswer([]byte("before"), a); ok || string(b) != "before" {
			t.Errorf("%v was written by the short cut: %q", a, b)
		}
		octets, _ := proto.Marshal(&PluginFrame{Frame: &PluginFrame_Answer{Answer: a}})
		if back := new(PluginFrame); parseAnswer(octets, back) {
			t.Errorf("%v was read by the short cut", a)
		}
	}
}

// FuzzPlainAnswer: what the short cut reads is what package proto reads.
func FuzzPlainAnswer(f *testing.F) {
	for _, a := range answers() {
		if octets, err := proto.Marshal(a); err == nil {
			f.Add(octets)
		}
	}
	f.Fuzz(func(t *testing.T, octets []byte) {
		var want, got PluginFrame
		if !parseAnswer(octets, &got) {
			return
		}
		if err := proto.Unmarshal(octets, &want); err != nil || !proto.Equal(&want, &got) {
			t.Errorf("%v, expected %v %v", &got, &want, err)
		}
	})
}
