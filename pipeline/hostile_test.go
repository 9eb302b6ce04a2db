package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/sdk"
)

// endless is as much as a verdict may say.
func endless() []sdk.Reason {
	list := make([]sdk.Reason, 500)
	for i := range list {
		list[i] = sdk.Reason{Symbol: fmt.Sprintf("%03d%s", i, strings.Repeat("S", 197)), Text: strings.Repeat("t", 2000)}
	}
	return list
}

// TestEndlessReasons: a plugin that says all that it may about each of many recipients. What is written down for
// each is bounded, since all of it is one batch (RULES B2), and what another one decided is in the trace.
func TestEndlessReasons(t *testing.T) {
	const many = 100
	x := &plugin{name: "x", verdict: sdk.Verdict{Action: sdk.Quarantine, Reasons: endless()}}
	var to []string
	for i := range many {
		to = append(to, fmt.Sprintf("r%d@example.test", i))
		x.verdict.Recipients = append(x.verdict.Recipients, sdk.RecipientVerdict{Recipient: to[i], Action: sdk.Quarantine, Reasons: endless()})
	}
	y := &plugin{name: "y", verdict: sdk.Verdict{Action: sdk.Junk, Reasons: []sdk.Reason{{Symbol: "QUIET", Text: "a voice"}}}}
	b := newBench(t, staged(StageAntiSpam, x), staged(StageAntiVirus, y))
	m := b.message(t, sdk.Stranger, to...)
	if result := b.Submit(context.Background(), m); !result.Committed {
		t.Fatal(result.Reply)
	}
	for _, r := range m.Recipients {
		if n := len(r.Opinion.Why) + len(r.Hops[0].Why); n > 2*maxWhy || n == 0 {
			t.Fatalf("%s: %d octets say why", r.Address, n)
		}
	}
	octets, quiet, loud := 0, false, 0
	for _, e := range m.Trace.Events() {
		octets += len(e.Text)
		for _, r := range e.Reasons {
			octets += len(r.Symbol) + len(r.Text)
		}
		quiet = quiet || e.Plugin == "y" && len(e.Reasons) == 1
		if e.Plugin == "x" {
			loud++
		}
	}
	if octets > 512<<10 || !quiet || loud != many+1 {
		t.Errorf("the trace has %d octets, %d events of the loud one, the quiet one is heard: %v", octets, loud, quiet)
	}
}

// TestEndlessNotes: what plugins say before the content is held in memory as long as the session.
func TestEndlessNotes(t *testing.T) {
	x := &early{plugin: plugin{name: "x", verdict: sdk.Verdict{Action: sdk.Reject, Reasons: endless()}}, phases: beforeContent}
	b := newBench(t)
	b.Early = []Asker{x}
	s := talk()
	for range maxNotes {
		b.Connect(context.Background(), s)
	}
	octets := 0
	for _, e := range s.said.events {
		octets += len(e.Text)
		for _, r := range e.Reasons[:cap(e.Reasons)] {
			octets += len(r.Symbol) + len(r.Text)
		}
	}
	if octets > 2*maxNoteOctets {
		t.Errorf("%d octets are held for one session", octets)
	}
	if _, why := s.Blame(); len(why) > maxWhy {
		t.Errorf("the log says why in %d octets", len(why))
	}
}

// TestRemovedAndAddedAgain: who was removed before a stage is not asked about there; whoever brings him back brings
// him what that stage thought of the others' copy, and that copy.
func TestRemovedAndAddedAgain(t *testing.T) {
	first := &changer{plugin: plugin{name: "first", changes: all(), verdict: sdk.Verdict{Changes: change(sdk.RemoveRecipient, "b")}}}
	for _, action := range []sdk.Action{sdk.Accept, sdk.Quarantine, sdk.Reject} {
		scanner := &changer{plugin: plugin{name: "scanner", changes: all(), verdict: sdk.Verdict{
			Action:  action,
			Changes: append(change(sdk.AddRecipient, "b"), sdk.Change{Kind: sdk.AddField, Name: "X-Scanned", Value: "yes"}),
		}}}
		have := make(map[string]string)
		b := newBench(t, staged(StageAntiSpam, first), staged(StageAntiVirus, scanner), peek(t, have))
		m := b.message(t, sdk.Stranger, "a@example.test", "b@example.test")
		b.Submit(context.Background(), m)
		if r := m.Recipients[1]; r.Opinion.Action < action || r.Removed != "" {
			t.Errorf("the scanner says %v, and who came back has %v", action, r.Opinion.Action)
		}
		if action == sdk.Accept && !strings.Contains(have["b@example.test"], "X-Scanned: yes") {
			t.Errorf("who came back gets what nobody has scanned: %.100q", have["b@example.test"])
		}
	}
}

