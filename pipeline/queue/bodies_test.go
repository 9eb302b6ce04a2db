package queue_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/crashtest"
)

// changed makes a message of which the first hop gets what arrived and the others, two of
// them with a field more, a body that a plugin gave. It returns what each gets.
func changed(store *storage.Store, subject, body string, hops ...pipeline.Hop) (*pipeline.Message, []string, error) {
	m, err := message(store, subject, hops...)
	if err != nil {
		return nil, nil, err
	}
	sp := store.Blobs().NewSpool()
	if _, err := io.WriteString(sp, body); err != nil {
		m.Discard()
		return nil, nil, err
	}
	draft, err := sp.Finish()
	if err != nil {
		m.Discard()
		return nil, nil, err
	}
	change := []sdk.Change{{Kind: sdk.ReplaceBody, Body: m.NewBody(draft)}}
	var want []string
	for i, r := range m.Recipients {
		if i > 0 {
			if r.Version, err = r.Version.Apply(change); err != nil {
				m.Discard()
				return nil, nil, err
			}
		}
		reader, err := m.Open(r.Version)
		if err != nil {
			m.Discard()
			return nil, nil, err
		}
		octets, err := io.ReadAll(reader.Section(0, reader.Size()))
		if err != nil {
			m.Discard()
			return nil, nil, err
		}
		want = append(want, string(octets))
		change = append(change[:1:1], sdk.Change{Kind: sdk.AddField, Name: "X-Number", Value: fmt.Sprint(i)})
	}
	return m, want, nil
}

// bodyOf is another body for each message, every other one large enough for a file.
func bodyOf(i int) string {
	return strings.Repeat(fmt.Sprintf("the body of message %d\r\n", i), 1+i%2*4000)
}

// crashPeople are few: making an account costs more than all the rest of a run.
var crashPeople = []string{"alice@example.test", "bob@example.test"}

const crashBodies = 3 // messages

