package interop

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
)

// promises are what readers were told before a crash.
type promises struct {
	mu       sync.Mutex
	deleted  map[string]bool     // UIDL ids of alice's, +OK to QUIT was read
	appended map[string]imap.UID // Message-ID to UID in bob's Drafts, OK to APPEND was read
	moved    map[string]imap.UID // Message-ID to UID in bob's Archive, OK to MOVE was read
	expunged map[string]bool     // Message-IDs of bob's INBOX, OK to UID EXPUNGE was read
}

func (p *promises) keep(note func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	note()
}

// TestCrashReaders kills the server while mail is deleted by POP3 and appended,
// moved and expunged by IMAP. What was answered with +OK or OK holds afterwards,
// with the UIDs that were named (invariant I1).
func TestCrashReaders(t *testing.T) {
	rounds := 8
	if testing.Short() {
		rounds = 3
	}
	s := newSite(t, "")
	s.start()
	p := &promises{deleted: map[string]bool{}, appended: map[string]imap.UID{}, moved: map[string]imap.UID{}, expunged: map[string]bool{}}
	for round := range rounds {
		s.fillBoth(round, 150)
		var wg sync.WaitGroup
		for _, act := range []func(*site, *promises, int){deleteByPOP3, appendByIMAP, moveByIMAP} {
			wg.Go(func() { act(s, p, round) })
		}
		time.Sleep(50*time.Millisecond + time.Duration(rand.Int64N(int64(600*time.Millisecond))))
		s.crash()
		wg.Wait()
		if took := s.start(); took > startLimit && !raceEnabled {
			t.Errorf("round %d: the restart took %v", round, took)
		}
		p.check(s)
		t.Logf("round %d: %d deleted by POP3, %d appended, %d moved, %d expunged by IMAP in all", round, len(p.deleted), len(p.appended), len(p.moved), len(p.expunged))
	}
	if len(p.deleted) == 0 || len(p.appended) == 0 || len(p.moved) == 0 || len(p.expunged) == 0 {
		t.Error("something never happened before a crash; nothing was tested")
	}
	s.stop()
}

// fillBoth puts n letters into each INBOX and waits for them.
func (s *site) fillBoth(round, n int) {
	s.t.Helper()
	c, err := dialSMTP(s.addr("mx"), time.Minute)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.close()
	for i := range n {
		if _, err := c.send(stranger, []string{alice, bob}, letter(fmt.Sprintf("fill.%d.%d@example.org", round, i), "fill", 800)); err != nil {
			s.t.Fatal(err)
		}
	}
	last := fmt.Sprintf("fill.%d.%d@example.org", round, n-1)
	s.waitMail(alice, "INBOX", last)
	s.waitMail(bob, "INBOX", last)
}

// deleteByPOP3 deletes three messages a session until the server is gone.
func deleteByPOP3(s *site, p *promises, _ int) {
	for {
		c, err := s.pop3Login(alice)
		if err != nil {
			return
		}
		listing, err := c.multi("UIDL")
		lines := strings.Split(strings.TrimSpace(listing), "\n")
		if err != nil || len(lines) < 3 {
			c.conn.Close()
			return
		}
		var ids []string
		for i, line := range lines[:3] {
			_, id, _ := strings.Cut(line, " ")
			ids = append(ids, id)
			if _, err = c.command(fmt.Sprintf("DELE %d", i+1)); err != nil {
				return
			}
		}
		_, err = c.command("QUIT")
		c.conn.Close()
		if err != nil {
			return
		}
		p.keep(func() {
			for _, id := range ids {
				p.deleted[id] = true
			}
		})
	}
}

// appendByIMAP appends to Drafts until the server is gone.
func appendByIMAP(s *site, p *promises, round int) {
	c, err := s.imapLogin(bob)
	if err != nil {
		return
	}
	defer c.Close()
	for i := 0; ; i++ {
		id := fmt.Sprintf("append.%d.%d@example.test", round, i)
		text := letter(id, "draft", 600)
		cmd := c.Append("Drafts", int64(len(text)), &imap.AppendOptions{Flags: []imap.Flag{imap.FlagDraft}})
		if _, err := cmd.Write([]byte(text)); err != nil {
			return
		}
		if cmd.Close() != nil {
			return
		}
		data, err := cmd.Wait()
		if err != nil {
			return
		}
		p.keep(func() { p.appended[id] = data.UID })
	}
}

// moveByIMAP moves the first message of INBOX to Archive, and expunges the next,
// until the server is gone.
func moveByIMAP(s *site, p *promises, _ int) {
	all, _, err := s.list(bob, "INBOX")
	if err != nil {
		return
	}
	c, err := s.imapLogin(bob)
	if err != nil {
		return
	}
	defer c.Close()
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		return
	}
	for i, m := range all {
		set := imap.UIDSetNum(m.uid)
		if i%2 == 0 {
			data, err := c.Move(set, "Archive").Wait()
			if err != nil {
				return
			}
			if uid, ok := oneUID(data); ok {
				p.keep(func() { p.moved[m.id] = uid })
			}
			continue
		}
		store := c.Store(set, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Silent: true, Flags: []imap.Flag{imap.FlagDeleted}}, nil)
		if store.Close() != nil || c.UIDExpunge(set).Close() != nil {
			return
		}
		p.keep(func() { p.expunged[m.id] = true })
	}
}

// oneUID returns the UID that a MOVE of one message named.
func oneUID(data *imapclient.MoveData) (imap.UID, bool) {
	if set, ok := data.DestUIDs.(imap.UIDSet); ok {
		if nums, ok := set.Nums(); ok && len(nums) == 1 {
			return nums[0], true
		}
	}
	return 0, false
}

// check holds the server to everything that it said.
func (p *promises) check(s *site) {
	s.t.Helper()
	c, err := s.pop3Login(alice)
	if err != nil {
		s.t.Fatal(err)
	}
	listing, err := c.multi("UIDL")
	c.conn.Close()
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(listing) {
		if _, id, _ := strings.Cut(strings.TrimSpace(line), " "); p.deleted[id] {
			s.t.Errorf("UIDL %s was deleted with +OK and is back", id)
		}
	}
	boxes := make(map[string]map[string]imap.UID) // mailbox of bob to Message-ID to UID
	for _, box := range []string{"INBOX", "Drafts", "Archive"} {
		all, _, err := s.list(bob, box)
		if err != nil {
			s.t.Fatal(err)
		}
		boxes[box] = make(map[string]imap.UID)
		for _, m := range all {
			if _, twice := boxes[box][m.id]; twice {
				s.t.Errorf("<%s> is in %s twice", m.id, box)
			}
			boxes[box][m.id] = m.uid
		}
	}
	for id, uid := range p.appended {
		if got := boxes["Drafts"][id]; got != uid {
			s.t.Errorf("<%s> was appended as UID %d and is %d", id, uid, got)
		}
	}
	for id, uid := range p.moved {
		if got := boxes["Archive"][id]; got != uid {
			s.t.Errorf("<%s> was moved to Archive as UID %d and is %d there", id, uid, got)
		}
	}
	for id := range boxes["Archive"] {
		if _, there := boxes["INBOX"][id]; there {
			s.t.Errorf("<%s> is in INBOX and in Archive", id)
		}
	}
	for id := range p.expunged {
		if _, there := boxes["INBOX"][id]; there {
			s.t.Errorf("<%s> was expunged with OK and is back", id)
		}
	}
}
