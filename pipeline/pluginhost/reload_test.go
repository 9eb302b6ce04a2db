package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/sdk"
)

// newReloadHarness is a host whose builtins are all that reloads name.
func newReloadHarness(t *testing.T, builtin string, change func(*Config, *Options)) *harness {
	h := newHarness(t, builtin, func(c *Config, o *Options) {
		o.Builtins = []string{"overlap", "overlap2", "plain", "plain2", "checks", "all", "exits"}
		o.Linger = 300 * time.Millisecond
		if change != nil {
			change(c, o)
		}
	})
	h.ready(t)
	return h
}

// TestReload: DRILLS E6.8: 100 messages in flight while the configuration changes, with and without overlap; each is answered
// once, by the version with which it began if that may run beside the new one.
func TestReload(t *testing.T) {
	for _, c := range []struct{ from, to string }{{"overlap", "overlap2"}, {"plain", "plain2"}, {"overlap", "plain2"}} {
		t.Run(c.from+" "+c.to, func(t *testing.T) {
			t.Parallel()
			h := newReloadHarness(t, c.from, func(c *Config, _ *Options) { c.Lanes = 8 })
			old := h.Plugin
			pid := h.host.States()[0].PID
			versions := make(chan string, 200)
			ask := func(p *Plugin) {
				v, _, err := p.Ask(t.Context(), message("do: version\r\n\r\n"))
				if err != nil {
					t.Error(err)
				}
				versions <- v.Tags["version"]
			}
			var askers sync.WaitGroup
			for range 100 {
				askers.Go(func() { ask(old) })
			}
			time.Sleep(20 * time.Millisecond)
			next := old.Config()
			next.Builtin = c.to
			if err := h.host.Reload(t.Context(), []Config{next}); err != nil {
				t.Fatal(err)
			}
			fresh := h.host.Plugin("t")
			ask(fresh)
			if v := <-versions; v != "1" && v != "2" {
				t.Errorf("version %q", v)
			}
			askers.Wait()
			ask(old) // a message that began before
			counts := map[string]int{}
			for len(versions) > 0 {
				counts[<-versions]++
			}
			if counts["1"]+counts["2"] != 101 || counts["1"] < 95 {
				t.Errorf("answers by version: %v", counts)
			}
			if asked := old.stats.asked.Load() + fresh.stats.asked.Load(); asked != 102 {
				t.Errorf("%d questions asked, expected 102", asked)
			}
			eventually(t, "the old process is gone", 3*time.Second, func() bool { return !alive(pid) })
			ask(old)
			if v := <-versions; v != "2" {
				t.Errorf("after the end of the old one: version %q", v)
			}
			eventually(t, "nothing is leaving", time.Second, func() bool { return h.host.States()[0].Leaving == 0 })
		})
	}
}

