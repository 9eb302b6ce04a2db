package datadir

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestHolder is not a test: it is the other process of TestLock.
func TestHolder(t *testing.T) {
	dir := os.Getenv("DATADIR_TEST_HOLD")
	if dir == "" {
		t.Skip("run by TestLock")
	}
	lock, err := Acquire(context.Background(), dir, "the test", time.Second, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	os.Stdout.WriteString("held\n")
	time.Sleep(time.Minute)
}

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := Make(dir); err != nil {
		t.Fatal(err)
	}
	other := exec.Command(os.Args[0], "-test.run=^TestHolder$")
	other.Env = append(os.Environ(), "DATADIR_TEST_HOLD="+dir)
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "held" {
	}
	waited := ""
	_, err = Acquire(t.Context(), dir, "us", 100*time.Millisecond, func(holder string) { waited = holder })
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "the test") || !strings.Contains(waited, "the test") {
		t.Errorf("Acquire = %v, waiting for %q; want ErrLocked and who holds it", err, waited)
	}
	go func() {
		time.Sleep(100 * time.Millisecond)
		other.Process.Signal(syscall.SIGKILL)
	}()
	lock, err := Acquire(t.Context(), dir, "us", 10*time.Second, nil)
	if err != nil {
		t.Fatalf("the holder was killed: %v", err)
	}
	other.Wait()
	lock.Unlock()
	lock.Unlock()
	info, err := os.Stat(filepath.Join(dir, "lock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("lock file: %v, %v", info, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	first, err := Acquire(ctx, dir, "first", time.Second, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Unlock()
	cancel()
	if _, err := Acquire(ctx, dir, "second", time.Minute, nil); !errors.Is(err, ErrLocked) {
		t.Errorf("a cancelled wait: %v", err)
	}
}

func TestOwner(t *testing.T) {
	dir := t.TempDir()
	if err := BecomeOwner(dir, nil); err != nil {
		t.Errorf("our own directory: %v", err)
	}
	if err := BecomeOwner(filepath.Join(dir, "absent"), nil); err == nil {
		t.Error("an absent directory has an owner")
	}
	fresh := filepath.Join(dir, "fresh")
	if err := Enter(fresh, "", nil); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Make(fresh); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(fresh); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data_dir: %v, %v; want it closed to others", info, err)
	}
	if os.Geteuid() == 0 {
		return // root becomes the owner instead
	}
	err := become(os.Geteuid()+1, 0, dir, []string{"sluice", "user", "list", "--config", "my file"})
	if err == nil || !strings.Contains(err.Error(), "sudo -u") || !strings.Contains(err.Error(), "'my file'") {
		t.Errorf("somebody else's directory: %v; want the command to use", err)
	}
}
