package wire

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// This file is the short cut for an Answer with a Verdict, as ask.go has it for Ask: an opinion, with a score and reasons, for all
// recipients. Whatever else a verdict has goes the long way.

const tagAnswer = 1<<3 | 2 // in PluginFrame

// appendAnswer appends a PluginFrame with an Answer; ok is false, and b as it was, if that is to go the long way.
func appendAnswer(b []byte, a *Answer) (out []byte, ok bool) {
	result, ok := a.GetResult().(*Answer_Verdict)
	if !ok || result.Verdict == nil || len(a.unknownFields) > 0 || !result.Verdict.plain() {
		return b, false
	}
	f := fields{b: b}
	frame := f.begin(1)
	f.number(1, a.Id)
	verdict := f.begin(2)
	f.verdict(result.Verdict)
	f.end(verdict)
	f.end(frame)
	if f.unknown {
		return b, false
	}
	return f.b, true
}

// plain reports whether v has nothing that this file does not know.
func (v *Verdict) plain() bool {
	return v.Reply == nil && v.Route == nil && len(v.Changes)+len(v.Recipients)+len(v.Alerts)+len(v.unknownFields) == 0
}

func (f *fields) verdict(v *Verdict) {
	f.number(1, uint64(v.Action))
	f.real(2, v.Score)
	for _, r := range v.Reasons {
		f.unknown = f.unknown || len(r.unknownFields) > 0
		start := f.begin(3)
		f.text(1, r.Symbol)
		f.real(2, r.Score)
		f.text(3, r.Text)
		f.end(start)
	}
	f.list(4, v.Detections)
	f.texts(7, v.Tags)
}

// parseAnswer reads a PluginFrame that has such an Answer and nothing else; false sends it the long way.
func parseAnswer(b []byte, frame *PluginFrame) bool {
	if len(b) == 0 || b[0] != tagAnswer {
		return false
	}
	inner, n := protowire.ConsumeBytes(b[1:])
	if n != len(b)-1 {
		return false
	}
	x := &struct {
		wrapper PluginFrame_Answer
		answer  Answer
		result  Answer_Verdict
		verdict Verdict
	}{}
	ok := message{inner, string(inner)}.each(func(f field) bool {
		switch {
		case f.key == 1<<3|varint:
			x.answer.Id = f.number
		case f.key == 2<<3|octets && x.result.Verdict == nil:
			x.result.Verdict = &x.verdict
			x.answer.Result = &x.result
			return x.verdict.parse(f.message)
		default:
			return false
		}
		return true
	})
	if !ok || x.result.Verdict == nil {
		return false
	}
	x.wrapper.Answer = &x.answer
	frame.Reset()
	frame.Frame = &x.wrapper
	return true
}

func (v *Verdict) parse(m message) bool {
	return m.each(func(f field) bool {
		switch f.key {
		case 1<<3 | varint:
			v.Action = Action(int32(f.number))
		case 2<<3 | fixed64:
			v.Score = math.Float64frombits(f.number)
		case 3<<3 | octets:
			r := new(Reason)
			v.Reasons = append(v.Reasons, r)
			return r.parse(f.message)
		case 4<<3 | octets:
			return f.more(&v.Detections)
		case 7<<3 | octets:
			return f.pair(&v.Tags)
		default:
			return false
		}
		return true
	})
}

func (r *Reason) parse(m message) bool {
	return m.each(func(f field) bool {
		switch f.key {
		case 1<<3 | octets:
			return f.text(&r.Symbol)
		case 2<<3 | fixed64:
			r.Score = math.Float64frombits(f.number)
			return true
		case 3<<3 | octets:
			return f.text(&r.Text)
		}
		return false
	})
}
