package trace

import (
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// The stored form: an octet with the version of the form, then each field in
// the order of the struct. Strings are an unsigned varint length and octets;
// times are varint nanoseconds since 1970; lists are a length and their items.
// JSON would take ten times as long, and a trace is written for each message.
const form = 1

var errForm = errors.New("not a stored trace of a form that this version reads")

// AppendHead appends the stored form of h.
func AppendHead(b []byte, h *Head) []byte {
	b = append(b, form)
	b = appendString(b, h.ID)
	b = appendTime(b, h.Received)
	for _, s := range h.strings() {
		b = appendString(b, *s)
	}
	b = appendStrings(b, h.Recipients)
	return binary.AppendVarint(b, h.Size)
}

func (h *Head) strings() []*string {
	return []*string{
		&h.Origin, &h.Pipeline, &h.Listener, &h.Client, &h.ClientName, &h.Helo,
		&h.TLS, &h.Login, &h.Sender, &h.MessageID,
	}
}

// DecodeHead reads what AppendHead wrote.
func DecodeHead(b []byte) (Head, error) {
	d := decoder{rest: b}
	var h Head
	if d.octet() != form {
		return h, errForm
	}
	h.ID = d.str()
	h.Received = d.time()
	for _, s := range h.strings() {
		*s = d.str()
	}
	h.Recipients = d.strs()
	h.Size = d.varint()
	return h, d.err
}

// AppendEvents appends the stored form of events.
func AppendEvents(b []byte, events []Event) []byte {
	b = append(b, form)
	b = binary.AppendUvarint(b, uint64(len(events)))
	for i := range events {
		b = appendEvent(b, &events[i])
	}
	return b
}

func appendEvent(b []byte, e *Event) []byte {
	b = appendTime(b, e.At)
	b = appendString(b, e.Stage)
	b = appendString(b, e.Plugin)
	b = appendString(b, e.Version)
	b = appendString(b, e.Recipient)
	b = appendString(b, e.Action)
	b = appendFloat(b, e.Score)
	b = binary.AppendUvarint(b, uint64(len(e.Reasons)))
	for _, r := range e.Reasons {
		b = appendString(b, r.Symbol)
		b = appendFloat(b, r.Score)
		b = appendString(b, r.Text)
	}
	b = appendStrings(b, e.Detections)
	b = appendStrings(b, e.Changes)
	b = binary.AppendVarint(b, int64(e.Took))
	return appendString(b, e.Text)
}

// DecodeEvents reads what AppendEvents wrote.
func DecodeEvents(b []byte) ([]Event, error) {
	d := decoder{rest: b}
	if d.octet() != form {
		return nil, errForm
	}
	n := d.count()
	events := make([]Event, 0, n)
	for range n {
		events = append(events, d.event())
		if d.err != nil {
			return nil, d.err
		}
	}
	return events, d.err
}

func (d *decoder) event() Event {
	e := Event{At: d.time(), Stage: d.str(), Plugin: d.str(), Version: d.str(), Recipient: d.str(), Action: d.str(), Score: d.float()}
	for range d.count() {
		e.Reasons = append(e.Reasons, sdk.Reason{Symbol: d.str(), Score: d.float(), Text: d.str()})
	}
	e.Detections = d.strs()
	e.Changes = d.strs()
	e.Took = time.Duration(d.varint())
	e.Text = d.str()
	return e
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendStrings(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

func appendFloat(b []byte, f float64) []byte {
	return binary.LittleEndian.AppendUint64(b, math.Float64bits(f))
}

func appendTime(b []byte, t time.Time) []byte { return binary.AppendVarint(b, t.UnixNano()) }

// decoder reads the stored form; after the first error it returns zero values.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) fail() { d.rest, d.err = nil, errForm }

func (d *decoder) octet() byte {
	if len(d.rest) == 0 {
		d.fail()
		return 0
	}
	c := d.rest[0]
	d.rest = d.rest[1:]
	return c
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// count reads a length; it can't be more than the octets that are left.
func (d *decoder) count() int {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > uint64(len(d.rest)-n) {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return int(v)
}

func (d *decoder) str() string {
	n := d.count()
	if d.err != nil {
		return ""
	}
	s := string(d.rest[:n])
	d.rest = d.rest[n:]
	return s
}

func (d *decoder) strs() []string {
	n := d.count()
	if n == 0 {
		return nil
	}
	list := make([]string, 0, n)
	for range n {
		list = append(list, d.str())
	}
	return list
}

func (d *decoder) float() float64 {
	if len(d.rest) < 8 {
		d.fail()
		return 0
	}
	v := binary.LittleEndian.Uint64(d.rest)
	d.rest = d.rest[8:]
	return math.Float64frombits(v)
}

func (d *decoder) time() time.Time { return time.Unix(0, d.varint()).UTC() }
