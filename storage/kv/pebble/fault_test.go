package pebble

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/sluicemail/sluice/storage/kv"
)

// Whatever goes wrong with the log ends the process, once, and those who wait for
// it hear of it; nobody is told that anything is durable.
func TestLogFailureIsFatal(t *testing.T) {
	for name, kind := range map[string]errorfs.OpKind{
		"write": errorfs.OpFileWrite, "sync": errorfs.OpFileSyncData, "begin": errorfs.OpCreate,
	} {
		t.Run(name, func(t *testing.T) {
			var broken atomic.Bool
			fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
				if broken.Load() && op.Kind == kind && strings.HasSuffix(op.Path, ".log") {
					return syscall.EIO
				}
				return nil
			}))
			fatal := make(chan error, 10)
			e, err := Open(Options{Dir: "store", FS: fs, MemTableSize: 64 << 10, Fatal: func(err error) {
				fatal <- err
				select {} // the process ends
			}})
			if err != nil {
				t.Fatal(err)
			}
			broken.Store(true)
			results := make(chan error, 100)
			for w := range 4 {
				go func() {
					for i := range 1000 {
						p, err := e.Apply(context.Background(), batchOf(fmt.Sprintf("%d/%d", w, i), 4096))
						if kind != errorfs.OpCreate && err == nil {
							err = e.WaitDurable(context.Background(), p)
							results <- err
						}
						if err != nil {
							return
						}
					}
				}()
			}
			select {
			case err := <-fatal:
				var f *FatalError
				if !errors.As(err, &f) || !strings.Contains(err.Error(), ".log") {
					t.Errorf("Fatal(%v)", err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("Fatal was not called")
			}
			time.Sleep(10 * time.Millisecond)
			for len(results) > 0 {
				if err := <-results; !errors.Is(err, errFailed) {
					t.Errorf("WaitDurable: %v", err)
				}
			}
		})
	}
}

func batchOf(key string, size int) *kv.Batch {
	var b kv.Batch
	b.Set([]byte(key), make([]byte, size))
	return &b
}

func usage(avail uint64) vfs.DiskUsage {
	return vfs.DiskUsage{AvailBytes: avail, TotalBytes: 1 << 40, UsedBytes: 1<<40 - avail}
}

func TestAdmit(t *testing.T) {
	fs := vfs.NewMem()
	o := Options{Dir: "data/store", FS: fs, MinFree: 1 << 30, Ballast: "data/ballast", BallastSize: 1 << 20, Fatal: func(err error) { panic(err) }}
	if err := fs.MkdirAll("data", 0o700); err != nil {
		t.Fatal(err)
	}
	reopen := func(avail uint64) (*Engine, bool) {
		t.Helper()
		fs.TestingSetDiskUsage(usage(avail))
		e, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		_, err = fs.Stat(o.Ballast)
		return e, err == nil
	}
	for _, c := range []struct {
		name          string
		avail         uint64
		ballast, full bool
	}{
		{"no room for the ballast", 1 << 30, false, false},
		{"room", 1<<30 + 1<<20, true, false},
		{"it stays", 1 << 30, true, false},
		{"full: given back", 1<<30 - 1, false, true},
		{"still full", 1<<30 - 1, false, true},
		{"room again", 1 << 31, true, false},
	} {
		e, there := reopen(c.avail)
		if there != c.ballast {
			t.Errorf("%s: ballast is there: %v", c.name, there)
		}
		if err := e.Admit(); errors.Is(err, kv.ErrFull) != c.full || err != nil && !c.full {
			t.Errorf("%s: Admit: %v", c.name, err)
		}
		// Deletions, and whatever else is applied, work all the same.
		if _, err := e.Apply(context.Background(), batchOf("a", 1)); err != nil {
			t.Errorf("%s: Apply: %v", c.name, err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	e, _ := reopen(1 << 31)
	defer e.Close()
	fs.TestingSetDiskUsage(usage(5))
	e.space.at.Store(1) // the last look was long ago
	e.space.t0 = e.space.t0.Add(-time.Hour)
	if err := e.Admit(); !errors.Is(err, kv.ErrFull) {
		t.Errorf("Admit after the disk filled up: %v", err)
	}
	fs.TestingSetDiskUsage(vfs.DiskUsage{})
	e.space.at.Store(1)
	if err := e.Admit(); err != nil {
		t.Errorf("Admit where the system does not say: %v", err)
	}
	e.stallAt.Store(time.Now().Add(-time.Second).UnixNano())
	e.stalled.Store(true)
	if err := e.Admit(); !errors.Is(err, kv.ErrBusy) {
		t.Errorf("Admit in a stall: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	e := open(t, t.TempDir())
	for i := range 100 {
		p, err := e.Apply(context.Background(), batchOf(fmt.Sprint(i), 1000))
		if err == nil {
			err = e.WaitDurable(context.Background(), p)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	m := e.Metrics()
	for name, least := range map[string]float64{
		"batches_total": 100, "syncs_total": 100, "log_in_bytes_total": 100_000, "log_written_bytes_total": 100_000,
		"memtable_bytes": 100_000, "disk_bytes": 1, "free_bytes": 1, "write_amplification": 1,
	} {
		if m[name] < least {
			t.Errorf("%s = %v, want at least %v", name, m[name], least)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if m := e.Metrics(); m != nil {
		t.Errorf("after Close: %v", m)
	}
}

// The format on the disk is part of our own: this fails when a new Pebble or a
// changed option raises it, which is done on purpose or not at all (RULES B5).
func TestFormatIsPinned(t *testing.T) {
	fs := vfs.NewMem()
	e, err := Open(Options{Dir: "store", FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if v := e.db.FormatMajorVersion(); uint64(v) != 21 {
		t.Errorf("format %d", v)
	}
}
