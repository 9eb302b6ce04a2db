package pluginhost

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestOthersRunDir: what a killed server left is removed; what one in another container uses, whose number is nobody's here, is not.
func TestOthersRunDir(t *testing.T) {
	gone := exec.Command("/bin/true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	live, dead := filepath.Join(base, fmt.Sprintf("sluice-run-%d-1", gone.Process.Pid)), filepath.Join(base, fmt.Sprintf("sluice-run-%d-2", gone.Process.Pid))
	for _, dir := range []string{live, dead} {
		if err := os.MkdirAll(filepath.Join(dir, "plugin-dir1"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := lockDir(live)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	r := &runDir{base: base}
	r.clear()
	own, err := r.path()
	if err != nil {
		t.Fatal(err)
	}
	defer r.remove()
	for dir, want := range map[string]bool{live: true, dead: false, own: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v, expected it there: %v", dir, err, want)
		}
	}
	if _, err := lockDir(own); err == nil {
		t.Error("the directory in use is not locked")
	}
}

// TestSocketRemoved: a plugin whose sockets somebody has removed is asked over the connection that it has. What kills it is
// suspected as ever.
func TestSocketRemoved(t *testing.T) {
	h := newHarness(t, "plain", nil)
	h.ready(t)
	if v, kind := h.ask(t, message("hello")); kind != "" || v.Score != 1 {
		t.Fatalf("%+v %q", v, kind)
	}
	proc, err := h.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(proc.runner.socketDir); err != nil {
		t.Fatal(err)
	}
	proc.cut(t)
	for range 3 {
		if v, kind := h.ask(t, message("hello")); kind != "" || v.Score != 1 {
			t.Fatalf("%+v %q", v, kind)
		}
	}
	for _, socket := range []string{"direct lanes was removed", "small questions was removed"} {
		if n := strings.Count(h.log.String(), socket); n != 1 || h.host.States()[0].Restarts != 0 {
			t.Errorf("%d warnings, expected 1\n%s", n, h.log.String())
		}
	}
	if _, kind := h.ask(t, message("do: crash\r\n\r\n")); kind != Poison {
		t.Errorf("%q, expected poison", kind)
	}
	if h.suspects.len() != 1 {
		t.Errorf("%d suspects, expected the one that was in the process", h.suspects.len())
	}
}

// TestRunDirRemoved: somebody clears the place of temporary files up, the plugin dies, and starts again all the same; a directory of the
// same name that somebody else made is not taken.
func TestRunDirRemoved(t *testing.T) {
	h := newHarness(t, "plain", nil)
	h.ready(t)
	gone, err := h.host.sockets.path()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(gone), os.Mkdir(gone, 0o700)); err != nil {
		t.Fatal(err)
	}
	_, _ = h.ask(t, message("do: crash\r\n\r\n"))
	eventually(t, "it is asked again", 10*time.Second, func() bool {
		v, kind := h.ask(t, message("hello"))
		return kind == "" && v.Score == 1
	})
	now, err := h.host.sockets.path()
	if err != nil || now == gone {
		t.Errorf("%s: %v, expected another than %s", now, err, gone)
	}
	if left, err := os.ReadDir(gone); err != nil || len(left) > 0 {
		t.Errorf("%s has %v: %v", gone, left, err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(gone) })
}
