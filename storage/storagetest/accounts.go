package storagetest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/account"
	"github.com/sluicemail/sluice/storage/kv"
)

func testAccounts(t *testing.T, place Place) {
	b := newBench(t, place)
	alice := b.create("Alice@Example.Test", 1000)
	dir := b.s.Accounts()
	for _, address := range []string{"alice@example.test", "ALICE@EXAMPLE.TEST", "alice@example.test."} {
		if got, err := dir.Lookup(b.ctx, address); err != nil || got.ID != alice.ID || got.Address != "Alice@Example.Test" {
			t.Errorf("look up %s: %+v, %v", address, got, err)
		}
	}
	_, err := dir.Lookup(b.ctx, "bob@example.test")
	wantErr(t, "look up an unknown address", err, account.ErrUnknown)
	_, err = b.s.CreateAccount(b.ctx, "alice@EXAMPLE.test", "x", storage.AccountOptions{})
	wantErr(t, "create twice", err, account.ErrExists)
	for _, bad := range []string{"", "alice", "@example.test", "a b@example.test", `"a"@example.test`, "a..b@example.test", "a@-x.test", "a@x_/y"} {
		_, err = b.s.CreateAccount(b.ctx, bad, "x", storage.AccountOptions{})
		wantErr(t, "create "+bad, err, account.ErrAddress)
	}
	_, err = b.s.CreateAccount(b.ctx, "carol@example.test", "", storage.AccountOptions{})
	wantErr(t, "create without a password", err, account.ErrPassword)

	bob := b.create("bob@example.test", 0) // the absence in the cache gives way
	peer := netip.MustParseAddr("192.0.2.7")
	if got, err := dir.Verify(b.ctx, "BOB@example.test", "correct horse", peer); err != nil || got.ID != bob.ID {
		t.Errorf("log in: %+v, %v", got, err)
	}
	if err := dir.SetPassword(b.ctx, "bob@example.test", "battery staple"); err != nil {
		t.Fatal(err)
	}
	_, err = dir.Verify(b.ctx, "bob@example.test", "correct horse", peer)
	wantErr(t, "log in with the old password", err, account.ErrCredentials)
	if err := dir.SetQuota(b.ctx, "bob@example.test", 77); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	dir = b.s.Accounts()
	if _, err := dir.Verify(b.ctx, "bob@example.test", "battery staple", peer); err != nil {
		t.Errorf("log in after opening again: %v", err)
	}
	if q, err := b.s.Quota(b.ctx, bob.ID); err != nil || q.Limit != 77 {
		t.Errorf("quota %+v, %v", q, err)
	}
	var all []string
	err = dir.List(b.ctx, func(a account.Account) (bool, error) {
		all = append(all, a.Address)
		return true, nil
	})
	if want := []string{"Alice@Example.Test", "bob@example.test"}; err != nil || !slices.Equal(all, want) {
		t.Errorf("list %v, %v", all, err)
	}
	testRemove(b, bob)
}

func testRemove(b *bench, bob account.Account) {
	t := b.t
	b.append(bob.ID, "INBOX", "a: b\r\n\r\nx", storage.Flags{})
	wantErr(t, "remove with mail", b.s.RemoveAccount(b.ctx, bob.Address, false), storage.ErrAccountHasMail)
	if err := b.s.RemoveAccount(b.ctx, bob.Address, true); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "remove twice", b.s.RemoveAccount(b.ctx, bob.Address, true), account.ErrUnknown)
	_, err := b.s.Accounts().Lookup(b.ctx, bob.Address)
	wantErr(t, "look up what is removed", err, account.ErrUnknown)
	_, err = b.s.Update(b.ctx, bob.ID, func(*storage.Tx) error { return nil })
	wantErr(t, "update what is removed", err, storage.ErrUnknownAccount)
	wantErr(t, "view what is removed", b.s.View(b.ctx, bob.ID, func(*storage.View) error { return nil }), storage.ErrUnknownAccount)
	b.settle()
	b.verify()
}

