package storagetest

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/blob"
)

func (b *bench) message(a storage.AccountID, box string, uid storage.UID) (m *storage.Message) {
	b.t.Helper()
	b.view(a, func(v *storage.View) error {
		mb, err := v.Mailbox(box)
		if err == nil {
			m, err = v.Message(mb.ID, uid)
		}
		return err
	})
	return m
}

func (b *bench) read(m *storage.Message) string {
	b.t.Helper()
	c, err := b.s.Open(b.ctx, m)
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	if c.Size() != m.Size {
		b.t.Errorf("the content has %d octets, the message %d", c.Size(), m.Size)
	}
	octets, err := io.ReadAll(c.Reader())
	if err != nil {
		b.t.Fatal(err)
	}
	return string(octets)
}

func testDeliver(t *testing.T, place Place) {
	b := newBench(t, place)
	alice, bob := b.create("alice@example.test", 0).ID, b.create("bob@example.test", 0).ID
	body := text("one@example.net", "", "hello")
	p := b.queued(body, "queue/1")
	front := "Return-Path: <a@example.net>\r\nDelivered-To: x\r\n"
	date := time.Date(2020, 2, 29, 12, 0, 0, 0, time.FixedZone("", 5*3600+1800))
	deliver := func(a storage.AccountID, use string) (uid storage.UID) {
		pos := b.update(a, func(tx *storage.Tx) error {
			box, err := tx.Mailbox("INBOX")
			if err != nil {
				return err
			}
			uid, err = tx.Deliver(box.ID, storage.Delivery{
				Info: p.Info(0), Front: []byte(front), InternalDate: date, Use: use,
				Flags: storage.Flags{System: storage.Flagged, Keywords: []string{"$Forwarded", "zebra", "$forwarded"}},
			})
			return err
		})
		if err := b.s.WaitDurable(b.ctx, pos); err != nil {
			t.Fatal(err)
		}
		return uid
	}
	if uid := deliver(alice, ""); uid != 1 {
		t.Errorf("first UID %d", uid)
	}
	b.verify()
	if uid := deliver(bob, "queue/1"); uid != 1 {
		t.Errorf("first UID %d", uid)
	}
	b.verify()
	b.reopen()
	ma, mb := b.message(alice, "INBOX", 1), b.message(bob, "inbox", 1)
	if got := b.read(ma); got != front+body {
		t.Errorf("alice reads %q", got)
	}
	if ma.EmailID() != mb.EmailID() || ma.UIDL() == mb.UIDL() || ma.EmailID() != p.Info(0).EmailID() {
		t.Errorf("identities: %v %v, %v %v", ma.EmailID(), mb.EmailID(), ma.UIDL(), mb.UIDL())
	}
	if !ma.InternalDate.Equal(date) || ma.InternalDate.Format("-0700") != "+0530" {
		t.Errorf("INTERNALDATE %v", ma.InternalDate)
	}
	if ma.Flags.System != storage.Flagged || !slices.Equal(ma.Flags.Keywords, []string{"$Forwarded", "zebra"}) {
		t.Errorf("flags %+v", ma.Flags)
	}
	if !ma.SaveDate.Equal(b.clock.Now()) {
		t.Errorf("SAVEDATE %v", ma.SaveDate)
	}
	b.view(alice, func(v *storage.View) error {
		sum, err := v.Summary(ma)
		if err == nil && (sum.Envelope.MessageID != "<one@example.net>" || sum.Size != int64(len(body))) {
			t.Errorf("summary %+v", sum.Envelope)
		}
		return err
	})
	box := b.mailbox(alice, "INBOX")
	if box.Exists != 1 || box.Unseen != 1 || box.UIDNext != 2 || box.Size != int64(len(front+body)) {
		t.Errorf("counters %+v", box)
	}
	_, err := b.s.Update(b.ctx, alice, func(tx *storage.Tx) error {
		_, err := tx.Deliver(999, storage.Delivery{Info: p.Info(0)})
		return err
	})
	wantErr(t, "deliver to nowhere", err, storage.ErrNoMailbox)
	big := strings.Repeat("0123456789abcdef\r\n", 10000) // a file
	uid := b.append(alice, "INBOX", "Subject: big\r\n\r\n"+big, storage.Flags{})
	if got := b.read(b.message(alice, "INBOX", uid)); !strings.HasSuffix(got, big) {
		t.Errorf("a large message comes back with %d octets", len(got))
	}
	b.verify()
}

