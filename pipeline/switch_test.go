package pipeline

import (
	"context"
	"log/slog"
	"testing"

	"github.com/sluicemail/sluice/sdk"
)

// TestSwitchBetweenCommands: a reload between MAIL and RCPT changes nothing for that message;
// the next one goes the new way, and what was said about the session before stays (DRILLS E6.8).
func TestSwitchBetweenCommands(t *testing.T) {
	gate := func(name string, v sdk.Verdict, phases ...sdk.Phase) *early {
		return &early{plugin: plugin{name: name, verdict: v}, phases: phases}
	}
	with := func(e *early) *Pipeline {
		return New(Options{Name: "inbound", Early: []Asker{e}, Router: everybody{}, Logger: slog.New(slog.DiscardHandler)})
	}
	before := gate("before", sdk.Verdict{Score: 2}, beforeContent...)
	after := gate("after", sdk.Verdict{Action: sdk.Reject}, sdk.PhaseRecipient)
	way := NewSwitch(with(before))
	ctx := context.Background()
	s := talk()
	if !way.Asks(sdk.PhaseConnect) || !way.Connect(ctx, s).OK() {
		t.Fatal("refused at connect")
	}
	m := &Message{Session: s}
	way.Sender(ctx, m)
	way.Set(with(after))
	if reply := way.Recipient(ctx, m, alice, RecipientParams{}); !reply.OK() || m.Score != 4 || m.Recipients[0].Score != 2 {
		t.Errorf("a message that had begun: %v, score %v", reply, m.Score)
	}
	next := &Message{Session: s}
	if reply := way.Sender(ctx, next); !reply.OK() || next.Score != 2 {
		t.Errorf("the next one: %v, score %v", reply, next.Score)
	}
	if reply := way.Recipient(ctx, next, alice, RecipientParams{}); reply.Code != 550 {
		t.Errorf("the next one's recipient: %v", reply)
	}
	if way.Asks(sdk.PhaseConnect) {
		t.Error("the old plugin would still be asked at connect")
	}
}
