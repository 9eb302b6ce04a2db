package storagetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/storage"
)

func (b *bench) changes(a storage.AccountID, box storage.MailboxID, since storage.ModSeq) (c storage.Changes) {
	b.t.Helper()
	b.view(a, func(v *storage.View) (err error) {
		c, err = v.Changes(box, since)
		return err
	})
	return c
}

// testChanges compares what memory and the engine say of the same past, and cuts the expunge log.
func testChanges(t *testing.T, place Place) {
	b := newBench(t, place)
	a := b.create("alice@example.test", 0).ID
	for i := range 6 {
		b.append(a, "INBOX", text(fmt.Sprint(i), "", ""), storage.Flags{})
	}
	b.uids(a, "INBOX")
	box := b.mailbox(a, "INBOX")
	b.update(a, func(tx *storage.Tx) error {
		_, err := tx.StoreFlags(box.ID, []storage.UID{2, 3}, storage.FlagsAdd, storage.Flags{System: storage.Seen}, storage.Always)
		return err
	})
	b.update(a, func(tx *storage.Tx) error { _, err := tx.Expunge(box.ID, []storage.UID{3, 4, 6}, false); return err })
	b.append(a, "INBOX", text("new", "", ""), storage.Flags{})
	want := "[2 7] [{3 4} {6 6}] true"
	for _, state := range []string{"warm", "reopened"} {
		c := b.changes(a, box.ID, box.HighestModSeq)
		if got := fmt.Sprint(c.Changed, c.Expunged, c.Complete); got != want {
			t.Errorf("%s: changes %s, want %s", state, got, want)
		}
		if now := b.mailbox(a, "INBOX").HighestModSeq; c.Now != now {
			t.Errorf("%s: now %d, want %d", state, c.Now, now)
		}
		if c := b.changes(a, box.ID, c.Now); len(c.Changed)+len(c.Expunged) != 0 || !c.Complete {
			t.Errorf("%s: nothing happened, but %+v", state, c)
		}
		b.reopen()
	}
	if testing.Short() {
		return
	}
	start := b.mailbox(a, "INBOX").HighestModSeq
	first := b.mailbox(a, "INBOX").UIDNext
	p := b.queued(text("many", "", ""), "queue/1")
	const many = 2500
	for i := range many {
		b.update(a, func(tx *storage.Tx) error {
			uid, err := tx.Deliver(box.ID, storage.Delivery{Info: p.Info(0)})
			if err == nil && i > 0 {
				_, err = tx.Expunge(box.ID, []storage.UID{uid - 1}, false)
			}
			return err
		})
	}
	now := b.mailbox(a, "INBOX")
	if now.ExpungeFloor <= start || now.ExpungeFloor >= now.HighestModSeq {
		t.Errorf("the log was not cut: floor %d between %d and %d", now.ExpungeFloor, start, now.HighestModSeq)
	}
	if c := b.changes(a, box.ID, start); c.Complete {
		t.Error("what is forgotten counts as complete")
	}
	c := b.changes(a, box.ID, now.ExpungeFloor)
	last := first + many - 1
	if !c.Complete || len(c.Expunged) != 1 || c.Expunged[0].Last != last-1 || !slices.Equal(c.Changed, []storage.UID{last}) {
		t.Errorf("from the floor on: %+v, last %d", c, last)
	}
}

// testSequence holds that the shared sequence of an old view does not change, and that of a new one is right, while
// messages come and go.
func testSequence(t *testing.T, place Place) {
	b := newBench(t, place)
	a := b.create("alice@example.test", 0).ID
	var want []storage.UID
	type old struct {
		seq  *storage.UIDSequence
		text string
	}
	var all []old
	for i := range 30 {
		uid := b.append(a, "INBOX", text(fmt.Sprint(i), "", ""), storage.Flags{})
		want = append(want, uid)
		if i%7 == 6 {
			b.update(a, func(tx *storage.Tx) error {
				box, err := tx.Mailbox("INBOX")
				if err == nil {
					_, err = tx.Expunge(box.ID, []storage.UID{want[0], want[3]}, false)
				}
				return err
			})
			want = slices.Delete(slices.Clone(want), 3, 4)[1:]
		}
		b.view(a, func(v *storage.View) error {
			box, err := v.Mailbox("INBOX")
			if err != nil {
				return err
			}
			seq, err := v.UIDs(box.ID)
			if err == nil {
				all = append(all, old{seq, fmt.Sprint(seq.All())})
				if !slices.Equal(seq.All(), want) {
					t.Errorf("UIDs %v, want %v", seq.All(), want)
				}
			}
			return err
		})
	}
	for _, o := range all {
		if fmt.Sprint(o.seq.All()) != o.text {
			t.Errorf("a sequence changed from %s to %v", o.text, o.seq.All())
		}
	}
	seq := all[len(all)-1].seq
	if got := seq.Slice(want[1], want[4]); !slices.Equal(got, want[1:5]) {
		t.Errorf("slice %v", got)
	}
	if got := seq.Slice(0, ^storage.UID(0)); !slices.Equal(got, want) {
		t.Errorf("slice of all %v", got)
	}
	if got := seq.Slice(want[4], want[1]); got != nil {
		t.Errorf("slice backwards %v", got)
	}
}

