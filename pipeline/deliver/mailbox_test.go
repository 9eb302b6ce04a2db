package deliver

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/kv/pebble"
	"github.com/sluicemail/sluice/storage/storagetest"
)

// bench is a store with one account and one content that the queue uses.
type bench struct {
	store   *storage.Store
	account storage.AccountID
	info    storage.ContentInfo
}

const use = "queue/test"

func newBench(t *testing.T) *bench {
	t.Helper()
	ctx := context.Background()
	store, err := storage.Open(ctx, storage.Options{Dir: "data", FS: vfs.NewMem(), Cost: storagetest.Cheap(), Pebble: pebble.Options{MinFree: -1}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	a, err := store.CreateAccount(ctx, "alice@example.test", "correct horse", storage.AccountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	spool := store.Blobs().NewSpool()
	if _, err := io.WriteString(spool, "Subject: x\r\n\r\nbody\r\n"); err != nil {
		t.Fatal(err)
	}
	draft, err := spool.Finish()
	if err != nil {
		t.Fatal(err)
	}
	prepared, err := store.Prepare(ctx, draft, []blob.Variant{{}})
	if err != nil {
		t.Fatal(err)
	}
	var b kv.Batch
	prepared.Put(&b, use)
	if _, err := store.KV().Apply(ctx, &b); err != nil {
		t.Fatal(err)
	}
	draft.Discard()
	return &bench{store, a.ID, prepared.Info(0)}
}

// deliver makes one attempt and returns its outcome and how often it was settled.
func (b *bench) deliver(t *testing.T, account storage.AccountID, junk bool) (pipeline.Outcome, bool, int) {
	t.Helper()
	settled := 0
	d := &Mailbox{Store: b.store, Now: time.Now}
	o, inBatch, err := d.Deliver(context.Background(), &pipeline.Attempt{
		Sender: "bob@example.net", Recipient: "team@example.test", Content: b.info, Received: time.Unix(1_800_000_000, 0), Number: 1,
		Hop:    pipeline.Hop{Kind: pipeline.HopMailbox, Account: account, Address: "alice@example.test", Junk: junk},
		Settle: func(batch *kv.Batch, _ pipeline.Outcome) { settled++; batch.Set([]byte("queue/0/settled"), nil) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return o, inBatch, settled
}

func TestDeliver(t *testing.T) {
	for _, c := range []struct {
		junk bool
		box  string
	}{{false, "INBOX"}, {true, "Junk"}} {
		b := newBench(t)
		o, inBatch, settled := b.deliver(t, b.account, c.junk)
		if o.Kind != pipeline.Delivered || !inBatch || settled != 1 || o.Text != fmt.Sprintf("alice@example.test, %s, UID 1", c.box) {
			t.Fatalf("%+v, in the batch %v, settled %d times", o, inBatch, settled)
		}
		if _, err := b.store.KV().Get(context.Background(), []byte("queue/0/settled")); err != nil {
			t.Errorf("what the queue added is not in the batch: %v", err)
		}
		want := "Return-Path: <bob@example.net>\r\nDelivered-To: alice@example.test\r\nSubject: x\r\n\r\nbody\r\n"
		if got := b.read(t, c.box); got != want {
			t.Errorf("%s holds\n%q\nexpected\n%q", c.box, got, want)
		}
	}
}

func TestDeliverToAnAccountThatWentAway(t *testing.T) {
	b := newBench(t)
	other := b.account
	other[9] ^= 1
	o, inBatch, settled := b.deliver(t, other, false)
	if o.Kind != pipeline.Gone || inBatch || settled != 0 {
		t.Errorf("%+v, in the batch %v, settled %d times", o, inBatch, settled)
	}
}

// TestJunkIsMadeAgain: a user may have removed or renamed the mailbox.
func TestJunkIsMadeAgain(t *testing.T) {
	b := newBench(t)
	if _, err := b.store.Update(context.Background(), b.account, func(tx *storage.Tx) error { return tx.DeleteMailbox("Junk") }); err != nil {
		t.Fatal(err)
	}
	if o, _, _ := b.deliver(t, b.account, true); o.Kind != pipeline.Delivered || !strings.Contains(o.Text, "Junk") {
		t.Errorf("%+v", o)
	}
}

// read returns the octets of the only message in a mailbox.
func (b *bench) read(t *testing.T, name string) string {
	t.Helper()
	ctx := context.Background()
	var got []byte
	err := b.store.View(ctx, b.account, func(v *storage.View) error {
		box, err := v.Mailbox(name)
		if err != nil {
			return err
		}
		m, err := v.Message(box.ID, 1)
		if err != nil {
			return err
		}
		c, err := b.store.OpenContent(ctx, m.ContentID, m.Variant, m.Front)
		if err != nil {
			return err
		}
		defer c.Close()
		got, err = io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}
