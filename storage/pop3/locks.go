package pop3

import (
	"sync"
	"time"
)

// Locks knows which maildrops have a session (RFC 1939 section 4: a session has
// exclusive access). It is shared by the servers of one store and may be used
// from any goroutine.
type Locks struct {
	mu    sync.Mutex
	inUse map[string]struct{}
	last  map[string]time.Time // last login, for LOGIN-DELAY only
	sweep time.Time
}

// NewLocks returns an empty set.
func NewLocks() *Locks {
	return &Locks{inUse: make(map[string]struct{}), last: make(map[string]time.Time)}
}

// acquire gives the caller owner's maildrop, or one of errInUse, errTooSoon.
func (l *Locks) acquire(owner string, now time.Time, delay time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, taken := l.inUse[owner]; taken {
		return errInUse
	}
	if delay > 0 {
		if last, ok := l.last[owner]; ok && now.Sub(last) < delay {
			return errTooSoon
		}
		l.forget(now, delay)
		l.last[owner] = now
	}
	l.inUse[owner] = struct{}{}
	return nil
}

// forget drops logins that no longer matter, once a delay, so that the map is
// bounded by the logins of two delays.
func (l *Locks) forget(now time.Time, delay time.Duration) {
	if now.Sub(l.sweep) < delay {
		return
	}
	l.sweep = now
	for owner, last := range l.last {
		if now.Sub(last) >= delay {
			delete(l.last, owner)
		}
	}
}

func (l *Locks) release(owner string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.inUse, owner)
}
