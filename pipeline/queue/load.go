package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/codec"
	"github.com/sluicemail/sluice/storage/kv"
)

// slice is how many keys or groups the loader looks at before it looks at the clock again.
const slice = 20_000

// loader brings what is due from disk into memory. It belongs to one goroutine.
type loader struct {
	swept []byte // every due key before it was looked at
	least uint32 // what stood before the low-water marks at the start has gone, whatever the clock says
	low   uint32 // the low-water marks in the store
	local uint32
}

// recover begins from what a former process left behind.
func (q *Queue) recover(ctx context.Context) error {
	low, local, err := q.lows(ctx)
	if err != nil {
		return err
	}
	q.loader = loader{swept: dueBound(low), least: local, low: low, local: local}
	q.setLow(low, local)
	q.mu.Lock()
	q.note(q.local, place{minute: local}) // whatever is there; the sweep passes over it
	q.mu.Unlock()
	return q.load(ctx)
}

// lows reads the low-water marks.
func (q *Queue) lows(ctx context.Context) (low, local uint32, err error) {
	if low, err = q.readMark(ctx, lowKey); err == nil {
		local, err = q.readMark(ctx, lowLocalKey)
	}
	return low, max(low, local), err
}

// load looks at the due minutes that it has not looked at, and goes on for hops that have room again.
func (q *Queue) load(ctx context.Context) error {
	q.mu.Lock()
	if from := q.again(); from != nil {
		q.loader.swept = from
	}
	q.mu.Unlock()
	more, err := q.sweep(ctx)
	q.mu.Lock()
	hungry := q.hungry
	q.hungry = nil
	for _, h := range hungry {
		h.hungry = false
	}
	q.lag = more || err != nil
	q.mu.Unlock()
	for i, h := range hungry {
		if err == nil {
			err = q.refillHop(ctx, h)
		}
		if err != nil {
			q.mu.Lock()
			for _, h := range hungry[i:] {
				q.wantMore(h)
			}
			q.mu.Unlock()
			break
		}
	}
	q.mu.Lock()
	q.dispatch()
	if more && err == nil {
		q.signal()
	}
	q.mu.Unlock()
	return err
}

// sweep looks at due keys that nobody has looked at: those of the minutes that have begun. Of a hop that has
// no room it notes where it has more, and passes over the rest of the minute by seeking. It stops after a slice, and says
// whether there is more.
func (q *Queue) sweep(ctx context.Context) (more bool, err error) {
	now := max(minuteOf(q.Now()), q.loader.least) // after a clock went back, all that is new stands at the marks
	q.read(now)                                   // first: what is put off until now while the sweep goes on stays in memory
	l, to := &q.loader, dueBound(now+1)
	for looked := 0; bytes.Compare(l.swept, to) < 0; {
		if looked > slice {
			return true, nil
		}
		keys, err := q.keys(ctx, l.swept, to, 256)
		if err != nil {
			return false, err
		}
		next := to
		for _, found := range keys {
			looked++
			key := found.key
			label, at, _, ok := parseDue(key)
			if !ok {
				q.Logger.Error("queue key malformed", "stage", pipeline.StageQueue, "action", "skip", "why", fmt.Sprintf("%x", key))
				next = append(key, 0)
				continue
			}
			taken, err := q.visit(ctx, label, at)
			if err != nil {
				return false, err
			}
			if !taken {
				next = groupEnd(at.minute, label)
				break
			}
			next = append(key, 0)
		}
		l.swept = next
	}
	return false, nil
}

// refillHop looks at the due keys of one hop from where it was left, until it has no room or there are no more. It goes
// from minute to minute by seeking.
func (q *Queue) refillHop(ctx context.Context, h *hop) error {
	q.mu.Lock()
	from, now := h.from, q.loaded
	if from == nowhere || q.hops[h.label] != h {
		q.mu.Unlock()
		return nil
	}
	if !q.admits(h) {
		q.setHungry(h)
		q.mu.Unlock()
		return nil
	}
	h.from = nowhere
	q.mu.Unlock()
	err := q.walkHop(ctx, h.label, from, now, func(at place, _ note) (bool, error) { return q.visit(ctx, h.label, at) }, &from)
	if err != nil {
		q.mu.Lock()
		q.note(h, from)
		q.mu.Unlock()
	}
	return err
}

// walkHop visits the entries with due keys of a hop from a place to the end of a minute, until visit returns false.
// at is where it is.
func (q *Queue) walkHop(ctx context.Context, label string, from place, to uint32, visit func(place, note) (bool, error), at *place) error {
	const few, many = 4, 256
	key, end, n := placeKey(label, from), dueBound(to+1), few
	for bytes.Compare(key, end) < 0 {
		keys, err := q.keys(ctx, key, end, n)
		if err != nil || len(keys) == 0 {
			return err
		}
		key, n = nil, min(2*n, many)
		for _, found := range keys {
			k := found.key
			other, p, _, ok := parseDue(k)
			if !ok || other != label { // the end of our part of a minute, or of one in which we have none
				group := placeKey(label, place{minute: p.minute})
				if bytes.Compare(k, group) > 0 {
					group = placeKey(label, place{minute: p.minute + 1})
				}
				if len(k) < len(duePrefix)+4 {
					group = append(k, 0)
				}
				key, n = group, few
				break
			}
			*at = p
			if more, err := visit(p, found.note); err != nil || !more {
				return err
			}
		}
		if key == nil {
			key = append(keys[len(keys)-1].key, 0)
		}
	}
	return nil
}

