package queue

import (
	"context"
	"errors"
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
}

// RecipientItem is one recipient of an Item.
type RecipientItem struct {
	Address  string    `json:"address"`
	State    string    `json:"state"` // queued, held, quarantined
	Hop      string    `json:"hop"`   // "mailbox alice@example.test"
	Attempts int       `json:"attempts"`
	Next     time.Time `json:"next,omitzero"`
	Last     string    `json:"last,omitempty"`
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
			rec, err := decodeRecipient(value)
			if err == nil && item != nil {
				item.Recipients = append(item.Recipients, rec.item())
			}
			return true, err
		}
		more, err := flush()
		if err != nil || !more {
			item = nil
			return false, err
		}
		entry, err := decodeEntry(value)
		item = entry.item()
		return true, err
	})
	if err != nil {
		return err
	}
	_, err = flush()
	return err
}

// Show returns one entry, or ErrNotFound.
func Show(ctx context.Context, r kv.Reader, id storage.ID) (Item, error) {
	entry, recipients, err := readEntry(ctx, r, id)
	if errors.Is(err, kv.ErrNotFound) {
		return Item{}, ErrNotFound
	}
	if err != nil {
		return Item{}, err
	}
	item := entry.item()
	for i := range recipients {
		item.Recipients = append(item.Recipients, recipients[i].item())
	}
	return *item, nil
}

func (e *Entry) item() *Item {
	return &Item{
		ID: e.ID.String(), Origin: string(e.Origin), Pipeline: e.Pipeline, Received: e.Received,
		Sender: e.Sender, Size: e.Size,
	}
}

func (r *Recipient) item() RecipientItem {
	state := "queued"
	switch {
	case r.Hop.Kind == pipeline.HopQuarantine:
		state = "quarantined"
	case r.Next.IsZero():
		state = "held"
	}
	hop := r.Hop.Kind.String()
	if r.Hop.Address != "" {
		hop += " " + r.Hop.Address
	}
	return RecipientItem{
		Address: r.Address, State: state, Hop: hop, Attempts: r.Attempts, Next: r.Next, Last: r.Last,
	}
}
