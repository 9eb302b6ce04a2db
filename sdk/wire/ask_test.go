package wire

import (
	"bytes"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// fill sets every field of a message, but for those of these names.
func fill(m protoreflect.Message, but ...protoreflect.Name) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case slices.Contains(but, f.Name()):
		case f.IsMap():
			for _, key := range []string{"", "key", "kéy"} {
				m.Mutable(f).Map().Set(protoreflect.ValueOfString(key).MapKey(), protoreflect.ValueOfString("of "+key))
			}
		case f.IsList() && f.Message() != nil:
			for range 3 {
				fill(m.Mutable(f).List().AppendMutable().Message(), but...)
			}
		case f.IsList():
			for _, s := range []string{"one", "", "drëi"} {
				m.Mutable(f).List().Append(protoreflect.ValueOfString(s))
			}
		case f.Message() != nil:
			fill(m.Mutable(f).Message(), but...)
		default:
			m.Set(f, sample(f.Kind()))
		}
	}
}

func sample(kind protoreflect.Kind) protoreflect.Value {
	switch kind {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("text, mit Ümlaut")
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(-3)
	case protoreflect.Int32Kind, protoreflect.Sint32Kind:
		return protoreflect.ValueOfInt32(-7)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(1<<32 - 1)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(1<<64 - 1)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(-1 << 40)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(-0.5)
	}
	panic("a kind of field that plugin.proto has not had")
}

func asks() map[string]*HostFrame {
	full, large := &Ask{}, &Ask{Id: 1, Envelope: &Envelope{}}
	fill(full.ProtoReflect(), "event")
	for range 1000 {
		large.Envelope.Recipients = append(large.Envelope.Recipients, full.Envelope.Recipients...)
	}
	list := make(map[string]*HostFrame)
	for name, a := range map[string]*Ask{"empty": {}, "bare": {Id: 7, Phase: Phase_PHASE_CONNECT, Envelope: &Envelope{}}, "full": full, "large": large} {
		list[name] = &HostFrame{Frame: &HostFrame_Ask{Ask: a}}
	}
	return list
}

// TestAskHasAllFields: the short cut writes what package proto reads, and reads what it writes.
func TestAskHasAllFields(t *testing.T) {
	for name, f := range asks() {
		got, ok := appendAsk([]byte("before"), f.GetAsk())
		var back HostFrame
		if err := proto.Unmarshal(bytes.TrimPrefix(got, []byte("before")), &back); !ok || err != nil || !proto.Equal(&back, f) {
			t.Errorf("%s: %v %v, expected %v", name, ok, &back, f)
		}
		octets, err := proto.Marshal(f)
		back.Reset()
		if !parseAsk(octets, &back) || err != nil || !proto.Equal(&back, f) {
			t.Errorf("%s: read as %v, expected %v", name, &back, f)
		}
	}
	unknown := &Ask{Id: 1}
	unknown.ProtoReflect().SetUnknown([]byte{0x78, 1})
	for name, a := range map[string]*Ask{"nil": nil, "event": {Event: &Event{}}, "unknown": unknown, "invalid": {Envelope: &Envelope{Helo: "\xff"}}} {
		if b, ok := appendAsk([]byte("before"), a); ok || string(b) != "before" {
			t.Errorf("%s: written by the short cut: %q", name, b)
		}
	}
}

// FuzzAsk: what the short cut reads is what package proto reads.
func FuzzAsk(f *testing.F) {
	for name, a := range asks() {
		if octets, err := proto.Marshal(a); err == nil && name != "large" {
			f.Add(octets)
		}
	}
	f.Fuzz(func(t *testing.T, octets []byte) {
		var want, got HostFrame
		if !parseAsk(octets, &got) {
			return
		}
		if err := proto.Unmarshal(octets, &want); err != nil || !proto.Equal(&want, &got) {
			t.Errorf("%v, expected %v %v", &got, &want, err)
		}
	})
}

func BenchmarkAskWrite(b *testing.B) {
	a := asks()["full"].GetAsk()
	var out []byte
	for b.Loop() {
		out, _ = appendAsk(out[:0], a)
	}
}

func BenchmarkAskRead(b *testing.B) {
	octets, _ := proto.Marshal(asks()["full"])
	for b.Loop() {
		parseAsk(octets, new(HostFrame))
	}
}
