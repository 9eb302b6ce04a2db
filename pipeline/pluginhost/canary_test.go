package pluginhost

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/sdk"
)

func newCanaryHarness(t *testing.T, behave string, change func(*Config, *Options)) *harness {
	h := newHarness(t, "plain", func(c *Config, o *Options) {
		o.Builtins = []string{"plain", "plain2"}
		c.Canary = Canary{Builtin: "plain2", Share: 0.5, Config: map[string]any{"behave": behave}}
		if change != nil {
			change(c, o)
		}
	})
	h.ready(t)
	return h
}

func (h *harness) canaryState() CanaryState { return *h.host.States()[0].Canary }

// askMany asks about n messages with IDs of their own and counts the answers by version and the failures.
func (h *harness) askMany(t *testing.T, n int) (answers map[string]int) {
	answers = make(map[string]int)
	for i := range n {
		q := message("do: x\r\n\r\n")
		q.Envelope.ID = fmt.Sprintf("4F2K%04d", i)
		v, _, err := h.Ask(t.Context(), q)
		if err != nil {
			t.Error(err)
		}
		answers[v.Action.String()]++
	}
	return answers
}

// TestCanary: a share of the mail is answered by the second version, which has a process and a state directory of its own.
func TestCanary(t *testing.T) {
	h := newCanaryHarness(t, "", func(c *Config, _ *Options) { c.Canary.Share = 0.2 })
	versions := make(map[string]int)
	for i := range 100 {
		var first string
		for range 2 { // the same message is the same version's
			q := message("do: version\r\n\r\n")
			q.Envelope.ID = fmt.Sprintf("4F2K%04d", i)
			v, kind := h.ask(t, q)
			if kind != "" || first != "" && v.Tags["pid"] != first {
				t.Errorf("%q %v", kind, v.Tags)
			}
			first = v.Tags["pid"]
			versions[v.Tags["version"]]++
		}
	}
	if versions["2"] < 20 || versions["2"] > 70 || versions["1"]+versions["2"] != 200 {
		t.Errorf("%v, expected a fifth for version 2", versions)
	}
	if s := h.canaryState(); s.State != stateReady || s.Version != "2" || s.PID == 0 || s.Asked != uint64(versions["2"]) {
		t.Errorf("%+v", s)
	}
}

// TestCanaryFallsBack: one that crashes, hangs or decides otherwise is given up, and no message notices the first two.
func TestCanaryFallsBack(t *testing.T) {
	for behave, want := range map[string]string{"die": "it died 3 times", "wait": "failed", "junk": "drift: junk is 100.0% of them, 0.0%"} {
		t.Run(behave, func(t *testing.T) {
			t.Parallel()
			alerts := make(chan sdk.Alert, 5)
			h := newCanaryHarness(t, behave, func(c *Config, o *Options) {
				c.Timeout = units.Of(200 * time.Millisecond)
				if behave != "wait" {
					c.Timeout = units.Of(5 * time.Second)
				}
				o.Alert = func(_ string, a sdk.Alert) { alerts <- a }
			})
			n := 40
			if behave == "junk" {
				n = 600
			}
			answers := h.askMany(t, n)
			if s := h.canaryState(); s.State != "given up" || !strings.Contains(s.Why, want) {
				t.Errorf("%+v, expected %q", s, want)
			}
			if junked := answers["junk"]; (behave == "junk") != (junked == driftSamples) {
				t.Errorf("%v", answers)
			}
			if s := h.host.States()[0]; len(s.Failures) > 0 || s.Restarts > 0 || s.Suspects > 0 {
				t.Errorf("the plugin itself: %+v", s)
			}
			if len(alerts) != 1 {
				t.Errorf("%d alerts", len(alerts))
			}
		})
	}
}

