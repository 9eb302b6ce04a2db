package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
)

// plugin is an Asker whose answer is fixed.
type plugin struct {
	name    string
	verdict sdk.Verdict
	err     error
	shadow  bool
	changes []sdk.ChangeKind
	policy  map[FailureKind]sdk.Action
	asked   int
}

func (p *plugin) Name() string { return p.name }
func (p *plugin) Manifest() sdk.Manifest {
	return sdk.Manifest{Name: p.name, Version: "1", Changes: p.changes}
}
func (p *plugin) Shadow() bool { return p.shadow }

func (p *plugin) Ask(context.Context, *Question) (sdk.Verdict, error) {
	p.asked++
	return p.verdict, p.err
}

func (p *plugin) OnFailure(kind FailureKind) (sdk.Action, bool) {
	a, ok := p.policy[kind]
	return a, ok
}

// asked makes a message ready for stages.
func asked(t *testing.T, recipients ...string) *Message {
	t.Helper()
	m := &Message{Origin: sdk.Stranger, Trace: &trace.Trace{}}
	m.arrived = newVersion([]byte("Subject: x\r\n\r\n"))
	for _, r := range recipients {
		m.Recipients = append(m.Recipients, &Recipient{Address: r, Version: m.arrived})
	}
	return m
}

func TestPanelPolicy(t *testing.T) {
	all := map[FailureKind]sdk.Action{FailTimeout: sdk.Junk, FailCrash: sdk.Reject}
	cases := []struct {
		kind   FailureKind
		policy map[FailureKind]sdk.Action
		want   sdk.Action
		code   int
	}{
		{FailError, nil, sdk.Defer, 451},
		{FailTimeout, all, sdk.Junk, 0},
		{FailCrash, all, sdk.Reject, 550},
		{FailInvalid, all, sdk.Defer, 451},
		{FailBusy, map[FailureKind]sdk.Action{FailBusy: sdk.Accept}, sdk.Defer, 451}, // overload never lets mail through
		{FailPoison, map[FailureKind]sdk.Action{FailPoison: sdk.Accept}, sdk.Quarantine, 0},
	}
	for _, c := range cases {
		p := &Panel{Stage: StageAntiVirus, Default: sdk.Defer}
		got := p.Policy(&Answer{Asker: &plugin{policy: c.policy}, Failure: &Failure{c.kind, errors.New("x")}})
		if got.Action != c.want || got.Reply.Code != c.code {
			t.Errorf("%s: %v %v, want %v %d", c.kind, got.Action, got.Reply, c.want, c.code)
		}
	}
}

func TestPanelAsksEverybodyAndHidesNoRefusal(t *testing.T) {
	first := &plugin{name: "first", verdict: sdk.Verdict{Action: sdk.Accept}}
	second := &plugin{name: "second", verdict: sdk.Verdict{Action: sdk.Reject, Reply: &sdk.Reply{Code: 554, Enhanced: "5.7.9", Text: "no\r\nway"}}}
	ghost := &plugin{name: "ghost", shadow: true, verdict: sdk.Verdict{Action: sdk.Discard}}
	p := &Panel{Stage: StageAntiSpam, Askers: []Asker{first, second, ghost}}
	m := asked(t, "a@example.test")
	answers := p.Ask(context.Background(), m)
	if len(answers) != 2 || first.asked+second.asked+ghost.asked != 3 {
		t.Fatalf("%d answers", len(answers))
	}
	for i := range answers {
		m.Recipients[0].Take(p.Opinion(&answers[i], answers[i].For("a@example.test")))
	}
	o := m.Recipients[0].Opinion
	if o.Action != sdk.Reject || o.Plugin != "second" || o.Reply.String() != "554 5.7.9 no??way" {
		t.Errorf("%+v", o)
	}
}

func TestPanelPerRecipient(t *testing.T) {
	p := &Panel{Stage: StageAntiSpam, Askers: []Asker{&plugin{name: "x", verdict: sdk.Verdict{
		Action: sdk.Accept, Score: 1,
		Recipients: []sdk.RecipientVerdict{{Recipient: "b@example.test", Action: sdk.Reject, Score: 2}},
	}}}}
	m := asked(t, "a@example.test", "b@example.test")
	a := p.Ask(context.Background(), m)[0]
	if v := a.For("a@example.test"); v.Action != sdk.Accept || v.Score != 1 {
		t.Errorf("a: %+v", v)
	}
	if v := a.For("b@example.test"); v.Action != sdk.Reject || v.Score != 3 {
		t.Errorf("b: %+v", v)
	}
	m.Recipients[1].Take(Opinion{Action: sdk.Reject})
	if q := questionsOf(m, sdk.PhaseContent); len(q) != 1 || !slices.Equal(q[0].Recipients, []int{0}) {
		t.Errorf("a refused recipient is asked about: %+v", q)
	}
}

