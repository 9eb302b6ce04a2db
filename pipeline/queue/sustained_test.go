package queue_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
)

// TestSustainedIngest is RULES E2: messages of 2 to 60 KiB by 32 senders into a
// thousand mailboxes, committed and delivered, until SUSTAINED (such as "20GB") of
// content has come; then half of it is deleted. It prints p99 of Commit for each
// twentieth, write amplification, stalls, and disk for each live octet. It takes
// long, so it runs only when asked for:
//
//	SUSTAINED=20GB go test -run TestSustainedIngest -v -timeout 60m ./pipeline/queue
func TestSustainedIngest(t *testing.T) {
	if os.Getenv("SUSTAINED") == "" {
		t.Skip("a measurement; SUSTAINED=20GB runs it")
	}
	total, err := units.ParseSize(os.Getenv("SUSTAINED"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	store, err := storage.Open(ctx, storage.Options{Dir: t.TempDir(), Logger: quiet, CollectAfter: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close(ctx)
	q := queue.New(options(store))
	if err := q.Start(ctx); err != nil {
		t.Fatal(err)
	}
	run := &ingest{store: store, queue: q, text: incompressible(1 << 20)}
	run.makeAccounts(t, 1000)
	for part := range 20 {
		run.ingest(t, total.Int64()/20)
		m := store.KV().Metrics()
		t.Logf("%2d/20: %d messages, p50 %s, p99 %s, %.0f/s, write amplification %.2f, stalls %.0f (%.1f s), disk %.2f GB",
			part+1, run.n, run.p50, run.p99, run.rate, m["write_amplification"], m["stalls_total"], m["stall_seconds_total"], m["disk_bytes"]/1e9)
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if in, more := q.Depth(); in == 0 && !more {
			break
		}
	}
	run.deleteHalf(t)
	for range 12 {
		time.Sleep(10 * time.Second)
		m := store.KV().Metrics()
		t.Logf("after deleting half: disk %.2f GB, %.2f octets for each live one, write amplification %.2f",
			m["disk_bytes"]/1e9, m["disk_bytes"]/float64(run.live), m["write_amplification"])
	}
	if err := q.Stop(ctx); err != nil {
		t.Error(err)
	}
}

type ingest struct {
	store    *storage.Store
	queue    *queue.Queue
	accounts []storage.AccountID
	text     []byte
	n        int
	live     int64
	p50, p99 time.Duration
	rate     float64
}

func (r *ingest) makeAccounts(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		a, err := r.store.CreateAccount(context.Background(), fmt.Sprintf("u%d@example.test", i), "correct horse", storage.AccountOptions{})
		if err != nil {
			t.Fatal(err)
		}
		r.accounts = append(r.accounts, a.ID)
	}
}

// ingest commits messages until so many octets have come.
func (r *ingest) ingest(t *testing.T, octets int64) {
	t.Helper()
	var left, count atomic.Int64
	left.Store(octets)
	var mu sync.Mutex
	var times []time.Duration
	var wg sync.WaitGroup
	start := time.Now()
	for range 32 {
		wg.Go(func() {
			var own []time.Duration
			for left.Load() > 0 {
				size := 2<<10 + rand.IntN(58<<10)
				m, err := r.message(size)
				if err != nil {
					t.Error(err)
					return
				}
				begin := time.Now()
				if err := r.queue.Commit(context.Background(), m); err != nil {
					t.Error(err)
					return
				}
				own = append(own, time.Since(begin))
				left.Add(int64(-size))
				count.Add(1)
			}
			mu.Lock()
			defer mu.Unlock()
			times = append(times, own...)
		})
	}
	wg.Wait()
	if len(times) == 0 {
		t.Fatal("nothing was committed")
	}
	slices.Sort(times)
	r.n += len(times)
	r.live += octets
	r.p50, r.p99 = times[len(times)/2], times[len(times)*99/100]
	r.rate = float64(len(times)) / time.Since(start).Seconds()
}

func (r *ingest) message(size int) (*pipeline.Message, error) {
	sp := r.store.Blobs().NewSpool()
	from := rand.IntN(len(r.text) - size)
	if _, err := fmt.Fprintf(sp, "Subject: x\r\nMessage-ID: <%d@example.net>\r\n\r\n%s\r\n", rand.Uint64(), r.text[from:from+size]); err != nil {
		return nil, err
	}
	draft, err := sp.Finish()
	if err != nil {
		return nil, err
	}
	m := &pipeline.Message{
		ID: r.store.NewID(), Origin: sdk.Stranger, Pipeline: "inbound", Received: time.Now(), Sender: "bob@example.net", Trace: &trace.Trace{},
	}
	m.Trace.Head = trace.Head{ID: m.ID.String(), Received: m.Received, Sender: m.Sender, Recipients: []string{"u@example.test"}}
	m.Recipients = []*pipeline.Recipient{{Address: "u@example.test", Hops: []pipeline.Hop{{
		Kind: pipeline.HopMailbox, Account: r.accounts[rand.IntN(len(r.accounts))], Address: "u@example.test",
	}}}}
	return m, m.SetContent(draft)
}

// deleteHalf expunges every second message of each mailbox.
func (r *ingest) deleteHalf(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	for _, id := range r.accounts {
		_, err := r.store.Update(ctx, id, func(tx *storage.Tx) error {
			box, err := tx.Mailbox("INBOX")
			if err != nil {
				return err
			}
			var uids []storage.UID
			for uid := storage.UID(1); uid < box.UIDNext; uid += 2 {
				uids = append(uids, uid)
			}
			_, err = tx.Expunge(box.ID, uids, false)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	r.live /= 2
}

// incompressible returns text in lines that does not compress, as most mail by
// octets is: base64.
func incompressible(n int) []byte {
	raw := make([]byte, n)
	for i := range raw {
		raw[i] = byte(rand.Uint32())
	}
	b64 := []byte(base64.StdEncoding.EncodeToString(raw))
	for i := 76; i+1 < len(b64); i += 78 {
		b64[i], b64[i+1] = '\r', '\n'
	}
	return b64[:n]
}
