package queue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/crashtest"
)

// What the crash test notes: a peer began to send, and a peer has its 250.
type (
	begun    struct{ subject string }
	accepted struct{ subject string }
	ready    struct{} // the account is there
)

const crashMessages = 12

// crashRun commits messages while the queue delivers them.
func crashRun(w *crashtest.World) error {
	ctx := context.Background()
	store, err := openStore(w.FS(), w.Fatal)
	if err != nil {
		return err
	}
	account, err := store.CreateAccount(ctx, "alice@example.test", "correct horse", storage.AccountOptions{})
	if err != nil {
		return errors.Join(err, store.Close(ctx))
	}
	w.Note(ready{})
	q := queue.New(options(store))
	if err := q.Start(ctx); err != nil {
		return errors.Join(err, store.Close(ctx))
	}
	var all []error
	hop := pipeline.Hop{Kind: pipeline.HopMailbox, Account: account.ID, Address: account.Address}
	for i := range crashMessages {
		subject := fmt.Sprint("m", i)
		w.Note(begun{subject})
		m, err := message(store, subject, hop)
		if err == nil {
			err = q.Commit(ctx, m)
		}
		if err != nil {
			all = append(all, err)
			continue
		}
		w.Note(accepted{subject})
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if in, more := q.Depth(); in == 0 && !more {
			break
		}
	}
	return errors.Join(append(all, q.Stop(ctx), store.Close(ctx))...)
}

// crashCheck starts again on what is left and holds I1 to I4 of the design:
// every message that had its 250 is in the mailbox once, when the queue has done
// its work, and no other is there twice.
func crashCheck(fs vfs.FS, notes []any) error {
	ctx := context.Background()
	begunAt, acceptedAt, haveAccount := map[string]bool{}, map[string]bool{}, false
	for _, n := range notes {
		switch n := n.(type) {
		case ready:
			haveAccount = true
		case begun:
			begunAt[n.subject] = true
		case accepted:
			acceptedAt[n.subject] = true
		}
	}
	store, err := openStore(fs, func(err error) { panic(err) })
	if err != nil {
		return fmt.Errorf("start again: %w", err)
	}
	defer store.Close(ctx)
	account, err := store.Accounts().Lookup(ctx, "alice@example.test")
	if err != nil {
		if haveAccount {
			return fmt.Errorf("the account is gone: %w", err)
		}
		return nil
	}
	q := queue.New(options(store))
	if err := q.Start(ctx); err != nil {
		return err
	}
	err = drained(store)
	if err := errors.Join(err, q.Stop(ctx)); err != nil {
		return err
	}
	found, err := subjects(store, account.ID, "INBOX")
	if err != nil {
		return err
	}
	for subject := range acceptedAt {
		if found[subject] != 1 {
			return fmt.Errorf("%s had its 250 and is in the mailbox %d times", subject, found[subject])
		}
	}
	for subject, n := range found {
		if n > 1 || !begunAt[subject] {
			return fmt.Errorf("%s is in the mailbox %d times, begun: %v", subject, n, begunAt[subject])
		}
	}
	return nil
}

func drained(store *storage.Store) error {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		items, err := list(store)
		if err != nil || len(items) == 0 {
			return err
		}
	}
	items, _ := list(store)
	return fmt.Errorf("the queue still holds %+v", items)
}

func TestCrash(t *testing.T) {
	t.Parallel()
	crashtest.Run(t, crashtest.Scenario{Run: crashRun, Check: crashCheck}, crashtest.Options{Points: 60})
}