// dueFound is a due key and its note.
type dueFound struct {
	key []byte
	note
}

// keys returns up to n keys of [from, to).
func (q *Queue) keys(ctx context.Context, from, to []byte, n int) (keys []dueFound, err error) {
	err = q.Store.KV().Scan(ctx, from, to, false, func(key, value []byte) (bool, error) {
		keys = append(keys, dueFound{append(make([]byte, 0, len(key)+1), key...), parseNote(value)})
		return len(keys) < n, ctx.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read what is due: %w", err)
	}
	return keys, nil
}

// visit brings the part of an entry that a due key names into memory, unless it is here, settled, or not due; false
// means that there is no room, and that it was noted where to go on. An error is the store's: the key has to be visited
// again. The lock is held over the reading: an entry leaves the schedule only after what settled it was
// applied, so what is not here is read as it is.
func (q *Queue) visit(ctx context.Context, label string, at place) (taken bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.seized[at.id] { // who has seized it gives it back
		return true, nil
	}
	h := q.hops[label]
	if h != nil && !at.before(h.from) || h == nil && len(q.hops) >= q.memory.hops {
		if h == nil {
			q.miss(placeKey(label, at))
		}
		return false, nil
	}
	e := q.entries[at.id]
	if e != nil && e.committing {
		return true, nil // launch knows what to do
	}
	if e == nil {
		if h != nil && !q.admits(h) {
			q.note(h, at)
			return false, nil
		}
		switch e, err = q.readLive(ctx, at.id); {
		case errors.Is(err, codec.ErrDamaged): // the others go on (DRILLS E2.7); `sluice queue list` tells
			q.Logger.Error("queue entry unreadable", "id", at.id, "stage", pipeline.StageQueue, "action", "set aside", "why", err)
			return true, nil
		case err != nil:
			return false, fmt.Errorf("read queue entry %s: %w", at.id, err)
		case e == nil || len(e.recipients) == 0:
			return true, nil
		}
		q.divide(e)
		q.weigh(e)
		q.entries[at.id] = e
		defer q.forgetIdle(e)
	}
	p := e.part(label)
	if p == nil || p.state != away || p.floor > q.loaded {
		return true, nil // a key of its own brings it back
	}
	q.home(p)
	if !q.roomFor(p) {
		q.note(p.hop, earlier(at, p.place()))
		return false, nil
	}
	q.enter(p)
	return true, nil
}

// admits is roomFor, for an entry that was not read yet.
func (s *schedule) admits(h *hop) bool {
	switch {
	case h == s.local:
		return h.count < s.memory.local
	case h.suspended(s.now()):
		return false
	}
	return h.count == 0 || h.count < s.share(h) && s.memory.total < s.memory.most
}

// readLive reads an entry with its recipients; nil if it is gone.
func (q *Queue) readLive(ctx context.Context, id storage.ID) (*live, error) {
	entry, recipients, err := readEntry(ctx, q.Store.KV(), id)
	if errors.Is(err, kv.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	e := &live{Entry: entry, pos: q.Store.KV().Tail()}
	for i := range recipients {
		r := &recipients[i]
		if r.Next.IsZero() {
			e.rest++
			continue
		}
		e.addRecipient(r)
		r.at = max(minuteOf(r.Next), q.mark(r.hop))
	}
	return e, nil
}

// readEntry reads an entry and its recipients, or kv.ErrNotFound.
func readEntry(ctx context.Context, r kv.Reader, id storage.ID) (Entry, []Recipient, error) {
	value, err := r.Get(ctx, entryKey(id))
	if err != nil {
		return Entry{}, nil, err
	}
	entry, err := decodeEntry(value)
	if err != nil {
		return Entry{}, nil, fmt.Errorf("queue entry %s: %w", id, err)
	}
	if entry.ID != id {
		return Entry{}, nil, fmt.Errorf("queue entry %s is one of %s: %w", id, entry.ID, codec.ErrDamaged)
	}
	var recipients []Recipient
	lower := append(entryKey(id), '/')
	upper := append(entryKey(id), '/'+1)
	err = r.Scan(ctx, lower, upper, false, func(key, value []byte) (bool, error) {
		rec, err := decodeRecipient(value)
		if err == nil && !bytes.Equal(key, recipientKey(id, rec.Number)) { // settling it would leave this one as it is
			err = fmt.Errorf("it is number %d elsewhere: %w", rec.Number, codec.ErrDamaged)
		}
		if err != nil {
			return false, fmt.Errorf("recipient of queue entry %s: %w", id, err)
		}
		recipients = append(recipients, rec)
		return true, nil
	})
	return entry, recipients, err
}
