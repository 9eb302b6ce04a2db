package queue_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/crashtest"
)

// did is what an administrator was told: the verb is done to the message.
type did struct{ subject, verb string }

// crashManyVerbs are done one after the other, each to messages of its own, to which the subject leads.
var crashManyVerbs = []queue.Verb{queue.Hold, queue.Bounce, queue.Reroute, queue.Remove, queue.Retry, queue.Release}

// crashMany are options of a queue whose mail goes nowhere, so that nothing but hands settles it.
func crashMany(store *storage.Store, id storage.AccountID) queue.Options {
	o, _ := toAlice(store, id)
	w := newWorld()
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) { return unreachable(p), nil }
	o.Courier = w
	return o
}

// crashManyRun commits three messages for each verb, and does them by filter.
func crashManyRun(w *crashtest.World) error {
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
	q := queue.New(crashMany(store, account.ID))
	if err := q.Start(ctx); err != nil {
		return errors.Join(err, store.Close(ctx))
	}
	var all []error
	subjects := map[storage.ID]string{}
	for _, verb := range crashManyVerbs {
		for i := range 3 {
			subject := fmt.Sprint(string(verb), i)
			m, err := message(store, subject, to(subject+"@there.example"), to("other@elsewhere.example"))
			if err == nil {
				m.Origin, m.Sender = sdk.Login, subject+"@example.test"
				err = q.Commit(ctx, m)
			}
			if err != nil {
				all = append(all, err)
				continue
			}
			subjects[m.ID] = subject
			w.Note(accepted{subject})
		}
	}
	for _, verb := range crashManyVerbs {
		order := queue.Order{
			Task:   queue.Task{Verb: verb, Via: "smtp://backup.example:25"},
			Filter: queue.Filter{From: string(verb) + "*", Domain: "there.example"},
			Each: func(s queue.Step) error {
				if s.Err == nil {
					w.Note(did{subjects[s.ID], string(verb)})
				}
				return nil
			},
		}
		if verb == queue.Release { // what is to be released is held
			hold := order
			hold.Verb, hold.Each = queue.Hold, nil
			_, err := q.Many(ctx, &hold)
			all = append(all, err)
		}
		_, err := q.Many(ctx, &order)
		all = append(all, err)
	}
	return errors.Join(append(all, q.Stop(ctx), store.Close(ctx))...)
}

// crashManyCheck holds that each message is all as before, or all as the verb leaves it, and as it leaves it if somebody was told.
func crashManyCheck(fs vfs.FS, notes []any) error {
	ctx := context.Background()
	there, told := map[string]bool{}, map[string]bool{}
	for _, n := range notes {
		switch n := n.(type) {
		case accepted:
			there[n.subject] = true
		case did:
			told[n.subject] = true
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
	q := queue.New(crashMany(store, account.ID))
	state := map[string]string{}
	err = q.Find(ctx, &queue.Filter{}, func(i queue.Item) (bool, error) {
		subject, _, _ := strings.Cut(i.Sender, "@")
		for _, r := range i.Recipients {
			if r.Hop == "mailbox alice@example.test" {
				continue
			}
			if !strings.Contains(r.Hop, "elsewhere") {
				state[subject] = r.State + " " + r.Hop
			} else if r.State != "queued" {
				return false, fmt.Errorf("%s: whom the filter left out is %s", subject, r.State)
			}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	for subject := range there {
		verb := queue.Verb(strings.TrimRight(subject, "0123456789"))
		before := "queued remote " + subject + "@there.example"
		after := map[queue.Verb]string{
			queue.Hold: "held remote " + subject + "@there.example", queue.Bounce: "", queue.Remove: "",
			queue.Reroute: before + " via smtp://backup.example:25", queue.Retry: before, queue.Release: before,
		}[verb]
		got := state[subject]
		ok := got == after || !told[subject] && got == before || !told[subject] && verb == queue.Release && got == "held remote "+subject+"@there.example"
		if !ok {
			return fmt.Errorf("%s, told %t: %q", subject, told[subject], got)
		}
	}
	return crashManyNotices(ctx, q, store, account.ID, state, there)
}

// crashManyNotices holds that each message that was bounced has its one notice, also after a start, and no other has one.
func crashManyNotices(ctx context.Context, q *queue.Queue, store *storage.Store, account storage.AccountID, state map[string]string, there map[string]bool) error {
	if err := q.Start(ctx); err != nil {
		return err
	}
	defer q.Stop(ctx)
	for range 2000 {
		n := 0
		if err := q.Find(ctx, &queue.Filter{NextHop: "local"}, func(queue.Item) (bool, error) { n++; return true, nil }); err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	found, err := subjects(store, account, "INBOX")
	if err != nil {
		return err
	}
	for subject := range there {
		want := 0
		if strings.HasPrefix(subject, string(queue.Bounce)) && state[subject] == "" {
			want = 1
		}
		if got := found["notice-"+subject]; got != want {
			return fmt.Errorf("%s (%q): %d notices, want %d", subject, state[subject], got, want)
		}
	}
	return nil
}

func TestCrashOfManyByHand(t *testing.T) {
	t.Parallel()
	points := 40
	if slowed {
		points = 15
	}
	crashtest.Run(t, crashtest.Scenario{Run: crashManyRun, Check: crashManyCheck}, crashtest.Options{Points: points})
}