func TestDrift(t *testing.T) {
	of := func(n int, junk float64, score float64) *tally {
		var t tally
		for i := range n {
			v := sdk.Verdict{Score: score + math.Sin(float64(i))}
			if float64(i) < junk*float64(n) {
				v.Action = sdk.Junk
			}
			t.add(&v)
		}
		return &t
	}
	for name, c := range map[string]struct {
		its, others *tally
		drifts      bool
	}{
		"same":              {of(1000, 0.1, 1), of(1000, 0.1, 1), false},
		"few":               {of(100, 0.9, 9), of(1000, 0.1, 1), false},
		"others few":        {of(1000, 0.9, 9), of(100, 0.1, 1), false},
		"junk":              {of(1000, 0.2, 1), of(1000, 0.1, 1), true},
		"a little":          {of(100000, 0.12, 1), of(100000, 0.1, 1), false}, // certain, and too small to matter
		"uncertain":         {of(200, 0.16, 1), of(200, 0.1, 1), false},
		"score":             {of(1000, 0.1, 2), of(1000, 0.1, 1), true},
		"score, a little":   {of(100000, 0.1, 1.3), of(100000, 0.1, 1), false},
		"after many halves": {of(50000, 0.3, 1), of(50000, 0.1, 1), true},
	} {
		if why := drift(c.its, c.others); (why != "") != c.drifts {
			t.Errorf("%s: %q", name, why)
		}
	}
}

// TestCanaryAnswersForItself: whoever asked is told what the canary that answered says about itself, and a canary is not asked in a phase
// that it does not have.
func TestCanaryAnswersForItself(t *testing.T) {
	h := newHarness(t, "all", func(c *Config, o *Options) {
		o.Builtins = []string{"all", "plain2"}
		c.Canary = Canary{Builtin: "plain2", Share: 0.5}
	})
	h.ready(t)
	counts := make(map[string]int)
	for i := range 40 {
		for _, phase := range []sdk.Phase{sdk.PhaseSender, sdk.PhaseContent} {
			q := message("do: version\r\n\r\n")
			q.Phase, q.Envelope.ID = phase, fmt.Sprintf("4F2K%04d", i)
			v, kind := h.ask(t, q)
			by := "1"
			if q.By != nil {
				by = q.By.Version
			}
			if kind != "" || phase == sdk.PhaseContent && v.Tags["version"] != by || phase == sdk.PhaseSender && (by != "1" || v.Tags["phase"] != "sender") {
				t.Errorf("%s: %q, %v by version %s", phase, kind, v.Tags, by)
			}
			counts[string(phase)+" "+by]++
		}
	}
	if counts["sender 1"] != 40 || counts["content 2"] < 10 || counts["content 1"] < 10 {
		t.Errorf("%v", counts)
	}
	if s := h.canaryState(); s.State != stateReady || s.Failed > 0 {
		t.Errorf("%+v", s)
	}
}

// TestCanaryReload: a canary that must be alone with its state hands over to its successor, though the plugin itself may overlap; and it
// comes back if the reload is undone. Nobody's question fails meanwhile.
func TestCanaryReload(t *testing.T) {
	h := newReloadHarness(t, "overlap", func(c *Config, _ *Options) {
		c.Canary = Canary{Builtin: "plain2", Share: 0.5, Config: map[string]any{"hold": true}}
	})
	var stop atomic.Bool
	var askers sync.WaitGroup
	for i := range 4 {
		askers.Go(func() {
			for n := 0; !stop.Load(); n++ {
				q := message("do: version\r\n\r\n")
				q.Envelope.ID = fmt.Sprintf("4F2K%d.%d", i, n)
				if _, _, err := h.host.Plugin("t").Ask(t.Context(), q); err != nil {
					t.Error(err)
				}
			}
		})
	}
	defer func() {
		stop.Store(true)
		askers.Wait()
	}()
	reload := func(share float64, settings map[string]any) error {
		next := h.host.Plugin("t").Config()
		next.Canary.Share, next.Canary.Config = share, settings
		return h.host.Reload(t.Context(), []Config{next})
	}
	pid := h.canaryState().PID
	if err := reload(0.4, map[string]any{"hold": true}); err != nil {
		t.Errorf("a new share: %v", err)
	}
	s := h.canaryState()
	if s.State != stateReady || s.PID == pid || alive(pid) {
		t.Errorf("%+v, the old one was %d", s, pid)
	}
	if err := reload(0.3, map[string]any{"hold": true, "bad": true}); err == nil {
		t.Error("a bad canary is in force")
	}
	eventually(t, "the canary is back", 3*time.Second, func() bool {
		back := h.canaryState()
		return back.State == stateReady && back.PID != s.PID && back.Share == 0.4 && back.Failed == 0
	})
	asked := h.canaryState().Asked
	eventually(t, "the canary is asked", 3*time.Second, func() bool { return h.canaryState().Asked > asked })
	if err := reload(0.2, map[string]any{"hold": true}); err != nil {
		t.Errorf("after a bad one: %v", err)
	}
}
