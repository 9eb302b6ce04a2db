package pluginhost

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// exec replaces this process by the plugin. Attributes of the thread (no_new_privs, Landlock,
// the parent's death) go over to the new program from the thread that calls execve.
func (s *execSpec) exec(stderr io.Writer) error {
	runtime.LockOSThread()
	// The kernel's promise was made for the thread that forked; make it for this one.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("PR_SET_PDEATHSIG: %w", err)
	}
	if os.Getppid() != s.Parent {
		return errors.New("the server is gone")
	}
	if err := giveUpCapabilities(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("PR_SET_NO_NEW_PRIVS: %w", err)
	}
	program, err := os.Open(s.Program)
	if err != nil {
		return err
	}
	if s.SHA256 != "" {
		if err := checkDigest(program, s.SHA256); err != nil {
			return err
		}
	}
	if err := s.limit(); err != nil {
		return err
	}
	runInBatches()
	if err := os.Chdir(s.Dir); err != nil {
		fmt.Fprintf(stderr, "works in / : %v\n", err)
	}
	unix.Umask(s.Umask)
	if err := s.enclose(program); err != nil {
		fmt.Fprintf(stderr, "runs without Landlock: %v\n", err)
	}
	// The open descriptor is run, not the name: what was hashed is what runs. A script is
	// run by name, for its interpreter opens it again; there a window remains.
	path := fmt.Sprintf("/proc/self/fd/%d", program.Fd())
	if s.Program == self {
		path = self
	} else if isScript(program) {
		path = s.Program
	}
	return &os.PathError{Op: "exec", Path: s.Program, Err: syscall.Exec(path, s.Args, os.Environ())}
}

// runInBatches has the kernel not stop the server whenever a question wakes the plugin (SCHED_BATCH, sched(7)): where processors are
// scarce it finds more questions at once when its turn comes, and a scanner that computes is no burden on who waits for the network.
func runInBatches() {
	if attr, err := unix.SchedGetAttr(0, 0); err == nil && attr.Policy == unix.SCHED_NORMAL {
		attr.Policy = unix.SCHED_BATCH
		_ = unix.SchedSetAttr(0, attr, 0) // a matter of speed only
	}
}

// giveUpCapabilities gives up what a server that is not root keeps to start plugins as another user. With no ambient and no
// inheritable capability execve leaves none to anybody but root.
func giveUpCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("PR_CAP_AMBIENT: %w", err)
	}
	if os.Geteuid() == 0 { // the server runs plugins as root, and check says so
		return nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	return nil
}

func isScript(f *os.File) bool {
	var mark [2]byte
	_, err := f.ReadAt(mark[:], 0)
	return err == nil && string(mark[:]) == "#!"
}

// limit sets the limits that need no choice by the administrator beside memory: no core
// files, 4096 descriptors, files of at most 1 GiB. The number of processes is limited only if the plugins have a user of their
// own, because RLIMIT_NPROC counts all of a user's, the server's threads too. Processor time is not: RLIMIT_CPU is a sum over
// months here. Address space is not limited: Go, Java and JavaScript reserve far more
// than they use; RLIMIT_DATA counts what can be written.
func (s *execSpec) limit() error {
	set := func(what int, most uint64) error {
		var now syscall.Rlimit
		if err := syscall.Getrlimit(what, &now); err != nil {
			return err
		}
		most = min(most, now.Max)
		return syscall.Setrlimit(what, &syscall.Rlimit{Cur: most, Max: most})
	}
	err := errors.Join(set(unix.RLIMIT_CORE, 0), set(unix.RLIMIT_NOFILE, 4096), set(unix.RLIMIT_FSIZE, 1<<30))
	if s.Tasks > 0 {
		err = errors.Join(err, set(unix.RLIMIT_NPROC, s.Tasks))
	}
	if s.Memory > 0 {
		err = errors.Join(err, set(unix.RLIMIT_DATA, uint64(s.Memory)))
	}
	if err != nil {
		return fmt.Errorf("set limits: %w", err)
	}
	return nil
}

func noCgroups(why error) string {
	return "plugins have no cgroups of their own, which would bound what all of a plugin's processes take together: " + why.Error()
}

// Missing lists in plain words what this system lacks of a plugin's enclosure (RULES C4), for
// `sluice check` and the start of the server. ownUser says that plugins have a user of their own.
func Missing(ownUser bool) []string {
	var list []string
	switch abi := landlockABI(); {
	case abi <= 0:
		list = append(list, "the kernel has no Landlock: plugins can read every file that the server's user can")
	case abi < 6:
		list = append(list, fmt.Sprintf("the kernel's Landlock has version %d: plugins can send signals to the server (6 or later prevents it)", abi))
	}
	switch {
	case ownUser:
	case os.Geteuid() == 0:
		list = append(list, "plugins run as root like the server: set user and plugin_user")
	default:
		list = append(list, "plugins run as the server's user: there is no limit on their number of processes, and they can connect to "+
			"unix sockets of that user (the one for administration turns them away); plugin_user, with a start as root, prevents both")
	}
	if _, err := os.Stat("/proc/self/exe"); err != nil {
		list = append(list, "/proc is not mounted: plugins cannot be started: "+strings.TrimSpace(err.Error()))
	}
	return list
}
