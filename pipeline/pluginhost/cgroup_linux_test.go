package pluginhost

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestOwnCgroup(t *testing.T) {
	const mounts = "29 1 0:26 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs rw\n" +
		"30 29 0:27 /docker/x /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	for name, c := range map[string]struct{ groups, mounts, want string }{
		"plain":     {"0::/system.slice/sluice.service\n", strings.ReplaceAll(mounts, "/docker/x", "/"), "/sys/fs/cgroup/unified/system.slice/sluice.service"},
		"hybrid":    {"8:pids:/a\n0::/docker/x/b\n", mounts, "/sys/fs/cgroup/unified/b"},
		"elsewhere": {"0::/other\n", mounts, ""},
		"none":      {"8:pids:/a\n", mounts, ""},
		"unmounted": {"0::/a\n", "", ""},
		"rubbish":   {"0::\x00\n::", "a b c\n - cgroup2 \n1 2 3 4 - cgroup2 x\n", ""},
	} {
		dir := t.TempDir()
		groups, mounts := filepath.Join(dir, "cgroup"), filepath.Join(dir, "mountinfo")
		if os.WriteFile(groups, []byte(c.groups), 0o600) != nil || os.WriteFile(mounts, []byte(c.mounts), 0o600) != nil {
			t.Fatal("no files")
		}
		if got, err := ownCgroup(groups, mounts); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q %v, expected %q", name, got, err, c.want)
		}
	}
}

func TestDelegated(t *testing.T) {
	dir := t.TempDir()
	if delegated(dir) {
		t.Error("an empty directory")
	}
	for _, name := range []string{"cgroup.procs", "cgroup.subtree_control"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if delegated(dir) {
		t.Error("the root of all")
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.type"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !delegated(dir) {
		t.Error("the top of a container")
	}
}

// TestLimitsOfCgroup writes to files as the kernel has them.
func TestLimitsOfCgroup(t *testing.T) {
	c := &cgroups{dir: t.TempDir()}
	g, dir, err := c.make("t", 1<<28)
	if err != nil {
		t.Fatal(err)
	}
	dir.Close()
	for _, file := range []string{"memory.max", "pids.max"} { // these are there from the start in the kernel's
		if err := os.WriteFile(filepath.Join(g.dir, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := writeTo(filepath.Join(g.dir, file), "1"); err != nil {
			t.Error(err)
		}
	}
	if err := os.RemoveAll(g.dir); err != nil {
		t.Fatal(err)
	}
	g.end() // of one that is gone
	(*cgroup)(nil).end()
}

// TestCgroup: a process starts in its group, and no child escapes, also one that has hidden where it comes from.
func TestCgroup(t *testing.T) {
	own, err := ownCgroup("/proc/self/cgroup", "/proc/self/mountinfo")
	if err != nil {
		t.Skip(err)
	}
	dir := filepath.Join(own, "sluice-test-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip(err)
	}
	defer os.Remove(dir)
	h := newHarness(t, "plain", func(_ *Config, o *Options) { o.groups = &cgroups{dir: dir} })
	h.ready(t)
	v, kind := h.ask(t, message("do: hidden\r\n\r\n"))
	child, _ := strconv.Atoi(v.Tags["pid"])
	if group, _ := os.ReadFile("/proc/" + v.Tags["pid"] + "/cgroup"); kind != "" || !strings.Contains(string(group), "plugin-t-") {
		t.Errorf("%q, the child is in %s", kind, group)
	}
	if err := h.host.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "the child is gone", 2*time.Second, func() bool { return !alive(child) })
	if left, _ := filepath.Glob(dir + "/plugin-*"); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}
