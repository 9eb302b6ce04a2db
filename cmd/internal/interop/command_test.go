package interop

import (
	"encoding/json"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestStopUnderLoad: SIGTERM while mail comes in. The server ends by itself with
// status 0 and in time, and nothing that was acknowledged is lost or doubled.
func TestStopUnderLoad(t *testing.T) {
	s := newSite(t, "")
	book := newLedger()
	for round := range 3 {
		s.start()
		l := &load{s: s, book: book, round: round, size: 3000}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { l.run(stop) })
		eventually(t, 20*time.Second, "a load", func() bool { return book.total() > 200*(round+1) })
		begin := time.Now()
		s.stop()
		took := time.Since(begin)
		close(stop)
		wg.Wait()
		s.start()
		book.check(s, alice, bob)
		s.stop()
		t.Logf("round %d: stopped in %v with %d messages acknowledged; other answers %v", round, took.Round(time.Millisecond), book.total(), book.notes)
	}
}

// TestCommands: the command line beside a running server and without one.
func TestCommands(t *testing.T) {
	s := newSite(t, "")
	const carol = "carol@" + domain
	for _, running := range []bool{false, true} {
		if running {
			s.start()
			defer s.stop()
		}
		s.addUser(carol)
		if out := s.sluice("", "user", "list", "--json"); strings.Count(out, `"carol@example.test"`) != 1 || strings.Count(out, "\n") != 3 {
			t.Errorf("running %v: user list: %s", running, out)
		}
		if out, err := s.trySluice(password+"\n", "user", "add", carol, "--password-stdin"); err == nil || !strings.Contains(out, carol) {
			t.Errorf("running %v: the second user add: %v\n%s", running, err, out)
		}
		if running {
			if _, err := s.pop3Login(carol); err != nil {
				t.Errorf("a new user logs in: %v", err)
			}
			s.sluice("another horse\n", "user", "password", carol, "--password-stdin")
			if _, err := s.pop3Login(carol); err == nil {
				t.Error("the old password still works")
			}
		}
		s.sluice("", "user", "remove", carol)
		if out, err := s.trySluice("", "user", "remove", carol); err == nil {
			t.Errorf("running %v: the second user remove: %s", running, out)
		}
	}

	ids := s.fill("commands", 2)
	for _, word := range []string{ids[0], "<" + ids[0] + ">"} {
		out := s.sluice("", "trace", word, "--json")
		var story map[string]any
		if err := json.Unmarshal([]byte(out), &story); err != nil || !strings.Contains(out, "delivered") || !strings.Contains(out, stranger) {
			t.Errorf("trace %s: %v\n%s", word, err, out)
		}
	}
	if out, err := s.trySluice("", "user", "remove", alice); err == nil || !strings.Contains(out, "--delete-mail") {
		t.Errorf("removing an account with mail: %v\n%s", err, out)
	}
	s.sluice("", "user", "remove", alice, "--delete-mail")
	c, err := dialSMTP(s.addr("mx"), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if _, err := c.send(stranger, []string{alice}, letter("late@example.org", "late", 500)); replyCode(err) != 550 {
		t.Errorf("mail for a removed account: %v", err)
	}
	s.addUser(alice)
	if got, err := s.ids(alice, "INBOX"); err != nil || len(got) != 0 {
		t.Errorf("the new owner of the address sees %v, %v (DRILLS E7.9)", got, err)
	}

	// A second server waits for the lock, says so, and gives up.
	out, err := s.trySluice("", "serve")
	if err == nil || !strings.Contains(out, "lock") && !strings.Contains(out, "waiting for the store") {
		t.Errorf("a second server: %v\n%s", err, out)
	}
	if !s.running() || syscall.Kill(s.pid, 0) != nil {
		t.Error("the first server is gone")
	}
}
