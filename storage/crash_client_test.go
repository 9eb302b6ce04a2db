package storage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/crashtest"
)

// crashClient is the IMAP client of the scenario; after an error it does nothing any more.
type crashClient struct {
	ctx context.Context
	w   *crashtest.World
	s   *storage.Store
	a   storage.AccountID
	err error
}

func (c *crashClient) step(fn func() error) {
	if c.err == nil {
		c.err = fn()
	}
}

// command does an update and waits until it is durable: then the client is told.
func (c *crashClient) command(fn func(tx *storage.Tx) error) error {
	pos, err := c.s.Update(c.ctx, c.a, fn)
	if err != nil {
		return err
	}
	return c.s.WaitDurable(c.ctx, pos)
}

func (c *crashClient) append(n int) error {
	body := crashBody("imap", n)
	p, err := prepareCrash(c.ctx, c.s, body)
	if err != nil {
		return err
	}
	var note shown
	err = c.command(func(tx *storage.Tx) error {
		m, err := tx.Mailbox("Drafts")
		if err != nil {
			return err
		}
		p.Put(tx.Batch(), "")
		uid, err := tx.Append(m.ID, storage.Delivery{Info: p.Info(0)})
		note = shown{validity: m.UIDValidity, uid: uid, body: body}
		return err
	})
	if err == nil {
		c.w.Note(note)
	}
	return err
}

// newest returns a mailbox and its UIDs.
func (c *crashClient) newest(name string) (m storage.Mailbox, uids []storage.UID, err error) {
	err = c.s.View(c.ctx, c.a, func(v *storage.View) error {
		if m, err = v.Mailbox(name); err != nil {
			return err
		}
		seq, err := v.UIDs(m.ID)
		if err == nil {
			uids = append(uids, seq.All()...)
		}
		return err
	})
	return m, uids, err
}

func (c *crashClient) flag() error {
	m, uids, err := c.newest("Drafts")
	if err != nil {
		return err
	}
	var res storage.FlagResult
	err = c.command(func(tx *storage.Tx) (err error) {
		res, err = tx.StoreFlags(m.ID, uids, storage.FlagsAdd, storage.Flags{System: storage.Seen, Keywords: []string{"done"}}, storage.Always)
		return err
	})
	for _, uid := range res.Changed {
		if err == nil {
			c.w.Note(shown{validity: m.UIDValidity, uid: uid, seq: res.ModSeq})
		}
	}
	return err
}

func (c *crashClient) transfer(copied bool) error {
	m, uids, err := c.newest("Drafts")
	if err != nil {
		return err
	}
	if !copied {
		for _, uid := range uids {
			c.w.Note(leaving{m.UIDValidity, uid})
		}
	}
	var res storage.CopyResult
	err = c.command(func(tx *storage.Tx) error {
		to, err := tx.Mailbox("Archive")
		if err != nil {
			return err
		}
		if copied {
			res, err = tx.Copy(m.ID, to.ID, uids)
		} else {
			res, err = tx.Move(m.ID, to.ID, uids)
		}
		return err
	})
	if err != nil {
		return err
	}
	for i, uid := range res.Source {
		c.w.Note(shown{validity: res.UIDValidity, uid: res.Dest[i]})
		if !copied {
			c.w.Note(left{m.UIDValidity, uid})
		}
	}
	return nil
}

func (c *crashClient) expunge() error {
	m, uids, err := c.newest("Archive")
	if err != nil || len(uids) == 0 {
		return err
	}
	uids = uids[:(len(uids)+1)/2]
	for _, uid := range uids {
		c.w.Note(leaving{m.UIDValidity, uid})
	}
	var gone []storage.UID
	err = c.command(func(tx *storage.Tx) (err error) {
		gone, err = tx.Expunge(m.ID, uids, false)
		return err
	})
	for _, uid := range gone {
		if err == nil {
			c.w.Note(left{m.UIDValidity, uid})
		}
	}
	return err
}

// remake deletes the mailbox with all that is in it, and makes it again.
func (c *crashClient) remake(int) error {
	m, uids, err := c.newest("Drafts")
	if err != nil {
		return err
	}
	for _, uid := range uids {
		c.w.Note(leaving{m.UIDValidity, uid})
	}
	return c.command(func(tx *storage.Tx) error {
		if err := tx.DeleteMailbox("Drafts"); err != nil {
			return err
		}
		_, err := tx.CreateMailbox("Drafts", 0)
		return err
	})
}

// checkCrash holds what a crash left against what the clients were told.
func checkCrash(fs vfs.FS, notes []any) (err error) {
	ctx := context.Background()
	s, e, err := openCrash(nil, fs, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close(ctx), e.Close()) }()
	known := false
	for _, n := range notes {
		if _, ok := n.(storage.AccountID); ok {
			known = true
		}
	}
	if !known {
		return nil // nobody was told of an account
	}
	a, err := s.Accounts().Lookup(ctx, crashUser)
	if err != nil {
		return err
	}
	got, err := readCrash(ctx, s, a.ID)
	if err != nil {
		return err
	}
	if err := got.check(notes); err != nil {
		return err
	}
	if err := got.queue(ctx, s, notes); err != nil {
		return err
	}
	report, err := s.Verify(ctx, storage.VerifyOptions{})
	if err == nil && len(report.Problems) > 0 {
		err = fmt.Errorf("verify: %q", report.Problems)
	}
	return err
}

type crashUID struct {
	validity uint32
	uid      storage.UID
}

// crashState is what is in the mailboxes after a crash.
type crashState struct {
	boxes    map[uint32]storage.Mailbox // by UIDVALIDITY
	names    map[string]storage.Mailbox
	messages map[crashUID]*storage.Message
	bodies   map[crashUID]string
}