// TestReloadKeeps: what did not change keeps its process; what is gone ends when nobody asks it; what is new runs.
func TestReloadKeeps(t *testing.T) {
	h := newReloadHarness(t, "overlap", nil)
	first, pid := h.Plugin, h.host.States()[0].PID
	kept, other := h.Config(), h.Config()
	other.Name, other.Builtin = "u", "plain"
	if err := h.host.Reload(t.Context(), []Config{kept, other}); err != nil {
		t.Fatal(err)
	}
	states := h.host.States()
	if len(states) != 2 || states[0].PID != pid || states[1].State != stateReady || h.host.Plugin("t") != first {
		t.Errorf("%+v", states)
	}
	gone, gonePID := h.host.Plugin("u"), states[1].PID
	if err := h.host.Reload(t.Context(), []Config{kept}); err != nil {
		t.Fatal(err)
	}
	if h.host.Plugin("u") != nil {
		t.Error("it is there still")
	}
	for range 10 { // a message that began before goes on asking
		if _, _, err := gone.Ask(t.Context(), message("do: x\r\n\r\n")); err != nil {
			t.Error(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	eventually(t, "the process is gone", 3*time.Second, func() bool { return !alive(gonePID) })
	if _, _, err := gone.Ask(t.Context(), message("x")); kindOf(err) != Busy {
		t.Errorf("%v, expected busy", err)
	}
	if log := h.log.String(); !strings.Contains(log, "added=u") || !strings.Contains(log, "removed=u") {
		t.Error("the log does not say what the reload did")
	}
}

// TestReloadRefused: a new version that does not start, or refuses its settings, changes nothing for anybody. The process that
// runs is not even ended, unless the plugin can neither overlap nor check its settings.
func TestReloadRefused(t *testing.T) {
	for _, builtin := range []string{"overlap", "plain", "checks"} {
		t.Run(builtin, func(t *testing.T) {
			t.Parallel()
			h := newReloadHarness(t, builtin, nil)
			pid := h.host.States()[0].PID
			bad, fine := h.Config(), h.Config()
			bad.Config = map[string]any{"bad": int64(1)}
			fine.Name = "u"
			err := h.host.Reload(t.Context(), []Config{bad, fine})
			var start *StartError
			var setting *sdk.SettingError
			if !errors.As(err, &start) || start.Plugin != "t" || !errors.As(err, &setting) || setting.Key != "bad" {
				t.Errorf("%v", err)
			}
			if h.host.Plugin("u") != nil {
				t.Error("half of the new configuration is in force")
			}
			if v, kind := h.ask(t, message("do: version\r\n\r\n")); kind != "" || v.Tags["version"] != "1" {
				t.Errorf("afterwards %q %v", kind, v.Tags)
			}
			if s := h.host.States(); len(s) != 1 || s[0].State != stateReady || (builtin == "plain") == (s[0].PID == pid) {
				t.Errorf("%+v", s)
			}
			pid = h.host.States()[0].PID
			exits := h.Config()
			exits.Builtin = "exits"
			if err := h.host.Reload(t.Context(), []Config{exits}); err == nil || !strings.Contains(err.Error(), "no licence file") {
				t.Errorf("%v", err)
			}
			if _, kind := h.ask(t, message("do: x\r\n\r\n")); kind != "" || h.host.States()[0].PID != pid {
				t.Errorf("afterwards %q, %+v", kind, h.host.States())
			}
			if err := h.host.Reload(t.Context(), []Config{exits, exits}); err == nil || !strings.Contains(err.Error(), "two of that name") {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestReloadNewFile: a program that was replaced by another file is started, though the table is the same; so is one that had
// refused its settings.
func TestReloadNewFile(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "plugin.sh")
	write := func(builtin string) {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("#!/bin/sh\nexec %s plugin run %s\n", exe, builtin)
		if err := errors.Join(os.WriteFile(script+".new", []byte(text), 0o755), os.Rename(script+".new", script)); err != nil {
			t.Fatal(err)
		}
	}
	write("overlap")
	h := newReloadHarness(t, "plain", func(c *Config, o *Options) {
		exe, _ := os.Executable()
		c.Builtin, c.Command, c.Read = "", []string{script}, []string{exe}
	})
	pid := h.host.States()[0].PID
	if err := h.host.Reload(t.Context(), []Config{h.Config()}); err != nil || h.host.States()[0].PID != pid {
		t.Errorf("an unchanged program: %v", err)
	}
	write("overlap2")
	if err := h.host.Reload(t.Context(), []Config{h.Config()}); err != nil || h.host.States()[0].Version != "2" {
		t.Errorf("a new program: %v %+v", err, h.host.States())
	}
}

// TestReloadStop: the end of the server ends a reload that waits for a slow start, and what is leaving.
func TestReloadStop(t *testing.T) {
	h := newReloadHarness(t, "overlap", func(_ *Config, o *Options) { o.Linger = time.Hour; o.Builtins = append(o.Builtins, "silent") })
	next := h.Config()
	next.Timeout = units.Of(time.Second)
	if err := h.host.Reload(t.Context(), []Config{next}); err != nil {
		t.Fatal(err)
	}
	slow := next
	slow.Builtin = "silent"
	done := make(chan error, 1)
	go func() { done <- h.host.Reload(context.Background(), []Config{slow}) }()
	time.Sleep(100 * time.Millisecond)
	start := time.Now()
	if err := h.host.Stop(t.Context()); err != nil || time.Since(start) > 4*time.Second {
		t.Errorf("%v after %s", err, time.Since(start))
	}
	if err := <-done; err == nil {
		t.Error("the reload succeeded")
	}
	if err := h.host.Reload(t.Context(), nil); err == nil {
		t.Error("a reload after the end")
	}
}

// TestReloadPutBack: a plugin that must be alone with its state is removed and put back, or its canary is, before the removed one has
// ended: the new one takes its place, and a message that began with the old one has its answer.
func TestReloadPutBack(t *testing.T) {
	for _, second := range []bool{false, true} {
		t.Run(fmt.Sprintf("canary %v", second), func(t *testing.T) {
			t.Parallel()
			builtin := "plain"
			if second {
				builtin = "overlap"
			}
			h := newReloadHarness(t, builtin, func(c *Config, o *Options) {
				o.Linger = time.Minute
				c.Config = map[string]any{"hold": true}
				if second {
					c.Config = nil
					c.Canary = Canary{Builtin: "plain2", Share: 0.5, Config: map[string]any{"hold": true}}
				}
			})
			old, pid := h.Plugin, h.host.States()[0].PID
			without := []Config{}
			if second {
				pid = h.canaryState().PID
				without = []Config{h.Config()}
				without[0].Canary = Canary{}
			}
			for range 3 {
				if err := h.host.Reload(t.Context(), without); err != nil {
					t.Fatal(err)
				}
				if err := h.host.Reload(t.Context(), []Config{old.Config()}); err != nil {
					t.Fatal(err)
				}
				s := h.host.States()[0]
				now := s.PID
				if second {
					now = s.Canary.PID
				}
				if s.State != stateReady || now == pid || now == 0 || alive(pid) {
					t.Errorf("%+v; %d was before", s, pid)
				}
				pid = now
			}
			if v, _, err := old.Ask(t.Context(), message("do: version\r\n\r\n")); err != nil || v.Tags["version"] == "" {
				t.Errorf("%v %v", v, err)
			}
			if left := h.host.States()[0].Leaving; !second && left > 0 {
				eventually(t, "nothing is leaving", 3*time.Second, func() bool { return h.host.States()[0].Leaving == 0 })
			}
		})
	}
}

// TestReloadWaits: a version that has to be alone waits for the questions of the one before, and that is not counted as time of its start.
func TestReloadWaits(t *testing.T) {
	t.Parallel()
	h := newReloadHarness(t, "overlap", func(c *Config, o *Options) { c.Timeout, o.StartTimeout = units.Of(20*time.Second), 3*time.Second })
	old := h.Plugin
	answered := make(chan error, 1)
	go func() {
		_, _, err := old.Ask(context.Background(), message("do: sleep 4s\r\n\r\n"))
		answered <- err
	}()
	eventually(t, "it is asked", 3*time.Second, func() bool { return old.stats.inFlight.Load() == 1 })
	next := old.Config()
	next.Builtin = "plain2"
	if err := h.host.Reload(t.Context(), []Config{next}); err != nil {
		t.Error(err)
	}
	if err := <-answered; err != nil {
		t.Errorf("the question of before: %v", err)
	}
	if v, _, err := h.host.Plugin("t").Ask(t.Context(), message("do: version\r\n\r\n")); err != nil || v.Tags["version"] != "2" {
		t.Errorf("%+v %v", v, err)
	}
}
