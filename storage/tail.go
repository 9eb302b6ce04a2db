package storage

import (
	"context"
	"sync"
	"time"
)

// tailInterval is how long what nobody waits for may stay without a sync (RULES B1).
const tailInterval = 50 * time.Millisecond

// tail knows which watchers have to be told once what they will see is durable.
type tail struct {
	mu      sync.Mutex
	pending []*entry
}

// tell has the entry's watchers told after the next sync. e.mu is held.
func (t *tail) tell(e *entry) {
	t.mu.Lock()
	t.pending = append(t.pending, e)
	t.mu.Unlock()
}

// runTail syncs what was applied within tailInterval, and then tells the watchers. An idle engine costs a comparison.
func (s *Store) runTail(ctx context.Context) {
	tick := time.NewTicker(tailInterval)
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		s.tail.mu.Lock()
		pending := s.tail.pending
		s.tail.pending = nil
		s.tail.mu.Unlock()
		if err := s.engine.WaitDurable(ctx, s.engine.Tail()); err != nil {
			s.tail.mu.Lock()
			s.tail.pending = append(pending, s.tail.pending...)
			s.tail.mu.Unlock()
			if !failed && ctx.Err() == nil {
				s.log.Error("store: sync the tail", "err", err)
			}
			failed = true
			continue
		}
		failed = false
		for _, e := range pending {
			e.signal()
		}
	}
}

// Watch tells of changes in an account once they are durable.
type Watch struct {
	C <-chan struct{} // holds at most one signal: something may have changed since it was last received

	c    chan struct{}
	call func() // instead of c
	s    *Store
	e    *entry
}

// Watch starts telling of changes in account. Close must be called; the caller looks (View) after it began to watch.
func (s *Store) Watch(account AccountID) *Watch {
	c := make(chan struct{}, 1)
	return s.watch(account, &Watch{C: c, c: c})
}

// WatchFunc is Watch for who does not want to keep a goroutine that waits: changed is called at each change, from a goroutine
// of the store and under its locks, so it must return at once and call nothing of the store, nor Close. A call may still come
// while Close is under way, none after it.
func (s *Store) WatchFunc(account AccountID, changed func()) *Watch {
	return s.watch(account, &Watch{call: changed})
}

func (s *Store) watch(account AccountID, w *Watch) *Watch {
	e := s.cache.acquire(account)
	w.s, w.e = s, e
	e.mu.Lock()
	if e.watchers == nil {
		e.watchers = make(map[*Watch]struct{})
	}
	e.watchers[w] = struct{}{}
	e.mu.Unlock()
	s.cache.watch(e, 1)
	s.cache.release(e)
	return w
}

// Close ends the watch; C is not closed. Later calls do nothing.
func (w *Watch) Close() {
	w.e.mu.Lock()
	_, on := w.e.watchers[w]
	delete(w.e.watchers, w)
	w.e.mu.Unlock()
	if on {
		w.s.cache.watch(w.e, -1)
	}
}

// signal tells everybody who watches the account.
func (e *entry) signal() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pending = false
	for w := range e.watchers {
		if w.call != nil {
			w.call()
			continue
		}
		select {
		case w.c <- struct{}{}:
		default: // there is a signal already
		}
	}
}