func readCrash(ctx context.Context, s *storage.Store, a storage.AccountID) (*crashState, error) {
	st := &crashState{map[uint32]storage.Mailbox{}, map[string]storage.Mailbox{}, map[crashUID]*storage.Message{}, map[crashUID]string{}}
	err := s.View(ctx, a, func(v *storage.View) error {
		for _, m := range v.Mailboxes() {
			st.boxes[m.UIDValidity], st.names[m.Name] = m, m
			err := v.Messages(m.ID, 1, ^storage.UID(0), func(msg *storage.Message) (bool, error) {
				k := crashUID{m.UIDValidity, msg.UID}
				st.messages[k] = msg.Clone()
				return true, nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	for k, msg := range st.messages {
		if err != nil {
			break
		}
		var c *storage.Content
		if c, err = s.Open(ctx, msg); err == nil {
			var octets []byte
			octets, err = io.ReadAll(c.Reader())
			st.bodies[k] = string(octets)
			err = errors.Join(err, c.Close())
		}
	}
	return st, err
}

// check: what was shown is there and the same, what left has not come back, and nothing went backwards.
func (st *crashState) check(notes []any) error {
	leave, leftNow := map[crashUID]bool{}, map[crashUID]bool{}
	for _, n := range notes {
		switch n := n.(type) {
		case leaving:
			leave[crashUID(n)] = true
		case left:
			leftNow[crashUID(n)] = true
		}
	}
	for _, n := range notes {
		switch n := n.(type) {
		case box:
			m, ok := st.boxes[n.validity]
			if now := st.names[n.name]; now.UIDValidity < n.validity && n.name != "" && now.UIDValidity != 0 {
				return fmt.Errorf("%s had UIDVALIDITY %d and has %d", n.name, n.validity, now.UIDValidity)
			}
			if ok && (m.UIDNext < n.next || m.HighestModSeq < n.highest) {
				return fmt.Errorf("%s showed UIDNEXT %d and HIGHESTMODSEQ %d, and has %d and %d", n.name, n.next, n.highest, m.UIDNext, m.HighestModSeq)
			}
			if !ok && n.name != "Drafts" {
				return fmt.Errorf("mailbox %s with UIDVALIDITY %d is gone", n.name, n.validity)
			}
		case shown:
			if err := st.checkShown(n, leave); err != nil {
				return err
			}
		}
	}
	for k := range leftNow {
		if st.messages[k] != nil {
			return fmt.Errorf("UIDVALIDITY %d UID %d was expunged and is back", k.validity, k.uid)
		}
	}
	return nil
}

func (st *crashState) checkShown(n shown, leave map[crashUID]bool) error {
	k := crashUID{n.validity, n.uid}
	if box, ok := st.boxes[n.validity]; ok && box.UIDNext <= n.uid {
		return fmt.Errorf("UIDVALIDITY %d UID %d was shown, and UIDNEXT is %d", n.validity, n.uid, box.UIDNext)
	}
	m := st.messages[k]
	if m == nil {
		if leave[k] {
			return nil
		}
		return fmt.Errorf("UIDVALIDITY %d UID %d was shown and is gone", n.validity, n.uid)
	}
	if m.ModSeq < n.seq {
		return fmt.Errorf("UIDVALIDITY %d UID %d had MODSEQ %d and has %d", n.validity, n.uid, n.seq, m.ModSeq)
	}
	if !n.instance.IsZero() && n.instance != m.Instance {
		return fmt.Errorf("UIDVALIDITY %d UID %d names another message", n.validity, n.uid)
	}
	if n.body != "" && n.body != st.bodies[k] {
		return fmt.Errorf("UIDVALIDITY %d UID %d has another content", n.validity, n.uid)
	}
	return nil
}

// queue: what was accepted is in exactly one place, and nothing is in two.
func (st *crashState) queue(ctx context.Context, s *storage.Store, notes []any) error {
	places := map[string]int{}
	inbox := st.names["INBOX"].UIDValidity
	for k, body := range st.bodies {
		if k.validity == inbox {
			places[body]++
		}
	}
	err := s.KV().Scan(ctx, []byte("queue/"), []byte("queue0"), false, func(_, value []byte) (bool, error) {
		places[string(bytes.Clone(value))]++
		return true, nil
	})
	if err != nil {
		return err
	}
	for body, n := range places {
		if n > 1 {
			return fmt.Errorf("message %.40q is in %d places", body, n)
		}
	}
	for _, n := range notes {
		if n, ok := n.(accepted); ok && places[n.body] != 1 {
			return fmt.Errorf("%s had its 250 and is gone", n.queue)
		}
	}
	return nil
}

// TestCrash is RULES E1.1 for mailboxes.
func TestCrash(t *testing.T) {
	k := crashWork{messages: 60}
	crashtest.Run(t, crashtest.Scenario{Run: k.run, Check: checkCrash}, crashtest.Options{Points: 40})
}

// TestCrashFindsMutants: a store that does not wait for the sync must not pass, nor a session that shows too early.
func TestCrashFindsMutants(t *testing.T) {
	for name, k := range map[string]crashWork{
		"no sync":         {messages: 40, noSync: true},
		"shown too early": {messages: 40, noWaitToShow: true},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := crashtest.PowerLoss(crashtest.Scenario{Run: k.run, Check: checkCrash}, crashtest.Options{Points: 1000})
			t.Logf("%d crashes: %v", n, err)
			if err == nil {
				t.Error("not found")
			}
		})
	}
}
