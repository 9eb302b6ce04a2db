package storage_test

import (
	"context"
	"testing"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
)

// BenchmarkView measures what IMAP does with a mailbox of 20,000 messages: the UIDs after a cold start, FETCH 1:* FLAGS,
// and the look that a session takes after a change.
func BenchmarkView(b *testing.B) {
	ctx := context.Background()
	s := openStore(b, storage.Options{})
	a, err := s.CreateAccount(ctx, "user@example.test", "secret", storage.AccountOptions{})
	if err != nil {
		b.Fatal(err)
	}
	p, err := s.Prepare(ctx, spool(b, s, sample(1, 4096)), nil)
	if err != nil {
		b.Fatal(err)
	}
	var batch kv.Batch
	p.Put(&batch, "queue/1")
	if _, err := s.KV().Apply(ctx, &batch); err != nil {
		b.Fatal(err)
	}
	var inbox storage.Mailbox
	for range 20 {
		_, err := s.Update(ctx, a.ID, func(tx *storage.Tx) (err error) {
			inbox, err = tx.Mailbox("INBOX")
			for i := 0; err == nil && i < 1000; i++ {
				_, err = tx.Deliver(inbox.ID, storage.Delivery{Info: p.Info(0), Front: []byte("Return-Path: <a@example.net>\r\nDelivered-To: user@example.test\r\n")})
			}
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	view := func(b *testing.B, fn func(v *storage.View) error) {
		b.ReportAllocs()
		for b.Loop() {
			if err := s.View(ctx, a.ID, fn); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("fetch-flags", func(b *testing.B) {
		view(b, func(v *storage.View) error {
			return v.Messages(inbox.ID, 1, ^storage.UID(0), func(*storage.Message) (bool, error) { return true, nil })
		})
	})
	b.Run("uids", func(b *testing.B) {
		view(b, func(v *storage.View) error {
			_, err := v.UIDs(inbox.ID)
			return err
		})
	})
	b.Run("changes", func(b *testing.B) {
		view(b, func(v *storage.View) error {
			m, err := v.MailboxByID(inbox.ID)
			if err == nil {
				_, err = v.Changes(inbox.ID, m.HighestModSeq-1)
			}
			return err
		})
	})
	b.Run("message", func(b *testing.B) {
		view(b, func(v *storage.View) error {
			m, err := v.Message(inbox.ID, 12345)
			if err == nil {
				_, err = v.Summary(m)
			}
			return err
		})
	})
}
