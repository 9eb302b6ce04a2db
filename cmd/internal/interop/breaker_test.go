package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestBreaker: DRILLS E6.2, Exchange's Y2K22: a scanner that never answers costs its time-out a few times; then mail flows at once,
// by policy, the list and the log say so, and the scanner is asked again by itself.
func TestBreaker(t *testing.T) {
	s := newMischiefSite(t, "anti-spam")
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.writeFile("sluice.toml", strings.Replace(string(text), `timeout = "2s"`, "timeout = \"1s\"\nbreaker_failures = 3\nbreaker_wait = \"2s\"", 1))
	s.start()
	for n := range 3 {
		if got, reply := s.sendMischief(fmt.Sprintf("slow.%d@example.org", n), "hang"); got != unscanned {
			t.Errorf("%d: %v (%s)", n, got, reply)
		}
	}
	var plugin struct {
		Breaker string   `json:"breaker"`
		Phases  []string `json:"open_for"`
	}
	if err := json.Unmarshal([]byte(s.sluice("", "plugin", "list", "--json")), &plugin); err != nil || plugin.Breaker != "open" || len(plugin.Phases) != 1 {
		t.Errorf("plugin list: %+v %v", plugin, err)
	}
	begin := time.Now()
	quick := 0
	for n := range 10 { // at most one of them is the question that tries again
		one := time.Now()
		c, err := dialSMTP(s.addr("mx"), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.send(stranger, []string{alice}, letter(fmt.Sprintf("quick.%d@example.org", n), "quick", 1000, "X-Mischief: hang")); err != nil {
			t.Error(err)
		}
		c.close()
		if time.Since(one) < 700*time.Millisecond {
			quick++
		}
	}
	if quick < 8 {
		t.Errorf("%d of 10 messages did not wait, all took %s", quick, time.Since(begin))
	}
	if got := s.whereIs("quick.9@example.org"); got != unscanned {
		t.Errorf("without waiting: %v", got)
	}
	log := s.logText()
	if strings.Count(log, "plugin is not waited for any more") != 1 {
		t.Error("the log does not say once that nobody waits")
	}
	s.scannedAgain("the breaker closed")
	eventually(t, 5*time.Second, "the log says that it answers again", func() bool { // it is written a little later
		return strings.Contains(s.logText(), "plugin answers again")
	})
	s.stop()
}
