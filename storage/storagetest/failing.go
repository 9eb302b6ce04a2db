package storagetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/account"
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/kv/kvtest"
)

var errFails = errors.New("this call was made to fail")

// Failing has the n-th call of the engine fail, for n = 1, 2, 3 ... until nothing fails any more: before it did anything,
// and after it was done but without the caller learning of it. Clients that try again reach what they wanted, exactly once,
// and the store does not contradict itself.
func Failing(t *testing.T, place func(t *testing.T) Place) {
	ways := map[string]func(kv.Engine, int64, error) *kvtest.Wrapped{"before": kvtest.Fail, "after": kvtest.FailAfter}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			step := int64(1)
			if testing.Short() {
				step = 5
			}
			for n := int64(1); n < 5000; n += step {
				w := failingOnce(t, place(t), way, n)
				if t.Failed() {
					t.Fatalf("call %d", n)
				}
				if w.Calls() < n {
					t.Logf("%d calls", w.Calls())
					return
				}
			}
			t.Error("it does not end")
		})
	}
}

// failing is one run.
type failing struct {
	*bench
	account account.Account
}

func failingOnce(t *testing.T, place Place, way func(kv.Engine, int64, error) *kvtest.Wrapped, n int64) *kvtest.Wrapped {
	e, err := place.Engine()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	w := way(e, n, errFails)
	f := &failing{bench: &bench{t: t, ctx: context.Background(), fs: vfs.NewMem(), clock: NewClock(), engine: w, config: storage.DefaultConfig()}}
	f.retry("open", func() (err error) {
		f.s, err = storage.Open(f.ctx, storage.Options{
			Dir: "data", FS: f.fs, Engine: w, Clock: f.clock.Now, Cost: Cheap(), CollectAfter: time.Hour,
		})
		return err
	})
	defer func() {
		if err := f.s.Close(f.ctx); err != nil && !errors.Is(err, errFails) {
			t.Error(err)
		}
	}()
	f.work()
	return w
}

// retry does fn again if it failed because a call was made to fail, as a client would.
func (f *failing) retry(what string, fn func() error) {
	f.t.Helper()
	for range 3 {
		err := fn()
		if err == nil {
			return
		}
		if !errors.Is(err, errFails) {
			f.t.Fatalf("%s: %v", what, err)
		}
	}
	f.t.Fatalf("%s fails again and again", what)
}

func (f *failing) work() {
	f.retry("create an account", func() error {
		a, err := f.s.CreateAccount(f.ctx, "alice@example.test", "secret", storage.AccountOptions{})
		if errors.Is(err, account.ErrExists) { // it was done, and the answer lost
			a, err = f.s.Accounts().Lookup(f.ctx, "alice@example.test")
		}
		f.account = a
		return err
	})
	for i := range 4 {
		f.deliver(i)
	}
	f.change("flags", func(tx *storage.Tx, m storage.Mailbox) error {
		_, err := tx.StoreFlags(m.ID, []storage.UID{1, 2}, storage.FlagsAdd, storage.Flags{System: storage.Deleted}, storage.Always)
		return err
	})
	f.change("expunge", func(tx *storage.Tx, m storage.Mailbox) error {
		_, err := tx.Expunge(m.ID, nil, true)
		return err
	})
	f.change("move", func(tx *storage.Tx, m storage.Mailbox) error {
		to, err := tx.Mailbox("Archive")
		if err == nil {
			_, err = tx.Move(m.ID, to.ID, []storage.UID{3})
		}
		return err
	})
	f.change("mailbox", func(tx *storage.Tx, m storage.Mailbox) error {
		if _, err := tx.Mailbox("New"); err == nil {
			return nil
		}
		_, err := tx.CreateMailbox("New", 0)
		return err
	})
	f.change("delete", func(tx *storage.Tx, m storage.Mailbox) error {
		err := tx.DeleteMailbox("Trash")
		if errors.Is(err, storage.ErrNoMailbox) {
			err = nil
		}
		return err
	})
	f.clock.Add(2 * time.Hour)
	f.retry("collect", func() error { return f.s.CollectNow(f.ctx) })
	f.compare()
}

// deliver is what the queue does: commit, and move; after an error it looks whether its entry is still there.
func (f *failing) deliver(i int) {
	key := fmt.Sprintf("queue/%d", i)
	d := f.draft(text(fmt.Sprintf("m%d@x", i), "<m0@x>", "x"))
	defer d.Discard()
	p, err := f.s.Prepare(f.ctx, d, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	f.retry("commit", func() error {
		var b kv.Batch
		p.Put(&b, key)
		b.Set([]byte(key), []byte("entry"))
		_, err := f.s.KV().Apply(f.ctx, &b)
		return err
	})
	f.change("deliver", func(tx *storage.Tx, m storage.Mailbox) error {
		if _, err := f.s.KV().Get(f.ctx, []byte(key)); errors.Is(err, kv.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		tx.Batch().Delete([]byte(key))
		_, err := tx.Deliver(m.ID, storage.Delivery{Info: p.Info(0), Use: key})
		return err
	})
}

// change does something with INBOX and waits until it is durable.
func (f *failing) change(what string, fn func(*storage.Tx, storage.Mailbox) error) {
	f.t.Helper()
	f.retry(what, func() error {
		pos, err := f.s.Update(f.ctx, f.account.ID, func(tx *storage.Tx) error {
			m, err := tx.Mailbox("INBOX")
			if err != nil {
				return err
			}
			return fn(tx, m)
		})
		if err != nil {
			return err
		}
		return f.s.WaitDurable(f.ctx, pos)
	})
}

func (f *failing) compare() {
	var got []string
	f.retry("view", func() error {
		got = nil
		return f.s.View(f.ctx, f.account.ID, func(v *storage.View) error {
			for _, m := range v.Mailboxes() {
				seq, err := v.UIDs(m.ID)
				if err != nil {
					return err
				}
				line := fmt.Sprintf("%s %v", m.Name, seq.All())
				var flags []storage.System
				err = v.Messages(m.ID, 1, ^storage.UID(0), func(msg *storage.Message) (bool, error) {
					flags = append(flags, msg.Flags.System)
					return true, nil
				})
				if err != nil {
					return err
				}
				got = append(got, fmt.Sprint(line, flags))
			}
			return nil
		})
	})
	want := []string{"INBOX [4][0]", "Archive [1][0]", "Drafts [][]", "Junk [][]", "New [][]", "Sent [][]"}
	if !slices.Equal(got, want) {
		f.t.Errorf("mailboxes:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var report storage.Report
	f.retry("verify", func() (err error) {
		report, err = f.s.Verify(f.ctx, storage.VerifyOptions{Use: func(context.Context, kv.Reader, storage.ContentID, string) (bool, error) {
			return false, nil // nothing is in the queue any more
		}})
		return err
	})
	if len(report.Problems) > 0 {
		f.t.Errorf("verify: %q", report.Problems)
	}
	if report.Contents != 2 {
		f.t.Errorf("%d contents are left, want 2", report.Contents)
	}
}
