package storage_test

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/kv/kvtest"
	"github.com/sluicemail/sluice/storage/kv/pebble"
	"github.com/sluicemail/sluice/storage/storagetest"
)

// onPebble is a store in a small engine, on a file system in memory.
func onPebble(*testing.T) storagetest.Place {
	fs := vfs.NewMem()
	return storagetest.Place{Engine: func() (kv.Engine, error) {
		return pebble.Open(pebble.Options{Dir: "store", FS: fs, MemTableSize: 256 << 10, CacheSize: 1 << 20, MinFree: -1})
	}}
}

func inMemory(*testing.T) storagetest.Place {
	return storagetest.Place{Volatile: true, Engine: func() (kv.Engine, error) { return kvtest.NewMemory(), nil }}
}

func TestPebble(t *testing.T) { storagetest.Run(t, onPebble) }

func TestMemory(t *testing.T) { storagetest.Run(t, inMemory) }

// TestSlow holds that nothing relies on an engine that answers at once.
func TestSlow(t *testing.T) {
	if testing.Short() {
		t.Skip("slow")
	}
	storagetest.Run(t, func(t *testing.T) storagetest.Place {
		place := onPebble(t)
		open := place.Engine
		place.Engine = func() (kv.Engine, error) {
			e, err := open()
			if err != nil {
				return nil, err
			}
			return kvtest.Slow(e, time.Millisecond), nil
		}
		return place
	})
}

func TestFailing(t *testing.T) {
	t.Run("memory", func(t *testing.T) { storagetest.Failing(t, inMemory) })
	t.Run("pebble", func(t *testing.T) { storagetest.Failing(t, onPebble) })
}
