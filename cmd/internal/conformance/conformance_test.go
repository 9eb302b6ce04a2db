package conformance

import (
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/sdk/wire"
)

func runCheck(t *testing.T, name string, o Options, change func(*pluginhost.Config)) (failed []Result, sum Summary) {
	t.Helper()
	c := pluginhost.DefaultConfig()
	c.Name, c.Builtin, c.Lanes, c.Timeout = "t", name, 4, units.Of(2*time.Second)
	if !strings.HasPrefix(name, "raw-") {
		c.Config = map[string]any{"word": "x", "words": []any{"y"}}
	}
	if change != nil {
		change(&c)
	}
	var log strings.Builder
	o.Plugin, o.Dir, o.Quick, o.Limit = &c, t.TempDir(), true, 2*time.Minute
	o.Report = func(r Result) {
		Print(&log, r)
		if r.Status == Failed {
			failed = append(failed, r)
		}
	}
	sum, err := Run(t.Context(), o)
	if err != nil {
		t.Error(err)
	}
	if testing.Verbose() {
		t.Log("\n" + log.String() + sum.String())
	}
	return failed, sum
}

// TestGood: plugins without a fault pass.
func TestGood(t *testing.T) {
	for _, name := range []string{"good", "early", "empty", "all-phases", "counts", "raw-good"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if failed, sum := runCheck(t, name, Options{}, nil); len(failed) > 0 || sum.OK < 20 {
				t.Errorf("%+v", failed)
			}
		})
	}
}

// heavy are checks that take their time, which TestGood has.
func heavy(check string) bool {
	for _, word := range []string{"of 1 MB", "very", "lies about", "in the middle of a line", "without", "header alone", "every lane", "all lanes", "of one octet"} {
		if strings.Contains(check, word) {
			return true
		}
	}
	return false
}

// concerns reports whether a check has to do with what a plugin does wrong: those with a fault on a socket of their own are like others
// everywhere else.
func concerns(name, check string) bool {
	if !strings.HasPrefix(name, "raw-direct-") && !strings.HasPrefix(name, "raw-shared-") {
		return true
	}
	for _, word := range []string{"handshake", "manifest", "phase content", "direct lane", "shared connection", checkOnce, checkVerdict} {
		if strings.Contains(check, word) {
			return true
		}
	}
	return false
}

// TestFaults: each plugin with one fault fails the check that is meant for it, and no other.
func TestFaults(t *testing.T) {
	atOnce := make(chan struct{}, 4) // they mostly wait
	var all sync.WaitGroup
	for name, want := range map[string]string{
		"greets": "handshake", "silent": "handshake", "exits": "handshake", "elsewhere": "handshake", "newer": "handshake",
		"stays":            "started by a person",
		"name":             "manifest",
		"changes-manifest": "manifest stays the same",
		"picky":            "settings",
		"check-writes":     "settings, only checked",
		"check-shrugs":     "settings, only checked",
		"takes-all-keys":   "unknown setting, settings of wrong types",
		"takes-any-type":   "settings of wrong types",
		"first-complaint":  "settings of wrong types",
		"deaf-connect":     "phase connect",
		"deaf-events":      "events, all lanes at once",
		"nul":              "a message of 8-bit and NUL octets",
		"empty-crash":      "an empty message",
		"no-recipients":    "10,000 recipients",
		"infinite":         checkVerdict, "unannounced": checkChanges,

		"raw-polite": "started by a person", "raw-first-version": "versions", "raw-phase": "manifest",
		"one-place":      "own answers with all lanes busy",
		"raw-no-headers": "lane headers", "raw-small-frames": "10,000 recipients", "raw-unhealthy": "health",
		"raw-ignores-cancel": "cancel in the middle", "raw-stops-reading": "reading on after the answer",
		"raw-late": "deadline in the past", "raw-any-id": "frames of other questions", "raw-knows-all": "unknown frames and fields",
		"raw-takes-all-lanes": "one lane too many", "raw-loses-lanes": "reset lanes come back", "raw-holds-lanes": "end of a lane",
		"raw-deaf-shutdown": "shutdown", "raw-deaf-stdin": "end of standard input",
		"raw-direct-silent": "direct lane, cancel on a direct lane", "raw-direct-other": "direct lane",
		"raw-direct-cancel": "cancel on a direct lane", "raw-direct-one": "cancel on a direct lane",
		"raw-shared-garbage": "shared connection, many on the shared connection, cancel on the shared connection, another shared connection",
		"raw-shared-other":   "shared connection",
		"raw-shared-one":     "many on the shared connection",
		"raw-shared-cancel":  "cancel on the shared connection",
		"raw-shared-twice":   checkOnce, "raw-shared-id": checkOnce,
		"raw-twice": checkOnce, "raw-wrong-id": checkOnce, "raw-body": checkVerdict, "raw-nothing": checkVerdict,
	} {
		all.Go(func() {
			atOnce <- struct{}{}
			defer func() { <-atOnce }()
			failed, _ := runCheck(t, name, Options{leaveOut: func(check string) bool {
				return (heavy(check) || !concerns(name, check)) && !strings.Contains(want, check)
			}}, nil)
			var got []string
			for _, r := range failed {
				got = append(got, r.Check)
				if r.Sent == "" || r.Expected == "" || r.Seen == "" || r.Section == "" {
					t.Errorf("%s: a report that does not say everything: %+v", name, r)
				}
			}
			if strings.Join(got, ", ") != want {
				t.Errorf("%s: failed %q, expected %q", name, got, want)
			}
		})
	}
	all.Wait()
}

