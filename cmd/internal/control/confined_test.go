package control

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be a server, and the clients around it.
func TestMain(m *testing.M) {
	dir := os.Getenv("SLUICE_TEST_CONTROL")
	switch os.Getenv("SLUICE_TEST_ROLE") {
	case "server":
		serveForTest(dir)
	case "daemon": // cuts itself loose from the server with the mark of a plugin
		runtime.LockOSThread()
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			os.Exit(9)
		}
		c := role("orphan", dir)
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		_ = c.Start()
	case "orphan":
		time.Sleep(300 * time.Millisecond) // until its parent is gone
		call(dir, "orphan")
	case "child":
		call(dir, "child")
	default:
		os.Exit(m.Run())
	}
}

func role(name, dir string) *exec.Cmd {
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), "SLUICE_TEST_ROLE="+name, "SLUICE_TEST_CONTROL="+dir)
	return c
}

// call writes down whether the server answers.
func call(dir, who string) {
	text := "let in"
	if _, err := Get[string](context.Background(), NewClient(dir), "hello", struct{}{}); err != nil {
		text = err.Error()
		if strings.HasPrefix(text, "the server hung up") {
			text = "turned away"
		}
	}
	_ = os.WriteFile(filepath.Join(dir, who+".tmp"), []byte(text), 0o600)
	_ = os.Rename(filepath.Join(dir, who+".tmp"), filepath.Join(dir, who))
}

func serveForTest(dir string) {
	s := NewServer(dir, slog.New(slog.DiscardHandler))
	s.Handle("hello", func(_ context.Context, _ json.RawMessage, emit func(any) error) error { return emit("hello") })
	if err := s.Start(context.Background()); err != nil {
		os.Exit(8)
	}
	call(dir, "self") // as in `sluice demo`
	for _, name := range []string{"child", "daemon"} {
		if err := role(name, dir).Run(); err != nil {
			os.Exit(7)
		}
	}
	time.Sleep(time.Minute)
}

// TestPluginsAreTurnedAway: our children, and what they have cut loose, get no answer; others of our user do (RULES C4).
func TestPluginsAreTurnedAway(t *testing.T) {
	if marked() {
		t.Skip("this process has no_new_privs, so an orphan with it cannot be told from us")
	}
	dir := t.TempDir()
	server := role("server", dir)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}()
	for who, want := range map[string]string{"self": "let in", "child": "turned away", "orphan": "turned away"} {
		var got []byte
		for end := time.Now().Add(10 * time.Second); got == nil && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			got, _ = os.ReadFile(filepath.Join(dir, who))
		}
		if string(got) != want {
			t.Errorf("%s: %q, want %q", who, got, want)
		}
	}
	if call(dir, "other"); t.Failed() {
		return
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "other")); string(got) != "let in" {
		t.Errorf("a process of its own: %q", got)
	}
}
