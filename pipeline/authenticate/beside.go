package authenticate

import (
	"fmt"
	"runtime/debug"
	"sync"
)

// beside runs functions in goroutines of their own. A panic in one, over what a
// stranger wrote, is taken over to the goroutine that waits: that is a session's,
// where it ends one connection; here it would end the server.
type beside struct {
	wg sync.WaitGroup

	mu       sync.Mutex
	panicked any
}

func (b *beside) run(f func()) {
	b.wg.Go(func() {
		defer func() {
			if v := recover(); v != nil {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.panicked = fmt.Sprintf("authenticate: %v\n%s", v, debug.Stack())
			}
		}()
		f()
	})
}

// wait waits for all of them. It may be called again.
func (b *beside) wait() {
	b.wg.Wait()
	b.mu.Lock()
	v := b.panicked
	b.panicked = nil
	b.mu.Unlock()
	if v != nil {
		panic(v)
	}
}
