package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/sdk"
)

// TestPoison (DRILLS E6.1): of the messages in flight at a crash the guilty one is convicted, alone, and twice;
// the others get their verdicts (RULES C3).
func TestPoison(t *testing.T) {
	h := newHarness(t, "plain", nil)
	h.ready(t)
	guilty := message("do: crash\r\n\r\n")
	kinds := make(map[string]Kind)
	var mu sync.Mutex
	var askers sync.WaitGroup
	for i := range 6 {
		askers.Add(1)
		go func() {
			defer askers.Done()
			text := fmt.Sprintf("do: sleep 300ms %d\r\n\r\n", i)
			_, kind := h.ask(t, message(text))
			mu.Lock()
			kinds[text] = kind
			mu.Unlock()
		}()
	}
	time.Sleep(100 * time.Millisecond)
	if _, kind := h.ask(t, guilty); kind != Poison {
		t.Errorf("%q, expected poison", kind)
	}
	askers.Wait()
	for text, kind := range kinds {
		if kind != "" {
			t.Errorf("%q: %q, expected a verdict", text, kind)
		}
	}
	s := h.host.States()[0]
	if s.Suspects != 1 || s.Restarts != 1 {
		t.Errorf("%+v", s)
	}
	start := time.Now()
	if _, kind := h.ask(t, guilty); kind != Poison || time.Since(start) > 50*time.Millisecond {
		t.Errorf("%q after %s, expected poison at once", kind, time.Since(start))
	}
	if _, kind := h.ask(t, message("x")); kind != "" {
		t.Errorf("afterwards %q", kind)
	}
}

