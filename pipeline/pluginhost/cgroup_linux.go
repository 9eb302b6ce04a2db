package pluginhost

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups are the groups of version 2 that are made for plugins, below the one that the system has delegated to this
// server (cgroups(7); systemd: Delegate=yes). nil: there is none, and plugins have what rlimits give.
type cgroups struct {
	dir  string
	last atomic.Int64
}

// serverGroup is the group to which the server itself moves: a group with limits for its children has no processes of
// its own ("no internal processes").
const serverGroup = "sluice-server"

// openCgroups finds out whether there is a delegated group, and makes it ready.
func openCgroups() (*cgroups, error) {
	dir, err := ownCgroup("/proc/self/cgroup", "/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	if filepath.Base(dir) == serverGroup { // another host in this process
		return &cgroups{dir: filepath.Dir(dir)}, nil
	}
	if !delegated(dir) {
		return nil, errors.New("the system has not delegated this server's cgroup to it (systemd: Delegate=yes)")
	}
	controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return nil, err
	}
	for _, needed := range []string{"memory", "pids"} {
		if !slices.Contains(strings.Fields(string(controllers)), needed) {
			return nil, fmt.Errorf("the cgroup has no controller %q", needed)
		}
	}
	own := filepath.Join(dir, serverGroup)
	if err := os.Mkdir(own, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	if err := writeTo(filepath.Join(own, "cgroup.procs"), strconv.Itoa(os.Getpid())); err != nil {
		return nil, err
	}
	if err := writeTo(filepath.Join(dir, "cgroup.subtree_control"), "+memory +pids"); err != nil {
		return nil, err
	}
	return &cgroups{dir: dir}, nil
}

// writeTo writes to a file of the kernel, which is there or is not.
func writeTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// ownCgroup returns the directory of this process's cgroup of version 2.
func ownCgroup(cgroupFile, mountFile string) (string, error) {
	none := errors.New("the system has no cgroups of version 2")
	groups, err := os.ReadFile(cgroupFile)
	if err != nil {
		return "", none
	}
	path := ""
	for line := range strings.Lines(string(groups)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			path = rest
		}
	}
	mounts, err := os.ReadFile(mountFile)
	if err != nil || path == "" {
		return "", none
	}
	for line := range bytes.Lines(mounts) { // proc_pid_mountinfo(5)
		before, after, _ := strings.Cut(string(line), " - ")
		fields := strings.Fields(before)
		if len(fields) < 5 || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		below := path
		if root := fields[3]; root != "/" {
			rest, ok := strings.CutPrefix(path, root)
			if !ok {
				continue
			}
			below = rest
		}
		return filepath.Join(fields[4], below), nil
	}
	return "", none
}

// delegated reports whether a group is ours to change. Root may write to each; there the mark counts that systemd leaves, or that it
// is the top of a container's.
func delegated(dir string) bool {
	if unix.Access(filepath.Join(dir, "cgroup.procs"), unix.W_OK) != nil || unix.Access(filepath.Join(dir, "cgroup.subtree_control"), unix.W_OK) != nil {
		return false
	}
	if _, err := os.Stat(filepath.Join(dir, "cgroup.type")); err != nil { // the root of all
		return false
	}
	if os.Geteuid() != 0 {
		return true
	}
	mark := make([]byte, 8)
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		if n, err := unix.Getxattr(dir, name, mark); err == nil && string(mark[:n]) == "1" {
			return true
		}
	}
	_, err := os.Stat(filepath.Join(filepath.Dir(dir), "cgroup.procs"))
	return err != nil
}

// cgroup is that of one plugin process.
type cgroup struct{ dir string }

// make makes the group of a process with its limits, and returns its open directory for the start.
func (c *cgroups) make(name string, memory int64) (*cgroup, *os.File, error) {
	g := &cgroup{filepath.Join(c.dir, fmt.Sprintf("plugin-%s-%d-%d", name, os.Getpid(), c.last.Add(1)))}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, nil, fmt.Errorf("make a cgroup: %w", err)
	}
	limits := map[string]string{"pids.max": strconv.Itoa(maxTasks)}
	if memory > 0 {
		limits["memory.max"], limits["memory.swap.max"], limits["memory.oom.group"] = strconv.FormatInt(memory, 10), "0", "1"
	}
	for file, value := range limits {
		if err := writeTo(filepath.Join(g.dir, file), value); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, nil, errors.Join(fmt.Errorf("limit a cgroup: %w", err), os.Remove(g.dir))
		}
	}
	dir, err := os.Open(g.dir)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open a cgroup: %w", err), os.Remove(g.dir))
	}
	return g, dir, nil
}

// end kills whatever is in the group, wherever it has gone, and removes it.
func (g *cgroup) end() {
	if g == nil {
		return
	}
	for range 50 {
		_ = writeTo(filepath.Join(g.dir, "cgroup.kill"), "1")
		if err := os.Remove(g.dir); err == nil || errors.Is(err, os.ErrNotExist) {
			return
		}
		time.Sleep(10 * time.Millisecond) // the dead are still leaving
	}
}
