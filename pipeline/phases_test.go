package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

var beforeContent = []sdk.Phase{sdk.PhaseConnect, sdk.PhaseSender, sdk.PhaseRecipient}

// early is an Asker of the phases before the content that says the same in each of its phases.
type early struct {
	plugin
	phases []sdk.Phase
	seen   []sdk.Envelope
	wait   bool
	left   time.Duration // what it was given the last time that it waited
}

func (e *early) Manifest() sdk.Manifest {
	return sdk.Manifest{Name: e.name, Version: "1", Phases: e.phases, Changes: e.changes}
}

func (e *early) Ask(ctx context.Context, q *Question) (sdk.Verdict, error) {
	e.asked++
	e.seen = append(e.seen, *q.Envelope())
	if e.wait {
		until, _ := ctx.Deadline()
		e.left = time.Until(until)
		<-ctx.Done()
		return sdk.Verdict{}, &Failure{FailTimeout, ctx.Err()}
	}
	return e.verdict, e.err
}

// counts is an Observer and an Alerter.
type counts struct {
	plugins []PluginReport
	stages  []StageReport
	alerts  []string
}

func (c *counts) Plugin(r *PluginReport)           { c.plugins = append(c.plugins, *r) }
func (c *counts) Stage(r *StageReport)             { c.stages = append(c.stages, *r) }
func (c *counts) Alert(plugin string, a sdk.Alert) { c.alerts = append(c.alerts, plugin+" "+a.Key) }

// talk is a session with a peer.
func talk() *Session {
	return &Session{Peer: Peer{Session: "s-1", Listener: "mx", Port: 2525}, Origin: sdk.Stranger, Opened: time.Now()}
}

// askedIn asks in one phase, and returns the reply and what sticks.
func askedIn(p *Pipeline, phase sdk.Phase) (reply Reply, action sdk.Action, score float64, tags map[string]string, missed []missed, events int) {
	ctx := context.Background()
	if phase == sdk.PhaseConnect {
		s := talk()
		reply = p.Connect(ctx, s)
		return reply, s.said.opinion.Action, s.said.score, s.said.tags, s.said.missed, len(s.said.events)
	}
	m := &Message{Origin: sdk.Stranger, Sender: "a@example.net"}
	reply = p.Sender(ctx, m)
	if phase == sdk.PhaseSender {
		return reply, m.said.opinion.Action, m.Score, m.Tags, m.said.missed, len(m.said.events)
	}
	reply = p.Recipient(ctx, m, "b@example.test", RecipientParams{})
	if len(m.Recipients) == 1 {
		r := m.Recipients[0]
		action, score = r.Opinion.Action, r.Score
	}
	return reply, action, score, m.Tags, m.said.missed, len(m.said.events)
}

