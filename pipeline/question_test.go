package pipeline

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
)

// asks is an Asker that calls a function.
type asks struct {
	plugin
	manifest sdk.Manifest
	ask      func(q *Question) (sdk.Verdict, error)
}

func (a *asks) Manifest() sdk.Manifest {
	m := a.manifest
	m.Name = a.name
	return m
}

func (a *asks) Ask(_ context.Context, q *Question) (sdk.Verdict, error) { return a.ask(q) }

// TestParsedOnce: the shared parse is made once for a version, by whoever asks first, and
// of the version that the stage sees (RULES C7); a stage before that changed it gets another.
func TestParsedOnce(t *testing.T) {
	var made atomic.Int64
	parse := func(r io.ReaderAt, size int64) *sdk.Parsed {
		made.Add(1)
		text, _ := io.ReadAll(io.NewSectionReader(r, 0, size))
		name, _, _ := strings.Cut(string(text), ":")
		return &sdk.Parsed{Parts: []sdk.Part{{Name: name}}}
	}
	var names []string
	ask := func(q *Question) (sdk.Verdict, error) {
		parsed, err := q.Parsed()
		if err != nil {
			return sdk.Verdict{}, err
		}
		return sdk.Verdict{Tags: map[string]string{"name": parsed.Parts[0].Name}, Changes: []sdk.Change{{Kind: sdk.AddField, Name: "X-New", Value: "1"}}}, nil
	}
	panel := func(stage string) Stage {
		var list []Asker
		for i := range 5 {
			list = append(list, &asks{plugin: plugin{name: fmt.Sprint(i)}, manifest: sdk.Manifest{Changes: []sdk.ChangeKind{sdk.AddField}}, ask: ask})
		}
		p := &Panel{Stage: stage, Askers: list}
		return stageFunc(func(ctx context.Context, m *Message) error {
			p.Settle(m, p.Ask(ctx, m))
			names = append(names, m.Tags["name"])
			return nil
		})
	}
	b := newBench(t, panel(StageAntiSpam), panel(StageAntiVirus))
	b.Parse = parse
	if r := b.Submit(context.Background(), b.message(t, sdk.Stranger, alice, bob)); !r.Committed {
		t.Fatal(r.Reply)
	}
	if made.Load() != 2 || !slices.Equal(names, []string{"Subject", "X-New"}) {
		t.Errorf("%d parses, of %v", made.Load(), names)
	}
}

// TestParserThatPanicsIsAFailure: over what a stranger wrote; not the end of the session.
func TestParserThatPanicsIsAFailure(t *testing.T) {
	x := &asks{plugin: plugin{name: "x"}, ask: func(q *Question) (sdk.Verdict, error) {
		_, err := q.Parsed()
		return sdk.Verdict{}, err
	}}
	b := newBench(t, scan(&Panel{Stage: StageAntiVirus, Default: sdk.Defer, Askers: []Asker{x, x}}))
	b.Parse = func(io.ReaderAt, int64) *sdk.Parsed { panic("index out of range") }
	if r := b.Submit(context.Background(), b.message(t, sdk.Stranger, alice)); r.Reply.Code != 451 {
		t.Error(r.Reply)
	}
}

// TestOnlyWhoHasThePhaseIsAsked: a plugin of connect in the list is not asked about content, and
// one that has never started is, so that its failure counts.
func TestOnlyWhoHasThePhaseIsAsked(t *testing.T) {
	for _, c := range []struct {
		manifest sdk.Manifest
		phases   string
	}{
		{sdk.Manifest{}, "content route"},
		{sdk.Manifest{Phases: []sdk.Phase{sdk.PhaseConnect}}, "connect"},
		{sdk.Manifest{Phases: []sdk.Phase{sdk.PhaseSender, sdk.PhaseContent}}, "sender content"},
		{sdk.Manifest{Phases: []sdk.Phase{sdk.PhaseRoute}}, "route"},
		{sdk.Manifest{Events: []sdk.EventKind{sdk.EventBounced}}, ""},
	} {
		var got []string
		for _, phase := range []sdk.Phase{sdk.PhaseConnect, sdk.PhaseSender, sdk.PhaseRecipient, sdk.PhaseContent, sdk.PhaseRoute} {
			if has(c.manifest, phase) {
				got = append(got, string(phase))
			}
		}
		if strings.Join(got, " ") != c.phases {
			t.Errorf("%+v: asked in %v", c.manifest, got)
		}
	}
	gate := &early{plugin: plugin{name: "gate"}, phases: []sdk.Phase{sdk.PhaseConnect}}
	p := &Panel{Stage: StageAntiSpam, Askers: []Asker{gate, &plugin{name: "x"}}}
	if answers := p.Ask(context.Background(), asked(t, alice)); len(answers) != 1 || gate.asked != 0 {
		t.Errorf("%d answers", len(answers))
	}
}

