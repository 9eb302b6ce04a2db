package interop

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// TestPluginProcess treats a plugin's process from outside as the kernel or an
// administrator might: killed, frozen, orphaned.
func TestPluginProcess(t *testing.T) {
	s := newMischiefSite(t, "anti-spam")
	s.start()
	s.scannedAgain("start")
	// A plugin may have a second process for suspects; here nobody is suspected.
	plugin := func(not int) int {
		t.Helper()
		pid := 0
		eventually(t, 20*time.Second, "the plugin's process", func() bool {
			pid = childOf(s.pid)
			return pid != 0 && pid != not
		})
		return pid
	}
	killed := plugin(0)
	syscall.Kill(killed, syscall.SIGKILL)
	plugin(killed)
	s.scannedAgain("killed")

	// Frozen: no lane moves, and health checks go unanswered. Mail goes by on_timeout,
	// and then there is another process.
	frozen := plugin(killed)
	syscall.Kill(frozen, syscall.SIGSTOP)
	c, err := dialSMTP(s.addr("mx"), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	_, err = c.send(stranger, []string{alice}, letter("frozen@example.org", "frozen", 1000))
	c.close()
	if err != nil || time.Since(begin) > 10*time.Second {
		t.Errorf("a message while the plugin is frozen: %v after %v", err, time.Since(begin))
	} else if got := s.whereIs("frozen@example.org"); got != unscanned {
		t.Errorf("a message while the plugin is frozen was %v", got)
	}
	for n := 0; ; n++ {
		c, err := dialSMTP(s.addr("mx"), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprintf("thawed.%d@example.org", n)
		_, err = c.send(stranger, []string{alice}, letter(id, "thawed", 1000))
		c.close()
		if err == nil && s.whereIs(id) == scanned {
			break
		}
		if time.Since(begin) > 3*time.Minute {
			t.Fatalf("the frozen plugin was not replaced within 3 minutes")
		}
	}
	t.Logf("replaced %v after it froze", time.Since(begin).Round(time.Second))
	if p, err := readProcess(frozen); err == nil && p.state != 'Z' {
		t.Errorf("the frozen process is still there: %+v", p)
	}

	// Orphaned: the server is killed with nobody to clean up behind it.
	orphan := plugin(frozen)
	s.crash()
	eventually(t, 10*time.Second, "the end of a plugin whose server was killed", func() bool {
		p, err := readProcess(orphan)
		return err != nil || p.state == 'Z'
	})
	s.start()
	s.scannedAgain("orphaned")
	last := plugin(orphan)
	s.stop()
	if p, err := readProcess(last); err == nil && p.state != 'Z' {
		t.Errorf("the plugin outlives a server that stopped: %+v", p)
	}
}