func testThreads(t *testing.T, place Place) {
	b := newBench(t, place)
	a := b.create("alice@example.test", 0).ID
	thread := func(octets string) storage.ID {
		uid := b.append(a, "INBOX", octets, storage.Flags{})
		return b.message(a, "INBOX", uid).ThreadID
	}
	root := thread(text("root@x", "", ""))
	other := thread(text("other@x", "", ""))
	if root == other {
		t.Error("two conversations are one")
	}
	if got := thread(text("re1@x", "<root@x>", "")); got != root {
		t.Error("an answer begins a conversation")
	}
	if got := thread(text("re2@x", "<root@x> <gone@x>", "")); got != root {
		t.Error("an answer to an answer that is missing begins a conversation")
	}
	if got := thread(text("re3@x", "<gone@x>", "")); got != root {
		t.Error("a reference that another message made known begins a conversation")
	}
	if got := thread(text("gone@x", "", "")); got != root {
		t.Error("a message that answers came before begins a conversation")
	}
	if got := thread(text("other@x", "", "again")); got != other {
		t.Error("the same Message-ID begins a conversation")
	}
	if x, y := thread(text("", "", "")), thread(text("", "", "")); x == y || x.IsZero() {
		t.Error("messages without Message-ID share a conversation")
	}
}

func testFlags(t *testing.T, place Place) {
	b := newBench(t, place)
	a := b.create("alice@example.test", 0).ID
	for i := range 10 {
		b.append(a, "INBOX", text(fmt.Sprintf("m%d", i), "", "x"), storage.Flags{})
	}
	box := b.mailbox(a, "INBOX")
	set := func(uids []storage.UID, mode storage.FlagMode, f storage.Flags, since storage.ModSeq) (res storage.FlagResult) {
		b.update(a, func(tx *storage.Tx) (err error) {
			res, err = tx.StoreFlags(box.ID, uids, mode, f, since)
			return err
		})
		return res
	}
	res := set([]storage.UID{2, 3, 99}, storage.FlagsAdd, storage.Flags{System: storage.Seen, Keywords: []string{"Work"}}, storage.Always)
	if !slices.Equal(res.Changed, []storage.UID{2, 3}) || res.ModSeq <= box.HighestModSeq {
		t.Errorf("add: %+v", res)
	}
	if res := set([]storage.UID{2, 3}, storage.FlagsAdd, storage.Flags{System: storage.Seen, Keywords: []string{"WORK"}}, storage.Always); res.Changed != nil || res.ModSeq != 0 {
		t.Errorf("adding what is there changes %+v", res)
	}
	// RFC 7162 section 3.1.3: 3 changed after the sequence that the client knows, 4 did not.
	res = set([]storage.UID{3, 4}, storage.FlagsSet, storage.Flags{System: storage.Deleted}, box.HighestModSeq)
	if !slices.Equal(res.Changed, []storage.UID{4}) || !slices.Equal(res.Modified, []storage.UID{3}) {
		t.Errorf("conditional: %+v", res)
	}
	set([]storage.UID{2}, storage.FlagsRemove, storage.Flags{Keywords: []string{"work", "never"}}, storage.Always)
	if m := b.message(a, "INBOX", 2); m.Flags.System != storage.Seen || len(m.Flags.Keywords) != 0 {
		t.Errorf("remove: %+v", m.Flags)
	}
	got := b.mailbox(a, "INBOX")
	if got.Unseen != 8 || got.Deleted != 1 || !slices.Equal(got.Keywords, []string{"Work"}) {
		t.Errorf("counters %+v", got)
	}
	for _, bad := range []string{"", `\Seen`, "a b", "a(b", "ü", strings.Repeat("x", 65), "a]b", "a\x7fb"} {
		_, err := b.s.Update(b.ctx, a, func(tx *storage.Tx) error {
			_, err := tx.StoreFlags(box.ID, []storage.UID{1}, storage.FlagsAdd, storage.Flags{Keywords: []string{bad}}, storage.Always)
			return err
		})
		wantErr(t, fmt.Sprintf("keyword %q", bad), err, storage.ErrKeyword)
	}
	_, err := b.s.Update(b.ctx, a, func(tx *storage.Tx) (err error) {
		for i := 0; err == nil && i < 300; i++ {
			_, err = tx.StoreFlags(box.ID, []storage.UID{storage.UID(1 + i%10)}, storage.FlagsAdd, storage.Flags{Keywords: []string{fmt.Sprintf("k%d", i)}}, storage.Always)
		}
		return err
	})
	wantErr(t, "keywords without end", err, storage.ErrTooManyKeywords)
	b.verify()
}

