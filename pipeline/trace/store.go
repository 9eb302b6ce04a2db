package trace

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
)

// Keys. They belong to the queue's owner, because an entry and its trace change
// in one batch:
//
//	queue/0/trace/ID           the head
//	queue/0/trace/ID/TIME      events, in the order of TIME (nanoseconds, 8 octets)
//	queue/0/find/DAY/HASH/ID   finds traces by sender, recipient or Message-ID; no value
//
// ID is 10 octets that rise with time, so old traces go by one range. DAY is the
// ID's day since 1970 in 4 octets, HASH 8 octets of FNV-1a of the lower-case words.
const (
	tracePrefix = "queue/0/trace/"
	findPrefix  = "queue/0/find/"
)

// ErrNotFound is returned for a message without a trace.
var ErrNotFound = errors.New("no trace of that message")

// Put adds a trace that begins to b, with what finds it.
func Put(b *kv.Batch, id storage.ID, t *Trace) {
	b.Set(headKey(id), AppendHead(make([]byte, 0, 256), &t.Head))
	putEvents(b, id, t.Events())
	words := append([]string{t.Head.Sender, t.Head.MessageID}, t.Head.Recipients...)
	seen := make(map[uint64]bool, len(words))
	for _, w := range words {
		if h := hashOf(w); w != "" && !seen[h] {
			seen[h] = true
			b.Set(findKey(id, h), nil)
		}
	}
}

// putEvents writes the events with which a trace begins, under the first
// nanoseconds of 1970, so many to a value that it stays well below an engine's
// limit (RULES B2).
func putEvents(b *kv.Batch, id storage.ID, events []Event) {
	const many = 256 // in a value: 256 ends of 1 KiB and maxOctets of others are 768 KiB
	for n := int64(0); ; n++ {
		some := events[:min(len(events), many)]
		b.Set(eventKey(id, time.Unix(0, n)), AppendEvents(make([]byte, 0, 96*len(some)+8), some))
		if events = events[len(some):]; len(events) == 0 {
			return
		}
	}
}

// Append adds later events of a message to b.
func Append(b *kv.Batch, id storage.ID, at time.Time, events ...Event) {
	events = slices.Clone(events)
	for i := range events {
		events[i].Trim()
	}
	b.Set(eventKey(id, at), AppendEvents(make([]byte, 0, 128*len(events)), events))
}

// Story is a stored trace.
type Story struct {
	Head
	Events []Event `json:"events"`
}

// Get reads the trace of one message, or ErrNotFound.
func Get(ctx context.Context, r kv.Reader, id storage.ID) (*Story, error) {
	var s *Story
	lower := headKey(id)
	err := r.Scan(ctx, lower, upperBound(lower), false, func(key, value []byte) (bool, error) {
		if len(key) == len(lower) {
			head, err := DecodeHead(value)
			s = &Story{Head: head}
			return true, err
		}
		if s == nil {
			return false, ErrNotFound
		}
		events, err := DecodeEvents(value)
		s.Events = append(s.Events, events...)
		return len(s.Events) < 4*MaxEvents, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the trace of %s: %w", id, err)
	}
	if s == nil {
		return nil, ErrNotFound
	}
	return s, nil
}

// Find returns the IDs of the messages with this sender, recipient or Message-ID,
// newest first, at most limit.
func Find(ctx context.Context, r kv.Reader, word string, limit int) ([]storage.ID, error) {
	var days [][]byte
	prefix := []byte(findPrefix)
	for lower := prefix; ; {
		var day []byte
		err := r.Scan(ctx, lower, upperBound(prefix), false, func(key, _ []byte) (bool, error) {
			day = append([]byte(nil), key[:len(prefix)+4]...)
			return false, nil
		})
		if err != nil {
			return nil, fmt.Errorf("look for traces: %w", err)
		}
		if day == nil {
			break
		}
		days = append(days, day)
		lower = upperBound(day)
	}
	var ids []storage.ID
	hash := binary.BigEndian.AppendUint64(nil, hashOf(word))
	for i := len(days) - 1; i >= 0 && len(ids) < limit; i-- {
		lower := append(append(days[i][:len(days[i]):len(days[i])], '/'), hash...)
		err := r.Scan(ctx, lower, upperBound(lower), true, func(key, _ []byte) (bool, error) {
			var id storage.ID
			copy(id[:], key[len(key)-len(id):])
			ids = append(ids, id)
			return len(ids) < limit, nil
		})
		if err != nil {
			return nil, fmt.Errorf("look for traces: %w", err)
		}
	}
	return ids, nil
}

// Latest returns the IDs of the newest messages, newest first, at most limit.
func Latest(ctx context.Context, r kv.Reader, limit int) ([]storage.ID, error) {
	var ids []storage.ID
	prefix := []byte(tracePrefix)
	err := r.Scan(ctx, prefix, upperBound(prefix), true, func(key, _ []byte) (bool, error) {
		if len(key) == len(prefix)+len(storage.ID{}) {
			var id storage.ID
			copy(id[:], key[len(prefix):])
			ids = append(ids, id)
		}
		return len(ids) < limit, nil
	})
	return ids, err
}

// Expire adds to b the removal of what is older than before.
func Expire(b *kv.Batch, before time.Time) {
	var limit storage.ID
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(max(before.UnixMilli(), 0)))
	copy(limit[:], ms[2:])
	b.DeleteRange([]byte(tracePrefix), headKey(limit))
	b.DeleteRange([]byte(findPrefix), binary.BigEndian.AppendUint32([]byte(findPrefix), dayOf(before)))
}

func headKey(id storage.ID) []byte {
	return append(append(make([]byte, 0, len(tracePrefix)+len(id)+9), tracePrefix...), id[:]...)
}

func eventKey(id storage.ID, at time.Time) []byte {
	nanos := int64(0)
	if !at.IsZero() {
		nanos = at.UnixNano()
	}
	return binary.BigEndian.AppendUint64(append(headKey(id), '/'), uint64(nanos))
}

func findKey(id storage.ID, hash uint64) []byte {
	k := append(make([]byte, 0, len(findPrefix)+4+1+8+1+len(id)), findPrefix...)
	k = binary.BigEndian.AppendUint32(k, dayOf(id.Time()))
	k = binary.BigEndian.AppendUint64(append(k, '/'), hash)
	return append(append(k, '/'), id[:]...)
}

func dayOf(t time.Time) uint32 { return uint32(t.Unix() / 86400) }

func hashOf(word string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(strings.ToLower(strings.Trim(word, "<>"))))
	return h.Sum64()
}

// upperBound returns the smallest key above all keys that begin with prefix.
func upperBound(prefix []byte) []byte {
	out := append([]byte(nil), prefix...)
	for i := len(out) - 1; i >= 0; i-- {
		if out[i] < 0xff {
			out[i]++
			return out[:i+1]
		}
	}
	return nil
}
