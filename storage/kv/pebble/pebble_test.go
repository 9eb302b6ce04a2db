package pebble

import (
	"context"
	"errors"
	"testing"

	"github.com/sluicemail/sluice/storage/kv"
)

func TestOpenApplyReopen(t *testing.T) {
	dir, ctx := t.TempDir(), context.Background()
	e := open(t, dir)
	var b kv.Batch
	b.Set([]byte("a"), []byte("1"))
	p, err := e.Apply(ctx, &b)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.WaitDurable(ctx, p); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Get(ctx, []byte("a")); !errors.Is(err, kv.ErrClosed) {
		t.Errorf("Get after Close: %v", err)
	}
	e = open(t, dir)
	defer e.Close()
	if v, err := e.Get(ctx, []byte("a")); string(v) != "1" || err != nil {
		t.Errorf("Get = %q, %v", v, err)
	}
}