func TestPanelRefusesScoresThatCannotBeAdded(t *testing.T) {
	for _, score := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		for _, v := range []sdk.Verdict{{Score: score}, {Recipients: []sdk.RecipientVerdict{{Score: score}}}} {
			p := &Panel{Askers: []Asker{&plugin{verdict: v}}}
			a := p.Ask(context.Background(), asked(t, "a@example.test"))[0]
			if a.Failure == nil || a.Failure.Kind != FailInvalid || a.Verdict.Score != 0 {
				t.Errorf("score %v: %+v", score, a)
			}
		}
	}
}

func TestSettle(t *testing.T) {
	good := sdk.Change{Kind: sdk.AddField, Name: "X-Good", Value: "1"}
	v := sdk.Verdict{Tags: map[string]string{"k": "v"}, Changes: []sdk.Change{
		good,
		{Kind: sdk.RemoveField, Name: "Subject"}, // not in the manifest
		{Kind: sdk.AddField, Name: "Authentication-Results", Value: "forged"},
		{Kind: sdk.AddField, Name: "X-Bad", Value: "a\r\nBcc: x"},
		{Kind: sdk.AddField, Name: "X-Bad", Value: "a " + strings.Repeat("b", 1000)},
	}, Recipients: []sdk.RecipientVerdict{{Recipient: "b@example.test", Changes: []sdk.Change{{Kind: sdk.AddField, Name: "X-Only-B", Value: "1"}}}}}
	p := &Panel{Stage: StageAntiSpam, Default: sdk.Accept, Askers: []Asker{
		&plugin{name: "x", verdict: v, changes: []sdk.ChangeKind{sdk.AddField}},
		&plugin{name: "broken", err: &Failure{FailTimeout, errors.New("10s")}},
	}}
	m := asked(t, "a@example.test", "b@example.test", "c@example.test")
	p.Settle(m, p.Ask(context.Background(), m))
	names := func(r int) string {
		var list []string
		for _, f := range m.Recipients[r].Version.Fields() {
			list = append(list, f.Name)
		}
		return strings.Join(list, " ")
	}
	if got := names(0); got != "X-Sluice-Unscanned X-Good Subject" {
		t.Errorf("a: %s", got)
	}
	if got := names(1); got != "X-Sluice-Unscanned X-Only-B X-Good Subject" {
		t.Errorf("b: %s", got)
	}
	if m.Recipients[0].Version != m.Recipients[2].Version {
		t.Error("recipients with equal changes do not share a version")
	}
	if m.Tags["k"] != "v" {
		t.Error("no tag")
	}
	events := m.Trace.Events()
	refused := strings.Join(events[0].Changes, ";")
	if !strings.Contains(refused, "refused: remove field Subject") || !strings.Contains(refused, "refused: add field Authentication-Results") {
		t.Errorf("the trace says %q", refused)
	}
}

func TestMoreThanSixteenVersionsIsAFailure(t *testing.T) {
	var v sdk.Verdict
	var recipients []string
	for i := range MaxVersions + 1 {
		address := string(rune('a'+i)) + "@example.test"
		recipients = append(recipients, address)
		v.Recipients = append(v.Recipients, sdk.RecipientVerdict{Recipient: address, Changes: []sdk.Change{{Kind: sdk.AddField, Name: "X-For", Value: address}}})
	}
	p := &Panel{Stage: StageAntiVirus, Default: sdk.Defer, Askers: []Asker{
		&plugin{name: "greedy", verdict: v, changes: []sdk.ChangeKind{sdk.AddField}},
		&plugin{name: "modest", verdict: sdk.Verdict{Changes: []sdk.Change{{Kind: sdk.AddField, Name: "X-Modest", Value: "1"}}}, changes: []sdk.ChangeKind{sdk.AddField}},
	}}
	m := asked(t, recipients...)
	answers := p.Ask(context.Background(), m)
	p.Settle(m, answers)
	if f := answers[0].Failure; f == nil || f.Kind != FailInvalid || p.Policy(&answers[0]).Action != sdk.Defer {
		t.Errorf("the greedy plugin has not failed: %+v", f)
	}
	if answers[1].Failure != nil {
		t.Error("the other plugin is to blame")
	}
	versions, _ := m.Versions()
	if len(versions) != 1 || versions[0].Count("X-For") != 0 || versions[0].Count("X-Modest") != 1 {
		t.Errorf("%d versions", len(versions))
	}
}

func TestHeaderThatGrowsTooMuchIsAFailure(t *testing.T) {
	var v sdk.Verdict
	for range 6 {
		v.Changes = append(v.Changes, sdk.Change{Kind: sdk.AddField, Name: "X-Long", Value: strings.Repeat("word ", 10_000)})
	}
	p := &Panel{Stage: StageAntiSpam, Default: sdk.Accept, Askers: []Asker{&plugin{name: "long", verdict: v, changes: []sdk.ChangeKind{sdk.AddField}}}}
	m := asked(t, "a@example.test")
	answers := p.Ask(context.Background(), m)
	p.Settle(m, answers)
	if answers[0].Failure == nil || m.Recipients[0].Version.Count("X-Long") != 0 || m.Recipients[0].Version.Count("X-Sluice-Unscanned") != 1 {
		t.Errorf("failure %v, header of %d octets", answers[0].Failure, m.Recipients[0].Version.HeaderSize())
	}
}

