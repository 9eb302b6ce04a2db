package pluginhost

import (
	"container/list"
	"sync"
	"time"
)

// Bounds on the memory of suspects (RULES C3).
const (
	maxSuspects = 4096
	suspectAge  = 24 * time.Hour
)

// suspects remembers the messages that were in a process when it died, by the SHA-256
// of what arrived, so that a message is known again when the peer tries once more.
type suspects struct {
	now func() time.Time

	mu    sync.Mutex
	byKey map[[32]byte]*list.Element
	order *list.List // oldest first
}

type suspect struct {
	key         [32]byte
	since       time.Time
	convictions int
}

func newSuspects(now func() time.Time) *suspects {
	return &suspects{now: now, byKey: make(map[[32]byte]*list.Element), order: list.New()}
}

// empty spares the hash of every message while nothing is suspected.
func (s *suspects) empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.order.Len() == 0
}

// lookup reports whether a message is suspected and how often it was convicted.
func (s *suspects) lookup(key [32]byte) (convictions int, suspected bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	e, ok := s.byKey[key]
	if !ok {
		return 0, false
	}
	return e.Value.(*suspect).convictions, true
}

// suspect marks a message and adds convictions to it; it returns their sum.
func (s *suspects) suspect(key [32]byte, convictions int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	e, ok := s.byKey[key]
	if !ok {
		if s.order.Len() >= maxSuspects {
			s.remove(s.order.Front())
		}
		e = s.order.PushBack(&suspect{key: key, since: s.now()})
		s.byKey[key] = e
	}
	x := e.Value.(*suspect)
	x.convictions += convictions
	return x.convictions
}

// clear forgets a message that was answered.
func (s *suspects) clear(key [32]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.byKey[key]; ok {
		s.remove(e)
	}
}

func (s *suspects) expire() {
	for e := s.order.Front(); e != nil && s.now().Sub(e.Value.(*suspect).since) > suspectAge; e = s.order.Front() {
		s.remove(e)
	}
}

func (s *suspects) remove(e *list.Element) {
	delete(s.byKey, e.Value.(*suspect).key)
	s.order.Remove(e)
}

func (s *suspects) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.order.Len()
}
