package control

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxAncestors bounds the walk towards the first process.
const maxAncestors = 1000

// confined reports whether a peer may be a plugin of ours, or come from one (RULES C4): plugins run as our user, and
// Landlock does not keep them from this socket. A plugin is below us in the tree of processes; what it has cut loose from
// there still has the mark that nobody gets rid of, no_new_privs, unless we have that ourselves. A peer that cannot be looked
// at is turned away.
func confined(who *unix.Ucred) bool {
	if who.Uid == 0 && os.Geteuid() != 0 { // our plugins cannot become root, and we may not be allowed to look
		return false
	}
	self := os.Getpid()
	for pid, n := int(who.Pid), 0; pid != self || n > 0; n++ {
		if pid == self || n > maxAncestors {
			return true
		}
		if pid <= 1 { // 0: from outside of our namespace of processes
			break
		}
		status, err := readStatus(pid)
		if err != nil {
			// What is above it may be hidden from us; not so a child of ours.
			return n == 0
		}
		if n == 0 && status["NoNewPrivs"] == "1" && !marked() {
			return true
		}
		if pid, err = strconv.Atoi(status["PPid"]); err != nil {
			return true
		}
	}
	return false
}

// marked reports whether this process has no_new_privs itself, as in a unit with NoNewPrivileges or in a container.
func marked() bool {
	on, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	return err == nil && on == 1
}

// readStatus reads /proc/PID/status (proc_pid_status(5)).
func readStatus(pid int) (map[string]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	fields := make(map[string]string, 64)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.TrimSpace(value)
	}
	return fields, nil
}
