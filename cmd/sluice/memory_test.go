package main

import (
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"
)

func TestMemoryLimit(t *testing.T) {
	const mb = 1 << 20
	for _, c := range []struct{ live, beside, want int64 }{
		{0, 0, 224 * mb},
		{100 * mb, 74 * mb, 224 * mb},
		{100 * mb, 75 * mb, 240 * mb},
		{300 * mb, 50 * mb, 512 * mb},
	} {
		if got := memoryLimit(224*mb, c.live, c.beside); got != c.want {
			t.Errorf("%d MB live, %d beside: %d MB, expected %d", c.live/mb, c.beside/mb, got/mb, c.want/mb)
		}
	}
}

// TestKeepHeadroom: the limit goes up with what is in use, and down again.
func TestKeepHeadroom(t *testing.T) {
	const soft = 64 << 20
	before := debug.SetMemoryLimit(-1)
	var off atomic.Bool
	t.Cleanup(func() {
		off.Store(true)
		runtime.GC()
		time.Sleep(50 * time.Millisecond) // a cleanup that had begun
		debug.SetMemoryLimit(before)
	})
	keepHeadroom(soft, func() bool { return !off.Load() })
	becomes := func(what string, ask func(limit int64) bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !ask(debug.SetMemoryLimit(-1)); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: the limit is %d", what, debug.SetMemoryLimit(-1))
			}
			runtime.GC()
		}
	}
	ballast := make([]byte, 100<<20)
	becomes("100 MB in use", func(limit int64) bool { return limit >= 150<<20 && limit < 300<<20 })
	runtime.KeepAlive(ballast)
	ballast = nil
	becomes("nothing in use", func(limit int64) bool { return limit < 150<<20 })
}
