package pluginhost

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/units"
)

// begun puts a question in two halves; the first one on a lane opens it.
func (h *harness) begun(t *testing.T, ctx context.Context, q *Question) *Begun {
	t.Helper()
	b := h.Begin(ctx, q)
	if b == nil {
		t.Fatal("the question could not be put at once")
	}
	return b
}

// proc returns the running process.
func (h *harness) proc(t *testing.T) *process {
	t.Helper()
	proc, err := h.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return proc
}

// cut ends all connections of a process, as the other side may do.
func (p *process) cut(t *testing.T) {
	t.Helper()
	if k := p.links.current(); k != nil {
		_ = k.Close()
		eventually(t, "the link's reader sees the end", time.Second, func() bool { return p.links.current() == nil })
	}
	for _, l := range p.all {
		if l.reset != nil {
			l.reset()
			eventually(t, "the lane's reader sees the end", time.Second, func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				return l.broken
			})
		}
	}
}

// TestBegin: what Ask does, in two halves, with every outcome.
func TestBegin(t *testing.T) {
	for name, c := range map[string]struct {
		builtin, text string
		want          Kind
	}{
		"answer":  {"plain", "hello", ""},
		"error":   {"plain", "do: error\r\n\r\n", Error},
		"timeout": {"plain", "do: hang\r\n\r\n", Timeout},
		"invalid": {"plain", "do: nan\r\n\r\n", Invalid},
		"crash":   {"crash-always", "hello", Crash},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, c.builtin, func(c *Config, _ *Options) { c.Lanes, c.Timeout = 2, units.Of(time.Second) })
			h.ready(t)
			proc := h.proc(t)
			b := h.begun(t, t.Context(), message(c.text))
			v, took, err := b.Wait()
			if kindOf(err) != c.want || took <= 0 || err == nil && v.Score != 1 {
				t.Fatalf("%+v after %s, %v", v, took, err)
			}
			if n := h.stats.inFlight.Load(); n != 0 || h.stats.asked.Load() != 1 {
				t.Errorf("%d in flight, %d asked", n, h.stats.asked.Load())
			}
			if c.want != Crash {
				eventually(t, "the lane comes back", 3*time.Second, func() bool { return proc.free.taken() == 0 || proc.lost.Load() > 0 })
			}
		})
	}
}

// TestBeginDoesNotWait: where something has to be waited for nothing is begun, and a lane does not wait for Wait.
func TestBeginDoesNotWait(t *testing.T) {
	h := newHarness(t, "plain", func(c *Config, _ *Options) { c.Lanes = 1 })
	h.ready(t)
	proc := h.proc(t)
	proc.cut(t)
	if b := h.Begin(t.Context(), message("hello")); b != nil {
		t.Fatal("there is no link")
	}
	if v, kind := h.ask(t, message("hello")); kind != "" || v.Score != 1 {
		t.Fatalf("%+v %q", v, kind) // makes a new one
	}
	if b := h.Begin(t.Context(), messageOf(bytes.Repeat([]byte("x"), inline+1))); b != nil {
		t.Fatal("much content")
	}
	first := h.begun(t, t.Context(), message("hello"))
	eventually(t, "the answer frees the lane before Wait", 3*time.Second, func() bool { return proc.free.taken() == 0 && h.stats.inFlight.Load() == 0 })
	second := h.begun(t, t.Context(), message("hello"))
	eventually(t, "the second answer frees it too", 3*time.Second, func() bool { return proc.free.taken() == 0 })
	for _, b := range []*Begun{second, first} {
		if v, _, err := b.Wait(); err != nil || v.Score != 1 {
			t.Errorf("%+v, %v", v, err)
		}
	}
	busy := h.begun(t, t.Context(), message("do: sleep 300ms\r\n\r\n"))
	if b := h.Begin(t.Context(), message("hello")); b != nil {
		t.Fatal("no lane is free")
	}
	_, _, _ = busy.Wait()
}

// TestBegunIsWithdrawn: who stops waiting gets no answer, and the lane comes back.
func TestBegunIsWithdrawn(t *testing.T) {
	h := newHarness(t, "plain", func(c *Config, _ *Options) { c.Lanes = 1 })
	h.ready(t)
	proc := h.proc(t)
	ctx, cancel := context.WithCancel(t.Context())
	b := h.begun(t, ctx, message("do: wait\r\n\r\n"))
	time.AfterFunc(50*time.Millisecond, cancel)
	start := time.Now()
	if _, _, err := b.Wait(); kindOf(err) != Timeout || time.Since(start) > 2*time.Second {
		t.Errorf("%v after %s", err, time.Since(start))
	}
	eventually(t, "the lane comes back", 3*time.Second, func() bool { return proc.free.taken() == 0 })
}

// TestBegunWhoReadsNothing: a plugin that is stopped makes nobody wait at Begin, however much was put to it.
func TestBegunWhoReadsNothing(t *testing.T) {
	h := newHarness(t, "plain", func(c *Config, _ *Options) { c.Lanes, c.Timeout = 4, units.Of(500*time.Millisecond) })
	h.ready(t)
	pid := h.host.States()[0].PID
	_ = syscall.Kill(pid, syscall.SIGSTOP)
	defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
	eventually(t, "all its threads stand", time.Second, func() bool {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, task := range tasks {
			if stat, _ := os.ReadFile(task); !strings.Contains(string(stat), ") T ") {
				return false
			}
		}
		return len(tasks) > 0
	})
	start := time.Now()
	var all []*Begun
	for range 4 {
		all = append(all, h.begun(t, t.Context(), messageOf(bytes.Repeat([]byte("x"), inline))))
	}
	if took := time.Since(start); took > 250*time.Millisecond {
		t.Errorf("Begin took %s", took)
	}
	for _, b := range all {
		if _, _, err := b.Wait(); kindOf(err) != Timeout {
			t.Errorf("%v", err)
		}
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("all of it took %s", took)
	}
}
