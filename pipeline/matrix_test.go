package pipeline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// scan is a stage that does what its plugins say and nothing else.
func scan(p *Panel) Stage {
	return stageFunc(func(ctx context.Context, m *Message) error {
		answers := p.Ask(ctx, m)
		p.Settle(m, answers)
		for i := range answers {
			a := &answers[i]
			for _, at := range a.Recipients {
				r := m.Recipients[at]
				if a.Failure != nil {
					r.Take(p.Policy(a))
					continue
				}
				r.Take(p.Opinion(a, a.For(r.Address)))
			}
		}
		return nil
	})
}

var allActions = []sdk.Action{sdk.Accept, sdk.Junk, sdk.Quarantine, sdk.Discard, sdk.Defer, sdk.Reject}

// TestFailureMatrix is DRILLS E6.2: every kind of failure, in every stage, under every
// policy, beside every verdict of another plugin. What goes on without having been looked at
// is stamped, in the trace, and counted (E6.3); a failure is an accept only where the
// administrator or the stage's default says so (E6.4).
func TestFailureMatrix(t *testing.T) {
	stages := []struct {
		name  string
		phase sdk.Phase
		is    sdk.Action // what a failure means where nothing is set
	}{
		{StageAntiSpam, sdk.PhaseContent, sdk.Accept},
		{StageAntiVirus, sdk.PhaseContent, sdk.Defer},
		{StageRoute, sdk.PhaseRoute, sdk.Defer},
	}
	const unset = sdk.Action(99)
	policies := []sdk.Action{unset, sdk.Accept, sdk.Junk, sdk.Quarantine, sdk.Defer, sdk.Reject}
	for _, stage := range stages {
		for _, kind := range []FailureKind{FailError, FailTimeout, FailCrash, FailInvalid, FailBusy, FailPoison} {
			for _, policy := range policies {
				for _, other := range allActions {
					name := fmt.Sprintf("%s %s policy=%s other=%s", stage.name, kind, policy, other)
					means := policy
					switch {
					case kind == FailBusy: // RULES C2
						means = sdk.Defer
					case kind == FailPoison: // RULES C3
						means = sdk.Quarantine
					case policy == unset:
						means = stage.is
					}
					set := map[FailureKind]sdk.Action{kind: policy}
					if policy == unset {
						set = nil
					}
					seen := &counts{}
					b := newBench(t, scan(&Panel{Stage: stage.name, Phase: stage.phase, Default: stage.is, Askers: []Asker{
						&plugin{name: "down", err: &Failure{kind, errors.New("x")}, policy: set},
						&plugin{name: "other", verdict: sdk.Verdict{Action: other}},
					}}))
					b.Observer = seen
					m := b.message(t, sdk.Stranger, "a@example.test")
					result := b.Submit(context.Background(), m)
					check(t, name, b, m, result, max(means, other), means, kind, seen)
				}
			}
		}
	}
}

// check holds one cell of the matrix: the result for the peer, the stamp, the trace and the count.
func check(t *testing.T, name string, b *bench, m *Message, result Result, want, means sdk.Action, kind FailureKind, seen *counts) {
	t.Helper()
	code := map[sdk.Action]int{sdk.Defer: 451, sdk.Reject: 550}[want]
	if code == 0 {
		code = 250
	}
	if result.Reply.Code != code || len(b.committed) == 1 != (code == 250) || m.Recipients[0].Opinion.Action != want {
		t.Errorf("%s: %v, %v; want %d", name, result.Reply, m.Recipients[0].Opinion, code)
	}
	stamped := m.Recipients[0].Version.Count("X-Sluice-Unscanned")
	if (stamped == 1) != (means < sdk.Defer) {
		t.Errorf("%s: %d stamps although the failure means %s", name, stamped, means)
	}
	told := false
	for _, e := range m.Trace.Events() {
		told = told || e.Plugin == "down" && e.Action == means.String() && len(e.Reasons) == 1 && e.Reasons[0].Symbol == "FAILED_"+strings.ToUpper(string(kind))
	}
	if !told {
		t.Errorf("%s: the trace does not say so", name)
	}
	if len(seen.plugins) != 2 || seen.plugins[0].Failure != kind || seen.plugins[0].Action != means || seen.plugins[0].Unscanned != (means < sdk.Defer) || seen.plugins[1].Failure != "" {
		t.Errorf("%s: counted %+v", name, seen.plugins)
	}
}

