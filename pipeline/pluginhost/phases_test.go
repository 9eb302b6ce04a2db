package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/sdk"
)

func TestPhases(t *testing.T) {
	h := newHarness(t, "all", nil)
	h.ready(t)
	for _, phase := range []sdk.Phase{sdk.PhaseConnect, sdk.PhaseSender, sdk.PhaseRecipient, sdk.PhaseRoute} {
		q := message("x")
		q.Phase = phase
		if phase != sdk.PhaseRoute {
			q.Open, q.Size = nil, 0
		}
		if v, kind := h.ask(t, q); kind != "" || v.Tags["phase"] != string(phase) || (v.Route != nil) != (phase == sdk.PhaseRoute) {
			t.Errorf("%s: %q %+v", phase, kind, v)
		}
		q.Envelope.Sender = "route@example.org" // it answers with a Route then
		if _, kind := h.ask(t, q); (kind == Invalid) != (phase != sdk.PhaseRoute) {
			t.Errorf("%s: a route is %q", phase, kind)
		}
	}
	if v, kind := h.ask(t, messageOf(lines(50000))); kind != "" || v.Score != 1 {
		t.Errorf("max_content: %q %+v", kind, v)
	}
}

// TestParsed: the shared parse is made for who wants it, once an attempt.
func TestParsed(t *testing.T) {
	h := newHarness(t, "all", nil)
	h.ready(t)
	for _, size := range []int{0, 100 << 10} {
		calls := 0
		q := message("do: parsed\r\n\r\n" + strings.Repeat("x", size))
		q.Parsed = func() (*sdk.Parsed, error) {
			calls++
			return &sdk.Parsed{Parts: []sdk.Part{{Type: "text/x-test", Text: strings.Repeat("ä", size)}}}, nil
		}
		if v, kind := h.ask(t, q); kind != "" || v.Tags["type"] != "text/x-test" || calls != 1 {
			t.Errorf("%d: %q %+v after %d calls", size, kind, v, calls)
		}
		q.Parsed = func() (*sdk.Parsed, error) { return nil, errors.New("too hard") }
		if _, _, err := h.Ask(t.Context(), q); kindOf(err) != Error || !strings.Contains(err.Error(), "too hard") {
			t.Errorf("%d: %v", size, err)
		}
	}
	q := message("do: x\r\n\r\n")
	other := newHarness(t, "plain", nil)
	other.ready(t)
	q.Parsed = func() (*sdk.Parsed, error) { t.Error("parsed for nobody"); return nil, io.EOF }
	other.ask(t, q)
}

// limited refuses what is more than it has left.
type limited struct {
	bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, errors.New("too large")
	}
	return l.Buffer.Write(p)
}

func TestNewBody(t *testing.T) {
	h := newHarness(t, "all", nil)
	h.ready(t)
	into := &limited{left: 4 << 20}
	q := message("do: body abc\r\n\r\n")
	q.Body = func() (io.Writer, error) { return into, nil }
	if v, kind := h.ask(t, q); kind != "" || len(v.Changes) != 1 || into.String() != strings.Repeat("abc", 1<<20) {
		t.Errorf("%q %+v, %d octets", kind, v, into.Len())
	}
	empty := message("do: body-empty\r\n\r\n")
	empty.Body = func() (io.Writer, error) { return &limited{}, nil }
	if v, kind := h.ask(t, empty); kind != "" || len(v.Changes) != 1 {
		t.Errorf("an empty body: %q %+v", kind, v)
	}
	q.Body = func() (io.Writer, error) { return &limited{left: 1 << 20}, nil }
	if _, _, err := h.Ask(t.Context(), q); kindOf(err) != Invalid || !strings.Contains(err.Error(), "too large") {
		t.Errorf("a body over the limit: %v", err)
	}
	q.Body = func() (io.Writer, error) { return nil, errors.New("no room") }
	if _, _, err := h.Ask(t.Context(), q); kindOf(err) != Invalid || !strings.Contains(err.Error(), "no room") {
		t.Errorf("a body that nobody takes: %v", err)
	}
	q.Body = nil
	if _, kind := h.ask(t, q); kind != Invalid {
		t.Errorf("a body where none can be: %q", kind)
	}
	if v, kind := h.ask(t, message("do: x\r\n\r\n")); kind != "" || v.Score != 1 {
		t.Errorf("afterwards %q", kind)
	}
}

