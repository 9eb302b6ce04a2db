// Package crashtest proves that what was promised survives a power failure and a
// failing disk (RULES E1.1). Tests of storage, the queue and the engines use it.
//
// A Scenario is some work on a disk, and a check of what a crash leaves. Run does
// the work on Pebble's crashable file system in memory and
//
//   - power loss: before each n-th change of the disk takes copies of it as the
//     power failure would leave it, with none, about half and all of what was not
//     synced yet, and checks each; some of them are crashed again while the check
//     opens them;
//   - faults: repeats the work with the n-th operation failing: with EIO once,
//     with EIO from then on, with a full disk from then on; and then checks the
//     same three copies.
//
// What the work has promised to the world (a 250, a UID) and what it is about to
// do it says with World.Note, and the check receives the notes that were made
// before the crash, in order. A note and a copy exclude each other: what is not
// yet noted has not begun, what is noted as done was done.
//
// The end of the process (pebble.Options.Fatal = World.Fatal) ends the world:
// whoever calls Fatal or uses the disk afterwards stops for good, with what it
// holds, and nothing is noted any more. Work that waits for such a goroutine is
// left behind too.
//
//	crashtest.Run(t, crashtest.Scenario{
//		Run: func(w *crashtest.World) error {
//			e, err := pebble.Open(pebble.Options{Dir: "store", FS: w.FS(), Fatal: w.Fatal})
//			...
//			w.Note(accepted{id}) // after WaitDurable
//		},
//		Check: func(fs vfs.FS, notes []any) error { ... },
//	}, crashtest.Options{})
package crashtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Scenario is what is tried. It must not call t.Fatal.
type Scenario struct {
	// Run does the work on the empty disk w.FS(), in not too many steps. It returns
	// an error if something failed, which is a failure of the test only when
	// nothing was made to fail.
	Run func(w *World) error

	// Check opens fs, which a crash left, and returns an error if it does not keep
	// what the notes promise. It must close what it opens. It runs concurrently
	// with itself and with Run.
	Check func(fs vfs.FS, notes []any) error
}

// Options bound how much is tried. Zero values are sensible.
type Options struct {
	Points int    // places for a crash or a fault, for each way to fail; 0: 100, with -short 25
	Seed   uint64 // 0: from the time; a failure names it
	Hang   time.Duration
}

// hang is how long a run may take before it counts as hanging. A run waits for the checks of its crashes, which are slow
// under the race detector on a busy machine.
const hang = 5 * time.Minute

// Fault is a way for the disk to fail.
type Fault struct {
	Name    string
	Err     error
	Forever bool // else once
	Space   bool // only operations that need space
}

// Faults returns the ways for the disk to fail that Run tries.
func Faults() []Fault {
	return []Fault{
		{Name: "EIO once", Err: syscall.EIO},
		{Name: "EIO from then on", Err: syscall.EIO, Forever: true},
		{Name: "disk full from then on", Err: syscall.ENOSPC, Forever: true, Space: true},
	}
}

// Run tries everything, as subtests.
func Run(t *testing.T, s Scenario, o Options) {
	t.Helper()
	if o.Points == 0 {
		o.Points = 100
		if testing.Short() {
			o.Points = 25
		}
	}
	if o.Seed == 0 {
		o.Seed = uint64(time.Now().UnixNano())
	}
	t.Run("power loss", func(t *testing.T) {
		n, err := PowerLoss(s, o)
		t.Logf("%d crashes checked, seed %d", n, o.Seed)
		if err != nil {
			t.Error(err)
		}
	})
	for _, f := range Faults() {
		t.Run(f.Name, func(t *testing.T) {
			n, err := Fail(s, f, o)
			t.Logf("%d crashes checked, seed %d", n, o.Seed)
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// PowerLoss tries the scenario once with a power failure before each n-th change,
// and returns how many copies were checked and the first promise that was broken.
func PowerLoss(s Scenario, o Options) (int, error) {
	o.defaults()
	total, err := count(s, o, func(w *World) int64 { return w.changes.Load() })
	if err != nil {
		return 0, err
	}
	c := newChecker(s, o)
	w := newWorld(vfs.NewCrashableMem(), o.Seed)
	w.every, w.onCrash = max(1, total/int64(o.Points)), c.take
	if err := w.run(s.Run, o.Hang); err != nil {
		c.fail(fmt.Errorf("without any fault: %w", err))
	}
	c.take(w, "after the end")
	return c.wait()
}

// Fail tries the scenario again and again with the fault at another operation each
// time, and returns how many copies were checked and the first promise that was
// broken.
func Fail(s Scenario, f Fault, o Options) (int, error) {
	o.defaults()
	total, err := count(s, o, func(w *World) int64 {
		if f.Space {
			return w.spaceOps.Load()
		}
		return w.ops.Load()
	})
	if err != nil {
		return 0, err
	}
	c := newChecker(s, o)
	step := max(1, total/int64(o.Points))
	for n := 1 + rand.New(rand.NewPCG(o.Seed, 0)).Int64N(step); n <= total && !c.failed(); n += step {
		w := newWorld(vfs.NewCrashableMem(), o.Seed)
		w.fault, w.faultAt = f, n
		err := w.run(s.Run, o.Hang)
		if err != nil && w.hung.Load() {
			c.fail(fmt.Errorf("%s at operation %d: %w", f.Name, n, err))
		}
		c.take(w, fmt.Sprintf("after %s at operation %d (%s)", f.Name, n, w.faultOp()))
	}
	return c.wait()
}

func (o *Options) defaults() {
	if o.Points == 0 {
		o.Points = 100
	}
	if o.Hang == 0 {
		o.Hang = hang
	}
}

// count runs the scenario undisturbed to learn how many operations it takes.
func count(s Scenario, o Options, of func(*World) int64) (int64, error) {
	w := newWorld(vfs.NewCrashableMem(), o.Seed)
	if err := w.run(s.Run, o.Hang); err != nil {
		return 0, fmt.Errorf("without any fault: %w", err)
	}
	return of(w), nil
}

// kept are the shares of unsynced data that survive, in percent.
func kept() []int { return []int{0, 50, 100} }

// crash is a disk as a power failure left it, and what was noted before.
type crash struct {
	fs    *vfs.MemFS
	notes []any
	what  string
	n     int
}

// clones copies the disk at this moment.
func (w *World) clones(what string) []crash {
	w.opMu.Lock() // no operation is going on; MemFS itself deadlocks on some of them
	defer w.opMu.Unlock()
	w.noteMu.Lock()
	defer w.noteMu.Unlock()
	notes := slices.Clip(w.notes)
	var out []crash
	for _, percent := range kept() {
		rng := rand.New(rand.NewPCG(w.seed, uint64(w.taken.Add(1))))
		fs := w.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
		// MemFS brings back every name whose removal was not synced; a disk may not.
		w.gone.Range(func(name, _ any) bool {
			if rng.IntN(100) < percent {
				_ = fs.RemoveAll(name.(string))
			}
			return true
		})
		out = append(out, crash{
			fs: fs, notes: notes,
			what: fmt.Sprintf("%s, %d%% of unsynced data kept, seed %d", what, percent, w.seed),
		})
	}
	return out
}
