package queue_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
)

// TestStartBeforeDeadDestinations: suspensions are not kept over a restart, so each dead destination is asked at once again, as far as there
// are connections. A fresh message to one that lives does not wait for that. It always runs small; DEAD=2000 takes so many, each of
// which takes ten seconds to time out.
func TestStartBeforeDeadDestinations(t *testing.T) {
	dead, timeout := 200, 300*time.Millisecond
	if text := os.Getenv("DEAD"); text != "" {
		if _, err := fmt.Sscan(text, &dead); err != nil {
			t.Fatal(err)
		}
		timeout = 10 * time.Second
	}
	var inFlight, most, tries atomic.Int64
	begin := atomic.Int64{}
	taken := make(chan time.Duration, 1000)
	r, w := newRemoteRig(t, func(o *queue.Options) { o.Courier = nil })
	w.answer = func(_ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, error) {
		if p.Domain == "live.example" {
			taken <- time.Since(time.Unix(0, begin.Load()))
			return took(p), nil
		}
		tries.Add(1)
		n := inFlight.Add(1)
		defer inFlight.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		time.Sleep(timeout)
		return unreachable(p), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.queue.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range dead { // as a former process left it
		r.commit(t, "dead", to(fmt.Sprintf("a@dead%d.example", i)))
	}
	o := options(r.store)
	o.Courier, o.Tick = w, time.Second
	r.queue = queue.New(o)
	if err := r.queue.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	var times []time.Duration
	for i := range 40 {
		begin.Store(time.Now().UnixNano())
		r.commit(t, fmt.Sprint("live", i), to("a@live.example"))
		select {
		case d := <-taken:
			times = append(times, d)
		case <-time.After(20 * time.Second):
			t.Fatalf("message %d does not leave: %d attempts elsewhere, %d at once", i, tries.Load(), most.Load())
		}
		time.Sleep(timeout / 40)
	}
	first := times[0]
	slices.Sort(times)
	t.Logf("%d dead destinations, %d asked meanwhile, at most %d at once: the first fresh message left after %s, p50 %s, at most %s",
		dead, tries.Load(), most.Load(), first, times[len(times)/2], times[len(times)-1])
	if limits := int64(queue.DefaultLimits().Connections); most.Load() > limits*3/4 {
		t.Errorf("%d connections to dead destinations", most.Load())
	}
	if worst := times[len(times)-1]; worst > 5*time.Second {
		t.Errorf("a fresh message waited for %s", worst)
	}
}
