package storagetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/blob"
)

// testBodies reads variants whose body is another one: small and inside the engine, large and
// in a file, shared by two variants; and lets the collector take all of it, at the right time.
func testBodies(t *testing.T, place Place) {
	b := newBench(t, place)
	a := b.create("alice@example.test", 0).ID
	octets := text("b@x", "", "what arrived")
	head := octets[:strings.Index(octets, "\r\n\r\n")+4]
	small, large := "another\r\n", strings.Repeat("a large one, line by line\r\n", 10000)
	off := int64(len(head))
	drafts := []*blob.Draft{b.draft(small), b.draft(large)}
	front := []byte("X-Changed: yes\r\n")
	p := b.queued(octets, "queue/1",
		blob.Variant{},
		blob.Variant{Body: blob.NewBody(off, drafts[0])},
		blob.Variant{Front: front, Body: blob.NewBody(off, drafts[1])},
		blob.Variant{Edits: []blob.Edit{{Off: off - 2, With: []byte("X-Last: yes\r\n")}}, Body: blob.NewBody(off, drafts[1])},
	)
	for _, d := range drafts {
		d.Discard()
	}
	want := []string{
		octets, head + small, string(front) + head + large,
		head[:off-2] + "X-Last: yes\r\n\r\n" + large,
	}
	inbox := b.mailbox(a, "INBOX")
	b.update(a, func(tx *storage.Tx) error {
		for k := range want {
			if _, err := tx.Deliver(inbox.ID, storage.Delivery{Info: p.Info(k), Front: []byte("F: 1\r\n")}); err != nil {
				return err
			}
		}
		return nil
	})
	b.reopen()
	ids := make(map[string]bool)
	for k := range want {
		m := b.message(a, "INBOX", storage.UID(k+1))
		if got := b.read(m); got != "F: 1\r\n"+want[k] {
			t.Errorf("variant %d: %d octets %.200q", k, len(got), got)
		}
		if m.Size != int64(len("F: 1\r\n")+len(want[k])) || p.Info(k).Size != int64(len(want[k])) {
			t.Errorf("variant %d: sizes %d and %d of %d octets", k, m.Size, p.Info(k).Size, len(want[k]))
		}
		ids[m.EmailID().String()] = true
		b.view(a, func(v *storage.View) error {
			sum, err := v.Summary(m)
			if err == nil && sum.Size != int64(len(want[k])) {
				err = fmt.Errorf("the structure of variant %d is of %d octets", k, sum.Size)
			}
			return err
		})
	}
	if len(ids) != len(want) {
		t.Errorf("%d EMAILIDs for %d variants", len(ids), len(want))
	}
	b.verify()
	testBodiesGo(b, a, inbox)
}

// testBodiesGo removes messages one by one: all octets of a content go with its last use.
func testBodiesGo(b *bench, a storage.AccountID, inbox storage.Mailbox) {
	files := func() (n int) {
		if err := b.s.Blobs().List(b.ctx, func(blob.Entry) error { n++; return nil }); err != nil {
			b.t.Fatal(err)
		}
		return n
	}
	b.update(a, func(tx *storage.Tx) error {
		b.s.DropRef(tx.Batch(), b.message(a, "INBOX", 1).ContentID, "queue/1")
		return nil
	})
	for uid := storage.UID(1); uid <= 4; uid++ {
		last := b.message(a, "INBOX", 4)
		if got := files(); got != 1 {
			b.t.Fatalf("%d files before UID %d went", got, uid)
		}
		if b.read(last) == "" {
			b.t.Error("the last message is empty")
		}
		b.update(a, func(tx *storage.Tx) error {
			if _, err := tx.StoreFlags(inbox.ID, []storage.UID{uid}, storage.FlagsAdd, storage.Flags{System: storage.Deleted}, storage.Always); err != nil {
				return err
			}
			_, err := tx.Expunge(inbox.ID, nil, true)
			return err
		})
		b.clock.Add(2 * time.Hour)
		if err := b.s.CollectNow(b.ctx); err != nil {
			b.t.Fatal(err)
		}
		b.verify()
	}
	if got := files(); got != 0 {
		b.t.Errorf("%d files after the last message went", got)
	}
}
