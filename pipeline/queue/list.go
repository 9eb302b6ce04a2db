package queue

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
)

// ErrNotFound is returned for an entry that is not in the queue.
var ErrNotFound = errors.New("not in the queue")

// Item is one entry as `sluice queue list` and `show` print it.
type Item struct {
	ID         string          `json:"id"`
	Origin     string          `json:"origin"`
	Pipeline   string          `json:"pipeline"`
	Received   time.Time       `json:"received"`
	Sender     string          `json:"sender"`
	Size       int64           `json:"size"`
	Recipients []RecipientItem `json:"recipients"`
	Problem    string          `json:"problem,omitempty"` // the entry can't be read: why
}

// RecipientItem is one recipient of an Item.
type RecipientItem struct {
	Address  string    `json:"address"`
	State    string    `json:"state"` // queued, held, quarantined, unreadable
	Hop      string    `json:"hop"`   // "mailbox alice@example.test"
	Attempts int       `json:"attempts"`
	Next     time.Time `json:"next,omitzero"`
	Last     string    `json:"last,omitempty"`
	Why      string    `json:"why,omitempty"`   // why it is in quarantine, or is to be bounced
	Added    string    `json:"added,omitempty"` // the plugin that added it
	Waits    *Wait     `json:"waits,omitempty"` // of Queue.Show alone
}

// List visits what is in the queue, oldest first, from a consistent view. It can
// run beside a working queue and in a process that has only opened the store.
func List(ctx context.Context, engine kv.Engine, visit func(Item) (more bool, err error)) error {
	snapshot, err := engine.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer snapshot.Close()
	lower := []byte(entryPrefix)
	upper := append([]byte(entryPrefix[:len(entryPrefix)-1]), '/'+1)
	var item *Item
	flush := func() (bool, error) {
		if item == nil {
			return true, nil
		}
		return visit(*item)
	}
	err = snapshot.Scan(ctx, lower, upper, false, func(key, value []byte) (bool, error) {
		if len(key) > len(lower)+idSize {
			if item != nil {
				item.Recipients = append(item.Recipients, recipientItem(value))
			}
			return true, nil
		}
		more, err := flush()
		if err != nil || !more {
			item = nil
			return false, err
		}
		item = entryItem(storage.ID(key[len(lower):]), value)
		return true, nil
	})
	if err != nil {
		return err
	}
	_, err = flush()
	return err
}

// Quarantined visits the entries with a copy in quarantine, oldest first, from a
// consistent view.
func Quarantined(ctx context.Context, engine kv.Engine, visit func(Item) (more bool, err error)) error {
	snapshot, err := engine.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer snapshot.Close()
	upper := append([]byte(quarantinePrefix[:len(quarantinePrefix)-1]), '/'+1)
	var last storage.ID
	return snapshot.Scan(ctx, []byte(quarantinePrefix), upper, false, func(key, _ []byte) (bool, error) {
		id := storage.ID(key[len(quarantinePrefix) : len(quarantinePrefix)+idSize])
		if id == last {
			return true, nil
		}
		last = id
		item, err := Show(ctx, snapshot, id)
		if errors.Is(err, ErrNotFound) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		item.Recipients = slices.DeleteFunc(item.Recipients, func(r RecipientItem) bool { return r.State != stateQuarantined })
		return visit(item)
	})
}

// entryItem shows an entry, also one that can't be read, so that one bad record
// does not hide the others.
func entryItem(id storage.ID, value []byte) *Item {
	entry, err := decodeEntry(value)
	if err != nil {
		return &Item{ID: id.String(), Problem: err.Error()}
	}
	return entry.item()
}

func recipientItem(value []byte) RecipientItem {
	rec, err := decodeRecipient(value)
	if err != nil {
		return RecipientItem{State: stateUnreadable, Last: err.Error()}
	}
	return rec.item()
}

// Show returns one entry, or ErrNotFound.
func Show(ctx context.Context, r kv.Reader, id storage.ID) (Item, error) {
	value, err := r.Get(ctx, entryKey(id))
	if errors.Is(err, kv.ErrNotFound) {
		return Item{}, ErrNotFound
	}
	if err != nil {
		return Item{}, err
	}
	item := entryItem(id, value)
	err = r.Scan(ctx, append(entryKey(id), '/'), append(entryKey(id), '/'+1), false, func(_, value []byte) (bool, error) {
		item.Recipients = append(item.Recipients, recipientItem(value))
		return true, nil
	})
	return *item, err
}

func (e *Entry) item() *Item {
	return &Item{
		ID: e.ID.String(), Origin: string(e.Origin), Pipeline: e.Pipeline, Received: e.Received,
		Sender: e.Sender, Size: e.Size,
	}
}

// The states of a recipient.
const (
	stateQueued      = "queued"
	stateHeld        = "held"
	stateQuarantined = "quarantined"
	stateUnreadable  = "unreadable"
)

func (r *Recipient) state() string {
	switch {
	case r.Hop.Kind == pipeline.HopQuarantine:
		return stateQuarantined
	case r.Next.IsZero():
		return stateHeld
	}
	return stateQueued
}

func (r *Recipient) item() RecipientItem {
	hop := r.Hop.Kind.String()
	if r.Hop.Address != "" {
		hop += " " + r.Hop.Address
	}
	if r.Hop.Via != "" {
		hop += " via " + r.Hop.Via
	}
	return RecipientItem{
		Address: r.Address, State: r.state(), Hop: hop, Why: r.Hop.Why, Attempts: r.Attempts, Next: r.Next, Last: r.Last, Added: r.Added,
	}
}
