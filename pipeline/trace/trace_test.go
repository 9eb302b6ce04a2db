package trace

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
)

func sample() (Head, []Event) {
	at := time.Unix(1_800_000_000, 123).UTC()
	head := Head{
		ID: "0123456789ABCDEF", Received: at, Origin: "stranger", Pipeline: "inbound", Listener: "mx",
		Client: "192.0.2.1", ClientName: "mail.example.net", Helo: "mail", TLS: "TLS 1.3", Login: "",
		Sender: "a@example.net", Recipients: []string{"b@example.test", "c@example.test"}, MessageID: "<1@x>", Size: 4096,
	}
	events := []Event{
		{At: at, Stage: "receive", Action: "accept", Took: time.Millisecond},
		{At: at, Stage: "anti-spam", Plugin: "gtube", Version: "1", Recipient: "b@example.test", Action: "reject", Score: -1.5,
			Reasons: []sdk.Reason{{Symbol: "GTUBE", Score: 1000, Text: "t"}}, Detections: []string{"d"}, Changes: []string{"add field X"}, Text: "550"},
	}
	return head, events
}

func TestStoredForm(t *testing.T) {
	head, events := sample()
	gotHead, err := DecodeHead(AppendHead(nil, &head))
	if err != nil || !reflect.DeepEqual(gotHead, head) {
		t.Errorf("head: %v\n%+v\n%+v", err, gotHead, head)
	}
	gotEvents, err := DecodeEvents(AppendEvents(nil, events))
	if err != nil || !reflect.DeepEqual(gotEvents, events) {
		t.Errorf("events: %v\n%+v\n%+v", err, gotEvents, events)
	}
}

func TestTraceIsBounded(t *testing.T) {
	var tr Trace
	for range 3 * MaxEvents {
		tr.Add(Event{Text: strings.Repeat("x", 10_000), Reasons: make([]sdk.Reason, 1000)})
	}
	events := tr.Events()
	if len(events) > MaxEvents+1 || len(events[0].Text) > MaxText || len(events[0].Reasons) > MaxReasons {
		t.Errorf("%d events, text of %d octets, %d reasons", len(events), len(events[0].Text), len(events[0].Reasons))
	}
}

func FuzzDecode(f *testing.F) {
	head, events := sample()
	f.Add(AppendHead(nil, &head))
	f.Add(AppendEvents(nil, events))
	f.Add([]byte{form, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := DecodeHead(b); err == nil {
			again, err := DecodeHead(AppendHead(nil, &h))
			if err != nil || !reflect.DeepEqual(h, again) {
				t.Errorf("%+v became %+v", h, again)
			}
		}
		if e, err := DecodeEvents(b); err == nil {
			if _, err := DecodeEvents(AppendEvents(nil, e)); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestTheEndsAlwaysFit: however much plugins have to say, where everybody ended is kept, and no value is larger than
// an engine takes (RULES B2).
func TestTheEndsAlwaysFit(t *testing.T) {
	long := make([]sdk.Reason, MaxReasons)
	for i := range long {
		long[i] = sdk.Reason{Symbol: "LONG", Text: strings.Repeat("x", 2000)}
	}
	tr := &Trace{}
	for range 2 * MaxEvents {
		tr.Add(Event{Action: "accept", Reasons: long})
	}
	const ends = 1000
	for i := range ends {
		tr.End(Event{Action: "discarded", Recipient: fmt.Sprintf("r%d@example.test", i), Text: strings.Repeat("y", 2000)})
	}
	if len(long[0].Text) != 2000 {
		t.Error("the plugin's own reasons were changed")
	}
	var b kv.Batch
	Put(&b, storage.ID{1}, tr)
	found, largest := 0, 0
	for _, op := range b.Ops() {
		largest = max(largest, len(op.Value))
	}
	if largest > 900<<10 {
		t.Errorf("a value of %d octets", largest)
	}
	for _, e := range tr.Events() {
		if e.Action == "discarded" {
			found++
		}
	}
	last := tr.Events()[len(tr.Events())-1]
	if found != ends || last.Action != "cut" {
		t.Errorf("%d ends, last event %+v", found, last)
	}
}

// TestTheLoudLeaveRoom: what one plugin says at the greatest length leaves room for the reasons of the others, and what all of
// them say about everybody is told before what they say about each.
func TestTheLoudLeaveRoom(t *testing.T) {
	long := make([]sdk.Reason, 500)
	for i := range long {
		long[i] = sdk.Reason{Symbol: "LONG", Text: strings.Repeat("\u00e4", 1000)}
	}
	tr := &Trace{}
	for _, plugin := range []string{"one", "two", "three", "four", "five"} {
		tr.Add(Event{Plugin: plugin, Action: "accept", Reasons: long, Detections: strings.Fields(strings.Repeat(strings.Repeat("d", 200)+" ", 100))})
		for i := range 100 {
			tr.Add(Event{Plugin: plugin, Action: "accept", Recipient: fmt.Sprint(i), Reasons: long})
		}
	}
	tr.Add(Event{Plugin: "quiet", Action: "reject", Reasons: []sdk.Reason{{Symbol: "X"}}})
	events := tr.Events()
	if n := len(events[0].Reasons); n < 10 || n > MaxReasons || !utf8.ValidString(events[0].Reasons[0].Text) {
		t.Errorf("%d reasons of the first event", n)
	}
	quiet := false
	for _, e := range events {
		quiet = quiet || e.Plugin == "quiet" && len(e.Reasons) == 1
	}
	if !quiet {
		t.Errorf("%d events, and not the one that counts", len(events))
	}
	if tr.octets > maxOctets {
		t.Errorf("%d octets", tr.octets)
	}
}
