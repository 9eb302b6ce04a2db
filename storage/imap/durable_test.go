package imap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv/kvtest"
	"github.com/sluicemail/sluice/storage/storagetest"
)

// openGated opens a store whose disk can be shut.
func openGated(t *testing.T) (*storage.Store, *gateEngine) {
	t.Helper()
	gate := &gateEngine{Engine: kvtest.NewMemory()}
	store, err := storage.Open(t.Context(), storage.Options{Dir: t.TempDir(), Engine: gate, Cost: storagetest.Cheap()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close(context.Background()) })
	if _, err := store.CreateAccount(t.Context(), testUser, testPass, storage.AccountOptions{}); err != nil {
		t.Fatal(err)
	}
	return store, gate
}

// TestAppendCutOffWhileItSyncs: a server that stops before a message is durable answers NO, but the message may be in the
// mailbox all the same, and then it has to be whole.
func TestAppendCutOffWhileItSyncs(t *testing.T) {
	store, gate := openGated(t)
	srv, addr := start(t, Options{Store: store, AllowPlaintextLogin: true})
	p := dial(t, addr).login()
	mail := shortMail + strings.Repeat("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n", 2000)
	open := sync.OnceFunc(gate.close())
	defer open()
	p.send(fmt.Sprintf("a APPEND INBOX {%d}\r\n", len(mail)))
	p.until("+")
	p.send(mail + "\r\n")
	quiet(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	srv.Shutdown(ctx)
	open()
	if err := allWhole(t, store); err != nil {
		t.Error(err)
	}
}

// allWhole reads every message in the INBOX.
func allWhole(t *testing.T, store *storage.Store) error {
	a, err := store.Accounts().Lookup(t.Context(), testUser)
	if err != nil {
		return err
	}
	return store.View(t.Context(), a.ID, func(v *storage.View) error {
		box, err := v.Mailbox("INBOX")
		if err != nil {
			return err
		}
		return v.Messages(box.ID, 1, ^storage.UID(0), func(m *storage.Message) (bool, error) {
			c, err := store.Open(t.Context(), m)
			if err != nil {
				return false, err
			}
			_, err = io.Copy(io.Discard, c.Reader())
			return true, errors.Join(err, c.Close())
		})
	})
}

// TestRefusalsWaitToo: "it exists already" tells of a mailbox as much as LIST does (RULES B1).
func TestRefusalsWaitToo(t *testing.T) {
	store, gate := openGated(t)
	_, addr := start(t, Options{Store: store, AllowPlaintextLogin: true})
	first, second := dial(t, addr).login(), dial(t, addr).login()
	open := sync.OnceFunc(gate.close())
	defer open()
	first.send("a CREATE new\r\n")
	quiet(t, first)
	second.send("b CREATE new\r\n")
	quiet(t, second)
	open()
	second.until("b NO")
	first.until("a OK")
}

// TestManyChanges: what another session did to thousands of messages is told a piece at a time, and all of it.
func TestManyChanges(t *testing.T) {
	store := openStore(t)
	a, err := store.Accounts().Lookup(t.Context(), testUser)
	if err != nil {
		t.Fatal(err)
	}
	deliver(t, store, a.ID, 2*newsPiece+500)
	_, addr := start(t, Options{Store: store, AllowPlaintextLogin: true})
	p, q := dial(t, addr).login(), dial(t, addr).login()
	p.ok("SELECT INBOX")
	q.ok("SELECT INBOX")
	q.ok(`STORE 1:* +FLAGS.SILENT (\Flagged)`)
	q.ok(`STORE 1:1000 +FLAGS.SILENT (\Deleted)`)
	q.ok("EXPUNGE")
	p.send("n NOOP\r\n")
	expunged, flagged := 0, 0
	for _, l := range p.until("n ") {
		if strings.HasSuffix(l, " EXPUNGE") {
			expunged++
		}
		if strings.Contains(l, `FLAGS (\Flagged)`) {
			flagged++
		}
	}
	if expunged != 1000 || flagged != 2*newsPiece-500 {
		t.Errorf("%d expunged, %d flagged", expunged, flagged)
	}
	p.send("n NOOP\r\n")
	if l := p.until("n "); len(l) != 1 {
		t.Errorf("told again: %d lines", len(l))
	}
}

func deliver(t *testing.T, store *storage.Store, a storage.AccountID, n int) {
	t.Helper()
	spool := store.Blobs().NewSpool()
	if _, err := io.WriteString(spool, shortMail); err != nil {
		t.Fatal(err)
	}
	draft, err := spool.Finish()
	if err != nil {
		t.Fatal(err)
	}
	prepared, err := store.Prepare(t.Context(), draft, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Update(t.Context(), a, func(tx *storage.Tx) error {
		box, err := tx.Mailbox("INBOX")
		prepared.Put(tx.Batch(), "")
		for range n {
			if err == nil {
				_, err = tx.Deliver(box.ID, storage.Delivery{Info: prepared.Info(0)})
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestAccountRemoved: a session whose account goes is told so, and ends.
func TestAccountRemoved(t *testing.T) {
	store := openStore(t)
	_, addr := start(t, Options{Store: store, AllowPlaintextLogin: true})
	selected, other := dial(t, addr).login(), dial(t, addr).login()
	selected.ok("SELECT INBOX")
	if err := store.RemoveAccount(t.Context(), testUser, true); err != nil {
		t.Fatal(err)
	}
	other.send("a STATUS INBOX (MESSAGES)\r\n")
	if l := other.until("a "); !strings.Contains(l[len(l)-1], "[EXPIRED]") {
		t.Error(l)
	}
	selected.send("b NOOP\r\n")
	selected.until("* BYE")
}
