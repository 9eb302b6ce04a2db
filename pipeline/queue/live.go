package queue

import (
	"container/heap"
	"container/list"
	"slices"
	"sync"
	"time"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
)

// live is an entry in memory, with all of its recipients that have something to do.
type live struct {
	Entry
	pos kv.Pos // of the batch that made it, or of a later one: nothing of it leaves before that is durable (RULES B1)

	// mu is the entry's lock: one settling at a time (RULES B2). A mailbox's attempt holds it, since whether it is the
	// last recipient is decided before; an attempt with another server does not.
	mu         sync.Mutex
	infos      []storage.ContentInfo // by variant; zero ID: not read yet
	recipients []*Recipient          // not settled yet, held ones left out
	rest       int                   // recipients of the entry that are neither here nor settled: held, quarantined
	traced     time.Time             // of the last event that was added to its trace

	// Guarded by schedule.mu.
	parts      []*part
	first      part   // the memory of the first of parts
	here       int    // parts that are not on disk alone
	busy       int    // parts that somebody is at
	committing bool   // its batch is being made
	floor      uint32 // until it has parts: the first minute in which one of its due keys may stand
	weight     int    // what it counts in memory; 0: local alone
}

// part is the recipients of an entry whose mail goes one way: they share a hop. It is the unit of the schedule.
type part struct {
	e     *live
	label string // of its hop

	// Guarded by schedule.mu.
	hop   *hop
	state state
	due   time.Time     // of the earliest of its recipients
	floor uint32        // the first minute in which one of its due keys may stand
	known bool          // it went, and only we know: it waits in memory until that is written
	index int           // in the heap of those that wait, or -1
	lane  *lane         // of those that are ready for another server
	elem  *list.Element // there
}

// state says where a part is.
type state uint8

const (
	away    state = iota // on disk alone: the loader finds it
	behind               // waits until its entry's local part was tried
	waiting              // in the heap, until it is due
	ready                // for the next free worker or connection
	busy                 // somebody is at it
	over                 // all settled, or the entry is in other hands
)

// addRecipient adds a recipient that has something to do.
func (e *live) addRecipient(r *Recipient) {
	r.hop = hopOf(&r.Hop)
	e.recipients = append(e.recipients, r)
}

// drop takes a recipient out of the workers' hands.
func (e *live) drop(r *Recipient) {
	e.recipients = slices.DeleteFunc(e.recipients, func(have *Recipient) bool { return have == r })
}

// of returns the recipients of a part.
func (e *live) of(p *part) []*Recipient {
	var list []*Recipient
	for _, r := range e.recipients {
		if r.hop == p.label {
			list = append(list, r)
		}
	}
	return list
}

// left says what is left of a part. The entry is locked.
func (e *live) left(p *part) (l left) {
	for _, r := range e.recipients {
		if r.hop != p.label {
			continue
		}
		if !l.any || r.Next.Before(l.due) {
			l.due = r.Next
		}
		if !l.any || r.at < l.floor {
			l.floor = r.at
		}
		l.any, l.known = true, l.known || r.ended != nil
	}
	return l
}

// part returns the entry's part for a hop, or nil.
func (e *live) part(label string) *part {
	for _, p := range e.parts {
		if p.label == label {
			return p
		}
	}
	return nil
}

// isLast reports whether the recipient that is being tried is the only one left.
func (e *live) isLast() bool { return len(e.recipients) == 1 && e.rest == 0 }

// from is whose mail it is, for fairness.
func (e *live) from() string {
	if e.Login != "" {
		return e.Login
	}
	return e.Sender
}

// byDue is a heap of parts that wait.
type byDue []*part

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, k int) bool { return h[i].due.Before(h[k].due) }

func (h byDue) Swap(i, k int) {
	h[i], h[k] = h[k], h[i]
	h[i].index, h[k].index = i, k
}

func (h *byDue) init() { heap.Init(h) }

// Push and Pop are for container/heap.
func (h *byDue) Push(x any) {
	p := x.(*part)
	p.index = len(*h)
	*h = append(*h, p)
}

func (h *byDue) Pop() any {
	old := *h
	p := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	p.index = -1
	return p
}
