package serve

import (
	"sync"
	"sync/atomic"
	"time"
)

// watch looks at all lanes every few milliseconds while one of them has a question that its
// reader asks itself. A timer for each question would cost more than the question: each one that is set wakes
// the thread that waits for the network.
type watch struct {
	awake      atomic.Bool
	processors *processors // of look alone; nil: as they are

	mu    sync.Mutex
	lanes map[attended]bool
}

// attended is what the watch looks at: a lane, or a shared connection.
type attended interface {
	lookAgain(now time.Time) (busy bool)
}

func newWatch() *watch { return &watch{lanes: make(map[attended]bool)} }

func (w *watch) add(l attended) {
	w.mu.Lock()
	w.lanes[l] = true
	w.mu.Unlock()
}

func (w *watch) remove(l attended) {
	w.mu.Lock()
	delete(w.lanes, l)
	w.mu.Unlock()
}

// wake is called at each question.
func (w *watch) wake() {
	if !w.awake.Load() && w.awake.CompareAndSwap(false, true) {
		go w.look()
	}
}

// restAfter is how many looks that find nothing end the watch; as many as processors takes to see that
// one is enough.
const restAfter = quietLooks + 1

// look goes on until nothing has happened for a second.
func (w *watch) look() {
	ticker := time.NewTicker(patience)
	defer ticker.Stop()
	for idle := 0; idle < restAfter; idle++ {
		now := <-ticker.C
		w.processors.look(now)
		if w.busy(now) {
			idle = 0
		}
	}
	w.awake.Store(false)
	if w.busy(time.Now()) { // a question that came meanwhile found the watch awake
		w.wake()
	}
}

func (w *watch) busy(now time.Time) (busy bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for l := range w.lanes {
		busy = l.lookAgain(now) || busy
	}
	return busy
}
