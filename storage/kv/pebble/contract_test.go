package pebble

import (
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/kv/kvtest"
)

// The contract on a real disk, and in memory with tables so small that flushes and
// compactions go on all the time.
func TestContract(t *testing.T) {
	t.Run("disk", func(t *testing.T) {
		kvtest.Run(t, func(t *testing.T) kvtest.Place {
			dir := t.TempDir()
			return place(Options{Dir: filepath.Join(dir, "a", "store")}, filepath.Join(dir, "copy"))
		})
	})
	t.Run("small", func(t *testing.T) {
		kvtest.Run(t, func(*testing.T) kvtest.Place {
			o := Options{
				Dir: "store", FS: vfs.NewMem(), MemTableSize: 64 << 10, CacheSize: 1 << 20,
				Boundaries: [][]byte{[]byte("b"), []byte("d"), []byte("da")},
			}
			return place(o, "copy")
		})
	})
}

func place(o Options, copyDir string) kvtest.Place {
	at := func(dir string) func() (kv.Engine, error) {
		o := o
		o.Dir = dir
		o.Fatal = func(err error) { panic(err) }
		return func() (kv.Engine, error) { return Open(o) }
	}
	return kvtest.Place{Open: at(o.Dir), Checkpoint: copyDir, OpenCheckpoint: at(copyDir)}
}
