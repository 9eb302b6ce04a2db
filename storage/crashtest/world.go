package crashtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/storage/kv"
)

// World is one run of a scenario: a disk and a process that may end any time.
type World struct {
	mem  *vfs.MemFS
	seed uint64
	rng  *rand.Rand

	ops      atomic.Int64 // operations of any kind
	spaceOps atomic.Int64 // those that need space
	changes  atomic.Int64 // those that change the disk
	taken    atomic.Int64 // copies

	opMu sync.RWMutex // held for writing while the disk is copied

	gone sync.Map // names that were removed or renamed and not made again

	noteMu sync.Mutex
	notes  []any

	fault    Fault
	faultAt  int64 // 0: never
	faultHit atomic.Pointer[string]

	ignoreSync string // a mutant: syncs of files with this in their path do nothing

	every   int64 // a crash before every n-th change; 0: none
	onCrash func(w *World, what string)

	dead  chan struct{} // closed at the end of the process
	once  sync.Once
	cause error
	hung  atomic.Bool
	wg    sync.WaitGroup
}

func newWorld(mem *vfs.MemFS, seed uint64) *World {
	return &World{mem: mem, seed: seed, rng: rand.New(rand.NewPCG(seed, 2)), dead: make(chan struct{})}
}

// FS is the disk.
func (w *World) FS() vfs.FS { return disk{w} }

// Engine is e as the process uses it: who calls it after the process has ended stops for good. The disk alone does not stop
// who only reads what is in memory, and thus goes on forever, in each world that has ended.
func (w *World) Engine(e kv.Engine) kv.Engine { return engine{e, w} }

// Rand is a source of chance for the goroutine of Scenario.Run.
func (w *World) Rand() *rand.Rand { return w.rng }

// Note says what the work is about to do or has promised. n must not be changed
// afterwards.
func (w *World) Note(n any) {
	w.noteMu.Lock()
	defer w.noteMu.Unlock()
	select {
	case <-w.dead:
	default:
		w.notes = append(w.notes, n)
	}
}

// Fatal ends the process; it does not return. Give it to pebble.Options.Fatal.
func (w *World) Fatal(err error) {
	w.noteMu.Lock() // nothing is noted from here on
	w.once.Do(func() {
		w.cause = err
		close(w.dead)
	})
	w.noteMu.Unlock()
	w.die()
}

// Dead is closed when the process has ended: for work that waits on something
// else than the disk.
func (w *World) Dead() <-chan struct{} { return w.dead }

// die stops the calling goroutine, whoever it is, for good. A panic would run
// deferred functions, which a process that ends does not: they could change the
// disk, or unlock what is not locked.
func (w *World) die() { select {} }

// Go starts a goroutine of the scenario; Wait waits for all of them.
func (w *World) Go(f func()) { w.wg.Go(f) }

// Wait waits for the goroutines that Go started.
func (w *World) Wait() { w.wg.Wait() }

// run runs the scenario to its end, or that of the process.
func (w *World) run(f func(*World) error, limit time.Duration) error {
	done := make(chan error, 1)
	go func() { done <- f(w) }()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case err := <-done:
		return err
	case <-w.dead:
		return fmt.Errorf("the process ended: %w", w.cause)
	case <-timeout.C:
		w.hung.Store(true)
		buf := make([]byte, 1<<20)
		return fmt.Errorf("hangs after %v:\n%s", limit, buf[:runtime.Stack(buf, true)])
	}
}

func (w *World) moved(old, name string) {
	w.gone.Delete(name)
	w.gone.Store(old, nil)
}

// living stops the calling goroutine if the process has ended.
func (w *World) living() {
	select {
	case <-w.dead:
		w.die()
	default:
	}
}

