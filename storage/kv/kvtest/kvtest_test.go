package kvtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sluicemail/sluice/storage/kv"
)

func TestMemory(t *testing.T) {
	Run(t, func(*testing.T) Place {
		return Place{Volatile: true, Open: func() (kv.Engine, error) { return NewMemory(), nil }}
	})
}

func TestFail(t *testing.T) {
	own, ctx := errors.New("own"), context.Background()
	for n := int64(1); n <= 6; n++ {
		for name, wrap := range map[string]func(kv.Engine, int64, error) *Wrapped{"Fail": Fail, "FailAfter": FailAfter} {
			e := wrap(NewMemory(), n, own)
			var failed int64
			note := func(err error) {
				if errors.Is(err, own) && failed == 0 {
					failed = e.Calls()
				} else if err != nil && !errors.Is(err, kv.ErrNotFound) {
					t.Errorf("%s %d: %v", name, n, err)
				}
			}
			_, err := e.Apply(ctx, batch("+a=1"))
			note(err)
			note(e.WaitDurable(ctx, 1))
			_, err = e.Get(ctx, []byte("a"))
			note(err)
			note(e.Scan(ctx, nil, nil, false, func(_, _ []byte) (bool, error) { return true, nil }))
			s, err := e.Snapshot(ctx)
			note(err)
			if err == nil {
				_, err = s.Get(ctx, []byte("a"))
				note(err)
			}
			if failed != n {
				t.Errorf("%s: call %d failed, want %d", name, failed, n)
			}
			_, err = e.Engine.Get(ctx, []byte("a"))
			if applied := err == nil; applied != (n != 1 || name == "FailAfter") {
				t.Errorf("%s %d: the batch was applied: %v", name, n, applied)
			}
		}
	}
}

func TestSlow(t *testing.T) {
	e := Slow(NewMemory(), 5*time.Millisecond)
	start := time.Now()
	if _, err := e.Apply(context.Background(), batch("+a=1")); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d < 5*time.Millisecond {
		t.Errorf("Apply took %v", d)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := Slow(NewMemory(), time.Hour).Get(ctx, []byte("a")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Get: %v", err)
	}
}