// TestTagsOfTheServer: a plugin cannot say what only the server knows.
func TestTagsOfTheServer(t *testing.T) {
	tags := map[string]string{"sluice.control": "1", "Sluice.Other": "x", "sluicegate": "open"}
	x := &early{plugin: plugin{name: "x", verdict: sdk.Verdict{Tags: tags}}, phases: append([]sdk.Phase{sdk.PhaseContent}, beforeContent...)}
	for _, phase := range beforeContent {
		x.verdict.Tags = map[string]string{"sluice.control": "1", "Sluice.Other": "x", "sluicegate": "open"}
		b := newBench(t)
		b.Early = []Asker{x}
		if _, _, _, got, _, _ := askedIn(b.Pipeline, phase); len(got) != 1 || got["sluicegate"] != "open" {
			t.Errorf("%s: %v", phase, got)
		}
	}
	x.verdict.Tags = tags
	b := newBench(t, staged(StageAntiSpam, x))
	m := b.message(t, sdk.Stranger, "a@example.test")
	seen := &counts{}
	b.Observer = seen
	b.Submit(context.Background(), m)
	if len(m.Tags) != 1 || seen.plugins[0].Refused != 2 {
		t.Errorf("%v, %d refused", m.Tags, seen.plugins[0].Refused)
	}
	if told := strings.Join(events(m), "\n"); !strings.Contains(told, "refused: tag sluice.control") {
		t.Errorf("the trace says %s", told)
	}
}

// TestTagsOfAQuestionStay: a question that was given up may be put on the wire later than the next tags come.
func TestTagsOfAQuestionStay(t *testing.T) {
	m := asked(t, "a@example.test")
	m.Tags = addTags(nil, map[string]string{"a": "1"})
	held := m.Envelope().Tags
	m.Tags = addTags(m.Tags, map[string]string{"a": "2", "b": "1"})
	if len(held) != 1 || held["a"] != "1" || len(m.Tags) != 2 || m.Tags["a"] != "2" {
		t.Errorf("the question has %v, the message %v", held, m.Tags)
	}
}

// TestReceivedStays (DRILLS E6.5): without the way that it came a message could run in a circle for ever. Our own user's mail has come
// no way yet, and may hide where he sits.
func TestReceivedStays(t *testing.T) {
	for origin, stays := range map[sdk.Origin]bool{sdk.Stranger: true, sdk.Trusted: true, sdk.LMTP: true, sdk.Login: false} {
		for _, c := range []sdk.Change{
			{Kind: sdk.RemoveField, Name: "received"}, {Kind: sdk.RemoveField, Name: "Received", Index: -1},
			{Kind: sdk.ReplaceField, Name: "Received", Index: 1, Value: "from nowhere"},
		} {
			x := &changer{plugin: plugin{name: "x", changes: all(), verdict: sdk.Verdict{Changes: []sdk.Change{c}}}}
			have := make(map[string]string)
			b := newBench(t, staged(StageAntiSpam, x), peek(t, have))
			m := b.message(t, origin, "a@example.test")
			m.Front([]byte("Received: from here\r\n"))
			b.Submit(context.Background(), m)
			if got := strings.Contains(have["a@example.test"], "Received: from here\r\n"); got != stays {
				t.Errorf("%s, %v: the field stays: %v", origin, c, got)
			}
			if told := strings.Join(events(m), "\n"); strings.Contains(told, "refused: ") != stays {
				t.Errorf("%s, %v: the trace says %s", origin, c, told)
			}
		}
	}
}

// TestReplyThatClosesTheConnection: 421 would promise what only the session can do (RFC 5321 section 3.8).
func TestReplyThatClosesTheConnection(t *testing.T) {
	x := &early{plugin: plugin{name: "x", verdict: sdk.Verdict{Action: sdk.Defer, Reply: &sdk.Reply{Code: 421, Text: "go away"}}}, phases: beforeContent}
	b := newBench(t)
	b.Early = []Asker{x}
	for phase, want := range map[sdk.Phase]int{sdk.PhaseConnect: 421, sdk.PhaseSender: 451, sdk.PhaseRecipient: 451} {
		if phase == sdk.PhaseRecipient {
			x.phases = []sdk.Phase{phase}
		} else {
			x.phases = beforeContent
		}
		if reply, _, _, _, _, _ := askedIn(b.Pipeline, phase); reply.Code != want || reply.Text != "go away" {
			t.Errorf("%s: %v, want %d", phase, reply, want)
		}
	}
	b = newBench(t, staged(StageAntiSpam, &plugin{name: "y", verdict: x.verdict}))
	if result := b.Submit(context.Background(), b.message(t, sdk.LMTP, "a@example.test")); result.Each[0].Code != 451 {
		t.Errorf("LMTP: %v", result.Each)
	}
}

// TestCrashBeforeTheContent (DRILLS E6.1): a plugin that dies of an address has died of no message: nobody is convicted, its policy
// decides, and the mail of a peer that comes again says that nobody has looked.
func TestCrashBeforeTheContent(t *testing.T) {
	x := &early{plugin: plugin{name: "x", err: &Failure{FailCrash, errors.New("it died")}}, phases: beforeContent}
	b := newBench(t, stageFunc(func(_ context.Context, m *Message) error { m.StampEarly(); return nil }))
	b.Early = []Asker{x}
	s := talk()
	if reply := b.Connect(context.Background(), s); !reply.OK() {
		t.Fatal(reply)
	}
	m := b.messageOf(t, s, sdk.Stranger, "a@example.test")
	if result := b.Submit(context.Background(), m); !result.Committed || m.Recipients[0].Version.Count("X-Sluice-Unscanned") != 3 {
		t.Errorf("%v, %d marks", result.Reply, m.Recipients[0].Version.Count("X-Sluice-Unscanned"))
	}
}
