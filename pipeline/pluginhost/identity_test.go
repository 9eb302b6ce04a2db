package pluginhost

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/units"
)

// asNobody makes a harness whose plugin runs as the user nobody, with its state in a data directory that is closed to others.
func asNobody(t *testing.T, change func(*Config, *Options)) (*harness, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to start plugins as another user")
	}
	nobody, err := LookupIdentity("nobody")
	if err != nil {
		t.Skip(err)
	}
	data, err := os.MkdirTemp("", "data")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(data) })
	if err := os.WriteFile(filepath.Join(data, "key.pem"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(data, "plugin")
	if err := OpenPath(data, state, nobody); err != nil {
		t.Fatal(err)
	}
	h := newHarness(t, "plain", func(c *Config, o *Options) {
		o.User, o.StateDir, o.Dir, c.Read = nobody, state, data, []string{data}
		if change != nil {
			change(c, o)
		}
	})
	h.ready(t)
	return h, data
}

// TestPluginUser: plugins have a user of their own, and nothing of root's.
func TestPluginUser(t *testing.T) {
	h, data := asNobody(t, nil)
	v, kind := h.ask(t, message("do: who\r\n\r\n"))
	nobody := h.host.options.User
	want := map[string]string{
		"ids":   fmt.Sprintf("%d %d %d %d [%d]", nobody.UID, nobody.UID, nobody.GID, nobody.GID, nobody.GID),
		"caps":  strings.Repeat("0000000000000000 ", 4),
		"tasks": fmt.Sprint(maxTasks), "root": "operation not permitted", "own": "<nil> <nil>", "dir": data,
	}
	for what, result := range want {
		if v.Tags[what] != result {
			t.Errorf("%s: %q, expected %q (%s)", what, v.Tags[what], result, kind)
		}
	}
	// Landlock would allow what is in Config.Read; the user alone keeps it out here.
	if v, kind := h.ask(t, message("do: read "+data+"/key.pem\r\n\r\n")); kind != "" || !strings.Contains(v.Reasons[0].Text, "permission denied") {
		t.Errorf("%q %+v", kind, v.Reasons)
	}
	info, err := os.Stat(filepath.Join(data, "plugin", "t", "x"))
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("its state: %v %v", info.Mode(), err)
	}
	pid := h.host.States()[0].PID
	if err := h.host.Stop(t.Context()); err != nil || alive(pid) {
		t.Errorf("%v, alive %v", err, alive(pid))
	}
}

// TestBomb (DRILLS E6.7): with a user of their own the number of plugins' processes is limited, and all end with the plugin.
func TestBomb(t *testing.T) {
	h, _ := asNobody(t, func(c *Config, _ *Options) { c.Timeout = units.Of(30 * time.Second) })
	v, kind := h.ask(t, message("do: bomb\r\n\r\n"))
	if kind != "" || v.Score < 100 || v.Score > maxTasks || !strings.Contains(v.Reasons[0].Text, "temporarily unavailable") {
		t.Errorf("%q: %v children, %v", kind, v.Score, v.Reasons)
	}
	if err := h.host.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "the children are gone", 5*time.Second, func() bool { return processesOf(t, h.host.options.User.UID) == 0 })
}

func processesOf(t *testing.T, uid int) (n int) {
	list, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range list {
		text, _ := os.ReadFile(name)
		if strings.Contains(string(text), fmt.Sprintf("\nUid:\t%d\t", uid)) && !strings.Contains(string(text), "State:\tZ") {
			n++
		}
	}
	return n
}

// TestGreed: DRILLS E6.7: a plugin that wants 10 GB dies of it alone; one that fills /tmp stops at 1 GiB.
func TestGreed(t *testing.T) {
	h := newHarness(t, "plain", func(c *Config, _ *Options) { c.Timeout, c.Memory = units.Of(20*time.Second), 1<<30 })
	h.ready(t)
	v, kind := h.ask(t, message("do: fill\r\n\r\n"))
	if kind != "" || strings.Count(v.Reasons[0].Text, "file too large") != 2 {
		t.Errorf("fill: %q %+v", kind, v.Reasons)
	}
	if _, kind := h.ask(t, message("do: allocate\r\n\r\n")); kind != Poison && kind != Crash {
		t.Errorf("allocate: %q", kind)
	}
	if _, kind := h.ask(t, message("do: x\r\n\r\n")); kind != "" {
		t.Errorf("afterwards %q", kind)
	}
}

func TestLookupIdentity(t *testing.T) {
	for name, want := range map[string]string{"root": "is root", "0": "is root", "no-such-user-here": "no user"} {
		if _, err := LookupIdentity(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
