package pebble

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/storage/kv"
)

var sustained = flag.Int64("sustained", 64<<20, "octets of content that BenchmarkSustained takes in")

// BenchmarkSustained takes in messages of 2 to 60 KiB as the queue and the local
// delivery do (RULES E2): a durable batch with content, envelope, reference and
// trace, then a batch that moves the envelope into a mailbox, not waited for. Each
// operation is one message.
func BenchmarkSustained(b *testing.B) {
	e := open(b, b.TempDir())
	defer e.Close()
	for b.Loop() {
		ingest(b, e, *sustained)
	}
}

// ingest runs until octets of content are in, and reports.
func ingest(b *testing.B, e *Engine, octets int64) {
	const writers = 32
	text := make([]byte, 1<<20)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range text {
		text[i] = "etaoin shrdlu cmfwyp vbgkqj xz\n."[min(r.IntN(32), r.IntN(32))]
	}
	var mu sync.Mutex
	var lat []time.Duration
	var n, done int64
	var wg sync.WaitGroup
	start, cpu := time.Now(), cpuTime(b)
	for w := range writers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(3, uint64(w)))
			for {
				size := int64(2<<10 + r.IntN(58<<10))
				mu.Lock()
				if done >= octets {
					mu.Unlock()
					return
				}
				done += size
				n++
				id := binary.BigEndian.AppendUint64(nil, uint64(n))
				mu.Unlock()
				at := r.IntN(len(text) - int(size))
				d, err := message(e, id, text[at:at+int(size)], r.IntN(1000))
				if err != nil {
					b.Error(err)
					return
				}
				mu.Lock()
				lat = append(lat, d)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	elapsed := time.Since(start)
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(n), "cpu-us/msg")
	b.ReportMetric(float64(n)/elapsed.Seconds(), "msg/s")
	b.ReportMetric(float64(done)/elapsed.Seconds()/(1<<20), "MiB/s")
	p99 := func(l []time.Duration) float64 {
		l = slices.Sorted(slices.Values(l))
		return float64(l[len(l)*99/100].Microseconds()) / 1000
	}
	b.ReportMetric(p99(lat[:len(lat)/6]), "p99-first-ms")
	b.ReportMetric(p99(lat[len(lat)*5/6:]), "p99-last-ms")
	m := e.Metrics()
	b.ReportMetric(m["write_amplification"], "write-amp")
	b.ReportMetric(m["stalls_total"], "stalls")
	b.ReportMetric(m["disk_bytes"]/float64(done), "disk/octet")
	b.Logf("moves %.0f of %.0f compactions, flushed %.0f MB, compacted %.0f MB, debt %.0f MB", m["compaction_moves_total"], m["compactions_total"],
		m["flushed_bytes_total"]/1e6, m["compacted_bytes_total"]/1e6, m["compaction_debt_bytes"]/1e6)
	b.StartTimer()
}

// message is one message's way into a mailbox; it returns how long the durable
// part took.
func message(e *Engine, id, content []byte, user int) (time.Duration, error) {
	ctx := context.Background()
	key := func(prefix string) []byte { return append([]byte(prefix), id...) }
	var b kv.Batch
	b.Set(key("content/"), content)
	b.Set(key("queue/"), content[:300])
	b.Set(key("ref/"), nil)
	b.Set(key("trace/"), content[:500])
	start := time.Now()
	p, err := e.Apply(ctx, &b)
	if err == nil {
		err = e.WaitDurable(ctx, p)
	}
	d := time.Since(start)
	if err != nil {
		return d, err
	}
	var m kv.Batch
	m.Delete(key("queue/"))
	m.Set(key(fmt.Sprintf("account/%04d/m/", user)), content[:400])
	m.Set(fmt.Appendf(nil, "account/%04d/state", user), content[:100])
	m.Delete(key("ref/"))
	_, err = e.Apply(ctx, &m)
	return d, err
}
