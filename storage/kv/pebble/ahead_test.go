package pebble

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/storage/kv"
)

// TestZerosAhead: a log has zeros behind what was written to it, and is read
// again with them.
func TestZerosAhead(t *testing.T) {
	fs := vfs.NewCrashableMem()
	ctx := context.Background()
	open := func(fs vfs.FS) *Engine {
		e, err := Open(Options{Dir: "store", FS: fs, MinFree: -1, Fatal: func(err error) { panic(err) }})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	e := open(fs)
	value := bytes.Repeat([]byte("v"), 3000)
	for i := range 1000 {
		var b kv.Batch
		b.Set(fmt.Appendf(nil, "k%04d", i), value)
		p, err := e.Apply(ctx, &b)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.WaitDurable(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	size := logSize(t, fs) // Pebble's first logs are shorter than what was written to all of them
	if size == 0 || size%maxAheadStep != 0 {
		t.Errorf("the log has %d octets, expected whole steps of %d", size, maxAheadStep)
	}
	clone := fs.CrashClone(vfs.CrashCloneCfg{})
	again := open(clone)
	defer again.Close()
	for i := range 1000 {
		if got, err := again.Get(ctx, fmt.Appendf(nil, "k%04d", i)); err != nil || !bytes.Equal(got, value) {
			t.Fatalf("key %d after a crash: %d octets, %v", i, len(got), err)
		}
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// logSize returns the octets of the largest log.
func logSize(t *testing.T, fs vfs.FS) (size int64) {
	t.Helper()
	names, err := fs.List("store")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !strings.HasSuffix(name, ".log") {
			continue
		}
		info, err := fs.Stat(fs.PathJoin("store", name))
		if err != nil {
			t.Fatal(err)
		}
		size = max(size, info.Size())
	}
	return size
}