// TestFirstAcceptHidesNobody is DRILLS E6.4: the order of answers and of stages does not matter.
func TestFirstAcceptHidesNobody(t *testing.T) {
	ok, no := sdk.Verdict{}, sdk.Verdict{Action: sdk.Reject}
	for _, order := range [][]sdk.Verdict{{ok, no}, {no, ok}, {ok, ok, no}} {
		var askers []Asker
		for i, v := range order {
			askers = append(askers, &plugin{name: fmt.Sprint(i), verdict: v})
		}
		together := newBench(t, scan(&Panel{Stage: StageAntiSpam, Askers: askers}))
		var stages []Stage
		for _, a := range askers {
			stages = append(stages, scan(&Panel{Stage: StageAntiSpam, Askers: []Asker{a}}))
		}
		apart := newBench(t, stages...)
		for _, b := range []*bench{together, apart} {
			if r := b.Submit(context.Background(), b.message(t, sdk.Stranger, "a@example.test")); r.Reply.Code != 550 {
				t.Errorf("%v: %v", order, r.Reply)
			}
		}
	}
}

// TestAlwaysFailingScanner is DRILLS E6.2's Y2K22 drill at the level of the pipeline: the mail
// flows by policy, and every message is counted as unscanned at once.
func TestAlwaysFailingScanner(t *testing.T) {
	down := &plugin{name: "av", err: &Failure{FailError, errors.New("can't convert 2201010001 to long")}, policy: map[FailureKind]sdk.Action{FailError: sdk.Accept}}
	b := newBench(t, scan(&Panel{Stage: StageAntiVirus, Default: sdk.Defer, Askers: []Asker{down}}))
	seen := &counts{}
	b.Observer = seen
	for range 100 {
		if r := b.Submit(context.Background(), b.message(t, sdk.Stranger, "a@example.test")); !r.Committed {
			t.Fatal(r.Reply)
		}
	}
	unscanned := 0
	for _, r := range seen.plugins {
		if r.Unscanned && r.Plugin == "av" && r.Failure == FailError {
			unscanned++
		}
	}
	if unscanned != 100 {
		t.Errorf("%d of 100 are counted", unscanned)
	}
}