func TestBodyAgrees(t *testing.T) {
	replace := []sdk.Change{{Kind: sdk.ReplaceBody}}
	for name, c := range map[string]struct {
		frames  int
		allowed bool
		v       sdk.Verdict
		ok      bool
	}{
		"neither":             {0, true, sdk.Verdict{}, true},
		"both":                {1, true, sdk.Verdict{Changes: replace}, true},
		"for one":             {1, true, sdk.Verdict{Recipients: []sdk.RecipientVerdict{{Changes: replace}}}, true},
		"frames alone":        {1, true, sdk.Verdict{}, false},
		"change alone":        {0, true, sdk.Verdict{Changes: replace}, false},
		"not in the manifest": {0, false, sdk.Verdict{Changes: replace}, true}, // the core refuses the change
	} {
		b := &newBody{allowed: c.allowed, frames: c.frames}
		if err := b.agrees(&c.v); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckVerdict(t *testing.T) {
	alice := func(c sdk.Change) sdk.Verdict {
		return sdk.Verdict{Recipients: []sdk.RecipientVerdict{{Recipient: "alice@example.test", Changes: []sdk.Change{c}}}}
	}
	all := func(c ...sdk.Change) sdk.Verdict { return sdk.Verdict{Changes: c} }
	for i, c := range []struct {
		phase sdk.Phase
		v     sdk.Verdict
		ok    bool
	}{
		{"", all(sdk.Change{Kind: sdk.ReplaceBody}), true},
		{sdk.PhaseRoute, all(sdk.Change{Kind: sdk.ReplaceBody}), false},
		{"", all(sdk.Change{Kind: sdk.AddRecipient, Address: "a@b"}), true},
		{"", all(sdk.Change{Kind: sdk.AddRecipient, Address: "a@b>"}), false},
		{"", all(sdk.Change{Kind: sdk.AddRecipient, Address: "a@b\r\n"}), false},
		{"", all(sdk.Change{Kind: sdk.AddRecipient}), false},
		{"", all(sdk.Change{Kind: sdk.RemoveRecipient, Address: "bob@example.test"}), true},
		{"", all(sdk.Change{Kind: sdk.RemoveRecipient, Address: "eve@example.test"}), false},
		{"", all(sdk.Change{Kind: sdk.ChangeSender}), true},
		{"", all(sdk.Change{Kind: sdk.ChangeSender, Address: "x"}), false},
		{"", alice(sdk.Change{Kind: sdk.ChangeSender, Address: "a@b"}), false},
		{"", alice(sdk.Change{Kind: sdk.ReplaceBody}), true},
		{"", all(make([]sdk.Change, maxChanges+1)...), false},
		{"", sdk.Verdict{Route: &sdk.Route{To: []string{"a@b"}}}, false},
		{sdk.PhaseRoute, sdk.Verdict{Route: &sdk.Route{To: []string{"a@b"}}}, true},
		{sdk.PhaseRoute, sdk.Verdict{Route: &sdk.Route{To: []string{"nobody"}}}, false},
		{sdk.PhaseRoute, sdk.Verdict{Route: &sdk.Route{To: make([]string, maxRoute+1)}}, false},
		{"", sdk.Verdict{Alerts: []sdk.Alert{{Key: "account a@b", Text: "x"}}}, true},
		{"", sdk.Verdict{Alerts: []sdk.Alert{{Text: "x"}}}, false},
		{"", sdk.Verdict{Alerts: []sdk.Alert{{Key: "k", Text: "a\nb"}}}, false},
		{"", sdk.Verdict{Alerts: make([]sdk.Alert, maxAlerts+1)}, false},
	} {
		q := message("x")
		q.Phase = c.phase
		if err := checkVerdict(&c.v, q); (err == nil) != c.ok {
			t.Errorf("%d: %v", i, err)
		}
	}
}

func event(kind sdk.EventKind, text string, words ...string) *Question {
	q := message("learn me")
	q.Phase, q.Event = sdk.PhaseEvent, &sdk.Event{Kind: kind, Text: text, Words: words, At: time.Now()}
	return q
}

// TestEvents: told in order, beside the questions, and an administrator's command is answered.
func TestEvents(t *testing.T) {
	h := newHarness(t, "all", func(c *Config, _ *Options) { c.Lanes = 1 })
	for range 20 { // before it has started, too
		h.Tell(event(sdk.EventDelivered, ""))
	}
	h.ready(t)
	h.Tell(event(sdk.EventBounced, "")) // not in its manifest
	eventually(t, "all is told", 3*time.Second, func() bool { return h.host.States()[0].Told == 20 })
	var busy sync.WaitGroup
	busy.Go(func() { h.ask(t, message("do: sleep 300ms\r\n\r\n")) })
	time.Sleep(50 * time.Millisecond)
	v, kind := h.ask(t, event(sdk.EventCommand, "", "count"))
	if kind != "" || v.Reasons[0].Text != "20" {
		t.Errorf("%q %+v", kind, v)
	}
	busy.Wait()
	if v, kind := h.ask(t, event(sdk.EventLearnSpam, "")); kind != "" || v.Score != 8 {
		t.Errorf("learn: %q %+v", kind, v)
	}
	if _, kind := h.ask(t, event(sdk.EventBounced, "")); kind != Error {
		t.Errorf("an event that it does not take: %q", kind)
	}
	// One that dies of an event is started again; content that kills it twice is poison.
	for i, want := range []Kind{Crash, Crash, Poison} {
		q := event(sdk.EventLearnSpam, "crash")
		if _, kind := h.ask(t, q); kind != want {
			t.Errorf("%d: %q, expected %q", i, kind, want)
		}
		h.ask(t, event(sdk.EventCommand, "", "count"))
	}
}

// TestEventsAreBounded: the oldest are dropped, and counted.
func TestEventsAreBounded(t *testing.T) {
	h := newHarness(t, "silent", func(_ *Config, o *Options) { o.StartTimeout = 2 * time.Second })
	for i := range maxEvents + 500 {
		h.Tell(event(sdk.EventDelivered, fmt.Sprint(i)))
	}
	if s := h.host.States()[0]; s.Waiting != maxEvents || s.Dropped != 500 {
		t.Errorf("%+v", s)
	}
	if one, _ := h.events.next(); one.question.Event.Text != "500" {
		t.Errorf("the oldest is %q", one.question.Event.Text)
	}
	for range 100 {
		q := event(sdk.EventDelivered, strings.Repeat("x", 1<<20))
		h.Tell(q)
	}
	if s := h.host.States()[0]; s.Waiting > 64 || h.events.octets > maxEventOctets {
		t.Errorf("%d wait, with %d octets", s.Waiting, h.events.octets)
	}
}

// TestBreaker: a scanner that always times out costs its time-out a few times, then nobody waits (DRILLS E6.2, Y2K22), and it
// is asked again by itself once it answers.
func TestBreaker(t *testing.T) {
	alerts := make(chan sdk.Alert, 10)
	h := newHarness(t, "all", func(c *Config, o *Options) {
		c.Timeout, c.BreakerFailures, c.BreakerWait = units.Of(100*time.Millisecond), 4, units.Of(time.Second)
		o.Alert = func(_ string, a sdk.Alert) { alerts <- a }
	})
	h.ready(t)
	for range 4 {
		if _, kind := h.ask(t, message("do: wait\r\n\r\n")); kind != Timeout {
			t.Errorf("%q", kind)
		}
	}
	start := time.Now()
	for range 100 {
		if _, kind := h.ask(t, message("do: wait\r\n\r\n")); kind != Timeout {
			t.Errorf("%q", kind)
		}
	}
	if took := time.Since(start); took > 50*time.Millisecond {
		t.Errorf("100 questions took %s", took)
	}
	if s := h.host.States()[0]; s.Breaker != "open" || s.Skipped != 100 || len(s.Phases) != 1 || s.Phases[0] != "content" {
		t.Errorf("%+v", s)
	}
	select {
	case a := <-alerts:
		t.Log(a)
	default:
		t.Error("no alert")
	}
	q := message("x")
	q.Phase, q.Open = sdk.PhaseConnect, nil
	if _, kind := h.ask(t, q); kind != "" {
		t.Errorf("another phase: %q", kind)
	}
	eventually(t, "it is asked again", 3*time.Second, func() bool {
		_, _, err := h.Ask(context.Background(), message("do: x\r\n\r\n"))
		return err == nil
	})
	if s := h.host.States()[0]; s.Breaker != "closed" {
		t.Errorf("%+v", s)
	}
	if len(alerts) > 0 {
		t.Error("more than one alert")
	}
}

// TestBreakerCounts: what is not the plugin's fault does not count, nor a burst; off is off.
func TestBreakerCounts(t *testing.T) {
	now := time.Now()
	failure := &Failure{Error, errors.New("x")}
	b := &breaker{limit: 3, longest: 4 * time.Second, span: time.Second}
	for range 10 {
		b.done(now, now, false, false, failure)
		b.done(now, now, false, true, failure) // all in one moment
	}
	if b.open {
		t.Error("opened by a burst, or by what does not count")
	}
	now = now.Add(time.Second)
	if opened, _ := b.done(now, now, false, true, failure); !opened {
		t.Error("not opened")
	}
	for _, wait := range []time.Duration{1, 2, 4, 4} {
		if _, err := b.allow(now.Add(wait*time.Second - 1)); kindOf(err) != Error {
			t.Errorf("before %ds: %v", wait, err)
		}
		now = now.Add(wait * time.Second)
		if probe, err := b.allow(now); !probe || err != nil {
			t.Errorf("after %ds: %v %v", wait, probe, err)
		}
		if _, err := b.allow(now); err == nil {
			t.Error("two probes at a time")
		}
		b.done(now, now, true, true, failure)
	}
	if _, closed := b.done(now, now, false, false, nil); !closed || b.open {
		t.Error("not closed by an answer")
	}
	off := &breaker{}
	for range 1000 {
		off.done(now, now.Add(time.Hour), false, true, failure)
	}
	if off.open {
		t.Error("off is on")
	}
}

// TestRawBodies: new bodies of plugins that do not keep to the contract. What is written goes to one writer at a time, and nothing
// after Ask has returned.
func TestRawBodies(t *testing.T) {
	for name, want := range map[string]Kind{
		"raw-body-alone": Invalid, "raw-body-none": Invalid, "raw-body-huge": Invalid, "raw-body-endless": Timeout, "raw-body-late": Invalid,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, name, func(c *Config, _ *Options) { c.Timeout, c.Lanes = units.Of(500*time.Millisecond), 2 })
			h.ready(t)
			for range 2 {
				into := &limited{left: 100 << 10} // under the race detector also: nobody writes later
				q := message("x")
				q.Body = func() (io.Writer, error) { return into, nil }
				if _, kind := h.ask(t, q); kind != want {
					t.Errorf("%q, expected %q", kind, want)
				}
				into.Reset()
			}
		})
	}
}

// TestPartial: DRILLS E6.1: one that reads a part of the message and exits convicts that message alone.
func TestPartial(t *testing.T) {
	h := newHarness(t, "raw-partial", func(c *Config, _ *Options) { c.Timeout = units.Of(3 * time.Second) })
	h.ready(t)
	if _, kind := h.ask(t, messageOf(lines(2<<20))); kind != Crash { // it dies on the control question too: it is broken
		t.Errorf("%q, expected crash", kind)
	}
}
