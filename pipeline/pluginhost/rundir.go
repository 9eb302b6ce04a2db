package pluginhost

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// runDir is the directory of a host's sockets. It is locked as long as it is in use: a server in another container that shares
// the place has no process of our number there, but sees that we live. Where somebody clears the place up all the same (it is mostly the system's
// for temporary files) those who start a plugin next get another: running ones lose what they need, and this must not last.
type runDir struct {
	base string
	as   *Identity // of the plugins; nil: ours

	mu   sync.Mutex
	dir  string   // "": none yet
	lock *os.File // dir, held open
}

// path returns the directory, which is made if it is not there.
func (r *runDir) path() (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isThere() {
		return r.dir, nil
	}
	if err := r.make(); err != nil {
		return "", fmt.Errorf("make the directory of the plugins' sockets: %w", err)
	}
	return r.dir, nil
}

// isThere reports whether what has the name is still what was locked: anybody may make one of that name when ours is gone.
func (r *runDir) isThere() bool {
	if r.dir == "" {
		return false
	}
	there, err := os.Lstat(r.dir)
	if err != nil {
		return false
	}
	ours, err := r.lock.Stat()
	return err == nil && os.SameFile(there, ours)
}

func (r *runDir) make() error {
	dir, err := os.MkdirTemp(r.base, fmt.Sprintf("sluice-run-%d-*", os.Getpid()))
	if err != nil {
		return err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	if r.as != nil { // it passes through to the one of its own, and sees no other
		if err := os.Chmod(dir, 0o711); err != nil {
			return errors.Join(err, lock.Close())
		}
	}
	if r.lock != nil {
		_ = r.lock.Close()
	}
	r.dir, r.lock = dir, lock
	return nil
}

// remove ends the use of the directory. It is called once, after the last path.
func (r *runDir) remove() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isThere() {
		_ = os.RemoveAll(r.dir)
	}
	_ = r.lock.Close()
}

// clear removes what servers that were killed left in the place, with the processes that their plugins left.
func (r *runDir) clear() {
	left, _ := filepath.Glob(filepath.Join(r.base, "sluice-run-*-*"))
	for _, dir := range left {
		pid, _ := strconv.Atoi(strings.Split(filepath.Base(dir), "-")[2])
		if isOurs(dir) && pid > 0 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			removeLeft(dir)
		}
	}
}

// isOurs reports whether a name is that of a directory that belongs to the server's user.
func isOurs(dir string) bool {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// removeLeft removes the directory of a server that was killed, unless it lives.
func removeLeft(dir string) {
	lock, err := lockDir(dir)
	if err != nil {
		return
	}
	defer lock.Close()
	endOrphans(dir)
	_ = os.RemoveAll(dir)
}

// lockDir locks a directory until the file is closed, at the latest by the end of the process.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