// TestMemory: what a plugin holds after large messages is seen.
func TestMemory(t *testing.T) {
	failed, _ := runCheck(t, "good", Options{leaveOut: heavy}, func(c *pluginhost.Config) { c.Memory = 1 << 20 })
	if len(failed) == 0 {
		t.Error("a Go program within 1 MB")
	}
}

// TestVerdicts: each way to break the contract of section 5 is seen.
func TestVerdicts(t *testing.T) {
	change := func(kind wire.ChangeKind, name, value, address string) []*wire.Change {
		return []*wire.Change{{Kind: kind, Name: name, Value: value, Address: address}}
	}
	body := change(wire.ChangeKind_CHANGE_KIND_REPLACE_BODY, "", "", "")
	reply := func(code uint32, text string) *wire.Verdict {
		return &wire.Verdict{Action: wire.Action_ACTION_REJECT, Reply: &wire.Reply{Code: code, Text: text}}
	}
	toOne := func(r *wire.RecipientVerdict) *wire.Verdict {
		return &wire.Verdict{Recipients: []*wire.RecipientVerdict{r}}
	}
	for name, c := range map[string]struct {
		verdict *wire.Verdict
		body    newBody
		fault   string
	}{
		"empty":          {&wire.Verdict{}, newBody{}, ""},
		"action":         {&wire.Verdict{Action: 42}, newBody{}, "action 42"},
		"score":          {&wire.Verdict{Score: math.NaN()}, newBody{}, "finite"},
		"symbol":         {&wire.Verdict{Reasons: []*wire.Reason{{}}}, newBody{}, "symbol"},
		"text":           {&wire.Verdict{Reasons: []*wire.Reason{{Symbol: "A", Text: "a\nb"}}}, newBody{}, "reason"},
		"detection":      {&wire.Verdict{Detections: []string{"\x1b"}}, newBody{}, "detection"},
		"tag":            {&wire.Verdict{Tags: map[string]string{"": "x"}}, newBody{}, "tag"},
		"alerts":         {&wire.Verdict{Alerts: make([]*wire.Alert, 21)}, newBody{}, "21 alerts"},
		"alert":          {&wire.Verdict{Alerts: []*wire.Alert{{Key: "x"}}}, newBody{}, "alert"},
		"reply":          {reply(550, "no"), newBody{}, ""},
		"reply class":    {reply(250, "fine"), newBody{}, "reply 250"},
		"reply lines":    {reply(550, "no\r\n250 fine"), newBody{}, "one line"},
		"field name":     {&wire.Verdict{Changes: change(1, "X Y", "", "")}, newBody{}, "field"},
		"field value":    {&wire.Verdict{Changes: change(2, "X", "a\r\nb", "")}, newBody{}, "CR"},
		"kind":           {&wire.Verdict{Changes: change(14, "X", "", "")}, newBody{}, "kind of change 14"},
		"address":        {&wire.Verdict{Changes: change(5, "", "", "<a@b>")}, newBody{}, "address"},
		"null sender":    {&wire.Verdict{Changes: change(7, "", "", "")}, newBody{}, ""},
		"sender for one": {toOne(&wire.RecipientVerdict{Recipient: "a@b", Changes: change(7, "", "", "x@y")}), newBody{}, "CHANGE_SENDER"},
		"stranger":       {toOne(&wire.RecipientVerdict{Recipient: "x@y"}), newBody{}, "no recipient"},
		"twice": {
			&wire.Verdict{Recipients: []*wire.RecipientVerdict{{Recipient: "a@b"}, {Recipient: "a@b"}}},
			newBody{}, "two verdicts",
		},
		"body":          {&wire.Verdict{Changes: body}, newBody{frames: 1}, ""},
		"no frames":     {&wire.Verdict{Changes: body}, newBody{}, "without a Body frame"},
		"frames alone":  {&wire.Verdict{}, newBody{frames: 1}, "replaces no body"},
		"bare CR":       {&wire.Verdict{Changes: body}, newBody{frames: 1, bareCR: true}, "bare CR"},
		"route":         {&wire.Verdict{Route: &wire.Route{To: []string{"a@b"}}}, newBody{}, "another phase"},
		"no route":      {&wire.Verdict{Route: &wire.Route{}}, newBody{}, ""},
		"half a domain": {toOne(&wire.RecipientVerdict{Recipient: "a@b", Changes: change(6, "", "", "a@")}), newBody{}, "address"},
	} {
		err := checkAnswer(c.verdict, &question{phase: wire.Phase_PHASE_CONTENT, to: map[string]bool{"a@b": true}, body: c.body})
		if (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: %v, expected %q", name, err, c.fault)
		}
	}
	q := &question{phase: wire.Phase_PHASE_ROUTE}
	if err := checkAnswer(&wire.Verdict{Route: &wire.Route{To: []string{"a@b"}}}, q); err != nil {
		t.Error(err)
	}
	if err := checkAnswer(&wire.Verdict{Route: &wire.Route{To: []string{"a"}}}, q); err == nil {
		t.Error("a route to nowhere")
	}
}