// TestPhasesBeforeContent (DRILLS E6.2): each answer in each phase. The codes are those of sender and
// recipient; at connect 421 and 554 take the place of 4yz and 5yz.
func TestPhasesBeforeContent(t *testing.T) {
	fail := func(kind FailureKind) error { return &Failure{kind, errors.New("x")} }
	cases := []struct {
		name    string
		verdict sdk.Verdict
		err     error
		policy  map[FailureKind]sdk.Action
		code    int
		stuck   sdk.Action
		missed  bool
	}{
		{name: "no objection"},
		{name: "a score that any threshold would catch is no opinion yet", verdict: sdk.Verdict{Score: 1000}},
		{name: "junk sticks", verdict: sdk.Verdict{Action: sdk.Junk, Score: 2}, stuck: sdk.Junk},
		{name: "quarantine sticks", verdict: sdk.Verdict{Action: sdk.Quarantine}, stuck: sdk.Quarantine},
		{name: "discard sticks", verdict: sdk.Verdict{Action: sdk.Discard}, stuck: sdk.Discard},
		{name: "defer acts", verdict: sdk.Verdict{Action: sdk.Defer}, code: 451},
		{name: "reject acts", verdict: sdk.Verdict{Action: sdk.Reject}, code: 550},
		{name: "reject in its own words", verdict: sdk.Verdict{Action: sdk.Reject, Reply: &sdk.Reply{Code: 571, Enhanced: "5.7.25", Text: "no name"}}, code: 571},
		{name: "detections decide nothing here", verdict: sdk.Verdict{Detections: []string{"X"}}},
		{name: "an error is the stage's default", err: fail(FailError), missed: true},
		{name: "a bare error too", err: errors.New("x"), missed: true},
		{name: "not a number", verdict: sdk.Verdict{Score: math.NaN()}, missed: true},
		{name: "infinite", verdict: sdk.Verdict{Score: math.Inf(-1), Action: sdk.Reject}, missed: true},
		{name: "busy lets nobody through", err: fail(FailBusy), policy: map[FailureKind]sdk.Action{FailBusy: sdk.Accept}, code: 451},
		{name: "on_timeout = defer", err: fail(FailTimeout), policy: map[FailureKind]sdk.Action{FailTimeout: sdk.Defer}, code: 451},
		{name: "on_crash = reject", err: fail(FailCrash), policy: map[FailureKind]sdk.Action{FailCrash: sdk.Reject}, code: 550},
		{name: "on_failure = quarantine", err: fail(FailError), policy: map[FailureKind]sdk.Action{FailError: sdk.Quarantine}, stuck: sdk.Quarantine, missed: true},
		{name: "on_failure = junk", err: fail(FailInvalid), policy: map[FailureKind]sdk.Action{FailInvalid: sdk.Junk}, stuck: sdk.Junk, missed: true},
	}
	for _, c := range cases {
		for _, phase := range beforeContent {
			t.Run(c.name+" at "+string(phase), func(t *testing.T) {
				x := &early{plugin: plugin{name: "x", verdict: c.verdict, err: c.err, policy: c.policy}, phases: []sdk.Phase{phase}}
				x.verdict.Tags = map[string]string{"k": "v"}
				other := &early{plugin: plugin{name: "other"}, phases: beforeContent}
				later := &early{plugin: plugin{name: "later"}, phases: []sdk.Phase{sdk.PhaseContent}}
				seen := &counts{}
				p := New(Options{Name: "in", Hostname: "mx.test", Early: []Asker{x, other, later}, Router: everybody{}, Logger: slog.New(slog.DiscardHandler), Observer: seen})
				reply, stuck, score, tags, missed, events := askedIn(p, phase)
				code := c.code
				if phase == sdk.PhaseConnect && code != 0 {
					code = map[int]int{4: 421, 5: 554}[code/100]
				}
				if reply.Code != code || stuck != c.stuck {
					t.Errorf("%v, %v sticks; want %d, %v", reply, stuck, code, c.stuck)
				}
				failed := c.err != nil || c.missed
				want, tag := c.verdict.Score, "v"
				if failed {
					want, tag = 0, ""
				}
				if code == 0 && score != want || tags["k"] != tag {
					t.Errorf("score %v, tags %v", score, tags)
				}
				if (len(missed) == 1) != c.missed {
					t.Errorf("missed: %v", missed)
				}
				if x.asked != 1 || later.asked != 0 || events != other.asked+1 {
					t.Errorf("asked %d and %d times, %d events", x.asked, later.asked, events)
				}
				var of *PluginReport
				for i := range seen.plugins {
					if seen.plugins[i].Plugin == "x" {
						of = &seen.plugins[i]
					}
				}
				if of == nil || of.Phase != phase || of.Stage != StageAntiSpam || of.Pipeline != "in" || of.Unscanned != c.missed || (of.Failure != "") != failed {
					t.Errorf("observed %+v", of)
				}
			})
		}
	}
}

