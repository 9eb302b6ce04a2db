package queue_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/storage"
)

// TestMillion is a queue of many messages to many destinations, half of them dead: memory, how fast messages are
// taken when it is empty and when it is full, how long a fresh message to a living destination waits, and how
// long a start takes. It always runs small; a million to 10,000 destinations, on a disk, takes half an hour:
//
//	MILLION=1 go test -run TestMillion -v -timeout 90m ./pipeline/queue
//
// MILLION=200000 takes so many.
func TestMillion(t *testing.T) {
	m := &million{messages: 4000, destinations: 200, timeout: 200 * time.Millisecond, memory: 1000, fresh: 100}
	if text := os.Getenv("MILLION"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		m = &million{messages: n, destinations: 10_000, timeout: 30 * time.Second, fresh: 2000}
		if n == 1 {
			m.messages = 1_000_000
		}
		if text := os.Getenv("MILLION_TIMEOUT"); text != "" { // of a connection to a dead destination, in place of 30 s
			if m.timeout, err = time.ParseDuration(text); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.dir = t.TempDir()
	m.gate = make(chan struct{})
	m.open(t)
	m.enqueue(t)
	m.report(t, "full")
	close(m.gate)
	p99 := m.measure(t, "while half of it leaves")
	for end := time.Now().Add(30 * time.Minute); m.left.Load() < int64(m.messages/2) && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	m.report(t, "the living are served")
	p99 = max(p99, m.measure(t, "while the others are dead"))
	m.close(t)
	begin := time.Now()
	m.open(t)
	t.Logf("started again in %s", time.Since(begin))
	p99 = max(p99, m.measure(t, "after the start"))
	m.report(t, "started again")
	m.close(t)
	if limit := 5 * time.Second; p99 > limit {
		t.Errorf("p99 of a fresh message is %s, over %s", p99, limit)
	}
	m.lock.Lock()
	defer m.lock.Unlock()
	for what, n := range m.twice {
		t.Errorf("%s was delivered %d times", what, n)
	}
}

type million struct {
	messages, destinations, memory, fresh int
	timeout                               time.Duration
	dir                                   string
	store                                 *storage.Store
	queue                                 *queue.Queue
	gate                                  chan struct{} // closed: the other servers answer
	left                                  atomic.Int64  // messages of the mass that have left

	lock  sync.Mutex
	seen  map[storage.ID]bool
	twice map[string]int
	waits map[storage.ID]chan struct{} // of fresh messages
}

func (m *million) dead(i int) bool { return i%2 == 1 }

func (m *million) domain(i int) string {
	if m.dead(i) {
		return fmt.Sprintf("dead%d.example", i)
	}
	return fmt.Sprintf("live%d.example", i)
}

func (m *million) NextHop(_ context.Context, domain, _ string) (pipeline.NextHop, error) {
	return pipeline.NextHop{Key: "mx." + domain}, nil
}

func (m *million) Send(ctx context.Context, _ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, func(), error) {
	select {
	case <-m.gate:
	case <-ctx.Done():
		return pipeline.Sent{}, nil, ctx.Err()
	}
	if strings.HasPrefix(p.Domain, "dead") {
		select {
		case <-time.After(m.timeout):
			return unreachable(p), nil, nil
		case <-ctx.Done():
			return pipeline.Sent{}, nil, ctx.Err()
		}
	}
	time.Sleep(2 * time.Millisecond)
	m.lock.Lock()
	defer m.lock.Unlock()
	if wait := m.waits[p.ID]; wait != nil {
		close(wait)
		delete(m.waits, p.ID)
		return took(p), nil, nil
	}
	if m.seen[p.ID] {
		m.twice[p.ID.String()]++
	}
	m.seen[p.ID] = true
	m.left.Add(1)
	return took(p), nil, nil
}

func (m *million) open(t *testing.T) {
	t.Helper()
	store, err := storage.Open(context.Background(), storage.Options{Dir: m.dir, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	m.store = store
	if m.seen == nil {
		m.seen, m.twice, m.waits = map[storage.ID]bool{}, map[string]int{}, map[storage.ID]chan struct{}{}
	}
	o := options(store)
	o.Tick, o.Courier = time.Second, m
	if m.memory > 0 {
		o.Limits.Memory, o.Tick = m.memory, 20*time.Millisecond
	}
	m.queue = queue.New(o)
	if err := m.queue.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func (m *million) close(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = m.queue.Stop(ctx) // attempts that hang are cut off
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		err := m.queue.Stop(ctx)
		cancel()
		if err == nil {
			break
		}
	}
	if err := m.store.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func (m *million) commit(t *testing.T, i int, sender string) (storage.ID, bool) {
	msg, err := message(m.store, "mass", to("user@"+m.domain(i)))
	if err == nil {
		msg.Sender = sender
		if sender == "fresh@example.test" {
			m.lock.Lock()
			m.waits[msg.ID] = make(chan struct{})
			m.lock.Unlock()
		}
		err = m.queue.Commit(context.Background(), msg)
	}
	if err != nil {
		t.Error(err)
		return storage.ID{}, false
	}
	return msg.ID, true
}

// enqueue commits the mass, and says how fast the first and the last twentieth went.
func (m *million) enqueue(t *testing.T) {
	part := m.messages / 20
	for n := range 20 {
		begin := time.Now()
		var wg sync.WaitGroup
		var next atomic.Int64
		for range 32 {
			wg.Go(func() {
				for i := next.Add(1); i <= int64(part); i = next.Add(1) {
					if _, ok := m.commit(t, (n*part+int(i))%m.destinations, fmt.Sprintf("s%d@example.test", i%100)); !ok {
						return
					}
				}
			})
		}
		wg.Wait()
		if n == 0 || n == 19 {
			t.Logf("%2d/20 taken: %.0f/s", n+1, float64(part)/time.Since(begin).Seconds())
		}
	}
}

func (m *million) report(t *testing.T, when string) {
	var mem runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&mem)
	here, more := m.queue.Depth()
	states := map[string]int{}
	for _, s := range m.queue.Sites() {
		states[s.State]++
	}
	t.Logf("%s: heap %d MB, resident %s, %d entries in memory, more %v, %d left, sites %v",
		when, mem.HeapAlloc>>20, resident(), here, more, m.left.Load(), states)
	if limit := 2 * max(m.memory, 50_000); here > limit {
		t.Errorf("%d entries in memory, over %d", here, limit)
	}
}

func resident() string {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range bytes.Lines(status) {
		if value, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
			return strings.TrimSpace(string(value))
		}
	}
	return "unknown"
}

// measure sends fresh messages to living destinations, one after the other from a few goroutines, and returns
// the 99th percentile of the time until the other server has one.
func (m *million) measure(t *testing.T, when string) time.Duration {
	var mu sync.Mutex
	var times []time.Duration
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range m.fresh / 4 {
				begin := time.Now()
				id, ok := m.commit(t, rand.IntN(m.destinations/2)*2, "fresh@example.test")
				if !ok {
					return
				}
				m.lock.Lock()
				wait := m.waits[id]
				m.lock.Unlock()
				if wait != nil {
					select {
					case <-wait:
					case <-time.After(time.Minute):
						t.Errorf("%s: a fresh message waits for a minute", when)
						return
					}
				}
				mu.Lock()
				times = append(times, time.Since(begin))
				mu.Unlock()
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	if len(times) == 0 {
		return time.Hour
	}
	slices.Sort(times)
	p99 := times[len(times)*99/100]
	t.Logf("%s: a fresh message leaves after p50 %s, p99 %s, at most %s", when, times[len(times)/2], p99, times[len(times)-1])
	return p99
}
