package queue_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/deliver"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv/pebble"
	"github.com/sluicemail/sluice/storage/storagetest"
)

var quiet = slog.New(slog.DiscardHandler)

// rig is a store, a queue on it, and one account.
type rig struct {
	store *storage.Store
	queue *queue.Queue
	alice storage.AccountID
}

func openStore(fs vfs.FS, fatal func(error)) (*storage.Store, error) {
	return storage.Open(context.Background(), storage.Options{
		Dir: "data", FS: fs, Logger: quiet, Cost: storagetest.Cheap(),
		Pebble: pebble.Options{MemTableSize: 1 << 20, CacheSize: 1 << 20, MinFree: -1, Fatal: fatal},
	})
}

// options are those of a queue on the store; a test changes what it is about.
func options(store *storage.Store) queue.Options {
	return queue.Options{
		Store: store, Deliver: &deliver.Mailbox{Store: store, Now: time.Now}, Workers: 2,
		Config: func(string) queue.Config { return queue.DefaultConfig() }, Logger: quiet, Tick: 10 * time.Millisecond,
	}
}

// fast is a clock that runs fifty times as fast as others: a second's wait is 20 ms.
func fast() func() time.Time {
	start := time.Now()
	return func() time.Time { return start.Add(50 * time.Since(start)) }
}

func newRig(t testing.TB, change func(*queue.Options)) *rig {
	t.Helper()
	store, err := openStore(vfs.NewMem(), func(err error) { panic(err) })
	if err != nil {
		t.Fatal(err)
	}
	account, err := store.CreateAccount(context.Background(), "alice@example.test", "correct horse", storage.AccountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{store: store, alice: account.ID}
	o := options(store)
	if change != nil {
		change(&o)
	}
	r.queue = queue.New(o)
	if err := r.queue.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := errors.Join(r.queue.Stop(ctx), store.Close(ctx)); err != nil {
			t.Error(err)
		}
	})
	return r
}

// message makes a message ready to be committed, with one recipient a hop.
func message(store *storage.Store, subject string, hops ...pipeline.Hop) (*pipeline.Message, error) {
	sp := store.Blobs().NewSpool()
	if _, err := fmt.Fprintf(sp, "Subject: %s\r\nMessage-ID: <%s@example.net>\r\n\r\nhello\r\n", subject, subject); err != nil {
		return nil, err
	}
	draft, err := sp.Finish()
	if err != nil {
		return nil, err
	}
	m := &pipeline.Message{
		ID: store.NewID(), Origin: sdk.Stranger, Pipeline: "inbound", Received: time.Now(), Sender: "bob@example.net",
		Trace: &trace.Trace{},
	}
	m.Trace.Head = trace.Head{ID: m.ID.String(), Received: m.Received, Sender: m.Sender, MessageID: "<" + subject + "@example.net>"}
	for i, hop := range hops {
		m.Recipients = append(m.Recipients, &pipeline.Recipient{Address: fmt.Sprintf("r%d@example.test", i), Hops: []pipeline.Hop{hop}})
	}
	return m, m.SetContent(draft)
}

func (r *rig) mailbox() pipeline.Hop {
	return pipeline.Hop{Kind: pipeline.HopMailbox, Account: r.alice, Address: "alice@example.test"}
}

func (r *rig) commit(t testing.TB, subject string, hops ...pipeline.Hop) *pipeline.Message {
	t.Helper()
	m, err := message(r.store, subject, hops...)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.queue.Commit(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

// subjects returns how often each subject is in a mailbox.
func subjects(store *storage.Store, account storage.AccountID, name string) (map[string]int, error) {
	ctx := context.Background()
	found := make(map[string]int)
	err := store.View(ctx, account, func(v *storage.View) error {
		box, err := v.Mailbox(name)
		if err != nil {
			return err
		}
		return v.Messages(box.ID, 1, ^storage.UID(0), func(m *storage.Message) (bool, error) {
			c, err := store.OpenContent(ctx, m.ContentID, m.Variant, m.Front)
			if err != nil {
				return false, fmt.Errorf("UID %d: %w", m.UID, err)
			}
			defer c.Close()
			octets, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
			if err != nil {
				return false, fmt.Errorf("UID %d: %w", m.UID, err)
			}
			_, rest, _ := strings.Cut(string(octets), "Subject: ")
			subject, _, _ := strings.Cut(rest, "\r\n")
			found[subject]++
			return true, nil
		})
	})
	return found, err
}

func (r *rig) subjects(t testing.TB, name string) map[string]int {
	t.Helper()
	found, err := subjects(r.store, r.alice, name)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// eventually waits up to ten seconds for ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 10 s: %s", what)
}

// list returns the queue.
func list(store *storage.Store) (items []queue.Item, err error) {
	err = queue.List(context.Background(), store.KV(), func(i queue.Item) (bool, error) {
		items = append(items, i)
		return true, nil
	})
	return items, err
}

func (r *rig) list(t testing.TB) []queue.Item {
	t.Helper()
	items, err := list(r.store)
	if err != nil {
		t.Fatal(err)
	}
	return items
}

// actions returns the actions of a stored trace.
func (r *rig) actions(t testing.TB, id storage.ID) string {
	t.Helper()
	story, err := trace.Get(context.Background(), r.store.KV(), id)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range story.Events {
		list = append(list, e.Action)
	}
	return strings.Join(list, " ")
}

// stubborn is a deliverer that fails as a test wants.
type stubborn struct {
	mu   sync.Mutex
	next pipeline.Deliverer
	fail func(a *pipeline.Attempt) (pipeline.Outcome, error) // nil outcome and error: deliver
}

func (s *stubborn) Deliver(ctx context.Context, a *pipeline.Attempt) (pipeline.Outcome, bool, error) {
	o, err := func() (pipeline.Outcome, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.fail(a)
	}()
	if err != nil || o.Kind != 0 {
		return o, false, err
	}
	return s.next.Deliver(ctx, a)
}