// TestEarlyEnvelope: in each phase what is known by then, and the recipient alone.
func TestEarlyEnvelope(t *testing.T) {
	x := &early{plugin: plugin{name: "x", verdict: sdk.Verdict{Score: 1, Tags: map[string]string{"seen": "1"}}}, phases: beforeContent}
	p := New(Options{Name: "in", Hostname: "mx.test", Early: []Asker{x}, Router: everybody{}, Logger: slog.New(slog.DiscardHandler)})
	ctx := context.Background()
	s := talk()
	p.Connect(ctx, s)
	m := &Message{Origin: sdk.Stranger, Session: s, Sender: "a@example.net", Peer: &Peer{Session: "s-1", Helo: "c.example", ESMTP: true},
		Params: SenderParams{Size: 10, Body: "8BITMIME", SMTPUTF8: true, Ret: "HDRS", EnvID: "e"}}
	p.Sender(ctx, m)
	p.Recipient(ctx, m, "b@example.test", RecipientParams{Notify: []string{"NEVER"}, ORcpt: "rfc822;b"})
	p.Recipient(ctx, m, "c@example.test", RecipientParams{})
	if len(x.seen) != 4 {
		t.Fatalf("asked %d times", len(x.seen))
	}
	connect, sender, second := x.seen[0], x.seen[1], x.seen[3]
	if connect.Session != "s-1" || connect.Server != "mx.test" || connect.Pipeline != "in" || connect.Listener != "mx" || connect.Sender != "" || connect.Score != 0 {
		t.Errorf("connect: %+v", connect)
	}
	if sender.Sender != "a@example.net" || sender.Server != "mx.test" || sender.Pipeline != "in" || sender.Score != 1 || sender.Tags["seen"] != "1" || sender.Helo != "c.example" || !sender.ESMTP ||
		sender.Size != 10 || sender.Body != "8BITMIME" || !sender.SMTPUTF8 || sender.Ret != "HDRS" || sender.EnvID != "e" || len(sender.Recipients) != 0 {
		t.Errorf("sender: %+v", sender)
	}
	first := x.seen[2].Recipients
	if len(first) != 1 || first[0].Address != "b@example.test" || first[0].ORcpt != "rfc822;b" || len(first[0].Notify) != 1 {
		t.Errorf("first recipient: %+v", first)
	}
	if second.Score != 2 || len(second.Recipients) != 1 || second.Recipients[0].Address != "c@example.test" {
		t.Errorf("second recipient: %+v", second)
	}
}

// TestSessionStaysAndCountsOnce: what was said at connect is part of each message of the
// session, and the same part each time; what was said about a transaction ends with it.
func TestSessionStaysAndCountsOnce(t *testing.T) {
	var scores []float64
	b := newBench(t, stageFunc(func(_ context.Context, m *Message) error {
		scores = append(scores, m.Score+m.Recipients[0].Score)
		return nil
	}))
	gate := &early{plugin: plugin{name: "gate", verdict: sdk.Verdict{Action: sdk.Junk, Score: 3, Tags: map[string]string{"net": "bad"}}}, phases: []sdk.Phase{sdk.PhaseConnect}}
	clerk := &early{plugin: plugin{name: "clerk", verdict: sdk.Verdict{Score: 0.5}}, phases: []sdk.Phase{sdk.PhaseSender, sdk.PhaseRecipient}}
	dead := &early{plugin: plugin{name: "dead", err: &Failure{FailCrash, errors.New("exit status 1")}}, phases: []sdk.Phase{sdk.PhaseConnect}}
	b.Early = []Asker{gate, clerk, dead}
	s := talk()
	if reply := b.Connect(context.Background(), s); !reply.OK() {
		t.Fatal(reply)
	}
	for range 3 {
		abandoned := &Message{Session: s, Sender: "reset@example.net"} // RSET
		b.Sender(context.Background(), abandoned)
		m := b.messageOf(t, s, sdk.Stranger, "a@example.test")
		b.Submit(context.Background(), m)
		if o := m.Recipients[0].Opinion; o.Action != sdk.Junk || o.Plugin != "gate" || m.Tags["net"] != "bad" {
			t.Errorf("%+v, tags %v", o, m.Tags)
		}
		if told := ends(m); !strings.Contains(told, "junk; accept; accept; a@example.test accept") {
			t.Errorf("the trace says %s", told)
		}
		m.StampEarly()
		f, _ := m.Recipients[0].Version.Get("X-Sluice-Unscanned")
		if f.Value() != "anti-spam; plugin=dead; failure=crash; phase=connect" {
			t.Errorf("X-Sluice-Unscanned: %s", f.Value())
		}
	}
	if got := fmt.Sprint(scores); got != "[4 4 4]" {
		t.Errorf("scores %s", got)
	}
	if gate.asked != 1 || clerk.asked != 9 {
		t.Errorf("asked %d, %d times", gate.asked, clerk.asked)
	}
}

