package sdktest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

type echo struct{ want sdk.Want }

func (e echo) Describe() sdk.Manifest {
	return sdk.Manifest{Name: "echo", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent}, Want: e.want}
}

func (e echo) Configure(_ context.Context, s sdk.Settings) error {
	if s.StateDir == "" {
		return errors.New("no state directory")
	}
	return sdk.NoSettings(s)
}

func (e echo) Ask(_ context.Context, m *sdk.Message) (sdk.Verdict, error) {
	if m.Sender == "broken" {
		return sdk.Verdict{}, errors.New("broken")
	}
	n, err := io.Copy(io.Discard, m.Content)
	return sdk.Verdict{Score: float64(n), Tags: map[string]string{"to": m.Recipients[0].Address}}, err
}

// every does what the phase asks for; it counts what it hears in its state directory.
type every struct {
	settings sdk.Settings
	changes  []sdk.ChangeKind
	now, top atomic.Int32
	closed   atomic.Int32
}

func (e *every) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "every", Version: "1", Want: sdk.WantAll, MaxContent: 20, Parsed: true, MaxLanes: 3, Changes: e.changes,
		Phases: []sdk.Phase{sdk.PhaseConnect, sdk.PhaseSender, sdk.PhaseRecipient, sdk.PhaseContent, sdk.PhaseRoute},
		Events: []sdk.EventKind{sdk.EventLearnSpam, sdk.EventDelivered, sdk.EventCommand},
	}
}

func (e *every) Configure(_ context.Context, s sdk.Settings) error {
	e.settings = s
	return nil
}

func (e *every) Close() error {
	e.closed.Add(1)
	return nil
}

func (e *every) Ask(ctx context.Context, m *sdk.Message) (sdk.Verdict, error) {
	e.top.Store(max(e.top.Load(), e.now.Add(1)))
	defer e.now.Add(-1)
	switch m.Phase {
	case sdk.PhaseConnect:
		return sdk.Verdict{Tags: map[string]string{"addr": m.ClientAddr}}, nil
	case sdk.PhaseSender:
		if m.Sender == "wait" {
			<-ctx.Done()
			return sdk.Verdict{}, ctx.Err()
		}
		if m.Sender == "deaf" {
			time.Sleep(1500 * time.Millisecond)
		}
		time.Sleep(5 * time.Millisecond)
		return sdk.Verdict{Tags: map[string]string{"from": m.Sender}}, nil
	case sdk.PhaseRoute:
		return sdk.Verdict{Route: &sdk.Route{To: []string{"b@" + m.Recipients[0].Hops[0]}}}, nil
	case sdk.PhaseContent:
		octets, err := io.ReadAll(m.Content)
		if err != nil {
			return sdk.Verdict{}, err
		}
		parsed, err := m.Parsed()
		if err != nil {
			return sdk.Verdict{}, err
		}
		body := io.MultiReader(strings.NewReader("EXTERNAL\r\n"), bytes.NewReader(octets))
		return sdk.Verdict{Tags: map[string]string{"urls": strings.Join(parsed.URLs, " ")}, Changes: []sdk.Change{
			{Kind: sdk.ReplaceBody, Body: body}, {Kind: sdk.AddRecipient, Address: "b@example.test"},
		}}, nil
	case sdk.PhaseEvent:
		if m.Event.Kind == sdk.EventCommand {
			return sdk.Verdict{Reasons: []sdk.Reason{{Text: strings.Join(m.Event.Words, " ")}}}, nil
		}
		n, err := io.Copy(io.Discard, m.Content)
		if err != nil {
			return sdk.Verdict{}, err
		}
		name := filepath.Join(e.settings.StateDir, "learned")
		before, _ := os.ReadFile(name)
		return sdk.Verdict{Score: float64(n)}, os.WriteFile(name, append(before, m.Event.Kind.String()...), 0o600)
	}
	return sdk.Verdict{Action: sdk.Defer}, nil
}