// TestNeverStarted: what never said who it is goes by the name of its table.
func TestNeverStarted(t *testing.T) {
	failed, sum := runCheck(t, "", Options{}, func(c *pluginhost.Config) { c.Builtin, c.Command = "", []string{"/bin/true"} })
	if len(failed) == 0 || !strings.HasPrefix(sum.String(), "t: 0 ok, ") {
		t.Errorf("%d failed: %s", len(failed), sum)
	}
}

// TestNoTime: a plugin that uses all the time fails, what there was no time for is told apart, and what was seen is told all the same.
func TestNoTime(t *testing.T) {
	t.Parallel()
	var failed []string
	var list []Result
	c := pluginhost.DefaultConfig()
	c.Name, c.Builtin, c.Timeout = "t", "raw-other-id", units.Of(10*time.Second)
	var text strings.Builder
	printer := Printer{W: &text}
	sum, err := Run(t.Context(), Options{Plugin: &c, Dir: t.TempDir(), Quick: true, Limit: 4 * time.Second, Report: func(r Result) {
		list = append(list, r)
		printer.Result(r)
		if r.Status == Failed {
			failed = append(failed, r.Check)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	printer.Flush()
	if strings.Join(failed, ", ") != "phase content, "+checkOnce || sum.Untried < 20 || sum.OK+sum.Failed+sum.Skipped+sum.Untried != len(list) {
		t.Errorf("failed %q, %+v, %d results", failed, sum, len(list))
	}
	for _, want := range []string{"one came with the id 2 where the question was 1", "checks from \"an empty message\" on", "not tried", "all of the 4s"} {
		if report := text.String() + sum.String(); strings.Count(report, want) != 1 {
			t.Errorf("%q is not there once:\n%s", want, report)
		}
	}
}

// TestErrors: answers that are errors break nothing, and are told.
func TestErrors(t *testing.T) {
	t.Parallel()
	failed, sum := runCheck(t, "empty", Options{leaveOut: heavy}, nil)
	if len(failed) > 0 || sum.Errors != 1 || !strings.Contains(sum.String(), "the first was an empty message: ") {
		t.Errorf("%+v %+v", failed, sum)
	}
}