// op does one operation on the disk. what is for messages.
func (w *World) op(k kind, path string, do func() error) error {
	w.living()
	if err := w.mayFail(k, path); err != nil {
		return err
	}
	if !k.changes() {
		return do()
	}
	if n := w.changes.Add(1); w.every > 0 && n%w.every == 0 {
		w.onCrash(w, fmt.Sprintf("before change %d (%s %s)", n, k, path))
	}
	if k == opSync && w.ignoreSync != "" && strings.Contains(path, w.ignoreSync) {
		return nil
	}
	w.opMu.RLock()
	defer w.opMu.RUnlock()
	return do()
}

func (w *World) mayFail(k kind, path string) error {
	n := w.ops.Add(1)
	if k.space() {
		s := w.spaceOps.Add(1)
		if w.fault.Space {
			n = s
		}
	} else if w.fault.Space {
		return nil
	}
	if w.faultAt == 0 || n < w.faultAt || n > w.faultAt && !w.fault.Forever {
		return nil
	}
	what := fmt.Sprintf("%s %s", k, path)
	w.faultHit.CompareAndSwap(nil, &what)
	return fmt.Errorf("%s: %w", what, w.fault.Err)
}

func (w *World) faultOp() string {
	if p := w.faultHit.Load(); p != nil {
		return *p
	}
	return "not reached"
}

// checker checks crashes, two at a time, and remembers the first that is bad.
type checker struct {
	s    Scenario
	o    Options
	todo chan crash
	end  chan struct{} // closed when nothing more is taken; what comes later is from a run that was given up
	wg   sync.WaitGroup

	mu    sync.Mutex
	count int
	err   error
}

func newChecker(s Scenario, o Options) *checker {
	c := &checker{s: s, o: o, todo: make(chan crash, 6), end: make(chan struct{})}
	for range 2 {
		c.wg.Go(c.work)
	}
	return c
}

// work checks crashes until the end, and then those that are queued.
func (c *checker) work() {
	for {
		select {
		case cr := <-c.todo:
			c.check(cr)
			continue
		case <-c.end:
		}
		select {
		case cr := <-c.todo:
			c.check(cr)
		default:
			return
		}
	}
}

// take queues the crashes of this moment.
func (c *checker) take(w *World, what string) {
	if c.failed() {
		return
	}
	for _, cr := range w.clones(what) {
		c.mu.Lock()
		c.count++
		cr.n = c.count
		c.mu.Unlock()
		select {
		case c.todo <- cr:
		case <-c.end:
			return
		}
	}
}

func (c *checker) check(cr crash) {
	if c.failed() {
		return
	}
	if cr.n%10 == 1 {
		c.crashAgain(cr)
	}
	if err := c.s.Check(cr.fs, cr.notes); err != nil {
		c.fail(fmt.Errorf("crash %s: %w", cr.what, err))
	}
}

// crashAgain lets the power fail once more while the check opens a copy of cr.
func (c *checker) crashAgain(cr crash) {
	w := newWorld(cr.fs.CrashClone(vfs.CrashCloneCfg{}), c.o.Seed)
	var mu sync.Mutex
	var found []crash
	w.every = 9
	w.onCrash = func(w *World, what string) {
		mu.Lock()
		defer mu.Unlock()
		if len(found) < 12 {
			found = append(found, w.clones(what)...)
		}
	}
	err := w.run(func(w *World) error { return c.s.Check(w.FS(), cr.notes) }, c.o.Hang)
	if err != nil {
		c.fail(fmt.Errorf("crash %s: %w", cr.what, err))
		return
	}
	mu.Lock()
	defer mu.Unlock()
	for _, second := range found {
		c.mu.Lock()
		c.count++
		c.mu.Unlock()
		if err := c.s.Check(second.fs, cr.notes); err != nil {
			c.fail(fmt.Errorf("crash %s; then a second crash %s: %w", cr.what, second.what, err))
			return
		}
	}
}

func (c *checker) failed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err != nil
}

func (c *checker) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

// wait ends the checks.
func (c *checker) wait() (int, error) {
	close(c.end)
	c.wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count == 0 && c.err == nil {
		return 0, errors.New("the scenario does nothing on the disk")
	}
	return c.count, c.err
}