// TestWhatPluginsSeeOfTheEnvelope: the hops in route alone, the results of authentication as they
// are, the score that all recipients of the question have.
func TestWhatPluginsSeeOfTheEnvelope(t *testing.T) {
	m := asked(t, alice, bob)
	m.Auth = &Auth{SPF: "pass", SPFDomain: "example.net", DKIM: "pass", DKIMDomains: []string{"a.test", "b.test"}, Signatures: []string{"a.test/s/QUJD", "b.test/t/REVG"}, Named: "none", DMARC: "fail", DMARCDomain: "c.test"}
	m.Tags = map[string]string{"spf": "fail"} // of a plugin
	m.Score, m.Recipients[0].Score, m.Recipients[1].Score = 1, 5, 2
	m.Recipients[0].Hops = []Hop{{Kind: HopMailbox, Address: "alice@example.test"}, {Kind: HopDiscard}}
	m.Recipients[0].Params = RecipientParams{Notify: []string{"FAILURE"}, ORcpt: "rfc822;x"}
	content := questionsOf(m, sdk.PhaseContent)[0].Envelope()
	if content.Score != 3 || content.Recipients[0].Hops != nil || content.Recipients[0].ORcpt != "rfc822;x" {
		t.Errorf("content: %+v", content)
	}
	if got := fmt.Sprint(content.Auth); got != "map[dkim:pass dkim.domains:a.test b.test dkim.named:none dkim.signatures:a.test/s/QUJD b.test/t/REVG dmarc:fail dmarc.domain:c.test spf:pass spf.domain:example.net]" {
		t.Errorf("auth: %s", got)
	}
	route := questionsOf(m, sdk.PhaseRoute)[0].Envelope()
	if got := strings.Join(route.Recipients[0].Hops, "; "); got != "mailbox alice@example.test; discard" {
		t.Errorf("hops: %s", got)
	}
}

// TestRoutesOutsideOfRoute are refused, recorded and counted; in route they are the stage's to follow.
func TestRoutesOutsideOfRoute(t *testing.T) {
	v := sdk.Verdict{Action: sdk.Junk, Route: &sdk.Route{To: []string{"x@example.test"}}, Recipients: []sdk.RecipientVerdict{{Recipient: bob, Route: &sdk.Route{To: []string{"y@example.test"}}}}}
	for _, phase := range []sdk.Phase{sdk.PhaseContent, sdk.PhaseRoute} {
		seen := &counts{}
		b := newBench(t)
		b.Observer = seen
		own := v
		own.Recipients = slices.Clone(v.Recipients)
		p := &Panel{Stage: StageRoute, Phase: phase, Askers: []Asker{&plugin{name: "x", verdict: own}}}
		m := asked(t, alice, bob)
		m.via = b.Pipeline
		answers := p.Ask(context.Background(), m)
		p.Settle(m, answers)
		first, second := answers[0].For(alice), answers[0].For(bob)
		told := strings.Join(m.Trace.Events()[0].Changes, ";")
		if phase == sdk.PhaseContent {
			if first.Route != nil || second.Route != nil || told != "refused: route" || seen.plugins[0].Refused != 2 || first.Action != sdk.Junk {
				t.Errorf("%s: %+v, trace %q, counted %+v", phase, first, told, seen.plugins[0])
			}
			continue
		}
		if first.Route.To[0] != "x@example.test" || second.Route.To[0] != "y@example.test" || told != "" || seen.plugins[0].Refused != 0 {
			t.Errorf("%s: %+v, trace %q", phase, first, told)
		}
	}
}

// TestAlertsAreHeard from every phase, by name.
func TestAlertsAreHeard(t *testing.T) {
	seen := &counts{}
	b := newBench(t, scan(&Panel{Stage: StageAntiSpam, Askers: []Asker{&plugin{name: "x", verdict: sdk.Verdict{Alerts: []sdk.Alert{{Key: "k1"}, {Key: "k2"}}}}}}))
	b.Alerter = seen
	b.Submit(context.Background(), b.message(t, sdk.Stranger, alice))
	if fmt.Sprint(seen.alerts) != "[x k1 x k2]" {
		t.Errorf("%v", seen.alerts)
	}
}

// TestNoteOfAShadow: in the trace if it comes before the content, nowhere afterwards.
func TestNoteOfAShadow(t *testing.T) {
	b := newBench(t)
	var asked []*Question
	b.Early = []Asker{&asks{plugin: plugin{name: "ghost", shadow: true}, manifest: sdk.Manifest{Phases: beforeContent}, ask: func(q *Question) (sdk.Verdict, error) {
		asked = append(asked, q)
		return sdk.Verdict{Action: sdk.Reject}, nil
	}}}
	s := talk()
	if reply := b.Connect(context.Background(), s); !reply.OK() {
		t.Fatalf("obeyed: %v", reply)
	}
	m := b.messageOf(t, s, sdk.Stranger, alice)
	for _, q := range asked {
		if !q.Note(trace.Event{Stage: StageAntiSpam, Plugin: "ghost", Action: "shadow reject at " + string(q.Phase)}) {
			t.Errorf("%s: too late", q.Phase)
		}
	}
	b.Submit(context.Background(), m)
	if got := ends(m); got != "shadow reject at connect; shadow reject at sender; shadow reject at recipient" {
		t.Errorf("the trace says %s", got)
	}
	if asked[1].Note(trace.Event{}) {
		t.Error("noted after the trace was begun")
	}
}