func testWatch(t *testing.T, place Place) {
	b := newBench(t, place)
	alice, bob := b.create("alice@example.test", 0).ID, b.create("bob@example.test", 0).ID
	w, other := b.s.Watch(alice), b.s.Watch(bob)
	defer w.Close()
	defer other.Close()
	drain := func() {
		for len(w.C)+len(other.C) > 0 {
			select {
			case <-w.C:
			case <-other.C:
			}
		}
	}
	time.Sleep(150 * time.Millisecond)
	drain()
	b.append(alice, "INBOX", text("1", "", ""), storage.Flags{})
	select {
	case <-w.C:
	case <-time.After(5 * time.Second):
		t.Fatal("nobody tells of a new message")
	}
	select {
	case <-other.C:
		t.Error("bob is told of alice's mail")
	default:
	}
	w.Close()
	b.append(alice, "INBOX", text("2", "", ""), storage.Flags{})
	time.Sleep(150 * time.Millisecond)
	if len(w.C) != 0 {
		t.Error("told after Close")
	}
}

// testCollect follows a content from its first use to its end.
func testCollect(t *testing.T, place Place) {
	b := newBench(t, place)
	a := b.create("alice@example.test", 0).ID
	small, large := text("s", "", "x"), text("l", "", strings.Repeat("x", 100<<10))
	b.append(a, "INBOX", small, storage.Flags{})
	b.append(a, "INBOX", large, storage.Flags{})
	inbox, trash := b.mailbox(a, "INBOX"), b.mailbox(a, "Trash")
	b.update(a, func(tx *storage.Tx) error { _, err := tx.Copy(inbox.ID, trash.ID, []storage.UID{2}); return err })
	m1, m2 := b.message(a, "INBOX", 1), b.message(a, "INBOX", 2)
	exists := func(m *storage.Message) bool {
		c, err := b.s.Open(b.ctx, m)
		if err != nil {
			wantErr(t, "open what is collected", err, storage.ErrNoContent)
			return false
		}
		c.Close()
		return true
	}
	round := func(d time.Duration) {
		b.clock.Add(d)
		if err := b.s.CollectNow(b.ctx); err != nil {
			t.Fatal(err)
		}
	}
	b.update(a, func(tx *storage.Tx) error { _, err := tx.Expunge(inbox.ID, nil, false); return err })
	round(30 * time.Minute)
	if !exists(m1) || !exists(m2) {
		t.Error("content went before its time")
	}
	c, err := b.s.Open(b.ctx, m1)
	if err != nil {
		t.Fatal(err)
	}
	round(45 * time.Minute)
	if !exists(m1) {
		t.Error("content went while somebody read it")
	}
	c.Close()
	round(time.Minute)
	if exists(m1) || !exists(m2) {
		t.Error("want the small one gone and the large one, which has a copy, there")
	}
	b.verify()
	b.update(a, func(tx *storage.Tx) error { _, err := tx.Expunge(trash.ID, nil, false); return err })
	resume := b.s.PauseCollector()
	done := make(chan struct{})
	go func() {
		defer close(done)
		round(2 * time.Hour)
	}()
	time.Sleep(50 * time.Millisecond)
	if !exists(m2) {
		t.Error("content went during a pause")
	}
	resume()
	<-done
	if exists(m2) {
		t.Error("content without use stays")
	}
	report, err := b.s.Verify(b.ctx, storage.VerifyOptions{})
	if err != nil || len(report.Problems) > 0 || report.Contents != 0 || report.Files != 0 {
		t.Errorf("verify: %+v, %v", report, err)
	}
}

// testPurge deletes a mailbox with more messages than one batch of the purger takes.
func testPurge(t *testing.T, place Place) {
	b := newBench(t, place)
	a := b.create("alice@example.test", 0).ID
	p := b.queued(text("p", "", ""), "queue/1")
	b.update(a, func(tx *storage.Tx) error {
		m, err := tx.CreateMailbox("Big", 0)
		for i := 0; err == nil && i < 2300; i++ {
			_, err = tx.Deliver(m.ID, storage.Delivery{Info: p.Info(0)})
		}
		return err
	})
	b.update(a, func(tx *storage.Tx) error { return tx.DeleteMailbox("Big") })
	b.settle()
	b.verify()
	report, err := b.s.Verify(b.ctx, storage.VerifyOptions{})
	if err != nil || report.Messages != 0 || report.Mailboxes != 6 {
		t.Errorf("verify: %+v, %v", report, err)
	}
	refs := 0
	err = b.s.KV().Scan(b.ctx, []byte("ref/"), []byte("ref0"), false, func(_, _ []byte) (bool, error) {
		refs++
		return true, nil
	})
	if err != nil || refs != 1 {
		t.Errorf("%d uses left, %v; want the queue's", refs, err)
	}
}
