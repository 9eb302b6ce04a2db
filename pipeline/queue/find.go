package queue

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
)

// A queue may have a million entries, and nothing may be open for longer than 30 s (RULES B2). So what goes through all
// of them goes by pages: a cursor, a bounded number of keys, and then the work, with nothing open. What came after the
// beginning is left out: IDs rise with time.

// A page ends with so many entries that are meant, or so many keys.
const (
	pageEntries = 256
	pageKeys    = 20_000
)

// stored is an entry as it is on disk.
type stored struct {
	Entry
	recipients []Recipient // those that are meant
	problem    error       // it can't be read
}

// walk visits the entries with IDs from from on and before until, with all of their recipients. next is where to go on,
// the zero ID at the end.
func walk(ctx context.Context, r kv.Reader, from, until storage.ID, visit func(*stored) (more bool)) (next storage.ID, err error) {
	var one *stored
	looked, stopped := 0, false
	lower, upper := entryKey(from), entryKey(until)
	err = r.Scan(ctx, lower, upper, false, func(key, value []byte) (bool, error) {
		looked++
		id := storage.ID(key[len(entryPrefix) : len(entryPrefix)+idSize])
		if len(key) == len(entryPrefix)+idSize {
			if one != nil && !visit(one) || looked > pageKeys {
				next, stopped = id, true
				return false, ctx.Err()
			}
			one = &stored{}
			if one.Entry, one.problem = decodeEntry(value); one.problem != nil {
				one.ID = id
			}
			return true, ctx.Err()
		}
		if one == nil || one.ID != id { // of an entry that is gone
			return true, nil
		}
		rec, err := decodeRecipient(value)
		if err != nil {
			one.problem = err
			return true, nil
		}
		one.recipients = append(one.recipients, rec)
		return true, nil
	})
	if err != nil {
		return next, fmt.Errorf("read the queue: %w", err)
	}
	if !stopped && one != nil {
		visit(one)
	}
	return next, nil
}

// page returns the next entries with recipients that are meant, with those alone.
func (q *Queue) page(ctx context.Context, from, until storage.ID, s *sieve) (list []*stored, next storage.ID, err error) {
	next, err = walk(ctx, q.Store.KV(), from, until, func(one *stored) bool {
		if one.problem != nil {
			if s.Empty() { // nobody knows what is in it
				list = append(list, one)
			}
			return len(list) < pageEntries
		}
		if s.entry(&one.Entry) {
			n := 0
			for i := range one.recipients {
				if s.recipient(&one.recipients[i]) {
					one.recipients[n] = one.recipients[i]
					n++
				}
			}
			if one.recipients = one.recipients[:n]; n > 0 {
				list = append(list, one)
			}
		}
		return len(list) < pageEntries
	})
	return list, next, err
}

// everyPage visits the pages of what is in the queue now.
func (q *Queue) everyPage(ctx context.Context, after storage.ID, f *Filter, visit func([]*stored) (more bool, err error)) error {
	s := f.sieve(q.Now(), q.places(ctx, f.NextHop != ""))
	until := q.Store.NewID()
	from := following(after)
	for bytes.Compare(from[:], until[:]) < 0 {
		list, next, err := q.page(ctx, from, until, s)
		if err != nil {
			return err
		}
		if more, err := visit(list); err != nil || !more {
			return err
		}
		if next == (storage.ID{}) {
			return nil
		}
		from = next
	}
	return nil
}

// following is the first ID behind another; that behind the zero ID is the zero ID itself.
func following(id storage.ID) storage.ID {
	if id == (storage.ID{}) {
		return id
	}
	for i := len(id) - 1; i >= 0; i-- {
		if id[i]++; id[i] != 0 {
			break
		}
	}
	return id
}

// Find visits what the filter lets through, oldest first, with those recipients alone. It can run beside a working queue
// and on one that was not started.
func (q *Queue) Find(ctx context.Context, f *Filter, visit func(Item) (more bool, err error)) error {
	return q.everyPage(ctx, storage.ID{}, f, func(list []*stored) (bool, error) {
		for _, one := range list {
			if more, err := visit(one.asItem()); err != nil || !more {
				return false, err
			}
		}
		return true, nil
	})
}