// settle waits until the purger has nothing left to do.
func (b *bench) settle() {
	b.t.Helper()
	for range 1000 {
		left := false
		err := b.s.KV().Scan(b.ctx, []byte("system/purge/"), []byte("system/purge0"), false, func(_, _ []byte) (bool, error) {
			left = true
			return false, nil
		})
		if err != nil {
			b.t.Fatal(err)
		}
		if !left {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	b.t.Fatal("deleted mail does not go")
}

func names(list []storage.Mailbox) string {
	var out []string
	for _, m := range list {
		out = append(out, m.Name)
	}
	return strings.Join(out, " ")
}

func (b *bench) names(a storage.AccountID) (out string) {
	b.view(a, func(v *storage.View) error {
		out = names(v.Mailboxes())
		return nil
	})
	return out
}

func testMailboxes(t *testing.T, place Place) {
	b := newBench(t, place)
	a := b.create("alice@example.test", 0).ID
	if got := b.names(a); got != "INBOX Archive Drafts Junk Sent Trash" {
		t.Errorf("a new account has %s", got)
	}
	seen := map[uint32]string{}
	b.view(a, func(v *storage.View) error {
		for _, m := range v.Mailboxes() {
			if old, ok := seen[m.UIDValidity]; ok {
				t.Errorf("%s and %s have the same UIDVALIDITY", m.Name, old)
			}
			seen[m.UIDValidity] = m.Name
			if !m.Subscribed || m.UIDNext != 1 || m.HighestModSeq == 0 {
				t.Errorf("new mailbox %+v", m)
			}
		}
		junk, err := v.MailboxByUse(storage.UseJunk)
		if err != nil || junk.Name != "Junk" {
			t.Errorf("junk is %v, %v", junk.Name, err)
		}
		return nil
	})
	fails := func(what string, want error, fn func(tx *storage.Tx) error) {
		t.Helper()
		_, err := b.s.Update(b.ctx, a, fn)
		wantErr(t, what, err, want)
	}
	b.update(a, func(tx *storage.Tx) error {
		_, err := tx.CreateMailbox("Work/2026/Müller", 0)
		return err
	})
	if got := b.names(a); got != "INBOX Archive Drafts Junk Sent Trash Work Work/2026 Work/2026/Müller" {
		t.Errorf("mailboxes above are made: %s", got)
	}
	fails("create INBOX", storage.ErrMailboxExists, func(tx *storage.Tx) error { _, err := tx.CreateMailbox("inbox", 0); return err })
	fails("create in NFD", storage.ErrMailboxExists, func(tx *storage.Tx) error { _, err := tx.CreateMailbox("Work/2026/Mu\u0308ller", 0); return err })
	fails("a second Sent", storage.ErrMailboxExists, func(tx *storage.Tx) error { _, err := tx.CreateMailbox("Gone", storage.UseSent); return err })
	fails("delete INBOX", storage.ErrInbox, func(tx *storage.Tx) error { return tx.DeleteMailbox("INBOX") })
	fails("rename onto another", storage.ErrMailboxExists, func(tx *storage.Tx) error { return tx.RenameMailbox("Work", "Sent") })
	fails("rename below itself", storage.ErrMailboxName, func(tx *storage.Tx) error { return tx.RenameMailbox("Work", "Work/2026/x") })
	fails("rename nothing", storage.ErrNoMailbox, func(tx *storage.Tx) error { return tx.RenameMailbox("Nope", "x") })

	before := b.mailbox(a, "Work/2026/Müller")
	b.append(a, "Work/2026/Müller", text("m1", "", "hello"), storage.Flags{})
	b.update(a, func(tx *storage.Tx) error { return tx.RenameMailbox("Work", "Old/Job") })
	if got := b.names(a); got != "INBOX Archive Drafts Junk Old Old/Job Old/Job/2026 Old/Job/2026/Müller Sent Trash" {
		t.Errorf("children follow: %s", got)
	}
	after := b.mailbox(a, "Old/Job/2026/Müller")
	if after.ID != before.ID || after.UIDValidity != before.UIDValidity || after.Exists != 1 {
		t.Errorf("a renamed mailbox is another one: %+v, was %+v", after, before)
	}
	testInboxRename(b, a)
	b.update(a, func(tx *storage.Tx) error { return tx.DeleteMailbox("Old/Job/2026/Müller") })
	b.update(a, func(tx *storage.Tx) error { return tx.DeleteMailbox("Junk") })
	b.update(a, func(tx *storage.Tx) error {
		m, err := tx.EnsureUse(storage.UseJunk)
		if err == nil && (m.Name != "Junk" || m.UIDValidity <= before.UIDValidity) {
			err = fmt.Errorf("Junk made again is %+v", m)
		}
		return err
	})
	b.reopen()
	b.settle()
	b.verify()
	if got := b.names(a); got != "INBOX Archive Drafts Junk Old Old-Inbox Old/Job Old/Job/2026 Sent Trash" {
		t.Errorf("after opening again: %s", got)
	}
	testSubscriptions(b, a)
}

func testInboxRename(b *bench, a storage.AccountID) {
	b.append(a, "INBOX", text("i1", "", "hello"), storage.Flags{})
	old := b.mailbox(a, "INBOX")
	b.update(a, func(tx *storage.Tx) error { return tx.RenameMailbox("INBOX", "Old-Inbox") })
	moved, inbox := b.mailbox(a, "Old-Inbox"), b.mailbox(a, "inbox")
	if moved.Exists != 1 || inbox.Exists != 0 || inbox.UIDValidity <= old.UIDValidity {
		b.t.Errorf("INBOX renamed: %+v and %+v", moved, inbox)
	}
}

func testSubscriptions(b *bench, a storage.AccountID) {
	b.update(a, func(tx *storage.Tx) error {
		return errors.Join(tx.Subscribe("not/there", true), tx.Subscribe("Sent", false), tx.Subscribe("inBOX", true))
	})
	b.reopen()
	b.view(a, func(v *storage.View) error {
		if got := strings.Join(v.Subscriptions(), " "); got != "Archive Drafts INBOX Junk Trash not/there" {
			b.t.Errorf("subscriptions %s", got)
		}
		sent, err := v.Mailbox("Sent")
		if sent.Subscribed {
			b.t.Error("Sent is still subscribed")
		}
		return err
	})
}

// testNames tries what strangers call mailboxes (DRILLS E7.6).
func testNames(t *testing.T, place Place) {
	b := newBench(t, place)
	a := b.create("alice@example.test", 0).ID
	for _, name := range []string{
		"", "/", "//", "a//b", "/a", "..", "../etc/passwd", "a/../b", ".", "a\x00b", "a\r\nb", "a*", "50%", "\xff\xfe",
		strings.Repeat("x", 300), strings.Repeat("a/", 40) + "b", strings.Repeat("é", 260), "a\u0085b", "x\u2028y",
	} {
		_, err := b.s.Update(b.ctx, a, func(tx *storage.Tx) error {
			_, err := tx.CreateMailbox(name, 0)
			return err
		})
		wantErr(t, fmt.Sprintf("create %.20q", name), err, storage.ErrMailboxName)
	}
	for name, want := range map[string]string{
		"inbox/x": "INBOX/x", "a/": "a", "&AOk-": "&AOk-", "~peter/mail": "~peter/mail", "Inboxes": "Inboxes", "日本/語": "日本/語",
		"a b": "a b", "..a": "..a",
	} {
		if got, err := storage.CleanName(name); err != nil || got != want {
			t.Errorf("clean %q: %q, %v", name, got, err)
		}
	}
	b.update(a, func(tx *storage.Tx) error {
		for i := 0; ; i++ {
			if _, err := tx.CreateMailbox(fmt.Sprintf("n%05d", i), 0); errors.Is(err, storage.ErrTooManyBoxes) {
				return nil
			} else if err != nil {
				return err
			}
		}
	})
	b.view(a, func(v *storage.View) error {
		if n := len(v.Mailboxes()); n != b.config.MaxMailboxes {
			t.Errorf("%d mailboxes", n)
		}
		return nil
	})
}

// testValidity makes and removes a mailbox and an account at one moment, again and again (DRILLS E7.4, E7.9).
func testValidity(t *testing.T, place Place) {
	b := newBench(t, place)
	last := uint32(0)
	var lastID storage.AccountID
	for range 3 {
		acct := b.create("alice@example.test", 0)
		if acct.ID == lastID {
			t.Fatal("an account's ID came back")
		}
		lastID = acct.ID
		if v := b.mailbox(acct.ID, "INBOX").UIDValidity; v <= last {
			t.Errorf("UIDVALIDITY %d of INBOX after %d", v, last)
		}
		for range 5 {
			b.update(acct.ID, func(tx *storage.Tx) error { _, err := tx.CreateMailbox("x", 0); return err })
			m := b.mailbox(acct.ID, "x")
			if m.UIDValidity <= last {
				t.Errorf("UIDVALIDITY %d after %d", m.UIDValidity, last)
			}
			last = m.UIDValidity
			b.update(acct.ID, func(tx *storage.Tx) error { return tx.DeleteMailbox("x") })
			b.reopen()
		}
		if err := b.s.RemoveAccount(b.ctx, acct.Address, false); err != nil {
			t.Fatal(err)
		}
		b.reopen()
	}
}

// testFormat opens a store that a later release wrote.
func testFormat(t *testing.T, place Place) {
	b := newBench(t, place)
	var batch kv.Batch
	batch.Set([]byte("system/format"), binary.AppendUvarint(nil, 2))
	if _, err := b.engine.Apply(b.ctx, &batch); err != nil {
		t.Fatal(err)
	}
	_, err := storage.Open(b.ctx, storage.Options{Dir: "data", FS: b.fs, Engine: b.engine})
	if err == nil || !strings.Contains(err.Error(), "format 2") || !strings.Contains(err.Error(), "newer release") {
		t.Errorf("a newer format: %v", err)
	}
}