// TestTooLateToBeSuspected: a question that comes when the process is dead already has nothing to do with its death.
func TestTooLateToBeSuspected(t *testing.T) {
	h := newHarness(t, "plain", nil)
	h.ready(t)
	proc, err := h.launch("").start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer proc.end()
	if _, err := proc.ask(t.Context(), message("do: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := proc.ask(t.Context(), message("do: crash\r\n\r\n")); kindOf(err) != Crash || !proc.diedAlone() {
		t.Fatalf("%v, alone %v", err, proc.diedAlone())
	}
	if _, err := proc.ask(t.Context(), message("do: x\r\n\r\n")); !errors.Is(err, errNotAsked) {
		t.Errorf("%v, expected that it was not asked", err)
	}
}

// TestNotAlone: who was in the process beside a question that nobody waits for any more was not alone in it.
func TestNotAlone(t *testing.T) {
	h := newHarness(t, "plain", nil)
	h.ready(t)
	proc, err := h.launch("").start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer proc.end()
	if _, err := proc.ask(t.Context(), message("do: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := proc.ask(ctx, message("do: hang\r\n\r\n")); kindOf(err) != Timeout {
		t.Fatal(err)
	}
	eventually(t, "the slot is lost", 3*time.Second, func() bool { return proc.lost.Load() == 1 })
	if _, err := proc.ask(t.Context(), message("do: crash\r\n\r\n")); kindOf(err) != Crash || proc.diedAlone() {
		t.Errorf("%v, alone %v", err, proc.diedAlone())
	}
}

// TestSuspectOutOfTime: a suspect that has no time to be asked again is put off, not judged.
func TestSuspectOutOfTime(t *testing.T) {
	h := newHarness(t, "plain", nil)
	h.ready(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	h.cell.turn <- struct{}{} // another suspect is in the cell
	_, _, err := h.Ask(ctx, message("do: crash\r\n\r\n"))
	if kindOf(err) != Busy {
		t.Errorf("%v, expected busy", err)
	}
	<-h.cell.turn
	if _, kind := h.ask(t, message("do: crash\r\n\r\n")); kind != Poison {
		t.Errorf("%q, expected poison", kind)
	}
}

// TestAlwaysCrashing: a plugin that dies on everything is broken, and no message is to blame: the
// administrator's on_crash holds.
func TestAlwaysCrashing(t *testing.T) {
	before := runtime.NumGoroutine()
	h := newHarness(t, "crash-always", nil)
	h.ready(t)
	for i := range 3 {
		if _, kind := h.ask(t, message(fmt.Sprint("message ", i))); kind != Crash {
			t.Errorf("%q, expected crash", kind)
		}
	}
	if s := h.host.States()[0]; s.Failures[Crash] != 3 || s.Restarts == 0 {
		t.Errorf("%+v", s)
	}
	if err := h.host.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	goroutines(t, before)
}

// TestTimeout (DRILLS E6.1): a plugin that minds ctx keeps its lane; one that doesn't loses it until its handler
// is back; one that has lost all is replaced.
func TestTimeout(t *testing.T) {
	h := newHarness(t, "two", func(c *Config, _ *Options) { c.Timeout = units.Of(200 * time.Millisecond) })
	h.ready(t)
	state := func() State { return h.host.States()[0] }
	pid := state().PID
	if _, kind := h.ask(t, message("do: wait\r\n\r\n")); kind != Timeout {
		t.Errorf("%q, expected timeout", kind)
	}
	if s := state(); s.Lanes != 2 || s.Lost != 0 {
		t.Errorf("%+v", s)
	}
	// Deaf for longer than deadline and grace: the lane is reset, the slot lost, then won back.
	start := time.Now()
	if _, kind := h.ask(t, message("do: sleep 2s\r\n\r\n")); kind != Timeout || time.Since(start) > 300*time.Millisecond {
		t.Errorf("%q after %s, expected timeout at once", kind, time.Since(start))
	}
	eventually(t, "a slot is lost", 1500*time.Millisecond, func() bool { return state().Lost == 1 })
	if v, kind := h.ask(t, message("do: x\r\n\r\n")); kind != "" || v.Score != 1 {
		t.Errorf("on the other lane: %v %q", v, kind)
	}
	eventually(t, "the slot is back", 4*time.Second, func() bool { return state().Lost == 0 })
	// A late answer within the second of grace comes to nobody.
	if _, kind := h.ask(t, message("do: sleep 400ms\r\n\r\n")); kind != Timeout {
		t.Errorf("%q, expected timeout", kind)
	}
	time.Sleep(300 * time.Millisecond)
	for range 10 {
		if v, kind := h.ask(t, message("do: x\r\n\r\n")); kind != "" || v.Score != 1 {
			t.Errorf("after a late answer: %v %q", v, kind)
		}
	}
	if s := state(); s.PID != pid || s.Lost != 0 {
		t.Errorf("%+v", s)
	}
	for range 2 {
		if _, kind := h.ask(t, message("do: hang\r\n\r\n")); kind != Timeout {
			t.Errorf("%q, expected timeout", kind)
		}
	}
	eventually(t, "the process is replaced", 5*time.Second, func() bool { s := state(); return s.PID != pid && s.State == stateReady })
	if _, kind := h.ask(t, message("do: x\r\n\r\n")); kind != "" {
		t.Errorf("after the replacement %q", kind)
	}
}

// TestBusy: without a free lane a question is put off, never judged (RULES C2).
func TestBusy(t *testing.T) {
	h := newHarness(t, "one", func(c *Config, _ *Options) { c.Timeout = units.Of(300 * time.Millisecond) })
	h.ready(t)
	var long sync.WaitGroup
	long.Add(1)
	go func() {
		defer long.Done()
		h.ask(t, message("do: wait\r\n\r\n"))
	}()
	time.Sleep(50 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, _, err := h.Ask(ctx, message("x")); kindOf(err) != Busy {
		t.Errorf("%v, expected busy", err)
	}
	long.Wait()
}

// TestBusyForLong: more questions than the plugin can answer, without an end. Those that had to wait for a lane have the plugin's
// time all the same, so none times out, whatever on_timeout says, and the breaker stays closed.
func TestBusyForLong(t *testing.T) {
	h := newHarness(t, "one", func(c *Config, _ *Options) { c.Timeout = units.Of(300 * time.Millisecond) })
	h.ready(t)
	var clients sync.WaitGroup
	var mu sync.Mutex
	kinds := make(map[Kind]int)
	end := time.Now().Add(3 * time.Second)
	for i := range 20 {
		clients.Go(func() {
			for time.Now().Before(end) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(250+100*(i%10))*time.Millisecond)
				_, _, err := h.Ask(ctx, message("do: sleep 100ms\r\n\r\n"))
				cancel()
				mu.Lock()
				kinds[kindOf(err)]++
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	if kinds[""] < 10 || kinds[Busy] < 20 || len(kinds) != 2 {
		t.Errorf("the answers: %v", kinds)
	}
}

// TestStopped: a process that is stopped (SIGSTOP) is found by its health checks and replaced.
func TestStopped(t *testing.T) {
	h := newHarness(t, "plain", func(c *Config, o *Options) {
		o.HealthEvery, o.HealthTimeout = 100*time.Millisecond, 100*time.Millisecond
	})
	h.ready(t)
	pid := h.host.States()[0].PID
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, _, err := h.Ask(ctx, message("do: stop\r\n\r\n")); kindOf(err) != Timeout || time.Since(start) > 400*time.Millisecond {
		t.Errorf("%v after %s, expected timeout", err, time.Since(start))
	}
	eventually(t, "the process is replaced", 5*time.Second, func() bool {
		s := h.host.States()[0]
		return s.PID != pid && s.State == stateReady && !alive(pid)
	})
	if s := h.host.States()[0]; s.Suspects != 0 {
		t.Errorf("a hang is no crash: %+v", s)
	}
	// And a stopped process does not hold up the end.
	_ = syscall.Kill(h.host.States()[0].PID, syscall.SIGSTOP)
	start = time.Now()
	if err := h.host.Stop(t.Context()); err != nil || time.Since(start) > 4*time.Second {
		t.Errorf("%v after %s", err, time.Since(start))
	}
}

// TestEarlyAnswers: 50 MB on each lane, answered at once: nothing stalls, and lanes are reused.
func TestEarlyAnswers(t *testing.T) {
	h := newHarness(t, "plain", nil)
	h.ready(t)
	large := append([]byte("do: early\r\n\r\n"), bytes.Repeat([]byte{'x'}, 50<<20)...)
	for range 3 {
		var askers sync.WaitGroup
		for range 8 {
			askers.Add(1)
			go func() {
				defer askers.Done()
				start := time.Now()
				if v, kind := h.ask(t, messageOf(large)); kind != "" || v.Action.String() != "reject" || time.Since(start) > 2*time.Second {
					t.Errorf("%v %q after %s", v, kind, time.Since(start))
				}
			}()
		}
		askers.Wait()
	}
	if s := h.host.States()[0]; s.Lost != 0 || s.Restarts != 0 {
		t.Errorf("%+v", s)
	}
}

// TestRaw (DRILLS E6.1): plugins that break the protocol, or keep to it without our kit.
func TestRaw(t *testing.T) {
	large := string(bytes.Repeat([]byte{'x'}, 8<<20))
	for name, want := range map[string]Kind{
		"raw-twice": "", "raw-prints": "", "raw-closes": "", "raw-newer": "", "raw-empty": Invalid, "raw-ends": Error,
		"raw-huge": Error, "raw-storm": Timeout, "raw-early-deaf": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait more than they work
			patience := 4 * time.Second
			if name == "raw-storm" || name == "raw-early-deaf" {
				patience = 700 * time.Millisecond
			}
			h := newHarness(t, name, func(c *Config, _ *Options) { c.Timeout, c.Lanes = units.Of(patience), 4 })
			h.ready(t)
			for i := range 5 {
				text := "small"
				if i == 3 {
					text = large
				}
				start := time.Now()
				v, kind := h.ask(t, message(text))
				if kind != want || (kind == "" && v.Score != 1) || time.Since(start) > patience+time.Second {
					if name == "raw-early-deaf" && i > 0 && kind != "" { // its lanes are lost one after the other
						continue
					}
					if name == "raw-storm" && i == 4 && kind == Busy { // the four lanes are in their second of grace
						continue
					}
					t.Errorf("%d: %v %q after %s, expected %q", i, v.Score, kind, time.Since(start), want)
				}
			}
		})
	}
	for name, want := range map[string]string{"raw-name": "calls itself", "raw-version": "cannot be printed", "raw-phase": "no phase", "raw-slow-describe": "escribe"} {
		h := newHarness(t, name, func(_ *Config, o *Options) { o.StartTimeout = 500 * time.Millisecond })
		if err := h.host.WaitReady(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, expected %q", name, err, want)
		}
	}
}

// TestCrashLoop (DRILLS E6.1): restarts back off, and everything comes back to where it was.
func TestCrashLoop(t *testing.T) {
	before := runtime.NumGoroutine()
	h := newHarness(t, "raw-dies", nil)
	h.ready(t)
	end := time.Now().Add(2 * time.Second)
	for i := 0; time.Now().Before(end); i++ {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		_, _, err := h.Ask(ctx, message(fmt.Sprint("m", i)))
		cancel()
		if kind := kindOf(err); kind == Poison || kind == Invalid || kind == Error {
			t.Errorf("%v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if s := h.host.States()[0]; s.Restarts < 1 || s.Restarts > 20 {
		t.Errorf("%d restarts in two seconds", s.Restarts)
	}
	if err := h.host.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	goroutines(t, before)
}

// TestStorm: thousands of questions of every kind, and then memory, goroutines, descriptors, processes
// and temporary files are what they were.
func TestStorm(t *testing.T) {
	before, files := runtime.NumGoroutine(), descriptors(t)
	run, err := os.MkdirTemp("", "run")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(run)
	h := newHarness(t, "plain", func(c *Config, o *Options) {
		c.Lanes, c.Timeout, o.RunDir, c.BreakerFailures = 16, units.Of(500*time.Millisecond), run, 0
	})
	h.ready(t)
	large := string(bytes.Repeat([]byte{'y'}, 400<<10))
	var askers sync.WaitGroup
	end := time.Now().Add(3 * time.Second)
	for i := range 32 {
		askers.Add(1)
		go func() {
			defer askers.Done()
			for k := 0; time.Now().Before(end); k++ {
				command := []string{"x", "early", "error", "wait", "nan", "x", "panic", "sleep 5ms"}[(i+k)%8]
				if i == 0 && k == 20 {
					command = "crash"
				}
				text := "do: " + command + "\r\n\r\n"
				if k%3 == 0 {
					text += large
				}
				_, _, _ = h.Ask(context.Background(), message(text))
			}
		}()
	}
	askers.Wait()
	if _, kind := h.ask(t, message("do: x\r\n\r\n")); kind != "" {
		t.Errorf("after the storm %q", kind)
	}
	t.Log(h.host.States())
	if err := h.host.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	goroutines(t, before)
	eventually(t, "descriptors are closed", 2*time.Second, func() bool { return descriptors(t) <= files })
	if left, _ := os.ReadDir(run); len(left) > 0 {
		t.Errorf("%d directories of sockets are left", len(left))
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapInuse > 64<<20 {
		t.Errorf("%d MB of heap", m.HeapInuse>>20)
	}
}

func descriptors(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestControlQuestion: the control question is one that the plugin has said it takes.
func TestControlQuestion(t *testing.T) {
	for _, c := range []struct {
		phases []sdk.Phase
		want   sdk.Phase
	}{
		{[]sdk.Phase{sdk.PhaseRoute, sdk.PhaseContent}, sdk.PhaseContent},
		{[]sdk.Phase{sdk.PhaseConnect, sdk.PhaseRoute}, sdk.PhaseRoute},
		{[]sdk.Phase{sdk.PhaseConnect}, sdk.PhaseContent}, // it is never suspected: it has no message
	} {
		if q := controlQuestion(&sdk.Manifest{Phases: c.phases}); q.phase() != c.want || q.Envelope.Tags["sluice.control"] != "1" {
			t.Errorf("%v: asked in %s", c.phases, q.phase())
		}
	}
}
