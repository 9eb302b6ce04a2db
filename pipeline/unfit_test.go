package pipeline

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// TestUnfitLeavesATrace: a message whose content receive does not take has a trace like any other that is refused, with
// what plugins said before; no stage is asked, and what there is of the content is released.
func TestUnfitLeavesATrace(t *testing.T) {
	b := newBench(t, stageFunc(func(context.Context, *Message) error { t.Error("asked"); return nil }))
	b.Early = []Asker{&early{plugin: plugin{name: "early"}, phases: []sdk.Phase{sdk.PhaseSender}}}
	m := &Message{Origin: sdk.Stranger, Peer: &Peer{Listener: "mx", Helo: "c.example"}, Sender: "a@example.net", Received: time.Now()}
	b.Sender(t.Context(), m)
	b.Recipient(t.Context(), m, "b@example.test", RecipientParams{})
	b.Refuse(t.Context(), m, Unfit{Reply: Reply{550, "5.6.11", "no\r\n250 fine"}, Why: "bare LF", Size: 77})
	if len(b.refused) != 1 || len(b.committed) != 0 {
		t.Fatalf("%d refused, %d committed", len(b.refused), len(b.committed))
	}
	head, list := m.Trace.Head, m.Trace.Events()
	if head.Size != 77 || head.Sender != "a@example.net" || head.Pipeline != "inbound" || len(head.Recipients) != 1 || head.MessageID != "" || head.Listener != "mx" {
		t.Errorf("head %+v", head)
	}
	if first := list[0]; first.Stage != StageReceive || first.Action != "reject" || first.Text != "bare LF" {
		t.Errorf("first %+v", first)
	}
	if list[1].Plugin != "early" {
		t.Errorf("second %+v", list[1])
	}
	if last := list[len(list)-1]; len(list) != 3 || last.Action != "refused" || !strings.HasPrefix(last.Text, "550 5.6.11 no") || strings.Contains(last.Text, "\n") {
		t.Errorf("last %+v", last)
	}

	m = b.message(t, sdk.Login, "b@example.test") // has content
	NewSwitch(b.Pipeline).Refuse(t.Context(), m, Unfit{Reply: ReplyTryLater, Why: "x", Size: m.Content.Size()})
	b.gone(t, m)
	if list := m.Trace.Events(); list[0].Action != "defer" || m.Trace.Head.Size < 900 {
		t.Errorf("%+v, %+v", m.Trace.Head, list)
	}
}