// tableOf returns the cells of the table in PROTOCOL.md whose header begins with these words,
// so that what authors read and what is tested can't differ.
func tableOf(t *testing.T, header string) [][]string {
	t.Helper()
	text, err := os.ReadFile("../sdk/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "| "+header)
	if !ok {
		t.Fatalf("PROTOCOL.md has no table %q", header)
	}
	var rows [][]string
	for i, line := range strings.Split(rest, "\n") {
		if i < 2 { // the header's rest, and the line below
			continue
		}
		if !strings.HasPrefix(line, "|") {
			break
		}
		var cells []string
		for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		rows = append(rows, cells)
	}
	if len(rows) < 4 {
		t.Fatalf("PROTOCOL.md: the table %q has %d rows", header, len(rows))
	}
	return rows
}

const alice, bob = "alice@example.test", "bob@example.test"

// askerOf reads a cell such as `reject`, `reject for alice, accept for bob`, `quarantine for both`
// or `fails, with on_failure = "defer"`.
func askerOf(t *testing.T, name, cell string) Asker {
	t.Helper()
	action := func(word string) sdk.Action {
		a, err := sdk.ParseAction(word)
		if err != nil {
			t.Fatalf("PROTOCOL.md: %q: %v", cell, err)
		}
		return a
	}
	p := &plugin{name: name}
	if _, policy, failed := strings.Cut(cell, "`on_failure = \""); failed {
		p.err = &Failure{FailError, errors.New("x")}
		p.policy = map[FailureKind]sdk.Action{FailError: action(strings.TrimRight(policy, "\"`"))}
		return p
	}
	for part := range strings.SplitSeq(cell, ", ") {
		word, who, _ := strings.Cut(part, " for ")
		a := action(word)
		reply := &sdk.Reply{Code: map[sdk.Action]int{sdk.Defer: 450, sdk.Reject: 554}[a], Text: "by " + name}
		switch who {
		case "", "both":
			p.verdict.Action, p.verdict.Reply = a, reply
		default:
			p.verdict.Recipients = append(p.verdict.Recipients, sdk.RecipientVerdict{Recipient: who + "@example.test", Action: a, Reply: reply})
		}
	}
	return p
}

// TestTableOfActions holds RULES A2 as PROTOCOL.md tells it.
func TestTableOfActions(t *testing.T) {
	for _, row := range tableOf(t, "plugin A | plugin B |") {
		for _, swapped := range []bool{false, true} {
			first, second := askerOf(t, "A", row[0]), askerOf(t, "B", row[1])
			if swapped {
				first, second = second, first
			}
			b := newBench(t, scan(&Panel{Stage: StageAntiSpam, Default: sdk.Accept, Askers: []Asker{first, second}}))
			m := b.message(t, sdk.Stranger, alice, bob)
			b.Submit(context.Background(), m)
			each := map[string]string{alice: row[2], bob: row[2]}
			if strings.Contains(row[2], ":") {
				for part := range strings.SplitSeq(row[2], "; ") {
					who, what, _ := strings.Cut(part, ": ")
					each[who+"@example.test"] = what
				}
			}
			for _, r := range m.Recipients {
				want, words, _ := strings.Cut(each[r.Address], ",")
				if r.Opinion.Action.String() != want {
					t.Errorf("%v: %s: %s, want %s", row, r.Address, r.Opinion.Action, want)
				}
				if strings.Contains(words, "the one that rejects") && r.Opinion.Reply.Text != "by A" {
					t.Errorf("%v: replies %v", row, r.Opinion.Reply)
				}
			}
		}
	}
}

// TestTableOfReplies holds RULES A3 as PROTOCOL.md tells it: each of its rows has its cases
// here, and each case its row.
func TestTableOfReplies(t *testing.T) {
	const a, j, q, x, d, r = sdk.Accept, sdk.Junk, sdk.Quarantine, sdk.Discard, sdk.Defer, sdk.Reject
	cases := map[string][][]sdk.Action{
		"all reject":               {{r}, {r, r}},
		"at least one defers":      {{d}, {d, d}, {a, d}, {r, d}, {d, q, r}, {x, d}},
		"some reject, none defers": {{a, r}, {r, j}, {r, q}, {x, r}},
		"none rejects or defers":   {{a}, {j}, {q}, {x}, {a, j, q, x}},
	}
	rows := tableOf(t, "recipients | SMTP's reply |")
	if len(rows) != len(cases) {
		t.Errorf("PROTOCOL.md has %d rows, the test %d", len(rows), len(cases))
	}
	for _, row := range rows {
		list, ok := cases[row[0]]
		if !ok {
			t.Errorf("PROTOCOL.md: no case for %q", row[0])
		}
		for _, actions := range list {
			m := message(sdk.Stranger, actions...)
			got := fold(m, mixedFor("", m.Origin))
			code := "250"
			if !got.Commits() {
				code = fmt.Sprint(got.Reply.Code)
			}
			if code[:1] != row[1][:1] || row[1] == "451" && code != "451" {
				t.Errorf("%s %v: %s, PROTOCOL.md says %s", row[0], actions, code, row[1])
			}
			if strings.Contains(row[1], "first recipient") && got.Reply.Text != m.Recipients[0].Opinion.Reply.Text {
				t.Errorf("%s %v: %v", row[0], actions, got.Reply)
			}
			for mixed, want := range map[Mixed]HopKind{MixedQuarantine: HopQuarantine, MixedBounce: HopBounce} {
				if row[0] != "some reject, none defers" {
					continue
				}
				if !strings.Contains(row[2], "`"+string(mixed)+"`") {
					t.Errorf("PROTOCOL.md does not say what %s is", mixed)
				}
				m := message(sdk.Login, actions...)
				land(m, mixed)
				for _, one := range m.Recipients {
					if one.Opinion.Action == r && (len(one.Hops) != 1 || one.Hops[0].Kind != want) {
						t.Errorf("%v mixed = %s: %v", actions, mixed, one.Hops)
					}
				}
			}
			if refused := fold(message(sdk.Stranger, actions...), MixedReject); row[0] == "some reject, none defers" && refused.Reply.Code/100 != 5 {
				t.Errorf("%v mixed = reject: %v", actions, refused.Reply)
			}
		}
	}
}

// TestDeferredAloneOnTheNextAttempt is RULES A3 (b) from one end to the other.
func TestDeferredAloneOnTheNextAttempt(t *testing.T) {
	wait := &plugin{name: "x", verdict: sdk.Verdict{Recipients: []sdk.RecipientVerdict{{Recipient: bob, Action: sdk.Defer}}}}
	b := newBench(t, scan(&Panel{Stage: StageAntiSpam, Askers: []Asker{wait}}))
	if r := b.Submit(context.Background(), b.message(t, sdk.Stranger, alice, bob)); r.Reply.Code != 451 || len(b.committed) != 0 {
		t.Fatal(r.Reply)
	}
	m := &Message{Origin: sdk.Stranger, Peer: &Peer{}, Sender: "a@example.net", Received: time.Now()}
	if reply := b.Recipient(context.Background(), m, alice, RecipientParams{}); !reply.OK() {
		t.Errorf("alice: %v", reply)
	}
	if reply := b.Recipient(context.Background(), m, bob, RecipientParams{}); reply.Code != 451 {
		t.Errorf("bob: %v", reply)
	}
}
