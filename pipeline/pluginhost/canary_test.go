package pluginhost

import (
	"fmt"
	"math"
	"strings"
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
