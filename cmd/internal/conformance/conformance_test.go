package conformance

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/pipeline/units"
)

func runCheck(t *testing.T, name string, change func(*pluginhost.Config)) (failed []Result, sum Summary) {
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
	sum, err := Run(t.Context(), Options{Plugin: &c, Dir: t.TempDir(), Quick: true, Limit: 60 * time.Second, Report: func(r Result) {
		Print(&log, r)
		if r.Status == Failed {
			failed = append(failed, r)
		}
	}})
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
	for _, name := range []string{"good", "early", "empty", "all-phases", "raw-good"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if failed, sum := runCheck(t, name, nil); len(failed) > 0 || sum.OK < 20 {
				t.Errorf("%+v", failed)
			}
		})
	}
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
		"takes-all-keys":   "unknown setting, settings of wrong types",
		"takes-any-type":   "settings of wrong types",
		"first-complaint":  "settings of wrong types",
		"deaf-connect":     "phase connect",
		"deaf-events":      "events",
		"nul":              "a message of 8-bit and NUL octets",
		"empty-crash":      "an empty message",
		"no-recipients":    "10,000 recipients",
		"infinite":         checkVerdict, "no-recipient": checkVerdict, "reply": checkVerdict, "unannounced": checkChanges,
		"deaf-cancel": "cancel in the middle, cancel after the end, deadline in the past",

		"raw-polite": "started by a person", "raw-first-version": "versions", "raw-phase": "manifest",
		"raw-no-headers": "lane headers", "raw-small-frames": "10,000 recipients", "raw-unhealthy": "health",
		"raw-ignores-cancel": "cancel in the middle", "raw-stops-reading": "reading on after the answer",
		"raw-late": "deadline in the past", "raw-any-id": "frames of other questions", "raw-knows-all": "unknown frames and fields",
		"raw-takes-all-lanes": "one lane too many", "raw-loses-lanes": "reset lanes come back", "raw-holds-lanes": "end of a lane",
		"raw-deaf-shutdown": "shutdown", "raw-deaf-stdin": "end of standard input",
		"raw-twice": checkOnce, "raw-wrong-id": checkOnce, "raw-action": checkVerdict, "raw-body": checkVerdict, "raw-nothing": checkVerdict,
	} {
		all.Go(func() {
			atOnce <- struct{}{}
			defer func() { <-atOnce }()
			failed, _ := runCheck(t, name, nil)
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
	failed, _ := runCheck(t, "good", func(c *pluginhost.Config) { c.Memory = 1 << 20 })
	if len(failed) == 0 {
		t.Error("a Go program within 1 MB")
	}
}
