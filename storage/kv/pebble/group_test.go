package pebble

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/storage/kv"
)

// newGroup returns a group whose syncs wait for a permit each.
func newGroup(permits chan error) (*group, chan struct{}) {
	g, failed := &group{}, make(chan struct{})
	g.init(func() error { return <-permits }, failed)
	return g, failed
}

// put is a batch that was applied.
func put(g *group) kv.Pos {
	g.begin()
	return g.end()
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(100 * time.Microsecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal("never: " + what)
		}
	}
}

func TestGroupAlone(t *testing.T) {
	permits := make(chan error, 1)
	g, _ := newGroup(permits)
	p := put(g)
	permits <- nil
	if err := g.wait(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	if err := g.wait(context.Background(), p); err != nil || g.syncs.Load() != 1 {
		t.Errorf("a position that is durable: %v after %d syncs", err, g.syncs.Load())
	}
}

// Three syncs for a hundred: the first one's, then one for all who came while it
// ran, led by one of them. Nobody is set free before a sync that began after its
// batch.
func TestGroupShares(t *testing.T) {
	permits := make(chan error)
	g, _ := newGroup(permits)
	var done atomic.Int64
	var wg sync.WaitGroup
	wait := func() {
		p := put(g)
		wg.Go(func() {
			if err := g.wait(context.Background(), p); err != nil {
				t.Error(err)
			}
			done.Add(1)
		})
	}
	wait()
	running := func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.cur != nil && !g.cur.open
	}
	waitFor(t, "the first sync runs", running)
	for range 99 {
		wait()
	}
	waitFor(t, "a next round", func() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.next != nil })
	permits <- nil
	waitFor(t, "the first is free", func() bool { return done.Load() >= 1 })
	waitFor(t, "the second sync runs", running)
	if n := done.Load(); n != 1 {
		t.Errorf("%d are free after the first sync", n)
	}
	for done.Load() < 100 {
		select {
		case permits <- nil:
		case <-time.After(time.Millisecond):
		}
	}
	wg.Wait()
	if n := g.syncs.Load(); n > 4 {
		t.Errorf("%d syncs for 100", n)
	}
}

func TestGroupCancel(t *testing.T) {
	permits := make(chan error)
	g, _ := newGroup(permits)
	p := put(g)
	leader := make(chan error, 1)
	go func() { leader <- g.wait(context.Background(), p) }()
	waitFor(t, "a sync runs", func() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.cur != nil })
	ctx, cancel := context.WithCancel(context.Background())
	follower := make(chan error, 1)
	go func() { follower <- g.wait(ctx, p) }()
	cancel()
	if err := <-follower; !errors.Is(err, context.Canceled) {
		t.Errorf("the follower: %v", err)
	}
	permits <- nil
	if err := <-leader; err != nil {
		t.Errorf("the leader: %v", err)
	}
}

// A sync that fails is everybody's failure, and makes nothing durable.
func TestGroupError(t *testing.T) {
	permits := make(chan error)
	g, _ := newGroup(permits)
	own := errors.New("own")
	p := put(g)
	errs := make(chan error, 2)
	for range 2 {
		go func() { errs <- g.wait(context.Background(), p) }()
	}
	got := 0
	for got < 2 {
		select {
		case permits <- own:
		case err := <-errs:
			got++
			if !errors.Is(err, own) {
				t.Errorf("wait: %v", err)
			}
		}
	}
	if g.isDurable(p) {
		t.Error("it counts as durable")
	}
}

func TestGroupFailed(t *testing.T) {
	permits := make(chan error)
	g, failed := newGroup(permits)
	p := put(g)
	go func() { _ = g.wait(context.Background(), p) }() // is never set free
	waitFor(t, "a sync runs", func() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.cur != nil && !g.cur.open })
	errs := make(chan error, 3)
	go func() { errs <- g.wait(context.Background(), p) }()
	later := put(g)
	for range 2 {
		go func() { errs <- g.wait(context.Background(), later) }()
	}
	time.Sleep(5 * time.Millisecond)
	close(failed)
	for range 3 {
		if err := <-errs; !errors.Is(err, errFailed) {
			t.Errorf("wait: %v", err)
		}
	}
}

// A batch may be seen before it has its position; tail covers it all the same.
func TestTail(t *testing.T) {
	permits := make(chan error, 10)
	g, _ := newGroup(permits)
	p := put(g)
	if got := g.tail(); got != p {
		t.Errorf("tail = %d, want %d", got, p)
	}
	permits <- nil
	_ = g.wait(context.Background(), p)
	g.begin() // visible from here on
	seen := g.tail()
	if g.isDurable(seen) {
		t.Error("what was seen counts as durable")
	}
	if q := g.end(); q <= p {
		t.Errorf("position %d after %d", q, p)
	}
}