// TestWhoHasLostItsPhaseFails: a plugin that takes part in none of the phases of a stage that names it (a new version without
// the phase, or the wrong list) is not passed over: its on_failure decides, and mail that goes on is stamped.
func TestWhoHasLostItsPhaseFails(t *testing.T) {
	connect, content, route := sdk.PhaseConnect, sdk.PhaseContent, sdk.PhaseRoute
	for _, c := range []struct {
		stage  string
		phase  sdk.Phase
		phases []sdk.Phase
		want   string
	}{
		{StageAntiVirus, content, []sdk.Phase{connect}, "failed"},
		{StageAntiVirus, content, []sdk.Phase{connect, content}, "asked"},
		{StageAntiVirus, content, []sdk.Phase{route, sdk.PhaseEvent}, "failed"},
		{StageAntiVirus, content, []sdk.Phase{sdk.PhaseEvent}, ""}, // it is told events alone
		{StageAntiSpam, content, []sdk.Phase{connect}, ""},
		{StageAntiSpam, content, []sdk.Phase{route}, "failed"},
		{StageAntiSpam, connect, []sdk.Phase{route}, ""}, // content tells
		{StageAntiSpam, connect, []sdk.Phase{connect}, "asked"},
		{StageRoute, route, []sdk.Phase{content}, "failed"},
		{StageRoute, route, nil, "asked"}, // it has never started
	} {
		one := &early{plugin: plugin{name: "one"}, phases: c.phases}
		m := asked(t, alice)
		p := &Panel{Stage: c.stage, Phase: c.phase, Askers: []Asker{one}}
		answers := p.Ask(context.Background(), m)
		got := ""
		switch {
		case len(answers) == 1 && one.asked == 1 && answers[0].Failure == nil:
			got = "asked"
		case len(answers) == 1 && one.asked == 0 && answers[0].Failure != nil && answers[0].Failure.Kind == FailError:
			got = "failed"
		case len(answers)+one.asked > 0:
			got = "both"
		}
		if got != c.want {
			t.Errorf("%s, %s, a plugin of %v: %q, expected %q", c.stage, c.phase, c.phases, got, c.want)
		}
	}
	one := &early{plugin: plugin{name: "one"}, phases: []sdk.Phase{connect}}
	b := newBench(t, staged(StageAntiVirus, one))
	m := b.message(t, sdk.Stranger, alice)
	if result := b.Submit(t.Context(), m); result.Committed || result.Reply.Code != 451 {
		t.Errorf("%+v", result)
	}
	one.policy = map[FailureKind]sdk.Action{FailError: sdk.Accept}
	m = b.message(t, sdk.Stranger, alice)
	result := b.Submit(t.Context(), m)
	if field, stamped := m.Recipients[0].Version.Get("X-Sluice-Unscanned"); !result.Committed || !stamped || !strings.Contains(string(field.Raw), "plugin=one") {
		t.Errorf("%+v, %v", result, events(m))
	}
}

// canaried is a plugin that has another version answer, with a manifest of its own.
type canaried struct {
	changer
	by sdk.Manifest
}

func (c *canaried) Ask(ctx context.Context, q *Question) (sdk.Verdict, error) {
	q.By = &c.by
	return c.changer.Ask(ctx, q)
}

// TestWhoAnswered: what a verdict may change, and which version the trace names, is a matter of the version that gave it.
func TestWhoAnswered(t *testing.T) {
	verdict := sdk.Verdict{
		Changes:    []sdk.Change{{Kind: sdk.AddField, Name: "X-New", Value: "1"}, {Kind: sdk.ReplaceBody}},
		Recipients: []sdk.RecipientVerdict{{Recipient: alice, Score: 1}},
	}
	for _, c := range []struct {
		main, its []sdk.ChangeKind
		want      string
	}{
		{nil, []sdk.ChangeKind{sdk.AddField, sdk.ReplaceBody}, "X-New: 1\r\n" + header + "new\r\n"},
		{all(), []sdk.ChangeKind{sdk.AddField}, "X-New: 1\r\n" + header},
		{all(), nil, header},
	} {
		got := make(map[string]string)
		p := &canaried{changer{plugin: plugin{name: "p", changes: c.main, verdict: verdict}, body: "new\n"}, sdk.Manifest{Name: "p", Version: "2-new", Changes: c.its}}
		b := newBench(t, staged(StageAntiVirus, p), peek(t, got))
		m := b.message(t, sdk.Stranger, alice)
		result := b.Submit(t.Context(), m)
		if !result.Committed || !strings.HasPrefix(got[alice], c.want) || strings.Contains(got[alice], "new\r\n") != strings.Contains(c.want, "new\r\n") {
			t.Errorf("%v of %v: %+v, %q", c.its, c.main, result.Reply, got)
		}
		for _, e := range m.Trace.Events() {
			if e.Plugin == "p" && e.Version != "2-new" {
				t.Errorf("the trace names version %q: %+v", e.Version, e)
			}
		}
	}
}
