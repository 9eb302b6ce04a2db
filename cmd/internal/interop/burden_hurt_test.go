package interop

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// deliver sends a message as a peer does who comes again after 451, and returns its queue ID.
func (s *site) deliver(from, id string, to []string, fields ...string) string {
	s.t.Helper()
	for range 10 {
		c, err := dialSMTP(s.addr("mx"), time.Minute)
		if err != nil {
			s.t.Fatal(err)
		}
		reply, err := c.send(from, to, letter(id, "burden", 2000, fields...))
		c.close()
		if err == nil {
			return strings.TrimPrefix(reply, "2.0.0 OK ")
		}
		if replyCode(err) != 451 {
			s.t.Fatalf("<%s>: %v", id, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	s.t.Fatalf("<%s> is put off for ever", id)
	return ""
}

// TestDeadlySender: an address that kills the plugin, before there is any content to convict. Its own mail goes on by
// on_crash and says so; nobody is convicted, and the mail of others is scanned as soon as the plugin runs again.
func TestDeadlySender(t *testing.T) {
	s := newBurdenSite(t, "anti-spam", "timeout = \"3s\"", "", "")
	s.start()
	for i := range 3 {
		begin := time.Now()
		id := fmt.Sprintf("deadly.%d@example.org", i)
		s.deliver("deadly@example.org", id, []string{bob})
		s.waitMail(bob, "INBOX", id)
		if took := time.Since(begin); took > 20*time.Second {
			t.Errorf("a deadly sender takes %v", took)
		}
		s.deliver(stranger, fmt.Sprintf("good.%d@example.org", i), []string{alice})
	}
	for _, text := range s.everything(bob) {
		if !strings.Contains(text, "X-Sluice-Unscanned: anti-spam; plugin=burden; failure=crash; phase=sender") {
			t.Errorf("the mail of the deadly sender does not say what nobody has looked at:\n%.600s", text)
		}
	}
	eventually(t, 30*time.Second, "mail is scanned again", func() bool {
		id := fmt.Sprintf("again.%d@example.org", time.Now().UnixNano())
		s.deliver(stranger, id, []string{alice})
		s.waitMail(alice, "INBOX", id)
		text, err := s.message(alice, id)
		return err == nil && strings.Contains(text, "X-Burden-Seen: yes") && !strings.Contains(text, "X-Sluice-Unscanned")
	})
	if log := s.logText(); strings.Contains(log, "convicted") {
		t.Error("a message was convicted of what an address has done")
	}
	s.stop()
}

// TestCrashWithPlugins: kill -9 while plugins replace bodies and add recipients. What was acknowledged is there once for each
// recipient, with the body that belongs to it.
func TestCrashWithPlugins(t *testing.T) {
	s := newBurdenSite(t, "anti-virus", "lanes = 8", "", "")
	s.addUser(carol)
	s.start()
	var acked sync.Map
	total := 0
	for round := range 4 {
		var clients sync.WaitGroup
		var count atomic.Int64
		enough := make(chan struct{})
		for i := range 6 {
			clients.Go(func() {
				c, err := dialSMTP(s.addr("mx"), time.Minute)
				if err != nil {
					return
				}
				defer c.close()
				for n := 0; ; n++ {
					id := fmt.Sprintf("crash.%d.%d.%d@example.org", round, i, n)
					lines := []int{3, 400, 20000}[n%3] // inline, and in files of their own
					if _, err := c.send(stranger, []string{alice}, letter(id, "crash", 1500, "X-Burden: add="+carol+fmt.Sprintf(" body=%d", lines))); err != nil {
						return
					}
					acked.Store(id, lines)
					if count.Add(1) == int64(20+7*round) {
						close(enough)
					}
				}
			})
		}
		select {
		case <-enough:
		case <-time.After(20 * time.Second):
			t.Fatal("the mail is too slow to kill it")
		}
		s.crash()
		clients.Wait()
		total += int(count.Load())
		s.start()
	}
	for _, user := range []string{alice, carol} {
		have := make(map[string]string)
		eventually(t, 30*time.Second, "all mail is delivered", func() bool {
			ids, err := s.ids(user, "INBOX")
			missing := 0
			acked.Range(func(id, _ any) bool {
				if ids[id.(string)] == 0 {
					missing++
				}
				return true
			})
			return err == nil && missing == 0
		})
		for _, text := range s.everything(user) {
			id := regexp.MustCompile(`Message-ID: <(.*?)>`).FindStringSubmatch(text)[1]
			if have[id] != "" {
				t.Errorf("%s has <%s> twice", user, id)
			}
			_, body, _ := strings.Cut(text, "\r\n\r\n")
			have[id] = body
		}
		acked.Range(func(id, lines any) bool {
			if want := strings.Repeat("<"+id.(string)+"> has a new body\r\n", lines.(int)); have[id.(string)] != want {
				t.Errorf("the body of <%s> for %s has %d octets, want %d: %.100q", id, user, len(have[id.(string)]), len(want), have[id.(string)])
			}
			return true
		})
	}
	t.Logf("%d messages acknowledged in 4 lives", total)
	if left := s.filesBelow("data/blob/incoming"); left != 0 {
		t.Errorf("%d files in incoming", left)
	}
	s.stop()
}

// filesBelow counts files.
func (s *site) filesBelow(dir string) (n int) {
	_ = filepath.WalkDir(filepath.Join(s.dir, dir), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			n++
		}
		return nil
	})
	return n
}

// TestBurdenOfLargeMail: large messages whose bodies a plugin replaces with large ones, with the shared parse, some refused, and
// peers who hang up in the middle of everything. Memory stays bounded, and no spool stays on the disk.
func TestBurdenOfLargeMail(t *testing.T) {
	if testing.Short() {
		t.Skip("half a gigabyte of mail")
	}
	const clients, size = 32, 8 << 20
	s := newBurdenSite(t, "anti-virus", "lanes = 16", "", "")
	s.replaceConfig(`data_dir = "data"`, "data_dir = \"data\"\nmax_buffered = \"8MB\"")
	s.start()
	s.deliver(stranger, "first@example.org", []string{bob})
	before := s.usage()
	var worst atomic.Int64
	stop := make(chan struct{})
	var sampler sync.WaitGroup
	sampler.Go(func() {
		for {
			if p, err := readProcess(s.pid); err == nil {
				worst.Store(max(worst.Load(), p.rss))
			}
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	var all sync.WaitGroup
	var accepted atomic.Int64
	for i := range clients {
		all.Go(func() {
			c, err := dialSMTP(s.addr("mx"), 2*time.Minute)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.close()
			burden := "X-Burden: body=150000"
			if i%4 == 1 {
				burden += " reject"
			}
			text := letter(fmt.Sprintf("large.%d@example.org", i), "large", size, burden)
			switch i % 4 {
			case 2, 3: // hangs up in the middle of the content, or while the plugin thinks
				for _, step := range []struct {
					code int
					line string
				}{{250, "MAIL FROM:<" + stranger + ">"}, {250, "RCPT TO:<" + bob + ">"}, {354, "DATA"}} {
					if _, err := c.command(step.code, "%s", step.line); err != nil {
						t.Error(err)
						return
					}
				}
				if i%4 == 2 {
					text = text[:len(text)/2]
				} else {
					text += ".\r\n"
				}
				fmt.Fprint(c.conn, text)
				return
			}
			_, err = c.send(stranger, []string{bob}, text)
			switch code := replyCode(err); {
			case err == nil && i%4 == 0:
				accepted.Add(1)
			case code == 550 && i%4 == 1, code == 451:
			default:
				t.Errorf("message %d: %v", i, err)
			}
		})
	}
	all.Wait()
	close(stop)
	sampler.Wait()
	eventually(t, 20*time.Second, "no spool is left", func() bool { return s.filesBelow("data/blob/incoming") == 0 })
	const mb = 1 << 20
	t.Logf("%d accepted; resident %d MB before, %d at most", accepted.Load(), before.rss/mb, worst.Load()/mb)
	if worst.Load() > before.rss+200*mb && !raceEnabled {
		t.Errorf("the server grew from %d to %d MB", before.rss/mb, worst.Load()/mb)
	}
	if n := s.filesBelow("data/blob"); n > 3*int(accepted.Load())+3 {
		t.Errorf("%d files of content for %d messages", n, accepted.Load())
	}
	s.demandUsage(usage{before.rss + 100*mb, before.threads, before.files + 2*16, before.children}) // a lane has a socket and an epoll of its own
	s.stop()
}

// TestEventsNobodyTakes: a plugin that never answers an event, and one that dies of each. Mail flows as before, and what waits is
// bounded.
func TestEventsNobodyTakes(t *testing.T) {
	for _, how := range []string{"", "hang", "crash"} {
		t.Run("how="+how, func(t *testing.T) {
			s := newBurdenSite(t, "anti-spam", "timeout = \"2s\"", fmt.Sprintf("events = %q", how), "")
			s.start()
			before := s.usage()
			begin := time.Now()
			var clients sync.WaitGroup
			for i := range 4 {
				clients.Go(func() {
					c, err := dialSMTP(s.addr("mx"), time.Minute)
					if err != nil {
						t.Error(err)
						return
					}
					defer c.close()
					for n := range 350 {
						_, err := c.send(stranger, []string{bob}, letter(fmt.Sprintf("event.%d.%d@example.org", i, n), "event", 1000))
						if err != nil && replyCode(err) != 451 {
							t.Error(err)
							return
						}
						if time.Since(begin) > 6*time.Second {
							return
						}
					}
				})
			}
			clients.Wait()
			ids, err := s.ids(bob, "INBOX")
			t.Logf("%d messages in %v, %v", len(ids), time.Since(begin).Round(time.Millisecond), err)
			if how != "crash" && len(ids) < 1000 || len(ids) < 20 {
				t.Errorf("only %d messages came through", len(ids))
			}
			if list := s.sluice("", "plugin", "list", "--json"); how == "hang" && !regexp.MustCompile(`"events_waiting":(1000|\d{1,3}),`).MatchString(list) {
				t.Errorf("more waits than may: %s", list)
			}
			if now := s.usage(); now.rss > before.rss+100<<20 && !raceEnabled {
				t.Errorf("the server grew from %d to %d octets", before.rss, now.rss)
			}
			s.stop()
		})
	}
}

// TestLoudPlugin: a plugin that says as much as it may about a hundred recipients. The message is committed, the trace shows who
// said what, and nothing of it reaches the terminal as a command.
func TestLoudPlugin(t *testing.T) {
	s := newBurdenSite(t, "anti-spam", "", "", "[pipeline.inbound.anti-virus]\nplugins = [\"eicar\"]\n")
	s.start()
	var to []string
	for i := range 100 {
		to = append(to, fmt.Sprintf("alice+%d@example.test", i))
	}
	id := s.deliver(stranger, "loud@example.org", to, "X-Burden: loud")
	told := s.sluice("", "trace", id)
	if len(told) > 600<<10 || strings.ContainsAny(told, "\u202e\x1b\r") || !strings.Contains(told, "eicar") {
		t.Errorf("the trace has %d octets:\n%.1000s", len(told), told)
	}
	for _, address := range []string{to[0], to[99]} {
		if !regexp.MustCompile(`burden 1 ` + regexp.QuoteMeta(address) + ` +quarantine`).MatchString(told) {
			t.Errorf("the trace says nothing of %s", address)
		}
	}
	longest := 0
	for line := range strings.Lines(s.logText()) {
		longest = max(longest, len(line))
	}
	t.Logf("a trace of %d octets, the longest line of the log has %d", len(told), longest)
	if longest > 8<<10 {
		t.Errorf("a line of the log has %d octets", longest)
	}
	if listed := s.sluice("", "quarantine", "list"); len(listed) > 120<<10 || !strings.Contains(listed, id) {
		t.Errorf("the quarantine is listed in %d octets", len(listed))
	}
	s.stop()
}

// TestQuarantineKeepsToItself (DRILLS E6.10): a message to two people, held for one of them. Who is not meant to sees nothing of
// it, the trace has no word of the text, and a release gives the header that arrived.
func TestQuarantineKeepsToItself(t *testing.T) {
	s := newBurdenSite(t, "anti-virus", "", "", "")
	s.start()
	id := s.deliver(stranger, "held@example.org", []string{alice, bob}, "X-Burden: quarantine=2", "X-Odd:  two  blanks\t and\r\n\ta fold", "DKIM-Signature: v=1; a=none")
	s.waitMail(alice, "INBOX", "held@example.org")
	if len(s.everything(bob)) != 0 {
		t.Fatal("who shall not have it has it")
	}
	of, err := s.message(alice, "held@example.org")
	if err != nil || strings.Contains(of, "bob@") {
		t.Errorf("the copy for alice: %v\n%.900s", err, of)
	}
	for _, told := range []string{s.sluice("", "trace", id), s.sluice("", "trace", id, "--json"), s.sluice("", "quarantine", "show", id), s.logText()} {
		for _, secret := range []string{"Line 0 of a letter", "two  blanks", password} {
			if strings.Contains(told, secret) {
				t.Errorf("%q is told:\n%.600s", secret, told)
			}
		}
	}
	s.sluice("", "quarantine", "release", id)
	s.waitMail(bob, "INBOX", "held@example.org")
	released, err := s.message(bob, "held@example.org")
	if err != nil {
		t.Fatal(err)
	}
	arrived := "From: A Stranger"
	if got, want := released[strings.Index(released, arrived):], of[strings.Index(of, arrived):]; got != want {
		t.Errorf("released:\n%.900q\nwant\n%.900q", got, want)
	}
	if strings.Contains(released, "alice@example.test") && strings.Contains(released[:strings.Index(released, arrived)], "alice@") {
		t.Errorf("the released copy names the other recipient:\n%.900s", released)
	}
	s.stop()
}

// TestCircle (DRILLS E6.5): a plugin that takes the Received fields away cannot make mail run in a circle: what was sent in
// again and again is refused in the end.
func TestCircle(t *testing.T) {
	s := newBurdenSite(t, "anti-virus", "", "", "")
	s.start()
	text := letter("circle.0@example.org", "circle", 1000, "X-Burden: circle")
	for turn := range 120 {
		c, err := dialSMTP(s.addr("mx"), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.send(stranger, []string{bob}, text)
		c.close()
		if replyCode(err) == 554 {
			t.Logf("refused after %d turns", turn)
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprintf("circle.%d@example.org", turn)
		s.waitMail(bob, "INBOX", id)
		stored, err := s.message(bob, id)
		if err != nil {
			t.Fatal(err)
		}
		text = strings.Replace(stored[strings.Index(stored, "Received:"):], id, fmt.Sprintf("circle.%d@example.org", turn+1), 1)
	}
	t.Error("it goes round and round")
}

// TestNoShell (DRILLS E6.9): addresses that a shell would run are data. Where programs are started at all is asserted by package
// house; here a message with such addresses goes through every place that names them.
func TestNoShell(t *testing.T) {
	s := newBurdenSite(t, "anti-virus", "", "", "")
	s.start()
	proof := filepath.Join(s.dir, "proof")
	sender := `"$(touch ` + proof + `)` + "`touch " + proof + "`" + `;touch ` + proof + `|x"@example.org`
	id := s.deliver(sender, "shell@example.org", []string{bob}, "X-Burden: quarantine=1")
	s.sluice("", "trace", id)
	s.sluice("", "trace", sender)
	s.sluice("", "quarantine", "release", id)
	s.waitMail(bob, "INBOX", "shell@example.org")
	if _, err := os.Stat(proof); err == nil {
		t.Error("an address was run")
	}
	s.stop()
}

// TestScannerDown (DRILLS E6.3): the scanner is down. Where mail waits for it, the next attempt is the scan; where it goes on, it says
// so, it is counted, and the administrator scans it again by hand.
func TestScannerDown(t *testing.T) {
	for _, policy := range []string{"defer", "accept"} {
		t.Run(policy, func(t *testing.T) {
			s := newBurdenSite(t, "anti-virus", "timeout = \"1s\"\non_failure = \""+policy+"\"", `content = "3s"`, "")
			s.start()
			send := func() error {
				c, err := dialSMTP(s.addr("mx"), time.Minute)
				if err != nil {
					t.Fatal(err)
				}
				defer c.close()
				_, err = c.send(stranger, []string{bob}, letter("down@example.org", "down", 1000))
				return err
			}
			err := send()
			if policy == "defer" {
				if replyCode(err) != 451 {
					t.Fatalf("while the scanner is down: %v", err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			s.replaceConfig(`content = "3s"`, `content = "0s"`) // it is back
			s.sluice("", "reload")
			if policy == "defer" {
				if err := send(); err != nil {
					t.Fatal(err)
				}
			}
			s.waitMail(bob, "INBOX", "down@example.org")
			text, err := s.message(bob, "down@example.org")
			if err != nil {
				t.Fatal(err)
			}
			stamped := strings.Contains(text, "X-Sluice-Unscanned: anti-virus; plugin=burden; failure=timeout")
			if seen := strings.Contains(text, "X-Burden-Seen"); stamped != (policy == "accept") || seen == stamped {
				t.Errorf("scanned: %v, stamped: %v", seen, stamped)
			}
			if counted := strings.Contains(s.sluice("", "metrics"), `sluice_unscanned_total{plugin="burden",stage="anti-virus"} 1`); counted != stamped {
				t.Errorf("counted: %v, stamped: %v", counted, stamped)
			}
			if stamped {
				told := s.sluice("", "plugin", "ask", "burden", s.writeFile("down.eml", text))
				if !strings.Contains(told, "accept") {
					t.Errorf("asked again by hand: %s", told)
				}
			}
			s.stop()
		})
	}
}
