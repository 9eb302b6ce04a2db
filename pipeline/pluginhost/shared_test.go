package pluginhost

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/units"
)

// askAll puts n questions at the same time, the odd ones in two halves if that is possible, and returns what became of each.
func (h *harness) askAll(t *testing.T, n int, text string) (scores []float64, got []Kind) {
	t.Helper()
	scores, got = make([]float64, n), make([]Kind, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			q := message(fmt.Sprintf("%s %d\r\n\r\n", text, i))
			q.Body = func() (io.Writer, error) { return io.Discard, nil }
			var err error
			if b := h.beginOdd(t, i, q); b != nil {
				v, _, e := b.Wait()
				scores[i], err = v.Score, e
			} else {
				v, _, e := h.Ask(context.Background(), q)
				scores[i], err = v.Score, e
			}
			if got[i] = kindOf(err); err != nil && got[i] == "" {
				t.Errorf("an error that is no *Failure: %v", err)
			}
		})
	}
	all.Wait()
	return scores, got
}

func (h *harness) beginOdd(t *testing.T, i int, q *Question) *Begun {
	if i%2 == 0 {
		return nil
	}
	return h.Begin(t.Context(), q)
}

// back waits until all lanes of the running process are there.
func (h *harness) back(t *testing.T) {
	t.Helper()
	proc := h.proc(t)
	eventually(t, "all lanes come back", 5*time.Second, func() bool { return proc.free.taken() == 0 && proc.lost.Load() == 0 })
}

// replaced waits until the process was killed and another one runs.
func (h *harness) replaced(t *testing.T, why string) {
	t.Helper()
	eventually(t, "it is killed and started again", 10*time.Second, func() bool {
		s := h.host.States()[0]
		return s.Restarts > 0 && s.State == "ready"
	})
	if log := h.log.String(); !strings.Contains(log, why) {
		t.Errorf("no word of %q", why)
	}
}

// TestSharedHostile: what a plugin can do wrong on a shared connection costs the question that it is done to, and nothing else.
func TestSharedHostile(t *testing.T) {
	before := runtime.NumGoroutine()
	atOnce := make(chan struct{}, 6) // they mostly wait
	var all sync.WaitGroup
	for name, c := range sharedCases() {
		all.Go(func() {
			atOnce <- struct{}{}
			defer func() { <-atOnce }()
			t.Run(name, func(t *testing.T) {
				h := newHarness(t, "raw-shared-"+name, func(o *Config, _ *Options) {
					o.Lanes, o.Timeout, o.BreakerFailures = c.lanes, units.Of(c.timeout), 0
				})
				h.ready(t)
				c.do(t, h)
				start := time.Now()
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				if err := h.host.Stop(ctx); err != nil || time.Since(start) > 10*time.Second {
					t.Errorf("the end took %s: %v", time.Since(start), err)
				}
			})
		})
	}
	all.Wait()
	goroutines(t, before)
}

type sharedCase struct {
	lanes   int
	timeout time.Duration
	do      func(t *testing.T, h *harness)
}

// expect puts n questions at the same time, `rounds` times, and wants them to end in one of `kinds`, and those with a verdict to have one of
// `scores`.
func expect(t *testing.T, h *harness, rounds, n int, kinds []Kind, scores ...float64) {
	t.Helper()
	for range rounds {
		start := time.Now()
		score, got := h.askAll(t, n, "hello")
		for i := range got {
			if !slices.Contains(kinds, got[i]) || got[i] == "" && !slices.Contains(scores, score[i]) {
				t.Fatalf("%v with %v, expected %q with %v", got, score, kinds, scores)
			}
		}
		if took := time.Since(start); took > 2*h.config.Timeout.Std()+2*time.Second {
			t.Errorf("it took %s", took)
		}
	}
}

