package storage_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/account"
	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/kv"
)

// cpuTime is the processor time of this process so far.
func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func openStore(tb testing.TB, o storage.Options) *storage.Store {
	tb.Helper()
	if o.Dir == "" {
		o.Dir = tb.TempDir()
	}
	if o.Engine == nil {
		o.Pebble.MinFree = -1
	}
	o.Cost = account.Cost{Memory: 64, Time: 1, Threads: 1}
	s, err := storage.Open(context.Background(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func spool(tb testing.TB, s *storage.Store, octets []byte) *blob.Draft {
	tb.Helper()
	sp := s.Blobs().NewSpool()
	sp.Expect(int64(len(octets)))
	if _, err := sp.Write(octets); err != nil {
		tb.Fatal(err)
	}
	d, err := sp.Finish()
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func sample(n int, size int) []byte {
	head := fmt.Sprintf("Received: from a.example.net (a.example.net [192.0.2.1])\r\n\tby mx.example.test with ESMTPS id %016d\r\n\tfor <user@example.test>; Sat, 21 Nov 2026 20:44:00 +0000\r\n"+
		"From: Some One <someone@example.net>\r\nTo: user@example.test\r\nSubject: message number %d\r\nDate: Sat, 21 Nov 2026 20:44:00 +0000\r\nMessage-ID: <%d.%d@example.net>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n", n, n, n, rand.Uint64())
	b := make([]byte, 0, size)
	b = append(b, head...)
	for len(b) < size {
		b = append(b, "All work and no play makes the benchmark a dull boy, line by line, on and on.\r\n"...)
	}
	return b
}

// BenchmarkDeliver measures the store's part of a message of 4 KiB without a sync: spool, Prepare, the commit of a queue
// entry, and the move into a mailbox.
func BenchmarkDeliver(b *testing.B) {
	for _, part := range []string{"whole", "commit", "move"} {
		b.Run(part, func(b *testing.B) { benchmarkDeliver(b, part) })
	}
}

func benchmarkDeliver(b *testing.B, part string) {
	ctx := context.Background()
	s := openStore(b, storage.Options{})
	var ids []storage.AccountID
	for i := range 10 {
		a, err := s.CreateAccount(ctx, fmt.Sprintf("user%d@example.test", i), "secret", storage.AccountOptions{})
		if err != nil {
			b.Fatal(err)
		}
		ids = append(ids, a.ID)
	}
	octets := make([][]byte, 64)
	for i := range octets {
		octets[i] = sample(i, 4096)
	}
	front := []byte("Return-Path: <someone@example.net>\r\nDelivered-To: user@example.test\r\n")
	commit := func(i int) storage.ContentInfo {
		d := spool(b, s, octets[i%len(octets)])
		p, err := s.Prepare(ctx, d, nil)
		if err != nil {
			b.Fatal(err)
		}
		var batch kv.Batch
		p.Put(&batch, "queue/0123456789")
		if _, err := s.KV().Apply(ctx, &batch); err != nil {
			b.Fatal(err)
		}
		d.Discard()
		return p.Info(0)
	}
	move := func(i int, info storage.ContentInfo) {
		_, err := s.Update(ctx, ids[i%len(ids)], func(tx *storage.Tx) error {
			box, err := tx.Mailbox("INBOX")
			if err != nil {
				return err
			}
			_, err = tx.Deliver(box.ID, storage.Delivery{Info: info, Front: front, Use: "queue/0123456789"})
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	infos := make([]storage.ContentInfo, 0, b.N)
	if part == "move" {
		for i := range b.N {
			infos = append(infos, commit(i))
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	start := cpuTime(b)
	for i := range b.N {
		switch part {
		case "whole":
			move(i, commit(i))
		case "commit":
			commit(i)
		case "move":
			move(i, infos[i])
		}
	}
	b.ReportMetric(float64((cpuTime(b)-start).Microseconds())/float64(b.N), "cpu-us/op")
}
