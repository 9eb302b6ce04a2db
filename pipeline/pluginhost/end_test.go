package pluginhost

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// TestStopDrains: what is in flight ends as it began, what comes later is put off.
func TestStopDrains(t *testing.T) {
	h := newHarness(t, "plain", nil)
	h.ready(t)
	result := make(chan Kind, 1)
	go func() {
		_, kind := h.ask(t, message("do: sleep 300ms\r\n\r\n"))
		result <- kind
	}()
	time.Sleep(100 * time.Millisecond)
	stopped := make(chan error, 1)
	go func() { stopped <- h.host.Stop(context.Background()) }()
	time.Sleep(50 * time.Millisecond)
	if _, kind := h.ask(t, message("x")); kind != Busy {
		t.Errorf("while stopping: %q, expected busy", kind)
	}
	if kind := <-result; kind != "" {
		t.Errorf("in flight: %q", kind)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if s := h.host.States()[0]; s.PID != 0 {
		t.Errorf("%+v", s)
	}
}

// TestFamily (DRILLS E6.6): the children of a plugin end with it, also those that left its process group.
func TestFamily(t *testing.T) {
	for _, how := range []string{"fork", "daemon"} {
		h := newHarness(t, "plain", nil)
		h.ready(t)
		v, kind := h.ask(t, message("do: "+how+"\r\n\r\n"))
		child, _ := strconv.Atoi(v.Tags["pid"])
		if kind != "" || !alive(child) {
			t.Fatalf("%s: %q %v", how, kind, v)
		}
		if err := h.host.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		eventually(t, how+": the child is gone", time.Second, func() bool { return !alive(child) })
	}
}

// hostForKill is a server that is going to be killed: it prints the process IDs of its plugins.
func hostForKill(dir string) {
	t := &testing.T{}
	h := newHarness(t, "plain", nil)
	_ = h.host.WaitReady(context.Background())
	v, _ := h.ask(t, message("do: fork\r\n\r\n"))
	_ = os.WriteFile(filepath.Join(dir, "pid"), []byte(fmt.Sprint(h.host.States()[0].PID, " ", v.Tags["pid"])), 0o600)
	select {}
}

// TestKilledHost (DRILLS E6.6): kill -9 of the server leaves no plugin behind, and the next start none of their children.
func TestKilledHost(t *testing.T) {
	dir := t.TempDir()
	host := exec.Command("/proc/self/exe")
	host.Env = append(os.Environ(), "SLUICE_TEST_HOST="+dir)
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	var pid, child int
	eventually(t, "the plugin and its child run", 10*time.Second, func() bool {
		text, _ := os.ReadFile(filepath.Join(dir, "pid"))
		n, _ := fmt.Sscan(string(text), &pid, &child)
		return n == 2 && alive(pid) && alive(child)
	})
	pattern := filepath.Join(os.TempDir(), fmt.Sprintf("sluice-run-%d-*", host.Process.Pid))
	_ = host.Process.Kill()
	_ = host.Wait()
	eventually(t, "the plugin is gone", 2*time.Second, func() bool { return !alive(pid) })
	if left, _ := filepath.Glob(pattern); len(left) != 1 {
		t.Errorf("%v, expected the socket of the dead server", left)
	}
	newHarness(t, "plain", nil).ready(t)
	if left, _ := filepath.Glob(pattern); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
	eventually(t, "the child is gone", time.Second, func() bool { return !alive(child) })
}

func TestSuspectsAreBounded(t *testing.T) {
	now := time.Now()
	s := newSuspects(func() time.Time { return now })
	for i := range 2 * maxSuspects {
		s.suspect([32]byte{byte(i), byte(i >> 8), byte(i >> 16)}, 1)
	}
	if s.len() != maxSuspects {
		t.Errorf("%d suspects", s.len())
	}
	now = now.Add(25 * time.Hour)
	if _, suspected := s.lookup([32]byte{255}); suspected || s.len() != 0 {
		t.Errorf("%d suspects after a day", s.len())
	}
}

func TestQuantile(t *testing.T) {
	var s stats
	for i := 1; i <= 1000; i++ {
		s.done(time.Duration(i)*time.Microsecond, "")
	}
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Microsecond, 0.99: 990 * time.Microsecond} {
		if got := s.quantile(q); got < want || got > want*13/10 {
			t.Errorf("%v: %s, expected %s and at most 30%% more", q, got, want)
		}
	}
}
