package pluginhost

import (
	"slices"
	"sync"
)

// berth is where lanes are while nobody uses them. Who waits is served in turn: a lane that comes back is handed over, so
// nobody who comes later can overtake.
type berth struct {
	size int // how many lanes have their place here

	// warm: the lane that came last goes first, and what it needs is in the processors' caches on both sides. That is for direct lanes;
	// what serves a stream of gRPC may have something to do when it has answered, so there the one that has rested longest goes first.
	warm bool

	mu      sync.Mutex
	free    []*lane
	waiting []chan *lane // each has room for one; the first is the next
}

// take takes a lane. Without a free one it returns the channel on which one will come: who does not wait for it any more says
// so to forget.
func (b *berth) take() (*lane, chan *lane) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.pop(); l != nil {
		return l, nil
	}
	turn := make(chan *lane, 1)
	b.waiting = append(b.waiting, turn)
	return nil, turn
}

// try takes a lane if one is free, or returns nil.
func (b *berth) try() *lane {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pop()
}

func (b *berth) pop() *lane {
	if len(b.free) == 0 {
		return nil
	}
	l := b.free[0]
	b.free = slices.Delete(b.free, 0, 1)
	return l
}

// put gives a lane back after a question.
func (b *berth) put(l *lane) { b.insert(l, b.warm) }

// putFirst gives a lane back that was not used: the next question opens it, if that is what it lacks.
func (b *berth) putFirst(l *lane) { b.insert(l, true) }

func (b *berth) insert(l *lane, first bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case len(b.waiting) > 0:
	case first:
		b.free = slices.Insert(b.free, 0, l)
		return
	default:
		b.free = append(b.free, l)
		return
	}
	turn := b.waiting[0]
	b.waiting[0] = nil
	b.waiting = b.waiting[1:]
	turn <- l
}

// forget takes somebody out of the queue. A lane that was handed over at the last moment is given back.
func (b *berth) forget(turn chan *lane) {
	b.mu.Lock()
	i := slices.Index(b.waiting, turn)
	if i >= 0 {
		b.waiting = slices.Delete(b.waiting, i, i+1)
	}
	b.mu.Unlock()
	if i < 0 {
		b.put(<-turn)
	}
}

// taken is how many lanes are not here.
func (b *berth) taken() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size - len(b.free)
}