// bodiesRun commits messages with bodies of plugins while the queue delivers them.
func bodiesRun(w *crashtest.World) error {
	ctx := context.Background()
	store, err := openStore(w.FS(), w.Fatal)
	if err != nil {
		return err
	}
	var hops []pipeline.Hop
	for _, address := range crashPeople {
		account, err := store.CreateAccount(ctx, address, "correct horse", storage.AccountOptions{})
		if err != nil {
			return errors.Join(err, store.Close(ctx))
		}
		hops = append(hops, pipeline.Hop{Kind: pipeline.HopMailbox, Account: account.ID, Address: address})
	}
	w.Note(ready{})
	q := queue.New(options(store))
	if err := q.Start(ctx); err != nil {
		return errors.Join(err, store.Close(ctx))
	}
	var all []error
	for i := range crashBodies {
		subject := fmt.Sprint("m", i)
		w.Note(begun{subject})
		m, _, err := changed(store, subject, bodyOf(i), hops...)
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

// bodiesCheck starts again on what is left: who had a 250 has, for each recipient, the octets that
// were promised, and nothing in the store contradicts itself.
func bodiesCheck(fs vfs.FS, notes []any) error {
	ctx := context.Background()
	acceptedAt, haveAccounts := map[string]bool{}, false
	for _, n := range notes {
		switch n := n.(type) {
		case ready:
			haveAccounts = true
		case accepted:
			acceptedAt[n.subject] = true
		}
	}
	store, err := openStore(fs, func(err error) { panic(err) })
	if err != nil {
		return fmt.Errorf("start again: %w", err)
	}
	defer store.Close(ctx)
	if !haveAccounts {
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
	for k, address := range crashPeople {
		account, err := store.Accounts().Lookup(ctx, address)
		if err != nil {
			return fmt.Errorf("%s: %w", address, err)
		}
		if err := bodiesOf(store, account.ID, k, acceptedAt); err != nil {
			return fmt.Errorf("%s: %w", address, err)
		}
	}
	report, err := store.Verify(ctx, storage.VerifyOptions{})
	if err == nil && len(report.Problems) > 0 {
		err = fmt.Errorf("verify: %q", report.Problems)
	}
	return err
}

// bodiesOf holds what the k-th person has in INBOX.
func bodiesOf(store *storage.Store, account storage.AccountID, k int, acceptedAt map[string]bool) error {
	found, err := contents(store, account)
	if err != nil {
		return err
	}
	for i := range crashBodies {
		subject := fmt.Sprint("m", i)
		want := fmt.Sprintf("Subject: %s\r\nMessage-ID: <%s@example.net>\r\n\r\n", subject, subject)
		if k == 0 {
			want += "hello\r\n"
		} else {
			want += bodyOf(i)
		}
		n := 0
		for _, octets := range found {
			if strings.Contains(octets, "Subject: "+subject+"\r\n") {
				n++
				if !strings.HasSuffix(octets, want) {
					return fmt.Errorf("%s reads %.300q", subject, octets)
				}
			}
		}
		if n > 1 || acceptedAt[subject] && n != 1 {
			return fmt.Errorf("%s is there %d times, had its 250: %v", subject, n, acceptedAt[subject])
		}
	}
	return nil
}

// contents returns the octets of all messages in INBOX.
func contents(store *storage.Store, account storage.AccountID) (list []string, err error) {
	ctx := context.Background()
	err = store.View(ctx, account, func(v *storage.View) error {
		box, err := v.Mailbox("INBOX")
		if err != nil {
			return err
		}
		return v.Messages(box.ID, 1, ^storage.UID(0), func(m *storage.Message) (bool, error) {
			c, err := store.Open(ctx, m)
			if err != nil {
				return false, fmt.Errorf("UID %d: %w", m.UID, err)
			}
			defer c.Close()
			octets, err := io.ReadAll(c.Reader())
			if err == nil && int64(len(octets)) != m.Size {
				err = fmt.Errorf("UID %d has %d octets, and %d are said", m.UID, len(octets), m.Size)
			}
			list = append(list, string(octets))
			return true, err
		})
	})
	return list, err
}

// TestCrashWithBodies cuts the power, and lets the disk fail, at each step of committing and
// delivering messages with bodies that plugins gave.
func TestCrashWithBodies(t *testing.T) {
	t.Parallel()
	crashtest.Run(t, crashtest.Scenario{Run: bodiesRun, Check: bodiesCheck}, crashtest.Options{Points: 20})
}

// TestBodiesOfWhatIsNotCommitted: nothing of a body stays when the message is not kept.
func TestBodiesOfWhatIsNotCommitted(t *testing.T) {
	r := newRig(t, nil)
	files := func() (n int) {
		if err := r.store.Blobs().List(t.Context(), func(blob.Entry) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	large := bodyOf(1)
	m, _, err := changed(r.store, "refused", large, r.mailbox(), r.mailbox())
	if err != nil {
		t.Fatal(err)
	}
	m.Discard()
	m, _, err = changed(r.store, "discarded", large, pipeline.Hop{Kind: pipeline.HopDiscard}, pipeline.Hop{Kind: pipeline.HopDiscard})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.queue.Commit(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	// A body that only those get who get nothing is not kept.
	if m, _, err = changed(r.store, "unwanted", large, r.mailbox(), pipeline.Hop{Kind: pipeline.HopDiscard}); err != nil {
		t.Fatal(err)
	}
	if err := r.queue.Commit(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	m.Discard()
	// A record that is too large is refused when the files are durable already.
	if m, _, err = changed(r.store, "too large", large, r.mailbox(), r.mailbox()); err != nil {
		t.Fatal(err)
	}
	m.Front(pipeline.FormatField("X-Large", strings.Repeat("word ", 200_000)))
	if err := r.queue.Commit(t.Context(), m); !errors.Is(err, storage.ErrTooLarge) {
		t.Errorf("a record of 2 MB: %v", err)
	}
	if n := files(); n != 0 {
		t.Errorf("%d files", n)
	}
	m, _, err = changed(r.store, "kept", large, r.mailbox(), r.mailbox())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.queue.Commit(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if n := files(); n != 1 {
		t.Errorf("%d files of a message with a large body", n)
	}
}
