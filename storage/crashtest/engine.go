package crashtest

import (
	"context"

	"github.com/sluicemail/sluice/storage/kv"
)

// engine is a World's kv.Engine.
type engine struct {
	kv.Engine // Tail, Admit and Metrics, which only look at numbers
	w         *World
}

func (e engine) Get(ctx context.Context, key []byte) ([]byte, error) {
	e.w.living()
	return e.Engine.Get(ctx, key)
}

func (e engine) Scan(ctx context.Context, lower, upper []byte, reverse bool, visit func(key, value []byte) (bool, error)) error {
	e.w.living()
	return e.Engine.Scan(ctx, lower, upper, reverse, visit)
}

func (e engine) Apply(ctx context.Context, b *kv.Batch) (kv.Pos, error) {
	e.w.living()
	return e.Engine.Apply(ctx, b)
}

func (e engine) WaitDurable(ctx context.Context, p kv.Pos) error {
	e.w.living()
	return e.Engine.WaitDurable(ctx, p)
}

func (e engine) Snapshot(ctx context.Context) (kv.Snapshot, error) {
	e.w.living()
	return e.Engine.Snapshot(ctx)
}

func (e engine) Checkpoint(ctx context.Context, dir string) error {
	e.w.living()
	return e.Engine.Checkpoint(ctx, dir)
}

func (e engine) Close() error {
	e.w.living()
	return e.Engine.Close()
}