// TestEqualChangesAreTheSame: what shares a version must be equal, not only look so.
func TestEqualChangesAreTheSame(t *testing.T) {
	m := asked(t, "a@example.test", "b@example.test")
	if err := m.applyChanges([][]sdk.Change{
		{{Kind: sdk.AddField, Name: "X", Value: "a 0} {add field Y b"}},
		{{Kind: sdk.AddField, Name: "X", Value: "a"}, {Kind: sdk.AddField, Name: "Y", Value: "b"}},
	}); err != nil {
		t.Fatal(err)
	}
	if m.Recipients[0].Version == m.Recipients[1].Version {
		t.Error("different changes share a version")
	}
}

func TestFieldsOfTheCoreAreNotForPlugins(t *testing.T) {
	for _, name := range []string{"X-Sluice-Score", "x-sluice-unscanned", "Authentication-Results", "return-path"} {
		if !reserved(name) {
			t.Errorf("a plugin may write %s", name)
		}
	}
	if reserved("X-Sluic") || reserved("X-Spam-Score") {
		t.Error("too much is reserved")
	}
}

func TestValidEnhanced(t *testing.T) {
	for s, want := range map[string]bool{"5.7.1": true, "5.10.999": true, "4.7.1": false, "5.7": false, "5.7.1 x": false, "5.7.1000": false, "05.7.1": false, "": false, "5.-1.1": false} {
		if got := validEnhanced(s, 5); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
}

// TestReplyIsNotTheOpinion: a Reject with a reply that nobody may hear stays a Reject.
func TestReplyIsNotTheOpinion(t *testing.T) {
	p := &Panel{Stage: StageAntiSpam}
	a := &Answer{Asker: &plugin{name: "x"}}
	for _, c := range []struct {
		action sdk.Action
		reply  sdk.Reply
		want   string
	}{
		{sdk.Reject, sdk.Reply{Code: 250, Enhanced: "9.9.9", Text: "no\r\n250 fine"}, ReplyRefused.String()},
		{sdk.Reject, sdk.Reply{Code: 451, Text: "later"}, ReplyRefused.String()},
		{sdk.Reject, sdk.Reply{Code: 50, Text: "x"}, ReplyRefused.String()},
		{sdk.Reject, sdk.Reply{Code: 550, Enhanced: "4.7.1", Text: "no"}, "550 5.7.1 no"},
		{sdk.Reject, sdk.Reply{Code: 550, Enhanced: "5.7.1", Text: "a\r\n250 b"}, "550 5.7.1 a??250 b"},
		{sdk.Defer, sdk.Reply{Code: 550, Text: "never"}, ReplyNotNow.String()},
	} {
		o := p.Opinion(a, sdk.RecipientVerdict{Action: c.action, Reply: &c.reply})
		if o.Action != c.action || o.Reply.String() != c.want {
			t.Errorf("%v %+v: %v %s", c.action, c.reply, o.Action, o.Reply)
		}
	}
}

// halves is an Asker that can be asked in two halves.
type halves struct {
	plugin
	log  *[]string
	wait time.Duration
	err  any // a panic of its wait
}

func (h *halves) Begin(context.Context, *Question) func() (sdk.Verdict, time.Duration, error) {
	*h.log = append(*h.log, "begin "+h.name)
	return func() (sdk.Verdict, time.Duration, error) {
		*h.log = append(*h.log, "wait "+h.name)
		if h.err != nil {
			panic(h.err)
		}
		return h.verdict, h.wait, h.plugin.err
	}
}

// TestPanelBegins: all questions are put before one is waited for, answers stand in the order of the configuration, and a
// plugin that can't be asked so is asked beside the others.
func TestPanelBegins(t *testing.T) {
	var log []string
	one := &halves{plugin: plugin{name: "one", verdict: sdk.Verdict{Score: 1}}, log: &log, wait: time.Hour}
	two := &plugin{name: "two", verdict: sdk.Verdict{Score: 2}}
	three := &halves{plugin: plugin{name: "three", err: &Failure{FailBusy, errors.New("x")}}, log: &log}
	p := &Panel{Stage: StageAntiSpam, Askers: []Asker{one, two, three}}
	answers := p.Ask(context.Background(), asked(t, "a@example.test"))
	if got := strings.Join(log, ", "); got != "begin one, begin three, wait three, wait one" || len(answers) != 3 || two.asked != 1 {
		t.Fatalf("%s; %d answers", got, len(answers))
	}
	if answers[0].Verdict.Score != 1 || answers[0].Took != time.Hour || answers[1].Verdict.Score != 2 || answers[2].Failure == nil || answers[2].Failure.Kind != FailBusy {
		t.Errorf("%+v", answers)
	}
	one.err, log = "at the disco", nil
	defer func() {
		if v := fmt.Sprint(recover()); !strings.Contains(v, "ask plugin one: at the disco") || len(log) != 4 {
			t.Errorf("%s; %v", v, log)
		}
	}()
	p.Ask(context.Background(), asked(t, "a@example.test"))
	t.Error("the panic was lost")
}
