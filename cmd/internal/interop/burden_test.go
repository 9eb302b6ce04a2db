package interop

import (
	"bufio"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var burdenProgram = sync.OnceValues(func() (string, error) {
	return build("burden", "github.com/sluicemail/sluice/cmd/internal/interop/testdata/burden")
})

// newBurdenSite makes a site whose stage asks the plugin of testdata/burden; keys are of its table, config of its own.
func newBurdenSite(t *testing.T, stage, keys, config, extra string) *site {
	t.Helper()
	program, err := burdenProgram()
	if err != nil {
		t.Fatal(err)
	}
	return newSite(t, fmt.Sprintf(`
[plugin.burden]
command = [%q]
%s
[plugin.burden.config]
%s
[pipeline.inbound.%s]
plugins = ["burden"]
%s
`, program, keys, config, stage, extra))
}

// TestOverload (RULES C2): two hundred clients at once, and a plugin with two lanes that cannot keep up, with on_failure =
// accept: whoever gets a 250 was scanned, everybody else is told 451.
func TestOverload(t *testing.T) {
	s := newBurdenSite(t, "anti-virus", "lanes = 2\ntimeout = \"2s\"\non_failure = \"accept\"", `content = "150ms"`, "")
	s.start()
	var accepted, busy atomic.Int64
	var clients sync.WaitGroup
	for i := range 200 {
		clients.Go(func() {
			c, err := dialSMTP(s.addr("mx"), time.Minute)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.close()
			_, err = c.send(stranger, []string{bob}, letter(fmt.Sprintf("load.%d@example.org", i), "load", 3000))
			switch code := replyCode(err); {
			case err == nil:
				accepted.Add(1)
			case code == 451:
				busy.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	clients.Wait()
	if accepted.Load() < 10 || busy.Load() < 100 {
		t.Errorf("%d were accepted, %d were told to come again", accepted.Load(), busy.Load())
	}
	t.Logf("%d accepted, %d busy", accepted.Load(), busy.Load())
	eventually(t, 20*time.Second, "all mail is delivered", func() bool {
		ids, err := s.ids(bob, "INBOX")
		return err == nil && int64(len(ids)) >= accepted.Load()
	})
	for _, text := range s.everything(bob) {
		if !strings.Contains(text, "X-Burden-Seen: yes") || strings.Contains(text, "X-Sluice-Unscanned") {
			t.Fatalf("delivered without a scan:\n%.600s", text)
		}
	}
	s.stop()
}

// TestOverloadAtConnect: the same before the greeting, where busy is 421.
func TestOverloadAtConnect(t *testing.T) {
	s := newBurdenSite(t, "anti-spam", "lanes = 2\ntimeout = \"1s\"\non_failure = \"accept\"", `connect = "150ms"`, "")
	s.start()
	var greeted, busy atomic.Int64
	var clients sync.WaitGroup
	for range 100 {
		clients.Go(func() {
			conn, err := net.DialTimeout("tcp", s.addr("mx"), 5*time.Second)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(30 * time.Second))
			line, err := bufio.NewReader(conn).ReadString('\n')
			switch {
			case strings.HasPrefix(line, "220 "):
				greeted.Add(1)
			case strings.HasPrefix(line, "421 4.3.2 "):
				busy.Add(1)
			default:
				t.Errorf("the greeting is %q, %v", line, err)
			}
		})
	}
	clients.Wait()
	if metrics := s.sluice("", "metrics"); strings.Contains(metrics, `sluice_unscanned_total{plugin="burden"`) {
		t.Errorf("somebody was let in unseen:\n%s", regexp.MustCompile(`(?m)^sluice_unscanned.*`).FindString(metrics))
	}
	if greeted.Load() < 5 || busy.Load() < 50 {
		t.Errorf("%d were greeted, %d told to come again", greeted.Load(), busy.Load())
	}
	t.Logf("%d greeted, %d busy", greeted.Load(), busy.Load())
	s.stop()
}

// TestReloadHundredInFlight (DRILLS E6.8): a hundred messages are with the plugin when its table changes. Each ends under what it
// began with, those that come afterwards under the new one, and none is put off or lost.
func TestReloadHundredInFlight(t *testing.T) {
	s := newBurdenSite(t, "anti-virus", "lanes = 100\ntimeout = \"10s\"", "content = \"2s\"\nmark = \"old\"", "")
	s.start()
	var clients sync.WaitGroup
	for i := range 100 {
		clients.Go(func() {
			c, err := dialSMTP(s.addr("mx"), time.Minute)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.close()
			if _, err := c.send(stranger, []string{bob}, letter(fmt.Sprintf("old.%d@example.org", i), "flight", 3000)); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, 10*time.Second, "all are in flight", func() bool {
		return strings.Contains(s.sluice("", "plugin", "list", "--json"), `"in_flight":100,`)
	})
	s.replaceConfig(`mark = "old"`, `mark = "new"`)
	s.sluice("", "reload")
	c, err := dialSMTP(s.addr("mx"), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if _, err := c.send(stranger, []string{bob}, letter("new.0@example.org", "flight", 3000)); err != nil {
		t.Fatal(err)
	}
	clients.Wait()
	s.replaceConfig(`timeout = "10s"`, `timeout = "-10s"`)
	if out, err := s.trySluice("", "reload"); err == nil {
		t.Errorf("a bad file is taken: %s", out)
	}
	eventually(t, 20*time.Second, "all mail is delivered", func() bool {
		ids, err := s.ids(bob, "INBOX")
		return err == nil && len(ids) >= 101
	})
	marks := make(map[string]int)
	for _, text := range s.everything(bob) {
		marks[regexp.MustCompile(`X-Burden-Seen: yes \w+`).FindString(text)+regexp.MustCompile(`Message-ID: <\w+`).FindString(text)]++
	}
	if marks["X-Burden-Seen: yes oldMessage-ID: <old"] != 100 || marks["X-Burden-Seen: yes newMessage-ID: <new"] != 1 {
		t.Errorf("under which table each was scanned: %v", marks)
	}
	s.stop()
}
