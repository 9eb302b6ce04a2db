package pluginhost

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// endOrphans ends what the plugins whose sockets were in dir have left behind: children that went to a session of their own,
// or whose plugin the kernel ended together with a server that was killed (PR_SET_PDEATHSIG is for the plugin alone). They are
// known by the TMPDIR that they inherited; one that hides it stays.
func endOrphans(dir string) {
	for range 3 { // they may be making more
		if !endThoseOf(dir) {
			return
		}
	}
}

func endThoseOf(dir string) (found bool) {
	list, _ := os.ReadDir("/proc") // without /proc no plugin was started either
	for _, entry := range list {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// The descriptor first: should the number be given to another process meanwhile, that one is left alone.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if bornIn(pid, dir) && unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil {
			found = true
		}
		_ = unix.Close(fd)
	}
	return found
}

// bornIn reports whether a process began with a TMPDIR below dir.
func bornIn(pid int, dir string) bool {
	f, err := os.Open(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil { // gone, or of another user
		return false
	}
	defer f.Close()
	environ, _ := io.ReadAll(io.LimitReader(f, 1<<20))
	for variable := range bytes.SplitSeq(environ, []byte{0}) {
		if bytes.HasPrefix(variable, []byte("TMPDIR="+dir+"/")) {
			return true
		}
	}
	return false
}
