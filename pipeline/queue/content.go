package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
)

// Version is a message as some of its recipients get it: with what plugins and we have changed (RULES A4).
type Version struct {
	To      []string // the addresses of those that are still in the queue
	variant int
}

// Versions returns what there is of a message in the queue, in the order of its recipients, or ErrNotFound. It can run
// beside a working queue and on one that was not started.
func (q *Queue) Versions(ctx context.Context, id storage.ID) ([]Version, error) {
	_, list, err := q.versions(ctx, id)
	return list, err
}

func (q *Queue) versions(ctx context.Context, id storage.ID) (storage.ContentID, []Version, error) {
	entry, recipients, err := readEntry(ctx, q.Store.KV(), id)
	if errors.Is(err, kv.ErrNotFound) {
		err = ErrNotFound
	}
	if err != nil {
		return entry.Content, nil, err
	}
	var list []Version
	for i := range recipients {
		r := &recipients[i]
		at := slices.IndexFunc(list, func(v Version) bool { return v.variant == r.Variant })
		if at < 0 {
			at, list = len(list), append(list, Version{variant: r.Variant})
		}
		if to := &list[at].To; !slices.Contains(*to, r.Address) {
			*to = append(*to, r.Address)
		}
	}
	return entry.Content, list, nil
}

// Open opens the octets of one of Versions, or returns ErrNotFound when it has left the queue meanwhile. The caller closes
// it.
func (q *Queue) Open(ctx context.Context, id storage.ID, v Version) (*storage.Content, error) {
	content, list, err := q.versions(ctx, id)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(list, func(have Version) bool { return have.variant == v.variant }) {
		return nil, ErrNotFound
	}
	c, err := q.Store.OpenContent(ctx, content, v.variant, nil)
	if err != nil {
		return nil, fmt.Errorf("open the content of %s: %w", id, err)
	}
	return c, nil
}
