package queue_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/crashtest"
)

// An administrator was told that a message was released, or removed.
type (
	released struct{ subject string }
	removed  struct{ subject string }
)

// reporter writes notices to alice; the subject names the message that each is about.
type reporter struct {
	store *storage.Store
	hop   pipeline.Hop
}

func (r *reporter) Notice(_ context.Context, n *queue.Notice) (*pipeline.Message, string, error) {
	about, _, _ := strings.Cut(n.Entry.Sender, "@")
	m, err := message(r.store, "notice-"+about, r.hop)
	return m, "", err
}

// toAlice returns options and the hop to the account.
func toAlice(store *storage.Store, id storage.AccountID) (queue.Options, pipeline.Hop) {
	hop := pipeline.Hop{Kind: pipeline.HopMailbox, Account: id, Address: "alice@example.test"}
	o := options(store)
	o.Notify = &reporter{store, hop}
	return o, hop
}

// crashHandsRun commits messages that bounce, whose account is gone, and that are in quarantine, and releases or removes
// the last by hand.
func crashHandsRun(w *crashtest.World) error {
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
	o, hop := toAlice(store, account.ID)
	q := queue.New(o)
	if err := q.Start(ctx); err != nil {
		return errors.Join(err, store.Close(ctx))
	}
	jail := pipeline.Hop{Kind: pipeline.HopQuarantine, Why: "test"}
	gone := hop
	gone.Account[9] ^= 1
	var all []error
	for i := range 3 {
		for kind, hops := range map[string][]pipeline.Hop{
			"bounce": {bounce, hop, bounce}, "gone": {gone}, "release": {jail, hop}, "remove": {jail},
		} {
			subject := fmt.Sprint(kind, i)
			m, err := message(store, subject, hops...)
			if err == nil {
				m.Origin, m.Sender = sdk.Login, subject+"@example.test"
				err = q.Commit(ctx, m)
			}
			if err != nil {
				all = append(all, err)
				continue
			}
			w.Note(accepted{subject})
			if kind != "release" && kind != "remove" {
				continue
			}
			verb := queue.ReleaseQuarantined
			if kind == "remove" {
				verb = queue.RemoveQuarantined
			}
			_, err = q.Do(ctx, m.ID, verb, func(context.Context, string) ([]pipeline.Hop, error) { return []pipeline.Hop{hop}, nil })
			switch {
			case err != nil:
				all = append(all, err)
			case kind == "remove":
				w.Note(removed{subject})
			default:
				w.Note(released{subject})
			}
		}
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if in, more := q.Depth(); in == 0 && !more {
			break
		}
	}
	return errors.Join(append(all, q.Stop(ctx), store.Close(ctx))...)
}

// crashHandsCheck holds that each recipient is in exactly one place, and that what an administrator was told is so.
func crashHandsCheck(fs vfs.FS, notes []any) error {
	ctx := context.Background()
	told := map[string]string{} // subject: the last that was told about it
	for _, n := range notes {
		switch n := n.(type) {
		case accepted:
			told[n.subject] = "accepted"
		case released:
			told[n.subject] = "released"
		case removed:
			told[n.subject] = "removed"
		}
	}
	store, err := openStore(fs, func(err error) { panic(err) })
	if err != nil {
		return fmt.Errorf("start again: %w", err)
	}
	defer store.Close(ctx)
	account, err := store.Accounts().Lookup(ctx, "alice@example.test")
	if err != nil {
		return nil // crashCheck looks after accounts
	}
	o, _ := toAlice(store, account.ID)
	q := queue.New(o)
	if err := q.Start(ctx); err != nil {
		return err
	}
	jailed, err := settled(store)
	if err := errors.Join(err, q.Stop(ctx)); err != nil {
		return err
	}
	found, err := subjects(store, account.ID, "INBOX")
	if err != nil {
		return err
	}
	for subject, last := range told {
		kind := strings.TrimRight(subject, "0123456789")
		in, jail, notices := found[subject], jailed[subject], found["notice-"+subject]
		ok := false
		switch kind + " " + last {
		case "bounce accepted": // two notices if the queue was stopped between the two
			ok = in == 1 && jail == 0 && (notices == 1 || notices == 2)
		case "gone accepted":
			ok = in == 0 && jail == 1
		case "release accepted": // released by one who was not told
			ok = in+jail == 2 && in >= 1
		case "release released":
			ok = in == 2 && jail == 0
		case "remove accepted":
			ok = in == 0 && jail <= 1
		case "remove removed":
			ok = in == 0 && jail == 0
		}
		if !ok {
			return fmt.Errorf("%s, %s: %d in the mailbox, %d in quarantine, %d notices", subject, last, in, jail, notices)
		}
	}
	return nil
}

// settled waits until nothing is left but what is in quarantine, and returns how many copies of each message that is.
func settled(store *storage.Store) (map[string]int, error) {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		items, err := list(store)
		if err != nil {
			return nil, err
		}
		jailed, busy := make(map[string]int), 0
		for _, item := range items {
			subject, _, _ := strings.Cut(item.Sender, "@")
			for _, r := range item.Recipients {
				if r.State == "quarantined" {
					jailed[subject]++
				} else {
					busy++
				}
			}
		}
		if busy == 0 {
			return jailed, nil
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("the queue still holds %+v", items)
		}
	}
}

func TestCrashOfRoundsAndHands(t *testing.T) {
	t.Parallel()
	crashtest.Run(t, crashtest.Scenario{Run: crashHandsRun, Check: crashHandsCheck}, crashtest.Options{Points: 40})
}