func testCopyMove(t *testing.T, place Place) {
	b := newBench(t, place)
	a := b.create("alice@example.test", 0).ID
	flags := storage.Flags{System: storage.Seen, Keywords: []string{"b", "a"}}
	for i := range 5 {
		b.append(a, "INBOX", text(fmt.Sprintf("m%d", i), "", "x"), flags)
	}
	b.append(a, "Archive", text("y", "", "x"), storage.Flags{Keywords: []string{"c", "a"}})
	inbox, archive := b.mailbox(a, "INBOX"), b.mailbox(a, "Archive")
	b.clock.Add(time.Hour)
	var res storage.CopyResult
	b.update(a, func(tx *storage.Tx) (err error) {
		res, err = tx.Copy(inbox.ID, archive.ID, []storage.UID{2, 4, 77})
		return err
	})
	if res.UIDValidity != archive.UIDValidity || !slices.Equal(res.Source, []storage.UID{2, 4}) || !slices.Equal(res.Dest, []storage.UID{2, 3}) {
		t.Errorf("copy: %+v", res)
	}
	from, to := b.message(a, "INBOX", 2), b.message(a, "Archive", 2)
	if from.EmailID() != to.EmailID() || from.UIDL() == to.UIDL() || from.ThreadID != to.ThreadID ||
		!to.SaveDate.Equal(b.clock.Now()) || !to.InternalDate.Equal(from.InternalDate) || to.Flags.System != storage.Seen ||
		!slices.Equal(to.Flags.Keywords, []string{"a", "b"}) {
		t.Errorf("the copy is %+v", to)
	}
	b.update(a, func(tx *storage.Tx) (err error) {
		res, err = tx.Move(inbox.ID, archive.ID, []storage.UID{1, 2})
		return err
	})
	if !slices.Equal(res.Dest, []storage.UID{4, 5}) {
		t.Errorf("move: %+v", res)
	}
	if moved := b.message(a, "Archive", 5); moved.UIDL() != from.UIDL() || moved.EmailID() != from.EmailID() {
		t.Errorf("the moved message is %+v, was %+v", moved, from)
	}
	b.update(a, func(tx *storage.Tx) (err error) { // onto itself: new UIDs, RFC 6851 section 3.3
		res, err = tx.Move(inbox.ID, inbox.ID, []storage.UID{3})
		return err
	})
	if got := b.uids(a, "INBOX"); !slices.Equal(got, []storage.UID{4, 5, 6}) {
		t.Errorf("INBOX has %v", got)
	}
	var gone []storage.UID
	b.update(a, func(tx *storage.Tx) (err error) {
		if _, err := tx.StoreFlags(archive.ID, []storage.UID{1, 3}, storage.FlagsAdd, storage.Flags{System: storage.Deleted}, storage.Always); err != nil {
			return err
		}
		gone, err = tx.Expunge(archive.ID, nil, true)
		return err
	})
	if !slices.Equal(gone, []storage.UID{1, 3}) {
		t.Errorf("expunged %v", gone)
	}
	b.reopen()
	if got := b.uids(a, "Archive"); !slices.Equal(got, []storage.UID{2, 4, 5}) {
		t.Errorf("Archive has %v", got)
	}
	b.verify()
}

func (b *bench) uids(a storage.AccountID, name string) (out []storage.UID) {
	b.t.Helper()
	b.view(a, func(v *storage.View) error {
		m, err := v.Mailbox(name)
		if err != nil {
			return err
		}
		seq, err := v.UIDs(m.ID)
		if err == nil {
			out = slices.Clone(seq.All())
		}
		return err
	})
	return out
}

// testQuota: what clients do is bounded, delivery is not (RULES A7, DRILLS E7.7).
func testQuota(t *testing.T, place Place) {
	b := newBench(t, place)
	octets := text("q", "", strings.Repeat("x", 500))
	size := int64(len(octets))
	a := b.create("alice@example.test", 2*size+10).ID
	b.append(a, "INBOX", octets, storage.Flags{})
	b.append(a, "INBOX", octets, storage.Flags{})
	p := b.queued(octets, "queue/1")
	inbox := b.mailbox(a, "INBOX")
	for what, fn := range map[string]func(tx *storage.Tx) error{
		"append": func(tx *storage.Tx) error {
			_, err := tx.Append(inbox.ID, storage.Delivery{Info: p.Info(0)})
			return err
		},
		"copy": func(tx *storage.Tx) error {
			sent, err := tx.Mailbox("Sent")
			if err == nil {
				_, err = tx.Copy(inbox.ID, sent.ID, []storage.UID{1})
			}
			return err
		},
	} {
		_, err := b.s.Update(b.ctx, a, fn)
		wantErr(t, what+" over quota", err, storage.ErrOverQuota)
	}
	b.update(a, func(tx *storage.Tx) error {
		sent, err := tx.Mailbox("Sent")
		if err == nil {
			_, err = tx.Move(inbox.ID, sent.ID, []storage.UID{1})
		}
		return err
	})
	b.update(a, func(tx *storage.Tx) error {
		_, err := tx.Deliver(inbox.ID, storage.Delivery{Info: p.Info(0), Use: "queue/1"})
		return err
	})
	q, err := b.s.Quota(b.ctx, a)
	if err != nil || q.Used != 3*size || q.Count != 3 || q.Limit != 2*size+10 {
		t.Errorf("quota %+v, %v", q, err)
	}
	b.update(a, func(tx *storage.Tx) error { return tx.DeleteMailbox("Sent") })
	if q, err := b.s.Quota(b.ctx, a); err != nil || q.Used != 2*size {
		t.Errorf("quota after deleting a mailbox %+v, %v", q, err)
	}
}

