package trace

import (
	"encoding/binary"
	"time"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/codec"
)

// form is the version of the stored form: the first octet of a record, before
// each field in the order of the struct.
const form = 1

// AppendHead appends the stored form of h.
func AppendHead(b []byte, h *Head) []byte {
	b = codec.AppendString(append(b, form), h.ID)
	b = codec.AppendTime(b, h.Received)
	for _, s := range h.strings() {
		b = codec.AppendString(b, *s)
	}
	b = codec.AppendStrings(b, h.Recipients)
	return binary.AppendVarint(b, h.Size)
}

func (h *Head) strings() [10]*string {
	return [10]*string{
		&h.Origin, &h.Pipeline, &h.Listener, &h.Client, &h.ClientName, &h.Helo,
		&h.TLS, &h.Login, &h.Sender, &h.MessageID,
	}
}

// DecodeHead reads what AppendHead wrote.
func DecodeHead(b []byte) (Head, error) {
	d := codec.Record(b, form)
	h := Head{ID: d.String(), Received: d.Time()}
	for _, s := range h.strings() {
		*s = d.String()
	}
	h.Recipients = d.Strings()
	h.Size = d.Int()
	return h, d.End("the head of a trace")
}

// AppendEvents appends the stored form of events.
func AppendEvents(b []byte, events []Event) []byte {
	b = binary.AppendUvarint(append(b, form), uint64(len(events)))
	for i := range events {
		b = appendEvent(b, &events[i])
	}
	return b
}

func appendEvent(b []byte, e *Event) []byte {
	b = codec.AppendTime(b, e.At)
	b = codec.AppendString(b, e.Stage)
	b = codec.AppendString(b, e.Plugin)
	b = codec.AppendString(b, e.Version)
	b = codec.AppendString(b, e.Recipient)
	b = codec.AppendString(b, e.Action)
	b = codec.AppendFloat(b, e.Score)
	b = binary.AppendUvarint(b, uint64(len(e.Reasons)))
	for _, r := range e.Reasons {
		b = codec.AppendString(b, r.Symbol)
		b = codec.AppendFloat(b, r.Score)
		b = codec.AppendString(b, r.Text)
	}
	b = codec.AppendStrings(b, e.Detections)
	b = codec.AppendStrings(b, e.Changes)
	b = binary.AppendVarint(b, int64(e.Took))
	return codec.AppendString(b, e.Text)
}

// DecodeEvents reads what AppendEvents wrote.
func DecodeEvents(b []byte) ([]Event, error) {
	d := codec.Record(b, form)
	var events []Event
	for range d.Count() {
		if events = append(events, decodeEvent(&d)); d.Bad() {
			events = nil
			break
		}
	}
	return events, d.End("the events of a trace")
}

func decodeEvent(d *codec.Decoder) Event {
	e := Event{
		At: d.Time(), Stage: d.String(), Plugin: d.String(), Version: d.String(),
		Recipient: d.String(), Action: d.String(), Score: d.Float(),
	}
	for range d.Count() {
		e.Reasons = append(e.Reasons, sdk.Reason{Symbol: d.String(), Score: d.Float(), Text: d.String()})
	}
	e.Detections = d.Strings()
	e.Changes = d.Strings()
	e.Took = time.Duration(d.Int())
	e.Text = d.String()
	return e
}
