package pebble

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pebbledb "github.com/cockroachdb/pebble/v2"

	"github.com/sluicemail/sluice/storage/kv"
)

// cpuTime is what this process has used of the processors, user and system.
func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// body is 4 KiB that compress about as well as mail does.
func body() []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 4096)
	for i := range b {
		b[i] = "etaoin shrdlu cmfwyp vbgkqj xz\n."[r.IntN(32)]
	}
	return b
}

func open(tb testing.TB, dir string) *Engine {
	e, err := Open(Options{
		Dir: dir, Fatal: func(err error) { panic(err) },
		Boundaries: [][]byte{[]byte("content/"), []byte("content0"), []byte("trace/"), []byte("trace0")},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

// parallel spreads b.N operations over writers goroutines and reports what one
// costs the processors.
func parallel(b *testing.B, writers int, op func(n int64)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	cpu := cpuTime(b)
	for range writers {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				op(n)
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
}

// BenchmarkDurableInsert4K is the cost of taking responsibility for a message of
// 4 KiB: a batch with the content and two small keys, durable before the next.
// "direct" is the same with a synced batch of Pebble's own, for comparison.
func BenchmarkDurableInsert4K(b *testing.B) {
	for _, writers := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("kv/writers=%d", writers), func(b *testing.B) {
			e := open(b, b.TempDir())
			defer e.Close()
			ctx, value := context.Background(), body()
			parallel(b, writers, func(n int64) {
				var batch kv.Batch
				id := binary.BigEndian.AppendUint64(nil, uint64(n))
				batch.Set(append([]byte("content/"), id...), value)
				batch.Set(append([]byte("queue/"), id...), value[:200])
				batch.Set(append([]byte("ref/"), id...), nil)
				p, err := e.Apply(ctx, &batch)
				if err == nil {
					err = e.WaitDurable(ctx, p)
				}
				if err != nil {
					b.Error(err)
				}
			})
			b.ReportMetric(float64(b.N)/float64(e.group.syncs.Load()), "op/sync")
		})
		b.Run(fmt.Sprintf("direct/writers=%d", writers), func(b *testing.B) {
			e := open(b, b.TempDir())
			defer e.Close()
			value := body()
			parallel(b, writers, func(n int64) {
				batch := e.db.NewBatchWithSize(4500)
				id := binary.BigEndian.AppendUint64(nil, uint64(n))
				_ = batch.Set(append([]byte("content/"), id...), value, nil)
				_ = batch.Set(append([]byte("queue/"), id...), value[:200], nil)
				_ = batch.Set(append([]byte("ref/"), id...), nil, nil)
				if err := e.db.Apply(batch, pebbledb.Sync); err != nil {
					b.Error(err)
				}
				_ = batch.Close()
			})
		})
	}
}