// TestRecipientOpinionIsTheRecipients: what sticks at RCPT sticks to that recipient.
func TestRecipientOpinionIsTheRecipients(t *testing.T) {
	b := newBench(t)
	x := &early{plugin: plugin{name: "x", verdict: sdk.Verdict{Recipients: []sdk.RecipientVerdict{{Recipient: "b@example.test", Action: sdk.Quarantine, Score: 2}}}}, phases: []sdk.Phase{sdk.PhaseRecipient}}
	b.Early = []Asker{x}
	m := b.message(t, sdk.Stranger, "a@example.test", "b@example.test")
	if a, q := m.Recipients[0], m.Recipients[1]; a.Opinion.Action != sdk.Accept || a.Score != 0 || q.Opinion.Action != sdk.Quarantine || q.Score != 2 {
		t.Errorf("a: %+v, b: %+v", a.Opinion, q.Opinion)
	}
	b.Submit(context.Background(), m)
	if m.Recipients[0].Hops[0].Kind != HopMailbox || m.Recipients[1].Hops[0].Kind != HopQuarantine {
		t.Error("they went elsewhere")
	}
}

// TestNoPhasePluginsCostNothing is what a connection pays that nobody asks about.
func TestNoPhasePluginsCostNothing(t *testing.T) {
	p := New(Options{Early: []Asker{&early{plugin: plugin{name: "x"}, phases: []sdk.Phase{sdk.PhaseContent}}}, Router: everybody{}})
	m := &Message{}
	if n := testing.AllocsPerRun(100, func() {
		if p.Asks(sdk.PhaseConnect) || p.Asks(sdk.PhaseRecipient) || !p.Sender(context.Background(), m).OK() {
			t.Fatal("somebody was asked")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestPhaseHasItsTime: a plugin that takes all of it is one that timed out.
func TestPhaseHasItsTime(t *testing.T) {
	x := &early{plugin: plugin{name: "x"}, phases: beforeContent, wait: true}
	p := New(Options{Early: []Asker{x}, Router: everybody{}, PhaseTime: 20 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	for _, phase := range beforeContent {
		start := time.Now()
		reply, _, _, _, missed, _ := askedIn(p, phase)
		if !reply.OK() || len(missed) == 0 || missed[0].kind != FailTimeout || x.left > p.PhaseTime {
			t.Errorf("%s: %v, %v after %v, given %v", phase, reply, missed, time.Since(start), x.left)
		}
	}
}

// TestWhatHasNoPlaceBeforeTheContentIsRefused: and recorded, and counted; the opinion counts.
func TestWhatHasNoPlaceBeforeTheContentIsRefused(t *testing.T) {
	x := &early{plugin: plugin{name: "x", changes: []sdk.ChangeKind{sdk.AddField, sdk.ChangeSender}, verdict: sdk.Verdict{
		Score: 1, Route: &sdk.Route{To: []string{"x@example.test"}},
		Changes: []sdk.Change{{Kind: sdk.AddField, Name: "X-A", Value: "1"}, {Kind: sdk.ChangeSender}},
		Alerts:  []sdk.Alert{{Key: "account a", Text: "looks hijacked"}},
	}}, phases: beforeContent}
	seen := &counts{}
	p := New(Options{Early: []Asker{x}, Router: everybody{}, Logger: slog.New(slog.DiscardHandler), Observer: seen, Alerter: seen})
	s := talk()
	p.Connect(context.Background(), s)
	e := s.said.events[0]
	if got := strings.Join(e.Changes, "; "); got != "refused: route; refused: add field X-A; refused: change sender <>" {
		t.Errorf("the trace says %q", got)
	}
	if seen.plugins[0].Refused != 3 || s.said.score != 1 || fmt.Sprint(seen.alerts) != "[x account a]" {
		t.Errorf("observed %+v, score %v, alerts %v", seen.plugins[0], s.said.score, seen.alerts)
	}
}

// TestNotesAreBounded: a client that tries recipients for ever fills no memory.
func TestNotesAreBounded(t *testing.T) {
	x := &early{plugin: plugin{name: "x", verdict: sdk.Verdict{Action: sdk.Defer}, err: &Failure{FailTimeout, errors.New("x")}}, phases: beforeContent}
	b := newBench(t)
	b.Early = []Asker{x}
	m := b.message(t, sdk.Stranger, "a@example.test")
	for i := range 1000 {
		b.Recipient(context.Background(), m, fmt.Sprintf("%d@example.test", i), RecipientParams{})
		m.Recipients = m.Recipients[:1]
	}
	if len(m.said.events) != maxNotes || len(m.said.missed) != 2 { // of sender and recipient
		t.Errorf("%d events, %d missed", len(m.said.events), len(m.said.missed))
	}
	b.Submit(context.Background(), m)
	if told := ends(m); !strings.Contains(told, "cut") {
		t.Errorf("the trace says %s", told)
	}
}
