package trace

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
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
	if len(events) != MaxEvents || len(events[0].Text) > MaxText || len(events[0].Reasons) > MaxReasons {
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