// testRollback: an update that fails leaves nothing behind, in the engine or in memory.
func testRollback(t *testing.T, place Place) {
	b := newBench(t, place)
	a := b.create("alice@example.test", 0).ID
	b.append(a, "INBOX", text("1", "", ""), storage.Flags{})
	b.uids(a, "INBOX") // known to sessions from now on
	before := b.mailbox(a, "INBOX")
	p := b.queued(text("2", "", ""), "queue/1")
	failed := errors.New("changed my mind")
	_, err := b.s.Update(b.ctx, a, func(tx *storage.Tx) error {
		if _, err := tx.Deliver(before.ID, storage.Delivery{Info: p.Info(0), Flags: storage.Flags{Keywords: []string{"x"}}}); err != nil {
			return err
		}
		if _, err := tx.Expunge(before.ID, []storage.UID{1}, false); err != nil {
			return err
		}
		if _, err := tx.CreateMailbox("New", 0); err != nil {
			return err
		}
		if m, err := tx.Message(before.ID, 2); err != nil || m.UID != 2 {
			t.Errorf("an update does not see its own message: %v", err)
		}
		if _, err := tx.Message(before.ID, 1); !errors.Is(err, storage.ErrNoMessage) {
			t.Errorf("an update sees what it expunged: %v", err)
		}
		return failed
	})
	wantErr(t, "update", err, failed)
	after := b.mailbox(a, "INBOX")
	if fmt.Sprint(after) != fmt.Sprint(before) || b.names(a) != "INBOX Archive Drafts Junk Sent Trash" {
		t.Errorf("INBOX is %+v, was %+v", after, before)
	}
	if got := b.uids(a, "INBOX"); !slices.Equal(got, []storage.UID{1}) {
		t.Errorf("UIDs %v", got)
	}
	func() { // a panic in the caller's function does not keep the lock
		defer func() { recover() }()
		b.s.Update(b.ctx, a, func(tx *storage.Tx) error { panic("the caller") })
	}()
	if uid := b.append(a, "INBOX", text("3", "", ""), storage.Flags{}); uid != 2 {
		t.Errorf("next UID %d", uid)
	}
	b.verify()
}

// testVariants reads variants of one content.
func testVariants(t *testing.T, place Place) {
	b := newBench(t, place)
	a := b.create("alice@example.test", 0).ID
	octets := text("v@x", "", "body")
	edited := blob.Variant{Front: []byte("X-Spam: yes\r\n"), Edits: []blob.Edit{{Off: 0, Len: int64(strings.Index(octets, "To:"))}}}
	p := b.queued(octets, "queue/1", blob.Variant{}, edited)
	inbox := b.mailbox(a, "INBOX")
	b.update(a, func(tx *storage.Tx) error {
		for k := range 2 {
			if _, err := tx.Deliver(inbox.ID, storage.Delivery{Info: p.Info(k), Front: []byte("F: 1\r\n")}); err != nil {
				return err
			}
		}
		return nil
	})
	b.reopen()
	m1, m2 := b.message(a, "INBOX", 1), b.message(a, "INBOX", 2)
	if got := b.read(m1); got != "F: 1\r\n"+octets {
		t.Errorf("variant 0: %q", got)
	}
	if got := b.read(m2); got != "F: 1\r\nX-Spam: yes\r\n"+octets[strings.Index(octets, "To:"):] {
		t.Errorf("variant 1: %q", got)
	}
	if m1.EmailID() == m2.EmailID() || m1.EmailID().String() == m2.EmailID().String() {
		t.Error("two variants have one EMAILID")
	}
	info, err := b.s.ContentInfo(b.ctx, p.ID(), 1)
	if err != nil || fmt.Sprint(info) != fmt.Sprint(p.Info(1)) {
		t.Errorf("content info %v, %v, want %v", info, err, p.Info(1))
	}
	_, err = b.s.ContentInfo(b.ctx, p.ID(), 2)
	wantErr(t, "a variant too many", err, storage.ErrNoContent)
	_, err = b.s.OpenContent(b.ctx, storage.ID{1}, 0, nil)
	wantErr(t, "no content", err, storage.ErrNoContent)
	_, err = b.s.Prepare(b.ctx, b.draft("x"), make([]blob.Variant, 17))
	wantErr(t, "17 variants", err, storage.ErrTooLarge)
}
