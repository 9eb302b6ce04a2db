package interop

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestReloadInFlight: DRILLS E6.8: plugins are replaced again and again under mail; each message is scanned once and delivered
// once, none is put off, and a bad file changes nothing.
func TestReloadInFlight(t *testing.T) {
	s := newMischiefSite(t, "anti-virus")
	s.start()
	s.scannedAgain("the start")
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	var accepted sync.Map
	var stop atomic.Bool
	var senders sync.WaitGroup
	for i := range 8 {
		senders.Go(func() {
			c, err := dialSMTP(s.addr("mx"), time.Minute)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.close()
			for n := 0; !stop.Load(); n++ {
				id := fmt.Sprintf("flight.%d.%d@example.org", i, n)
				if _, err := c.send(stranger, []string{bob}, letter(id, "flight", 3000)); err != nil {
					t.Errorf("%s: %v", id, err)
					return
				}
				accepted.Store(id, true)
			}
		})
	}
	first := childOf(s.pid)
	for n := range 6 {
		time.Sleep(300 * time.Millisecond)
		s.writeFile("sluice.toml", strings.Replace(string(text), `timeout = "2s"`, fmt.Sprintf(`timeout = "%ds"`, 3+n), 1))
		s.sluice("", "reload")
	}
	s.writeFile("sluice.toml", strings.Replace(string(text), `timeout = "2s"`, `timeout = "-2s"`, 1))
	if out, err := s.trySluice("", "reload"); err == nil || !strings.Contains(out, "plugin.mischief.timeout") {
		t.Errorf("a bad file: %v %s", err, out)
	}
	time.Sleep(300 * time.Millisecond)
	stop.Store(true)
	senders.Wait()
	want := 0
	accepted.Range(func(id, _ any) bool { want++; return true })
	eventually(t, 20*time.Second, "all mail is delivered", func() bool {
		ids, err := s.ids(bob, "INBOX")
		return err == nil && len(ids) >= want
	})
	ids, err := s.ids(bob, "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	accepted.Range(func(id, _ any) bool {
		if ids[id.(string)] != 1 {
			t.Errorf("%s was delivered %d times", id, ids[id.(string)])
		}
		return true
	})
	if childOf(s.pid) == first && len(childrenOf(s.pid)) == 1 {
		t.Error("the plugin was not replaced")
	}
	if n := strings.Count(s.logText(), "plugins reloaded"); n != 6 {
		t.Errorf("the log tells of %d reloads", n)
	}
	t.Logf("%d messages", want)
	s.stop()
}
