package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
)

// mischiefProgram is built without the race detector, whose shadow memory does
// not fit into the limits of a plugin.
var mischiefProgram = sync.OnceValues(func() (string, error) {
	return build("mischief", "github.com/sluicemail/sluice/cmd/internal/interop/testdata/mischief")
})

// newMischiefSite makes a site whose anti-spam or anti-virus stage asks the
// plugin of testdata/mischief.
func newMischiefSite(t *testing.T, stage string) *site {
	t.Helper()
	program, err := mischiefProgram()
	if err != nil {
		t.Fatal(err)
	}
	memory := "256MB"
	if raceEnabled {
		memory = "1GB" // the race detector in `sluice plugin exec` takes some of it
	}
	s := newSite(t, fmt.Sprintf(`
[plugin.mischief]
command = [%q]
timeout = "2s"
lanes = 4
memory = %q

[pipeline.inbound.%s]
plugins = ["mischief"]
`, program, memory, stage))
	s.env = []string{"GOTRACEBACK=all"}
	return s
}

// outcome is how a message must end.
type outcome uint8

const (
	scanned   outcome = iota // in INBOX, seen by the plugin
	unscanned                // in INBOX, with X-Sluice-Unscanned: on_failure = accept
	deferred                 // 451: on_failure = defer
	refused                  // 5xx
	setAside                 // never in INBOX: 451, or 250 and quarantined (RULES C3)
)

var outcomeNames = []string{"scanned", "unscanned", "deferred", "refused", "set aside"}

func (o outcome) String() string { return outcomeNames[o] }

// TestMischief: plugins that crash, hang, talk rubbish and flood their outputs.
// Mail flows by on_failure, the plugin is back for the next message, and the
// server is what it was before.
func TestMischief(t *testing.T) {
	tests := []struct {
		word     string
		antispam outcome // on_failure is accept there
		antiviru outcome // and defer there
	}{
		{"early", scanned, scanned},
		{"error", unscanned, deferred},
		{"panic", unscanned, deferred},
		{"nan", unscanned, deferred},
		{"unknown-action", unscanned, deferred},
		{"field-injection", unscanned, deferred},
		{"forbidden-change", scanned, scanned}, // one that is not in its manifest: refused, the rest counts
		{"unknown-recipient", unscanned, deferred},
		{"huge-answer", unscanned, deferred},
		{"reply-injection", refused, refused}, // the opinion counts, in the words of the core
		{"reject", refused, refused},
		{"stderr-flood", scanned, scanned},
		{"stderr-endless-line", scanned, scanned},
		{"stdout", scanned, scanned},
		{"hang", unscanned, deferred},
		{"crash", setAside, setAside},
		{"crash-goroutine", setAside, setAside},
		{"memory", setAside, setAside},
	}
	for _, stage := range []string{"anti-spam", "anti-virus"} {
		t.Run(stage, func(t *testing.T) {
			s := newMischiefSite(t, stage)
			s.start()
			s.cleanMail("before", 40)
			s.scannedAgain("the start")
			before := s.usage()
			for _, test := range tests {
				want := test.antispam
				if stage == "anti-virus" {
					want = test.antiviru
				}
				t.Run(test.word, func(t *testing.T) {
					s.t = t
					id := "mischief." + test.word + "@example.org"
					begin := time.Now()
					got, reply := s.sendMischief(id, test.word)
					// A slow machine may run out of time before it runs out of memory.
					late := test.word == "memory" && time.Since(begin) > 2*time.Second && (got == unscanned || got == deferred)
					if got != want && !late {
						t.Errorf("the message was %v (%s), want %v", got, reply, want)
					}
					s.scannedAgain(test.word)
				})
			}
			s.t = t
			s.cleanMail("after", 40)
			s.demandUsage(before)
			after := s.goroutines()
			s.start()
			s.cleanMail("again", 40)
			if fresh := s.goroutines(); after > fresh+15 {
				t.Errorf("%d goroutines after the mischief, %d in a server that saw none", after, fresh)
			}
			if text := s.logText(); containsRace(text) {
				t.Errorf("the race detector has something to say:\n%.4000s", raceReport(text))
			}
		})
	}
}

