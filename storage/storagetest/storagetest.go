// Package storagetest holds the contract of package storage: what accounts, mailboxes, messages and content promise,
// whichever engine is below. Run is called with pebble, with an engine in memory, and with wrappers that make an engine
// slow; Failing has each call of the engine fail in turn. A further engine is ready when both pass over it.
//
// Model compares long random sequences of operations with a simple model in memory: every message, counter and
// modification sequence, what sessions are told of changes, and that nothing of it differs after the store was closed and
// opened again or an account left the cache.
package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/account"
	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/kv"
)

// Place is where one store lives, empty at first.
type Place struct {
	// Engine opens the engine; it is closed before it is opened again, unless it is Volatile: then it is opened once.
	Engine   func() (kv.Engine, error)
	Volatile bool
}

// Clock is a clock that tests move.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock begins at a moment without a meaning.
func NewClock() *Clock { return &Clock{now: time.Date(2026, 11, 21, 20, 0, 0, 0, time.UTC)} }

// Now returns the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Add moves the clock.
func (c *Clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// bench is a store under test and what is needed to open it again.
type bench struct {
	t      *testing.T
	ctx    context.Context
	place  Place
	fs     vfs.FS
	engine kv.Engine
	clock  *Clock
	s      *storage.Store
	config storage.Config
}

// Cheap is a cost of passwords for tests.
func Cheap() account.Cost { return account.Cost{Memory: 64, Time: 1, Threads: 1} }

func newBench(t *testing.T, place Place) *bench {
	t.Helper()
	b := &bench{t: t, ctx: t.Context(), place: place, fs: vfs.NewMem(), clock: NewClock(), config: storage.DefaultConfig()}
	b.open()
	t.Cleanup(func() {
		if b.s != nil {
			b.shut(true)
		}
	})
	return b
}

func (b *bench) open() {
	b.t.Helper()
	var err error
	if b.engine == nil {
		if b.engine, err = b.place.Engine(); err != nil {
			b.t.Fatal(err)
		}
	}
	b.s, err = storage.Open(b.ctx, storage.Options{
		Dir: "data", FS: b.fs, Engine: b.engine, Config: b.config, Clock: b.clock.Now, Cost: Cheap(),
		CollectAfter: time.Hour, // of b.clock; rounds are asked for
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) shut(last bool) {
	b.t.Helper()
	if err := b.s.Close(context.WithoutCancel(b.ctx)); err != nil {
		b.t.Error(err)
	}
	b.s = nil
	if last || !b.place.Volatile {
		if err := b.engine.Close(); err != nil {
			b.t.Error(err)
		}
		b.engine = nil
	}
}

// reopen closes the store and opens it again.
func (b *bench) reopen() {
	b.t.Helper()
	b.shut(false)
	b.open()
}

func (b *bench) create(address string, quota int64) account.Account {
	b.t.Helper()
	a, err := b.s.CreateAccount(b.ctx, address, "correct horse", storage.AccountOptions{Quota: quota})
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

func (b *bench) update(a storage.AccountID, fn func(tx *storage.Tx) error) kv.Pos {
	b.t.Helper()
	pos, err := b.s.Update(b.ctx, a, fn)
	if err != nil {
		b.t.Fatal(err)
	}
	return pos
}

func (b *bench) view(a storage.AccountID, fn func(v *storage.View) error) {
	b.t.Helper()
	if err := b.s.View(b.ctx, a, fn); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) draft(octets string) *blob.Draft {
	b.t.Helper()
	sp := b.s.Blobs().NewSpool()
	if _, err := io.WriteString(sp, octets); err != nil {
		b.t.Fatal(err)
	}
	d, err := sp.Finish()
	if err != nil {
		b.t.Fatal(err)
	}
	return d
}

// queued puts content into the store with one use, as the queue does.
func (b *bench) queued(octets, use string, variants ...blob.Variant) *storage.Prepared {
	b.t.Helper()
	d := b.draft(octets)
	defer d.Discard()
	p, err := b.s.Prepare(b.ctx, d, variants)
	if err != nil {
		b.t.Fatal(err)
	}
	var batch kv.Batch
	p.Put(&batch, use)
	if _, err := b.s.KV().Apply(b.ctx, &batch); err != nil {
		b.t.Fatal(err)
	}
	return p
}

// append puts a message into a mailbox as IMAP does.
func (b *bench) append(a storage.AccountID, box, octets string, flags storage.Flags) storage.UID {
	b.t.Helper()
	d := b.draft(octets)
	defer d.Discard()
	p, err := b.s.Prepare(b.ctx, d, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	var uid storage.UID
	b.update(a, func(tx *storage.Tx) error {
		m, err := tx.Mailbox(box)
		if err != nil {
			return err
		}
		p.Put(tx.Batch(), "")
		uid, err = tx.Append(m.ID, storage.Delivery{Info: p.Info(0), Flags: flags})
		return err
	})
	return uid
}

func (b *bench) mailbox(a storage.AccountID, name string) (m storage.Mailbox) {
	b.t.Helper()
	b.view(a, func(v *storage.View) (err error) {
		m, err = v.Mailbox(name)
		return err
	})
	return m
}

// verify holds the whole store against itself.
func (b *bench) verify() {
	b.t.Helper()
	report, err := b.s.Verify(b.ctx, storage.VerifyOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	for _, p := range report.Problems {
		b.t.Errorf("verify: %s", p)
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

// text is a small message.
func text(id, refs, body string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "From: a@example.net\r\nTo: b@example.test\r\nSubject: %s\r\n", id)
	if id != "" {
		fmt.Fprintf(&s, "Message-ID: <%s>\r\n", id)
	}
	if refs != "" {
		fmt.Fprintf(&s, "References: %s\r\n", refs)
	}
	s.WriteString("\r\n" + body + "\r\n")
	return s.String()
}

// Run checks the contract over an engine.
func Run(t *testing.T, place func(t *testing.T) Place) {
	tests := []struct {
		name string
		run  func(*testing.T, Place)
	}{
		{"Accounts", testAccounts},
		{"Mailboxes", testMailboxes},
		{"Names", testNames},
		{"Deliver", testDeliver},
		{"Threads", testThreads},
		{"Flags", testFlags},
		{"CopyMove", testCopyMove},
		{"Quota", testQuota},
		{"Rollback", testRollback},
		{"Changes", testChanges},
		{"Sequence", testSequence},
		{"Watch", testWatch},
		{"Variants", testVariants},
		{"Bodies", testBodies},
		{"Collect", testCollect},
		{"Purge", testPurge},
		{"Validity", testValidity},
		{"Format", testFormat},
		{"Model", testModel},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, place(t)) })
	}
}
