// Package memo keeps small facts about other servers for a while: a policy, that
// a host had TLS the last time. They survive a restart, and it is no harm if one
// is lost: nothing waits until a fact is durable.
//
// Promises: a fact is never given back after its end; a room's facts are bounded
// in number, the ones that would end first make place; a value is bounded by the
// engine's limit. The memo owns the keys below "memo/ROOM/" (FORMAT.md). Keys come
// from domain names, which strangers choose.
package memo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sluicemail/sluice/storage/kv"
)

// Limits on one fact, in octets.
const (
	MaxKey   = 900
	MaxValue = 1<<20 - 8
)

// Memo is one room's facts. Its methods may be called from any goroutine.
type Memo struct {
	engine kv.Engine
	prefix string
	limit  int
	now    func() time.Time

	mu    sync.Mutex
	count int // facts in the store; at least so many as there are since the last Tidy
}

// New returns the memo of a room, which is a word; limit bounds its facts. Tidy
// has to be called before the first Set, and then now and again.
func New(engine kv.Engine, room string, limit int, now func() time.Time) *Memo {
	return &Memo{engine: engine, prefix: "memo/" + room + "/", limit: limit, now: now}
}

// Get returns a fact, or nil if none is known, or not any more.
func (m *Memo) Get(ctx context.Context, key string) ([]byte, error) {
	if len(key) > MaxKey {
		return nil, nil
	}
	value, err := m.engine.Get(ctx, []byte(m.prefix+key))
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read what is known of %s: %w", key, err)
	}
	end, fact, ok := split(value)
	if !ok || !m.now().Before(end) {
		return nil, nil
	}
	return fact, nil
}

// Set notes a fact until expires.
func (m *Memo) Set(ctx context.Context, key string, value []byte, expires time.Time) error {
	if len(key) > MaxKey || len(value) > MaxValue {
		return fmt.Errorf("note what is known of %.60s: %d octets, expected at most %d, with a key of at most %d", key, len(value), MaxValue, MaxKey)
	}
	if m.full() {
		if err := m.Tidy(ctx); err != nil {
			return err
		}
	}
	var b kv.Batch
	b.Set([]byte(m.prefix+key), append(binary.BigEndian.AppendUint64(nil, uint64(expires.Unix())), value...))
	if _, err := m.engine.Apply(ctx, &b); err != nil {
		return fmt.Errorf("note what is known of %s: %w", key, err)
	}
	m.mu.Lock()
	m.count++
	m.mu.Unlock()
	return nil
}

// full reports whether it is time to look at what can go.
func (m *Memo) full() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.count >= m.limit
}

// Tidy removes what has ended, and of too many facts those that would end first,
// down to three quarters of the limit.
func (m *Memo) Tidy(ctx context.Context) error {
	type fact struct {
		key []byte
		end time.Time
	}
	var live []fact
	var b kv.Batch
	now := m.now()
	upper := []byte(m.prefix[:len(m.prefix)-1] + "0") // '0' follows '/'
	err := m.engine.Scan(ctx, []byte(m.prefix), upper, false, func(key, value []byte) (bool, error) {
		end, _, ok := split(value)
		key = slices.Clone(key)
		if !ok || !now.Before(end) {
			b.Delete(key)
		} else {
			live = append(live, fact{key, end})
		}
		return ctx.Err() == nil, nil
	})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("tidy %s: %w", m.prefix, err)
	}
	if len(live) >= m.limit {
		slices.SortFunc(live, func(a, b fact) int { return b.end.Compare(a.end) })
		keep := m.limit * 3 / 4
		for _, f := range live[keep:] {
			b.Delete(f.key)
		}
		live = live[:keep]
	}
	if _, err := m.engine.Apply(ctx, &b); err != nil {
		return fmt.Errorf("tidy %s: %w", m.prefix, err)
	}
	m.mu.Lock()
	m.count = len(live)
	m.mu.Unlock()
	return nil
}

func split(value []byte) (end time.Time, fact []byte, ok bool) {
	if len(value) < 8 {
		return end, nil, false
	}
	return time.Unix(int64(binary.BigEndian.Uint64(value)), 0), value[8:], true
}
