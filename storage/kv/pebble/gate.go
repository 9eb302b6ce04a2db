package pebble

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sluicemail/sluice/storage/kv"
)

// gate counts the calls and snapshots that use the engine, since Pebble panics
// when it is used after Close.
type gate struct {
	users  atomic.Int64
	closed atomic.Bool
}

func (g *gate) enter() error {
	g.users.Add(1)
	if g.closed.Load() {
		g.users.Add(-1)
		return kv.ErrClosed
	}
	return nil
}

func (g *gate) leave() { g.users.Add(-1) }

// close lets nobody in any more and waits until all are out. The first caller
// gets nil or an error for those who stayed, later ones kv.ErrClosed.
func (g *gate) close(timeout time.Duration) error {
	if g.closed.Swap(true) {
		return kv.ErrClosed
	}
	deadline := time.Now().Add(timeout)
	for wait := 50 * time.Microsecond; g.users.Load() > 0; wait = min(2*wait, 20*time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d calls or snapshots did not end", g.users.Load())
		}
		time.Sleep(wait)
	}
	return nil
}