func TestPhases(t *testing.T) {
	e := &every{changes: []sdk.ChangeKind{sdk.ReplaceBody, sdk.AddRecipient}}
	p := Start(t, e, nil)
	if e.settings.Lanes != 3 || e.settings.Dir != p.Dir || p.Dir == "" || e.settings.StateDir != p.StateDir {
		t.Errorf("%+v", e.settings)
	}
	mail := Mail("A: b\n\nhello, this is more than it wants\n")
	mail.Parsed = Parsed(&sdk.Parsed{URLs: []string{"http://a/"}})
	for _, c := range []struct {
		m    *sdk.Message
		want sdk.Verdict
	}{
		{Connect("192.0.2.9"), sdk.Verdict{Tags: map[string]string{"addr": "192.0.2.9"}}},
		{Sender("a@example.org"), sdk.Verdict{Tags: map[string]string{"from": "a@example.org"}}},
		{Recipient("r@example.test"), sdk.Verdict{Action: sdk.Defer}},
		{Command("release", "x"), sdk.Verdict{Reasons: []sdk.Reason{{Text: "release x"}}}},
		{Event(sdk.EventDelivered, "r@example.test"), sdk.Verdict{}},
	} {
		if v, err := p.Ask(c.m); err != nil || !reflect.DeepEqual(v, c.want) {
			t.Errorf("%s: %+v %v", c.m.Phase, v, err)
		}
	}
	v, err := p.Ask(mail)
	if err != nil || v.Tags["urls"] != "http://a/" || len(v.Changes) != 2 {
		t.Fatalf("%+v %v", v, err)
	}
	if body, err := io.ReadAll(v.Changes[0].Body); string(body) != "EXTERNAL\r\nA: b\r\n\r\nhello, this " || err != nil {
		t.Errorf("%q %v", body, err)
	}
	route := Route("A: b\n\n", "x@remote.example")
	route.Parsed = Parsed(&sdk.Parsed{})
	if v, err := p.Ask(route); err != nil || v.Route == nil || v.Route.To[0] != "b@smtp remote.example" {
		t.Errorf("%+v %v", v, err)
	}
	learn := Learn(sdk.EventLearnSpam, "A: b\n\n")
	learn.Parsed = Parsed(&sdk.Parsed{})
	if v, err := p.Ask(learn); err != nil || v.Score != 8 {
		t.Errorf("%+v %v", v, err)
	}
	if _, err := p.Ask(Mail("A: b\n\n")); err == nil || !strings.Contains(err.Error(), "set Message.Parsed") {
		t.Errorf("%v", err)
	}
	again := &every{}
	p = p.Restart(again, nil)
	if learned, err := os.ReadFile(filepath.Join(p.StateDir, "learned")); string(learned) != "deliveredlearn-spam" || err != nil {
		t.Errorf("%q %v", learned, err)
	}
	if e.closed.Load() != 1 || again.closed.Load() != 0 {
		t.Error("the first one was not closed, or the second was")
	}
}

func TestTogether(t *testing.T) {
	e := &every{}
	p := Start(t, e, nil)
	var questions []*sdk.Message
	for i := range 20 {
		questions = append(questions, Sender(strconv.Itoa(i)))
	}
	for i, a := range p.AskAll(questions...) {
		if a.Err != nil || a.Verdict.Tags["from"] != strconv.Itoa(i) {
			t.Errorf("%d: %+v", i, a)
		}
	}
	if e.top.Load() != 3 {
		t.Errorf("%d questions at once, expected 3", e.top.Load())
	}
}

func TestCancel(t *testing.T) {
	p := Start(t, &every{}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	// The plugin's own clock and the Cancel come at about the same time.
	if _, err := p.AskContext(ctx, Sender("wait")); err == nil || !strings.Contains(err.Error(), "deadline") && !strings.Contains(err.Error(), "canceled") {
		t.Errorf("%v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := p.AskContext(ctx, Sender("wait")); err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("%v", err)
	}
}

// TestBreach: faults of the plugin fail the author's test.
func TestBreach(t *testing.T) {
	spy := &spy{TB: t}
	p := Start(spy, &every{}, nil)
	mail := Mail("A: b\n\n")
	mail.Parsed = Parsed(&sdk.Parsed{})
	if _, err := p.Ask(mail); err == nil || !strings.Contains(err.Error(), "does not announce") || spy.failed.Load() != 1 {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.AskContext(ctx, Sender("deaf")); err == nil || !errors.Is(err, context.DeadlineExceeded) || spy.failed.Load() != 2 {
		t.Errorf("%v", err)
	}
}

// spy counts failures.
type spy struct {
	testing.TB
	failed atomic.Int32
}

func (s *spy) Errorf(string, ...any) { s.failed.Add(1) }

func TestAsk(t *testing.T) {
	text := "A: b\n\n" + strings.Repeat("0123456789\n", 100000)
	for want, octets := range map[sdk.Want]float64{sdk.WantNone: 0, sdk.WantHeader: 8, sdk.WantAll: 8 + 1200000} {
		p := Start(t, echo{want}, nil)
		v, err := p.Ask(Mail(text))
		if err != nil || v.Score != octets || v.Tags["to"] != "alice@example.test" || p.Manifest.Want != want {
			t.Errorf("%s: %+v %v, expected %v octets", want, v, err, octets)
		}
		broken := Mail(text)
		broken.Sender = "broken"
		if _, err := p.Ask(broken); err == nil || err.Error() != "broken" {
			t.Errorf("%v", err)
		}
	}
}

func TestConfigure(t *testing.T) {
	err := Configure(t, echo{sdk.WantAll}, map[string]any{"b": int64(1), "a": true})
	if err == nil || !strings.Contains(err.Error(), "a: unknown key") || !strings.Contains(err.Error(), "b: unknown key") {
		t.Errorf("%v", err)
	}
}
