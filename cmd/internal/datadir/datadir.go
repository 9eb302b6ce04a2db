// Package datadir looks after the directory in which everything is kept: who owns it, and who has it open.
//
// It promises (RULES D5): one process at a time holds the lock file, however it ends, because the kernel drops a lock with
// its process; and nobody but the directory's owner writes into it. A command that root runs becomes the owner; one that
// somebody else runs is refused, and is told the command to use instead.
//
// It owns data_dir/lock, whose content (the holder's process ID and what it is) is for people only.
package datadir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How long to wait for the lock (RULES D5).
const (
	CommandWait = 5 * time.Second
	ServeWait   = 15 * time.Second
)

// ErrLocked is the cause when another process holds the lock.
var ErrLocked = errors.New("another process has it open")

// Make makes the directory for its owner alone. One that others could look into is closed to them: it holds mail.
func Make(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make data_dir: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("look at data_dir: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		if err := os.Chmod(dir, mode&^0o077); err != nil && !errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("close data_dir to others: %w", err)
		}
	}
	return nil
}

// Enter makes the directory if there is none, and makes this process the user that owns it (RULES D5). A directory that
// root makes belongs to the user that the server will be, if one is named. command is what was typed, for the error.
func Enter(dir, serverUser string, command []string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if err := Make(dir); err != nil {
			return err
		}
		if err := give(dir, serverUser); err != nil {
			return err
		}
	}
	return BecomeOwner(dir, command)
}

// Drop makes this process, which is root's, the named user for good, and that user the owner of dir. It is called when
// everything that needs root, such as a port below 1024, is open, and before anything in dir is.
func Drop(dir, name string) error {
	if err := Make(dir); err != nil {
		return err
	}
	if err := give(dir, name); err != nil {
		return err
	}
	return BecomeOwner(dir, nil)
}

// give makes a directory a user's, where this process may.
func give(dir, name string) error {
	if name == "" || os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return fmt.Errorf("make data_dir: %w", err)
	}
	uid, errUID := strconv.Atoi(u.Uid)
	gid, errGID := strconv.Atoi(u.Gid)
	if err := errors.Join(errUID, errGID); err != nil {
		return fmt.Errorf("make data_dir: the user %s: %w", name, err)
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		return fmt.Errorf("make data_dir: %w", err)
	}
	return nil
}

// Owner returns who owns dir.
func Owner(dir string) (uid, gid int, err error) {
	info, err := os.Stat(dir)
	if err != nil {
		return 0, 0, fmt.Errorf("look at data_dir: %w", err)
	}
	if !info.IsDir() {
		return 0, 0, fmt.Errorf("look at data_dir: %s is not a directory", dir)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, fmt.Errorf("look at data_dir: the owner of %s cannot be found out on this system", dir)
	}
	return int(stat.Uid), int(stat.Gid), nil
}

// BecomeOwner makes this process the user that owns dir. It is called before anything in dir is touched, from a process
// that does nothing else yet. command is what a person would have to type, for the error.
func BecomeOwner(dir string, command []string) error {
	uid, gid, err := Owner(dir)
	if err != nil {
		return err
	}
	return become(uid, gid, dir, command)
}

func become(uid, gid int, dir string, command []string) error {
	switch os.Geteuid() {
	case uid:
		return nil
	case 0:
		return Become(uid, gid)
	}
	name := strconv.Itoa(uid)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	return fmt.Errorf("%s belongs to %s; use: sudo -u %s %s", dir, name, name, quote(command))
}

// Become makes this process, which is root's, another user's, for good.
func Become(uid, gid int) error {
	if err := syscall.Setgroups([]int{gid}); err != nil {
		return fmt.Errorf("give up root's groups: %w", err)
	}
	if err := syscall.Setgid(gid); err != nil {
		return fmt.Errorf("become group %d: %w", gid, err)
	}
	if err := syscall.Setuid(uid); err != nil {
		return fmt.Errorf("become user %d: %w", uid, err)
	}
	return nil
}

// quote writes a command so that a shell reads the same words.
func quote(command []string) string {
	words := make([]string, len(command))
	for i, w := range command {
		if w == "" || strings.ContainsAny(w, " \t\n'\"\\$`&|;<>()*?[]{}~#!") {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		words[i] = w
	}
	return strings.Join(words, " ")
}

// Lock is the right to open what is in data_dir. It ends with Unlock or with the process.
type Lock struct{ file *os.File }

// Acquire takes the lock, waiting up to wait for another holder to go. waiting, if not nil, is called once when there is
// something to wait for, with what is known of the holder.
func Acquire(ctx context.Context, dir, what string, wait time.Duration, waiting func(holder string)) (*Lock, error) {
	name := filepath.Join(dir, "lock")
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	said := false
	for {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		if !said && waiting != nil {
			waiting(holder(file))
			said = true
		}
		select {
		case <-ctx.Done():
			who := holder(file)
			file.Close()
			return nil, fmt.Errorf("lock %s: %w (%s)", name, ErrLocked, who)
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := file.Truncate(0); err == nil {
		_, _ = file.WriteAt(fmt.Appendf(nil, "%d %s\n", os.Getpid(), what), 0) // for people; the lock is the kernel's
	}
	return &Lock{file}, nil
}

// holder returns what the lock's holder wrote into it.
func holder(file *os.File) string {
	buf := make([]byte, 100)
	n, _ := file.ReadAt(buf, 0)
	pid, what, found := strings.Cut(strings.TrimSpace(string(buf[:n])), " ")
	if _, err := strconv.Atoi(pid); err != nil || !found {
		return "unknown process"
	}
	return fmt.Sprintf("process %s, %s", pid, what)
}

// Unlock gives the lock back. It may be called on nil, and twice.
func (l *Lock) Unlock() {
	if l == nil || l.file == nil {
		return
	}
	l.file.Close() // ends the lock
	l.file = nil
}