func sharedCases() map[string]sharedCase {
	const long, short = 10 * time.Second, 500 * time.Millisecond
	// hangs is what becomes of a plugin that answers nothing: its questions time out, then it is killed.
	hangs := func(t *testing.T, h *harness) {
		expect(t, h, 1, 4, []Kind{Timeout})
		h.replaced(t, "all lanes lost")
	}
	return map[string]sharedCase{
		"at-once": {4, long, func(t *testing.T, h *harness) {
			expect(t, h, 5, 4, []Kind{"", Error}, 2)
			h.back(t)
		}},
		"middle": {8, long, func(t *testing.T, h *harness) {
			expect(t, h, 1, 8, []Kind{Error})
			h.back(t)
			expect(t, h, 2, 8, []Kind{""}, 1)
			if s := h.host.States()[0]; s.Restarts != 0 || s.Suspects != 0 {
				t.Errorf("%+v", s)
			}
		}},
		"garbage": {4, long, func(t *testing.T, h *harness) {
			expect(t, h, 2, 4, []Kind{"", Error}, 2)
			h.back(t)
		}},
		"huge": {4, long, func(t *testing.T, h *harness) {
			expect(t, h, 2, 4, []Kind{"", Error}, 2)
			h.back(t)
		}},
		"never-begins": {4, short, hangs},
		"deaf":         {4, short, hangs},
		"half":         {4, short, hangs},
		"hangs-closes": {2, 200 * time.Millisecond, func(t *testing.T, h *harness) {
			expect(t, h, 4, 2, []Kind{"", Timeout, Error, Busy}, 2)
			h.back(t)
		}},
		"half-closed": {3, time.Second, func(t *testing.T, h *harness) {
			expect(t, h, 1, 1, []Kind{Timeout})
			eventually(t, "it is found out that nothing can be written any more", 10*time.Second, func() bool {
				scores, got := h.askAll(t, 1, "hello")
				return got[0] == "" && scores[0] == 1
			})
			h.back(t)
			expect(t, h, 2, 2, []Kind{""}, 1)
		}},
		"full": {4, short, func(t *testing.T, h *harness) {
			expect(t, h, 3, 4, []Kind{""}, 2)
			h.back(t)
		}},
		"strays": {3, long, func(t *testing.T, h *harness) {
			expect(t, h, 50, 1, []Kind{""}, 1)
			h.back(t)
		}},
		"foreign-body": {2, long, func(t *testing.T, h *harness) {
			expect(t, h, 20, 1, []Kind{""}, 1)
			h.back(t)
		}},
		"endless-body": {2, time.Second, func(t *testing.T, h *harness) { lostOne(t, h, time.Hour) }},
		"late":         {2, short, func(t *testing.T, h *harness) { lostOne(t, h, 0) }},
		"guesses":      {2, long, guesses},
		"dies":         {32, long, diesWithAll},
	}
}

// lostOne loses one of two slots for as long as the plugin doesn't answer, and asks on the other one meanwhile.
func lostOne(t *testing.T, h *harness, forever time.Duration) {
	proc := h.proc(t)
	if _, got := h.askAll(t, 1, "marked"); got[0] != Timeout {
		t.Errorf("%q", got[0])
	}
	eventually(t, "the slot is lost", 5*time.Second, func() bool { return proc.lost.Load() == 1 })
	if forever > 0 {
		expect(t, h, 5, 1, []Kind{""}, 1)
		if lost, taken := proc.lost.Load(), proc.free.taken(); lost != 1 || taken != 1 {
			t.Errorf("%d lost, %d taken", lost, taken)
		}
		return
	}
	h.back(t) // with the answer, which is nobody's
	expect(t, h, 3, 2, []Kind{""}, 1)
	if n := proc.resets.Load(); n != 0 {
		t.Errorf("%d resets since the last answer", n)
	}
}

// guesses: a plugin that answers without reading has the host keep no more than is to be written by the bound of the link.
func guesses(t *testing.T, h *harness) {
	proc := h.proc(t)
	question := func() *Question { return messageOf(bytes.Repeat([]byte("x"), inline)) }
	refused := 0
	for range 200 { // 6 MB
		switch _, _, err := h.Ask(t.Context(), question()); {
		case kindOf(err) == Timeout && strings.Contains(err.Error(), "does not read"):
			refused++
		case err != nil:
			t.Fatal(err)
		}
	}
	if refused < 100 {
		t.Errorf("%d of 200 questions were refused", refused)
	}
	if lost := proc.lost.Load(); lost != 0 {
		t.Errorf("%d slots are lost", lost)
	}
	h.back(t)
}

// diesWithAll: of 32 questions that were in it nobody is to blame, and each is answered in the second process.
func diesWithAll(t *testing.T, h *harness) {
	if v, kind := h.ask(t, message("the first\r\n\r\n")); kind != "" || v.Score != 1 {
		t.Fatalf("%+v %q", v, kind)
	}
	proc := h.proc(t)
	expect(t, h, 1, 32, []Kind{""}, 1)
	if proc.diedAlone() || !proc.isDead() {
		t.Error("one of them is convicted")
	}
	log := h.log.String()
	if n := strings.Count(log, "message is suspected"); n != 32 || strings.Contains(log, "convicted") {
		t.Errorf("%d suspects", n)
	}
	eventually(t, "nobody is suspected any more", 5*time.Second, func() bool { return h.host.States()[0].Suspects == 0 })
	proc.runner.waitDead()
}
