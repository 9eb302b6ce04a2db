package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/cmd/internal/datadir"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
)

// This file is about `user` and `plugin_user` (RULES C4). A server that root starts opens its ports, gives data_dir to `user`
// and executes itself again as that user, with the open ports: so every thread of it has lost root, whatever the Go runtime and
// the C library do with threads. If plugins are to have a user of their own it keeps what is needed to start and end processes of that
// user: CAP_SETUID, CAP_SETGID, CAP_KILL and CAP_CHOWN. Whoever takes over such a server can become root by them; with
// `user` alone nothing is left.

// listenersVariable names the ports that were opened before root was given up: "NAME=DESCRIPTOR", separated by commas.
const listenersVariable = "SLUICE_LISTENERS"

// becomeUser does not return if it succeeds and there is something to do: the program runs again as `user`.
func becomeUser(ctx context.Context, c *config.Config) error {
	if c.User == "" {
		return nil
	}
	if os.Geteuid() != 0 {
		return checkUser(c.User)
	}
	as, err := pluginhost.LookupIdentity(c.User)
	if err != nil {
		return fmt.Errorf("become the user of the configuration: %w", err)
	}
	if err := giveDataDir(c.DataDir, as); err != nil {
		return err
	}
	env, err := openPorts(ctx, c)
	if err != nil {
		return err
	}
	return execAs(as, c.PluginUser != "", append(os.Environ(), env))
}

// checkUser warns nobody: who is not root can only be the user already.
func checkUser(name string) error {
	as, err := pluginhost.LookupIdentity(name)
	if err != nil {
		return fmt.Errorf("user: %w", err)
	}
	if as.UID != os.Geteuid() {
		return fmt.Errorf("user = %q, and this is the user with number %d: start the server as root, or as %s", name, os.Geteuid(), name)
	}
	return nil
}

// giveDataDir makes the directory and what root has made in it the user's. What belongs to a third is left alone, and an error.
func giveDataDir(dir string, as *pluginhost.Identity) error {
	if err := datadir.Make(dir); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("look at data_dir: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case ok && int(stat.Uid) == as.UID:
		return nil
	case !ok || stat.Uid != 0:
		return fmt.Errorf("data_dir %s belongs neither to root nor to %s", dir, as.Name)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open data_dir: %w", err)
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); !ok || stat.Uid != 0 || name == "." {
			return nil
		}
		return root.Lchown(name, as.UID, as.GID)
	})
	if err == nil {
		err = os.Chown(dir, as.UID, as.GID) // last: so that one that was interrupted is done again
	}
	if err != nil {
		return fmt.Errorf("give data_dir to %s: %w", as.Name, err)
	}
	return nil
}

// openPorts opens every port and lets the next program have them.
func openPorts(ctx context.Context, c *config.Config) (env string, err error) {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(c.Listener)) {
		l, err := listenTCP(ctx, c.Listener[name].Address)
		if err != nil {
			return "", fmt.Errorf("listener.%s: %w", name, err)
		}
		tcp, ok := l.(*net.TCPListener)
		if !ok {
			return "", fmt.Errorf("listener.%s: %T has no descriptor", name, l)
		}
		file, err := tcp.File()
		if err != nil {
			return "", fmt.Errorf("listener.%s: %w", name, err)
		}
		fd, err := unix.Dup(int(file.Fd())) // without close-on-exec
		if err != nil {
			return "", fmt.Errorf("listener.%s: %w", name, err)
		}
		list = append(list, fmt.Sprintf("%s=%d", name, fd))
	}
	return listenersVariable + "=" + strings.Join(list, ","), nil
}

// listenFor returns the port that was opened for a listener before root was given up, or opens it.
func listenFor(ctx context.Context, name, address string) (net.Listener, error) {
	for pair := range strings.SplitSeq(os.Getenv(listenersVariable), ",") {
		its, number, _ := strings.Cut(pair, "=")
		fd, err := strconv.Atoi(number)
		if its != name || err != nil {
			continue
		}
		file := os.NewFile(uintptr(fd), "listener."+name)
		l, err := net.FileListener(file) // a copy
		return l, errors.Join(err, file.Close())
	}
	return listenTCP(ctx, address)
}

// keptCapabilities are what a server needs to start plugins as another user.
var keptCapabilities = []uintptr{unix.CAP_CHOWN, unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID}

// execAs runs this program again as another user. Rights are of threads: this one changes its own, and execve ends
// the others.
func execAs(as *pluginhost.Identity, keep bool, env []string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	gid := int32(as.GID)
	step := func(what string, errno syscall.Errno) error {
		if errno != 0 {
			return fmt.Errorf("become %s: %s: %w", as.Name, what, errno)
		}
		return nil
	}
	keepCaps := uintptr(0)
	if keep {
		keepCaps = 1
	}
	_, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, keepCaps, 0)
	if err := step("PR_SET_KEEPCAPS", errno); err != nil {
		return err
	}
	if err := setGroups(gid); err != nil {
		return fmt.Errorf("become %s: setgroups: %w", as.Name, err)
	}
	_, _, errno = unix.RawSyscall(unix.SYS_SETRESGID, uintptr(as.GID), uintptr(as.GID), uintptr(as.GID))
	if err := step("setresgid", errno); err != nil {
		return err
	}
	_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, uintptr(as.UID), uintptr(as.UID), uintptr(as.UID))
	if err := step("setresuid", errno); err != nil {
		return err
	}
	if keep {
		if err := raise(keptCapabilities); err != nil {
			return fmt.Errorf("become %s: %w", as.Name, err)
		}
	}
	program, err := filepath.EvalSymlinks("/proc/self/exe")
	if err != nil {
		program = "/proc/self/exe"
	}
	return fmt.Errorf("run %s again as %s: %w", program, as.Name, syscall.Exec("/proc/self/exe", os.Args, env))
}

// raise makes capabilities survive execve.
func raise(list []uintptr) error {
	var bits uint32
	for _, c := range list {
		bits |= 1 << c
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: bits, Permitted: bits, Inheritable: bits}}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	for _, c := range list {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0); err != nil {
			return fmt.Errorf("PR_CAP_AMBIENT_RAISE: %w", err)
		}
	}
	return nil
}

// pluginIdentity returns the plugins' user, and lets it reach its state through data_dir, whose other content is closed to it.
func pluginIdentity(c *config.Config) (*pluginhost.Identity, error) {
	if c.PluginUser == "" {
		return nil, nil
	}
	as, err := pluginhost.LookupIdentity(c.PluginUser)
	if err != nil {
		return nil, fmt.Errorf("plugin_user: %w", err)
	}
	if as.UID == os.Geteuid() {
		return nil, fmt.Errorf("plugin_user: %s is the server's own user, expected another one", as.Name)
	}
	if !mayStartAs() {
		return nil, fmt.Errorf("plugin_user: this server cannot start plugins as %s: start it as root", as.Name)
	}
	syscall.Umask(0o077) // what is made in data_dir from now on
	return as, pluginhost.OpenPath(c.DataDir, filepath.Join(c.DataDir, "plugin"), as)
}

// mayStartAs reports whether this process has the capabilities for it.
func mayStartAs() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return false
	}
	for _, c := range keptCapabilities {
		if data[0].Effective&(1<<c) == 0 {
			return false
		}
	}
	return true
}
