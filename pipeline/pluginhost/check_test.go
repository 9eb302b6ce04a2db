package pluginhost

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// TestCheck: each plugin, and each canary, is started and ended; what is wrong with it is said, and what is wrong with one is not
// the others' affair. Nothing is made where the state of plugins is.
func TestCheck(t *testing.T) {
	before := pluginsOfHere(t)
	o := Options{Builtins: []string{"checks", "plain", "exits", "flood", "silent", "garbage"}, StateDir: t.TempDir(), RunDir: t.TempDir()}
	if len(o.RunDir) > 60 {
		o.RunDir = ""
	}
	table := func(name, builtin string, config map[string]any) Config {
		c := DefaultConfig()
		c.Name, c.Builtin, c.Config = name, builtin, config
		return c
	}
	canary := table("canary", "checks", nil)
	canary.Canary = Canary{Share: 0.1, Config: map[string]any{"bad": true}}
	off := table("off", "exits", nil)
	off.Mode = Off
	list, err := Check(t.Context(), o, []Config{
		table("good", "checks", nil), table("bad", "checks", map[string]any{"bad": true}), table("look", "checks", map[string]any{"configure": "look"}),
		table("unsaid", "plain", map[string]any{"bad": true, "configure": "crash"}),
		table("crash", "checks", map[string]any{"configure": "crash"}), table("exits", "exits", nil), table("flood", "flood", nil),
		table("garbage", "garbage", nil), canary, off,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []struct{ name, problem string }{
		{"good", ""}, {"bad", "bad: is bad"}, {"look", ": check true, 0 files, <nil>"}, {"unsaid", ""},
		{"crash", "out of luck"}, {"exits", "no licence file"}, {"flood", ""}, {"garbage", "handshake: "}, {"canary", ""}, {"canary", "worse.still: is worse"},
	}
	if len(list) != len(want) {
		t.Fatalf("%d of %d: %+v", len(list), len(want), list)
	}
	for i, w := range want {
		got := list[i]
		if got.Plugin != w.name || (w.problem == "") != (got.Err == nil) || got.Err != nil && !strings.Contains(got.Err.Error(), w.problem) {
			t.Errorf("%s: %+v, expected %q", w.name, got, w.problem)
		}
	}
	var setting *sdk.SettingError
	if !list[0].Settings || list[3].Settings || list[3].Manifest.Name != "test" || !list[9].Canary || !errors.As(list[9].Err, &setting) {
		t.Errorf("%+v", list)
	}
	o.StartTimeout = 2 * time.Second
	begin := time.Now()
	list, err = Check(t.Context(), o, []Config{
		table("hang", "checks", map[string]any{"configure": "hang"}), table("silent", "silent", nil), table("again", "silent", nil),
	})
	if took := time.Since(begin); err != nil || len(list) != 3 || list[0].Err == nil || list[1].Err == nil || took > 8*time.Second {
		t.Errorf("%+v %v after %s, expected 2 s side by side", list, err, took)
	}
	if entries, err := os.ReadDir(o.StateDir); err != nil || len(entries) != 0 {
		t.Errorf("left in the state directory: %v %v", entries, err)
	}
	if o.RunDir != "" {
		if entries, err := os.ReadDir(o.RunDir); err != nil || len(entries) != 0 {
			t.Errorf("left in the run directory: %v %v", entries, err)
		}
	}
	eventually(t, "every process has ended", 3*time.Second, func() bool { return pluginsOfHere(t) <= before })
}

// pluginsOfHere counts our children that live.
func pluginsOfHere(t *testing.T) (n int) {
	t.Helper()
	list, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range list {
		status, err := os.ReadFile("/proc/" + entry.Name() + "/environ")
		if err == nil && strings.Contains(string(status), "SLUICE_WATCH_STDIN") && strings.Contains(string(status), "sluice-run-"+strconv.Itoa(os.Getpid())+"-") {
			n++
		}
	}
	return n
}

// TestCheckInterrupted: who gives up has no processes left, and is told.
func TestCheckInterrupted(t *testing.T) {
	c := DefaultConfig()
	c.Name, c.Builtin = "t", "silent"
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := Check(ctx, Options{Builtins: []string{"silent"}}, []Config{c}); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 4*time.Second {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
}