// TestMischiefBesideOthers: while one sender's messages crash and hang the
// plugin, the mail of others flows.
func TestMischiefBesideOthers(t *testing.T) {
	s := newMischiefSite(t, "anti-virus")
	s.start()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		words := []string{"crash", "hang", "crash-goroutine", "panic"}
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if c, err := dialSMTP(s.addr("mx"), 90*time.Second); err == nil {
				c.send(stranger, []string{alice}, letter(fmt.Sprintf("bad.%d@example.org", i), "bad", 800, "X-Mischief: "+words[i%len(words)]))
				c.close()
			}
		}
	})
	delivered, tries, worst := 0, 0, time.Duration(0)
	for end := time.Now().Add(90 * time.Second); delivered < 20 && time.Now().Before(end); tries++ {
		begin := time.Now()
		c, err := dialSMTP(s.addr("mx"), 90*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.send(stranger, []string{alice}, letter(fmt.Sprintf("good.%d@example.org", tries), "good", 800))
		c.close()
		if worst = max(worst, time.Since(begin)); err == nil {
			delivered++
		} else if replyCode(err) != 451 {
			t.Errorf("a good message was answered %v", err)
		}
	}
	close(stop)
	wg.Wait()
	if delivered < 20 || tries > 60 {
		t.Errorf("of %d good messages %d were accepted", tries, delivered)
	}
	t.Logf("%d of %d good messages accepted at the first try, the slowest after %v", delivered, tries, worst.Round(time.Millisecond))
	s.stop()
}

// sendMischief sends a message, again after a 451 as a real peer would, and says
// what became of it.
func (s *site) sendMischief(id, word string) (outcome, string) {
	s.t.Helper()
	var reply string
	tries := 1
	if strings.HasPrefix(word, "crash") || word == "memory" {
		tries = 3 // until it is convicted twice
	}
	for range tries {
		c, err := dialSMTP(s.addr("mx"), 90*time.Second)
		if err != nil {
			s.t.Fatal(err)
		}
		reply, err = c.send(stranger, []string{alice}, letter(id, word, 20000, "X-Mischief: "+word))
		c.close()
		switch code := replyCode(err); {
		case err == nil:
			return s.whereIs(id), reply
		case code == 451:
			if reply = err.Error(); strings.ContainsAny(reply, "\r\n\x00") || strings.Contains(reply, "9.9.9") {
				s.t.Errorf("the plugin's reply reached the wire: %q", reply)
			}
			continue
		case code >= 500:
			return refused, err.Error()
		default:
			s.t.Fatalf("%s: %v", word, err)
		}
	}
	if tries > 1 {
		return setAside, reply
	}
	return deferred, reply
}

// whereIs tells what became of an accepted message.
func (s *site) whereIs(id string) outcome {
	s.t.Helper()
	for range 40 {
		text, err := s.message(alice, id)
		if err != nil {
			s.t.Fatal(err)
		}
		header, _, _ := strings.Cut(text, "\r\n\r\n")
		switch {
		case text == "":
			time.Sleep(50 * time.Millisecond)
			continue
		case strings.Contains(header, "X-Sluice-Unscanned:"):
			return unscanned
		case strings.Contains(header, "X-Mischief-Seen: yes"):
			if !strings.Contains(header, "Subject:") {
				s.t.Errorf("the plugin took the Subject away, which its manifest does not allow:\n%s", header)
			}
			return scanned
		}
		s.t.Errorf("<%s> was delivered neither scanned nor with X-Sluice-Unscanned:\n%s", id, header)
		return unscanned
	}
	return setAside
}

