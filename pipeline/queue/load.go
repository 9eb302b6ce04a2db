package queue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/codec"
	"github.com/sluicemail/sluice/storage/kv"
)

// recover begins from what a former process left behind.
func (q *Queue) recover(ctx context.Context) error {
	low, err := q.low(ctx)
	if err != nil {
		return err
	}
	q.stored = low
	q.schedule.setLow(low)
	q.setLoaded(low)
	return q.load(ctx)
}

func (q *Queue) low(ctx context.Context) (uint32, error) {
	value, err := q.Store.KV().Get(ctx, []byte(lowKey))
	if errors.Is(err, kv.ErrNotFound) {
		return 0, nil
	}
	if err == nil && len(value) != 4 {
		err = fmt.Errorf("%q has %d octets, expected 4", lowKey, len(value))
	}
	if err != nil {
		return 0, fmt.Errorf("read the queue's low-water mark: %w", err)
	}
	return binary.BigEndian.Uint32(value), nil
}

// loadDue reads the minutes that have begun since the last time.
func (q *Queue) loadDue(ctx context.Context) error {
	now := minuteOf(q.Now())
	_, loaded := q.marks()
	if now <= loaded {
		return nil
	}
	q.setLoaded(now) // first: what is put off until now while the scan goes on stays in memory
	if _, err := q.scan(ctx, dueBound(loaded), dueBound(now+1)); err != nil {
		q.setLoaded(loaded)
		return err
	}
	return nil
}

// load goes on reading what is due from where the window was full the last time,
// or from the low-water mark. Only the ticker and Start call it.
func (q *Queue) load(ctx context.Context) error {
	from := q.cursor
	if from == nil {
		low, _ := q.marks()
		from = dueBound(low)
		q.beginPass()
	}
	now := minuteOf(q.Now())
	full, err := q.scan(ctx, from, dueBound(now+1))
	if err != nil {
		return err
	}
	q.cursor = full
	if full == nil {
		if _, loaded := q.marks(); now > loaded {
			q.setLoaded(now)
		}
		q.endPass()
	}
	return nil
}

// scan admits the entries with due keys in [from, to). If the window gets full it
// stops and returns the key at which to go on.
func (q *Queue) scan(ctx context.Context, from, to []byte) (full []byte, err error) {
	const batch = 256 // keys read before their entries are
	for {
		var keys [][]byte
		err := q.Store.KV().Scan(ctx, from, to, false, func(key, _ []byte) (bool, error) {
			keys = append(keys, append([]byte(nil), key...))
			return len(keys) < batch, ctx.Err()
		})
		if err != nil {
			return nil, fmt.Errorf("read what is due: %w", err)
		}
		for _, key := range keys {
			_, id, _, ok := parseDue(key)
			if !ok {
				q.Logger.Error("queue key malformed", "stage", pipeline.StageQueue, "action", "skip", "why", fmt.Sprintf("%x", key))
				continue
			}
			switch ok, err := q.admit(ctx, id); {
			case err != nil:
				return nil, err
			case !ok:
				return key, nil
			}
		}
		if len(keys) < batch {
			return nil, nil
		}
		from = append(keys[len(keys)-1], 0)
	}
}

// admit reads one entry and makes it ready, unless it is here or settled; false
// means that the window is full. An error is the store's; the entry has to be
// admitted later. The lock is held over the reading: an entry
// leaves the schedule only after what settled it was applied, so what is not here
// is read as it is.
func (q *Queue) admit(ctx context.Context, id storage.ID) (ok bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.entries[id]; ok || q.seized[id] { // who has seized it gives it back
		return true, nil
	}
	if len(q.entries) >= q.window {
		q.over = true
		return false, nil
	}
	e, err := q.read(ctx, id)
	switch {
	case errors.Is(err, codec.ErrDamaged): // the others go on (DRILLS E2.7); `sluice queue list` tells
		q.Logger.Error("queue entry unreadable", "id", id, "stage", pipeline.StageQueue, "action", "set aside", "why", err)
		return true, nil
	case err != nil:
		return false, fmt.Errorf("read queue entry %s: %w", id, err)
	case e == nil || len(e.recipients) == 0:
		return true, nil
	}
	q.entries[id] = e
	q.ready = append(q.ready, e)
	q.cond.Signal()
	return true, nil
}

// read reads an entry with its recipients; nil if it is gone.
func (q *Queue) read(ctx context.Context, id storage.ID) (*live, error) {
	entry, recipients, err := readEntry(ctx, q.Store.KV(), id)
	if errors.Is(err, kv.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	e := &live{Entry: entry, index: -1, floor: ^uint32(0)}
	for i := range recipients {
		r := &recipients[i]
		if r.Next.IsZero() {
			e.rest++
			continue
		}
		e.floor = min(e.floor, minuteOf(r.Next))
		e.recipients = append(e.recipients, r)
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
	var recipients []Recipient
	lower := append(entryKey(id), '/')
	upper := append(entryKey(id), '/'+1)
	err = r.Scan(ctx, lower, upper, false, func(_, value []byte) (bool, error) {
		rec, err := decodeRecipient(value)
		if err != nil {
			return false, fmt.Errorf("recipient of queue entry %s: %w", id, err)
		}
		recipients = append(recipients, rec)
		return true, nil
	})
	return entry, recipients, err
}

// tidy removes the minutes in which nothing can be due any more and moves the
// low-water mark.
func (q *Queue) tidy(ctx context.Context) error {
	low := q.pass(minuteOf(q.Now()))
	if low <= q.stored {
		return nil
	}
	var b kv.Batch
	b.DeleteRange(dueBound(q.stored), dueBound(low))
	b.Set([]byte(lowKey), binary.BigEndian.AppendUint32(nil, low))
	if _, err := q.Store.KV().Apply(ctx, &b); err != nil {
		return fmt.Errorf("move the queue's low-water mark: %w", err)
	}
	q.stored = low
	return nil
}

// expire removes old traces.
func (q *Queue) expire(ctx context.Context) error {
	var b kv.Batch
	trace.Expire(&b, q.Now().Add(-q.Keep))
	if _, err := q.Store.KV().Apply(ctx, &b); err != nil {
		return fmt.Errorf("remove old traces: %w", err)
	}
	return nil
}