func (one *stored) asItem() Item {
	if one.problem != nil {
		return Item{ID: one.ID.String(), Problem: one.problem.Error()}
	}
	item := one.Entry.item()
	for i := range one.recipients {
		item.Recipients = append(item.Recipients, one.recipients[i].item())
	}
	return *item
}

// lookTime bounds how long one asks where mail goes, in all.
const lookTime = 30 * time.Second

// places returns who says where a hop leads: the key of its site, else what is written about it. If ask, the Courier is
// asked about those that the queue has nothing to do with at the moment.
func (q *Queue) places(ctx context.Context, ask bool) func(*pipeline.Hop) string {
	const most = 100_000
	known := make(map[string]string)
	left := lookTime
	return func(h *pipeline.Hop) string {
		if h.Kind == pipeline.HopQuarantine {
			return stateQuarantined
		}
		label := hopOf(h)
		if label == localHop {
			return localHop
		}
		if at, found := known[label]; found {
			return at
		}
		at := q.siteOf(label)
		if at == "" && ask && q.Courier != nil && left > 0 {
			start := time.Now()
			short, cancel := context.WithTimeout(ctx, 5*time.Second)
			if next, err := q.Courier.NextHop(short, domainOf(h.Address), h.Via); err == nil {
				at = next.Key
			}
			cancel()
			left -= time.Since(start)
		}
		if at == "" {
			if at = h.Via; at == "" || at == pipeline.ViaMX {
				at = domainOf(h.Address)
			}
		}
		if len(known) < most {
			known[label] = at
		}
		return at
	}
}

// siteOf returns where a HOP leads as far as that is known, or "".
func (s *schedule) siteOf(label string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hops[label]
	if h == nil || h.site == nil || h.site.unresolved {
		return ""
	}
	return h.site.key
}

// Summary counts what is in the queue.
type Summary struct {
	Messages   int            `json:"messages"`
	Recipients int            `json:"recipients"`
	Octets     int64          `json:"octets"` // of the messages as they arrived
	Oldest     time.Time      `json:"oldest,omitzero"`
	States     map[string]int `json:"states"`    // recipients; "unreadable" counts messages
	NextHops   map[string]int `json:"next_hops"` // recipients
	Reasons    map[string]int `json:"reasons"`   // recipients, by how the last attempt ended
}

// others stands for what is over the bound of a Summary's map.
const others = "(others)"

// tick1 adds one, to others if there are too many different ones.
func tick1(m map[string]int, key string) {
	const most = 20_000
	if _, found := m[key]; !found && len(m) >= most {
		key = others
	}
	m[key]++
}

// Summarize counts what the filter lets through.
func (q *Queue) Summarize(ctx context.Context, f *Filter) (*Summary, error) {
	sum := &Summary{States: map[string]int{}, NextHops: map[string]int{}, Reasons: map[string]int{}}
	place := q.places(ctx, false)
	err := q.everyPage(ctx, storage.ID{}, f, func(list []*stored) (bool, error) {
		for _, one := range list {
			sum.Messages++
			if one.problem != nil {
				sum.States[stateUnreadable]++
				continue
			}
			sum.Octets += one.Size
			if sum.Oldest.IsZero() || one.Received.Before(sum.Oldest) {
				sum.Oldest = one.Received
			}
			for i := range one.recipients {
				r := &one.recipients[i]
				sum.Recipients++
				tick1(sum.States, r.state())
				tick1(sum.NextHops, place(&r.Hop))
				tick1(sum.Reasons, r.reason())
			}
		}
		return true, nil
	})
	return sum, err
}

// reason is why a recipient is still there, short enough to be counted by.
func (r *Recipient) reason() string {
	const most = 200
	text := r.Last
	switch {
	case r.state() == stateQuarantined:
		text = r.Hop.Why
	case text == "":
		return "not tried yet"
	}
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}
