package storage

import (
	"context"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// OpenInMemory opens an empty store of which nothing is on the disk, and nothing is left after Close: for those who ask
// where there is no store.
func OpenInMemory(ctx context.Context, o Options) (*Store, error) {
	o.FS, o.Engine = vfs.NewMem(), nil
	o.Pebble.Ballast, o.Pebble.MinFree = "", 0
	return Open(ctx, o)
}
