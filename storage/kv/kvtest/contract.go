package kvtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/storage/kv"
)

func testPositions(t *testing.T, p Place) {
	e, ctx := mustOpen(t, p.Open), context.Background()
	if err := e.WaitDurable(ctx, 0); err != nil {
		t.Errorf("WaitDurable(0): %v", err)
	}
	last := kv.Pos(0)
	for i := range 20 {
		q := apply(t, e, fmt.Sprintf("+k%d=v", i))
		if q <= last {
			t.Fatalf("position %d after %d", q, last)
		}
		if tail := e.Tail(); tail < q {
			t.Fatalf("Tail = %d after a batch at %d", tail, q)
		}
		last = q
	}
	for _, q := range []kv.Pos{last, last - 5, 1, last, e.Tail()} {
		if err := e.WaitDurable(ctx, q); err != nil {
			t.Errorf("WaitDurable(%d): %v", q, err)
		}
	}
	if err := e.Admit(); err != nil {
		t.Errorf("Admit: %v", err)
	}
	q, err := e.Apply(ctx, &kv.Batch{})
	if err != nil {
		t.Errorf("Apply of an empty batch: %v", err)
	}
	if err := e.WaitDurable(ctx, q); err != nil {
		t.Errorf("WaitDurable of an empty batch: %v", err)
	}
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := range 50 {
				q, err := e.Apply(ctx, batch(fmt.Sprintf("+w%d/%d=v", w, i)))
				if err == nil {
					err = e.WaitDurable(ctx, q)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// Readers see a batch whole or not at all, while several writers are at it.
func testAtomic(t *testing.T, p Place) {
	e, ctx := mustOpen(t, p.Open), context.Background()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 1000 {
				words := fmt.Sprintf("+%d/a=%d +%d/b=%d +%d/c=%d", w, i, w, i, w, i)
				if i%7 == 6 {
					words = fmt.Sprintf("-%d/..%d0", w, w)
				}
				if _, err := e.Apply(ctx, batch(words)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		for w := range 4 {
			seen := map[string]int{}
			lower, upper := fmt.Appendf(nil, "%d/", w), fmt.Appendf(nil, "%d0", w)
			err := e.Scan(ctx, lower, upper, w%2 == 0, func(_, v []byte) (bool, error) {
				seen[string(v)]++
				return true, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for v, n := range seen {
				if n != 3 || len(seen) != 1 {
					t.Fatalf("half a batch is visible: value %s %d times, of %v", v, n, seen)
				}
			}
		}
	}
}

func testReopen(t *testing.T, p Place) {
	if p.Volatile {
		t.Skip("a volatile engine")
	}
	e, ctx := mustOpen(t, p.Open), context.Background()
	if err := e.WaitDurable(ctx, apply(t, e, "+a=1 +b=2 +c=3")); err != nil {
		t.Fatal(err)
	}
	apply(t, e, "-b")
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = mustOpen(t, p.Open)
	wantAll(t, e, "a=1 c=3") // Close makes the tail durable
}

func testCheckpoint(t *testing.T, p Place) {
	if p.OpenCheckpoint == nil {
		t.Skip("no checkpoints")
	}
	e, ctx := mustOpen(t, p.Open), context.Background()
	apply(t, e, "+a=1 +b=2")
	if err := e.Checkpoint(ctx, p.Checkpoint); err != nil {
		t.Fatal(err)
	}
	apply(t, e, "-a +c=3")
	c := mustOpen(t, p.OpenCheckpoint)
	wantAll(t, c, "a=1 b=2")
	wantAll(t, e, "b=2 c=3")
	if err := e.Checkpoint(ctx, p.Checkpoint); err == nil {
		t.Error("a second checkpoint into the same directory works")
	}
}

func testContext(t *testing.T, p Place) {
	e := mustOpen(t, p.Open)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	pass := func(_, _ []byte) (bool, error) { return true, nil }
	for name, call := range map[string]func() error{
		"Apply":      func() error { _, err := e.Apply(ctx, batch("+a=1")); return err },
		"Get":        func() error { _, err := e.Get(ctx, []byte("a")); return err },
		"Scan":       func() error { return e.Scan(ctx, nil, nil, false, pass) },
		"Snapshot":   func() error { _, err := e.Snapshot(ctx); return err },
		"Checkpoint": func() error { return e.Checkpoint(ctx, p.Checkpoint) },
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: %v", name, err)
		}
	}
	wantAll(t, e, "")
	var b kv.Batch
	for i := range 1000 {
		b.Set(fmt.Appendf(nil, "%04d", i), nil)
	}
	if _, err := e.Apply(context.Background(), &b); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	n := 0
	err := e.Scan(ctx, nil, nil, false, func(_, _ []byte) (bool, error) { n++; cancel(); return true, nil })
	if !errors.Is(err, context.Canceled) || n == 1000 {
		t.Errorf("a scan that is cancelled visited %d keys and returned %v", n, err)
	}
}

func testClosed(t *testing.T, p Place) {
	e, ctx := mustOpen(t, p.Open), context.Background()
	q := apply(t, e, "+a=1")
	for range 2 {
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	pass := func(_, _ []byte) (bool, error) { return true, nil }
	for name, call := range map[string]func() error{
		"Apply":      func() error { _, err := e.Apply(ctx, batch("+a=1")); return err },
		"Get":        func() error { _, err := e.Get(ctx, []byte("a")); return err },
		"Scan":       func() error { return e.Scan(ctx, nil, nil, false, pass) },
		"Snapshot":   func() error { _, err := e.Snapshot(ctx); return err },
		"Checkpoint": func() error { return e.Checkpoint(ctx, p.Checkpoint) },
	} {
		if err := call(); !errors.Is(err, kv.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	// Close has made it durable; an engine may say that or that it is closed.
	if err := e.WaitDurable(ctx, q); err != nil && !errors.Is(err, kv.ErrClosed) {
		t.Errorf("WaitDurable after Close: %v", err)
	}
	e.Metrics()
}

func testLimits(t *testing.T, p Place) {
	e, ctx := mustOpen(t, p.Open), context.Background()
	var b kv.Batch
	b.Set(make([]byte, 1<<10), make([]byte, 1<<20))
	if _, err := e.Apply(ctx, &b); err != nil {
		t.Errorf("the largest key and value: %v", err)
	}
	b.Reset()
	for i := range 15 {
		b.Set(fmt.Appendf(nil, "large%d", i), make([]byte, 1<<20))
	}
	start := time.Now()
	if _, err := e.Apply(ctx, &b); err != nil {
		t.Errorf("a batch of 15 MiB: %v", err)
	}
	t.Logf("a batch of 15 MiB took %v", time.Since(start))
	for name, set := range map[string]func(*kv.Batch){
		"key":   func(b *kv.Batch) { b.Set(make([]byte, 1<<10+1), nil) },
		"value": func(b *kv.Batch) { b.Set([]byte("v"), make([]byte, 1<<20+1)) },
		"batch": func(b *kv.Batch) {
			for i := range 17 {
				b.Set(fmt.Appendf(nil, "huge%d", i), make([]byte, 1<<20))
			}
		},
	} {
		b.Reset()
		b.Set([]byte("witness"), nil)
		set(&b)
		if _, err := e.Apply(ctx, &b); err == nil {
			t.Errorf("a %s over the limit was taken", name)
		}
	}
	if _, err := e.Get(ctx, []byte("witness")); !errors.Is(err, kv.ErrNotFound) {
		t.Errorf("a batch that was refused left something: %v", err)
	}
}