// message returns a message of an INBOX by its Message-ID, or "".
func (s *site) message(user, id string) (string, error) {
	c, err := s.imapLogin(user)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := c.Select("INBOX", &imap.SelectOptions{ReadOnly: true}).Wait(); err != nil {
		return "", err
	}
	found, err := c.UIDSearch(&imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: "Message-ID", Value: "<" + id + ">"}}}, nil).Wait()
	if err != nil || len(found.AllUIDs()) == 0 {
		return "", err
	}
	section := &imap.FetchItemBodySection{Peek: true}
	all, err := c.Fetch(imap.UIDSetNum(found.AllUIDs()...), &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{section}}).Collect()
	if err != nil || len(all) != 1 {
		return "", fmt.Errorf("%d messages with <%s>: %w", len(all), id, err)
	}
	return string(all[0].FindBodySection(section)), nil
}

// scannedAgain demands that soon a clean message is scanned as usual.
func (s *site) scannedAgain(after string) {
	s.t.Helper()
	n := 0
	eventually(s.t, 30*time.Second, "the plugin works again after "+after, func() bool {
		n++
		id := fmt.Sprintf("clean.%s.%d@example.org", strings.ReplaceAll(after, " ", "-"), n)
		c, err := dialSMTP(s.addr("mx"), time.Minute)
		if err != nil {
			s.t.Fatal(err)
		}
		defer c.close()
		if _, err = c.send(stranger, []string{alice}, letter(id, "clean", 2000)); err != nil {
			if replyCode(err) != 451 {
				s.t.Fatal(err)
			}
			return false
		}
		return s.whereIs(id) == scanned
	})
}

func (s *site) cleanMail(prefix string, n int) {
	s.t.Helper()
	c, err := dialSMTP(s.addr("mx"), time.Minute)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.close()
	for i := range n {
		if _, err := c.send(stranger, []string{bob}, letter(fmt.Sprintf("%s.%d@example.org", prefix, i), prefix, 3000)); err != nil {
			s.t.Fatal(err)
		}
	}
	s.waitMail(bob, "INBOX", fmt.Sprintf("%s.%d@example.org", prefix, n-1))
}

// usage is what a server holds of the system.
type usage struct {
	rss      int64
	threads  int
	files    int
	children int
}

func (s *site) usage() usage {
	s.t.Helper()
	p, err := readProcess(s.pid)
	if err != nil {
		s.t.Fatal(err)
	}
	files, err := os.ReadDir(filepath.Join("/proc", fmt.Sprint(s.pid), "fd"))
	if err != nil {
		s.t.Fatal(err)
	}
	return usage{p.rss, p.threads, len(files), len(childrenOf(s.pid))}
}

// demandUsage waits until the server holds no more than before, with some room:
// the kernel's view of memory lags behind, and Go keeps threads. (With the race
// detector the memory says nothing.)
func (s *site) demandUsage(before usage) {
	s.t.Helper()
	var now usage
	for range 300 {
		now = s.usage()
		if (now.rss <= before.rss+64<<20 || raceEnabled) && now.files <= before.files+10 && now.children <= before.children {
			s.t.Logf("before %+v, after %+v", before, now)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	var children []string
	for _, c := range childrenOf(s.pid) {
		children = append(children, c.command)
	}
	s.t.Errorf("the server had %+v before and has %+v now; children: %q", before, now, children)
}

var goroutineLine = regexp.MustCompile(`(?m)^goroutine \d+ .*\[`)

// goroutines ends the server with SIGQUIT and counts the goroutines in its last
// words.
func (s *site) goroutines() int {
	s.t.Helper()
	time.Sleep(2 * time.Second) // for idle connections to end
	s.mu.Lock()
	already := s.log.Len()
	s.mu.Unlock()
	syscall.Kill(s.pid, syscall.SIGQUIT)
	<-s.exited
	count := 0
	eventually(s.t, 5*time.Second, "the list of goroutines", func() bool {
		last := count
		count = len(goroutineLine.FindAllString(s.logText()[already:], -1))
		return count > 0 && count == last
	})
	s.mu.Lock()
	s.log.Truncate(already) // nobody wants to read that in a report of something else
	s.mu.Unlock()
	syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) // plugins, if any live on
	return count
}
