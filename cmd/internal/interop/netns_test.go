package interop

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// insideMark is in the environment of a test that runs in namespaces of its own.
const insideMark = "INTEROP_INSIDE"

// inside reports whether this test runs in namespaces of its own, and if not, runs
// it there again in another process and reports what that said. There every port
// of 127.0.0.0/8 is free, 25 too, and what is mounted is seen by nobody else:
// servers that know one place only for their files can live beside each other, and
// find each other by MX, as in the world.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideMark) == t.Name() {
		if err := loopbackUp(postfixAddr, eximAddr, opensmtpdAddr); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if os.Geteuid() != 0 {
		missing(t, "namespaces of its own need root", "sudo")
	}
	unshare := peer(t, "unshare", "util-linux")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	args := []string{
		"--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", os.Args[0],
		"-test.run", "^" + t.Name() + "$", "-test.v", "-test.count", "1",
	}
	cmd := exec.CommandContext(ctx, unshare, args...)
	// Processes in there see nobody else's, and would take what others have in the common place for left behind.
	temp, err := os.MkdirTemp("", "in-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(temp)
	if err := os.Chmod(temp, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), insideMark+"="+t.Name(), "TMPDIR="+temp, "SLUICE_BIN="+sluicePath(t)) // which is built once
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.CombinedOutput()
	text := string(out)
	switch {
	case err != nil:
		t.Errorf("in namespaces of its own: %v\n%s", err, text)
	case strings.Contains(text, "--- SKIP: "+t.Name()+" "):
		t.Skip(text)
	case !strings.Contains(text, "--- PASS: "+t.Name()+" "):
		t.Errorf("in namespaces of its own it did not run:\n%s", text)
	default:
		t.Log(text)
	}
	return false
}

// loopbackUp switches the loopback interface of a new namespace on, with further
// addresses: Postfix has to have the one at which it listens for itself.
func loopbackUp(addrs ...string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("switch lo on: %w", err)
	}
	for i, addr := range addrs {
		alias, err := unix.NewIfreq(fmt.Sprintf("lo:%d", i+1))
		if err != nil {
			return err
		}
		if err := alias.SetInet4Addr(net.ParseIP(addr).To4()); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, alias); err != nil {
			return fmt.Errorf("give %s to lo: %w", addr, err)
		}
	}
	return nil
}

// overlay mounts what is below a directory over the root's directory of that name,
// within the namespace: /usr of an unpacked package, for one. Empty means an empty,
// writable place.
func overlay(t testing.TB, place, with string) {
	t.Helper()
	if with == "" {
		if err := os.MkdirAll(place, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", place, "tmpfs", 0, "mode=755"); err != nil {
			t.Fatalf("mount an empty %s: %v", place, err)
		}
		return
	}
	if err := unix.Mount("overlay", place, "overlay", unix.MS_RDONLY, "lowerdir="+with+":"+place); err != nil {
		t.Fatalf("mount %s over %s: %v", with, place, err)
	}
}

// bind shows text in place of a file, within the namespace.
func bind(t testing.TB, place, text string, mode os.FileMode) {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(place))
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(file, place, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("mount over %s: %v", place, err)
	}
}

// unpacked returns where .ci/packages has unpacked a Debian package that can't be
// installed beside others.
func unpacked(t testing.TB, name string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "sluice-peers", name)
	if _, err := os.Stat(filepath.Join(dir, "usr")); err != nil {
		missing(t, dir+" is missing, which .ci/packages makes of Debian packages that can't be installed beside Postfix", name)
	}
	return dir
}

// awaitPort waits until a server says its greeting.
func awaitPort(t testing.TB, addr string) {
	t.Helper()
	eventually(t, 20*time.Second, "a greeting of "+addr, func() bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		line, err := bufio.NewReader(c).ReadString('\n')
		return err == nil && strings.HasPrefix(line, "220")
	})
}
