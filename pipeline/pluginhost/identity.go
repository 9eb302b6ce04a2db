package pluginhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// Identity is the user that plugins run as when it is another than the server's (plugin_user, RULES C4).
type Identity struct {
	Name string
	UID  int
	GID  int
}

// LookupIdentity finds a user by name or number.
func LookupIdentity(name string) (*Identity, error) {
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return nil, fmt.Errorf("there is no user %q on this system", name)
		}
	}
	uid, errUID := strconv.Atoi(u.Uid)
	gid, errGID := strconv.Atoi(u.Gid)
	if err := errors.Join(errUID, errGID); err != nil {
		return nil, fmt.Errorf("the user %s: %w", name, err)
	}
	if uid == 0 {
		return nil, fmt.Errorf("the user %s is root, expected one without rights", name)
	}
	return &Identity{name, uid, gid}, nil
}

// processAttributes makes the process the leader of a group of its own that the
// kernel kills when our starting thread is gone. Its user is another's from the first instruction on.
func processAttributes(as *Identity) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if as != nil {
		a.Credential = &syscall.Credential{Uid: uint32(as.UID), Gid: uint32(as.GID), Groups: []uint32{uint32(as.GID)}}
	}
	return a
}

// A directory that plugin and server share belongs to the plugin's user and the server's group, and so does all that
// is made in it (set-group-ID): the server can connect to the plugin's socket, and read its state for a backup.
const sharedMode = 0o770 | os.ModeSetgid

// share makes dir, which this process has made, such a directory.
func share(dir string, as *Identity) error {
	if as == nil {
		return nil
	}
	err := os.Chmod(dir, sharedMode)
	if err == nil {
		err = os.Chown(dir, as.UID, os.Getegid())
	}
	if err != nil {
		return fmt.Errorf("give %s to the user %s: %w", filepath.Base(dir), as.Name, err)
	}
	return nil
}

// shareAll gives a directory, and what a former identity left in it, to the plugin's user. Links are never
// followed, nor a directory that somebody replaces meanwhile.
func shareAll(dir string, as *Identity) error {
	if as == nil {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) == as.UID && int(stat.Gid) == os.Getegid() {
		return nil
	}
	if err := share(dir, as); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("give the plugin's state to %s: %w", as.Name, err)
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		return root.Lchown(name, as.UID, os.Getegid())
	})
	if err != nil {
		return fmt.Errorf("give the plugin's state to %s: %w", as.Name, err)
	}
	return nil
}

// OpenPath lets the plugins' user pass through dataDir to stateDir, which lies directly in it, and nowhere else: group and others lose
// every right to what else is in dataDir. What is made there later must be closed by the process's umask.
func OpenPath(dataDir, stateDir string, as *Identity) error {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dataDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dataDir, e.Name())
		info, err := e.Info()
		if err != nil || info.Mode().Type() == fs.ModeSymlink || path == filepath.Clean(stateDir) {
			continue
		}
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			if err := os.Chmod(path, mode&^0o077); err != nil {
				return fmt.Errorf("close %s to others: %w", path, err)
			}
		}
	}
	for _, dir := range []string{dataDir, stateDir} {
		err := os.Chown(dir, -1, as.GID)
		if err == nil {
			err = os.Chmod(dir, 0o710)
		}
		if err != nil {
			return fmt.Errorf("let the user %s pass through %s: %w", as.Name, dir, err)
		}
	}
	return nil
}
