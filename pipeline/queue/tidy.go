package queue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/storage/codec"
	"github.com/sluicemail/sluice/storage/kv"
)

// readMark reads a low-water mark; it is 0 in a new store.
func (q *Queue) readMark(ctx context.Context, key string) (uint32, error) {
	value, err := q.Store.KV().Get(ctx, []byte(key))
	if errors.Is(err, kv.ErrNotFound) {
		return 0, nil
	}
	if err == nil && len(value) != 4 {
		err = fmt.Errorf("%q has %d octets, expected 4", key, len(value))
	}
	if err != nil {
		return 0, fmt.Errorf("read the queue's low-water mark: %w", err)
	}
	return binary.BigEndian.Uint32(value), nil
}

// tidy removes the minutes in which nothing can be due any more and moves the low-water marks. Those of local mail
// go on their own, a range for each minute, when mail that leaves has to wait for longer.
func (q *Queue) tidy(ctx context.Context) error {
	q.forgetHops()
	l := &q.loader
	limit := minuteOf(q.Now())
	if len(l.swept) >= len(duePrefix)+4 {
		limit = min(limit, binary.BigEndian.Uint32(l.swept[len(duePrefix):]))
	}
	low, local := q.pass(limit)
	local = max(local, low)
	if low <= l.low && local <= l.local {
		return nil
	}
	var b kv.Batch
	if low > l.low {
		b.DeleteRange(dueBound(l.low), dueBound(low))
		b.Set([]byte(lowKey), binary.BigEndian.AppendUint32(nil, low))
	}
	const most = 10_000 // minutes; the rest goes when the other mark moves
	for minute := max(low, l.local); minute < local && minute-max(low, l.local) < most; minute++ {
		b.DeleteRange(placeKey(localHop, place{minute: minute}), groupEnd(minute, localHop))
	}
	b.Set([]byte(lowLocalKey), binary.BigEndian.AppendUint32(nil, local))
	if _, err := q.Store.KV().Apply(ctx, &b); err != nil {
		return fmt.Errorf("move the queue's low-water mark: %w", err)
	}
	l.low, l.local = low, local
	return nil
}

// expire removes old traces, and the memory of which owners were told.
func (q *Queue) expire(ctx context.Context) error {
	var b kv.Batch
	trace.Expire(&b, q.Now().Add(-q.Keep))
	upper := append([]byte(toldPrefix[:len(toldPrefix)-1]), '/'+1)
	err := q.Store.KV().Scan(ctx, []byte(toldPrefix), upper, false, func(key, value []byte) (bool, error) {
		d := codec.New(value)
		if at := d.Time(); d.Bad() || q.Now().Sub(at).Abs() >= ownersPatience {
			b.Delete(append([]byte(nil), key...))
		}
		return b.Len() < 10_000, ctx.Err()
	})
	if err == nil {
		_, err = q.Store.KV().Apply(ctx, &b)
	}
	if err != nil {
		return fmt.Errorf("remove what is old: %w", err)
	}
	return q.forgetSuppressed(ctx)
}
