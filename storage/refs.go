package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/codec"
	"github.com/sluicemail/sluice/storage/id"
	"github.com/sluicemail/sluice/storage/kv"
)

// A use is a key ref/CONTENT/USE without a value (RULES B4). The uses of messages begin with 'm'; others (the queue's) begin
// with anything else.

// AddRef adds a use of a content to b. b's owner must hold a use of it already: what has none may be gone.
func (s *Store) AddRef(b *kv.Batch, content ContentID, use string) {
	b.Set(appendRefKey(nil, content, use), nil)
}

// DropRef removes a use of a content in b. Unless b adds another use of the same content, it also asks the collector to
// look, which removes the content if that was its last use.
func (s *Store) DropRef(b *kv.Batch, content ContentID, use string) {
	key := appendRefKey(nil, content, use)
	if !addsUse(b, key) {
		b.Set(appendGCKey(nil, content, s.NewID()), nil)
	}
	b.Delete(key)
}

// addsUse says whether a small batch adds a use of the content of key, other than key itself. Moving a use in one batch is
// what each delivery does, and the content cannot become garbage by it.
func addsUse(b *kv.Batch, key []byte) bool {
	ops := b.Ops()
	if len(ops) > 64 {
		return false
	}
	prefix := key[:len(ownerRef)+id.Size]
	for i, op := range ops {
		if op.Kind != kv.OpSet || !bytes.HasPrefix(op.Key, prefix) || bytes.Equal(op.Key, key) {
			continue
		}
		taken := false
		for _, later := range ops[i+1:] {
			taken = taken || later.Kind == kv.OpDelete && bytes.Equal(later.Key, op.Key)
		}
		if !taken {
			return true
		}
	}
	return false
}

// PauseCollector waits for a running round of the collector and keeps it from another one until resume is called: during a
// backup nothing that it names may go.
func (s *Store) PauseCollector() (resume func()) {
	s.content.collecting.Lock()
	return s.content.collecting.Unlock
}

// runCollector looks for content without uses until ctx ends.
func (s *Store) runCollector(ctx context.Context) {
	tick := time.NewTicker(min(max(s.o.CollectAfter/10, 10*time.Millisecond), time.Minute))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := s.CollectNow(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("store: content that nobody needs stays for now", "err", err)
		}
	}
}

// CollectNow does the collector's rounds at once, for tests and for an operator who needs the space.
//
// Each round goes on behind the one before, so that what was deleted already is walked over once.
func (s *Store) CollectNow(ctx context.Context) error {
	for from := []byte(ownerGC); from != nil; {
		var err error
		if from, err = s.collect(ctx, from); err != nil {
			return fmt.Errorf("collect content: %w", err)
		}
	}
	return nil
}

// collectRound bounds one batch of the collector.
const collectRound = 500

// candidate is a content that may have lost its last use, and the entries that say so.
type candidate struct {
	id     ContentID
	keys   [][]byte
	newest time.Time
}

// collect does one round over the entries from a key on, and returns where the next one begins, or nil.
func (s *Store) collect(ctx context.Context, from []byte) (next []byte, err error) {
	s.content.collecting.Lock()
	defer s.content.collecting.Unlock()
	list, next, err := s.candidates(ctx, from)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	var b kv.Batch
	var files []blob.Ref
	var going []ContentID
	defer func() {
		s.content.mu.Lock()
		defer s.content.mu.Unlock()
		for _, id := range going {
			delete(s.content.going, id)
		}
	}()
	for _, c := range list {
		used, err := hasKey(ctx, s.engine, appendRefKey(nil, c.id, ""))
		if err != nil {
			return nil, err
		}
		if !used {
			if !s.content.retire(c.id) {
				continue // somebody is reading it: next time
			}
			going = append(going, c.id)
			refs, err := s.deleteContent(ctx, &b, c.id)
			if errors.Is(err, codec.ErrDamaged) {
				// One that cannot be read must not keep all others (DRILLS E2.7). It stays: its file is not known.
				s.log.Error("store: content that nobody needs cannot be removed", "content", c.id, "err", err)
				continue
			}
			if err != nil {
				return nil, err
			}
			files = append(files, refs...)
		}
		for _, key := range c.keys {
			b.Delete(key)
		}
	}
	if b.Len() == 0 {
		return next, nil
	}
	pos, err := s.engine.Apply(ctx, &b)
	if err == nil {
		err = s.engine.WaitDurable(ctx, pos) // only then may the file go (RULES B4)
	}
	if err != nil {
		return nil, err
	}
	for _, ref := range files {
		if err := s.blobs.Remove(ref); err != nil {
			s.log.Error("store: a content file without a use stays; store verify finds it", "err", err)
		}
	}
	return next, nil
}

// retire marks a content that has no reader as going.
func (c *contents) retire(id ContentID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.readers[id] > 0 {
		return false
	}
	c.going[id] = struct{}{}
	return true
}

// candidates returns contents from a key on whose entries are all older than CollectAfter, and where to go on, or nil.
func (s *Store) candidates(ctx context.Context, from []byte) (list []candidate, next []byte, err error) {
	limit := s.clock().Add(-s.o.CollectAfter)
	dropYoung := func() {
		if n := len(list); n > 0 && list[n-1].newest.After(limit) {
			list = list[:n-1]
		}
	}
	err = s.engine.Scan(ctx, from, prefixEnd([]byte(ownerGC)), false, func(key, _ []byte) (bool, error) {
		if len(key) != len(ownerGC)+2*id.Size {
			s.log.Error("store: the collector passes over a key", "key", key, "err", codec.ErrDamaged)
			return true, nil
		}
		content := ContentID(key[len(ownerGC):][:id.Size])
		if n := len(list); n == 0 || list[n-1].id != content {
			dropYoung()
			if len(list) >= collectRound {
				next = bytes.Clone(key)
				return false, nil
			}
			list = append(list, candidate{id: content})
		}
		c := &list[len(list)-1]
		c.keys = append(c.keys, bytes.Clone(key))
		c.newest = ID(key[len(ownerGC)+id.Size:]).Time()
		return true, nil
	})
	dropYoung()
	return list, next, err
}

// deleteContent adds the removal of a content to b and returns the files that have its octets.
func (s *Store) deleteContent(ctx context.Context, b *kv.Batch, id ContentID) (files []blob.Ref, err error) {
	value, err := s.engine.Get(ctx, contentKey(contentRecord, id))
	if err != nil && !isNotFound(err) {
		return nil, err
	}
	inline := true
	if err == nil {
		d := decode(value)
		ref := blob.ReadRef(&d)
		if d.Bad() {
			return nil, d.End("content " + id.String())
		}
		if ref.Kind == blob.File {
			files, inline = append(files, ref), false
		}
		bodies, err := bodiesOf(id, value)
		if err != nil {
			return nil, err
		}
		for _, body := range bodies {
			if body.Ref.Kind == blob.File {
				files = append(files, body.Ref)
			} else {
				b.Delete(bodyKey(id, body.Number))
			}
		}
		if largeSummaries(value) {
			lower := contentKey(contentSummary, id)
			b.DeleteRange(lower, prefixEnd(lower))
		}
	}
	b.Delete(contentKey(contentRecord, id))
	if inline {
		b.Delete(contentKey(contentBody, id))
	}
	return files, nil
}

// largeSummaries says whether any variant of a record has its structure in a key of its own.
func largeSummaries(value []byte) bool {
	for i := range maxVariants {
		rec, err := decodeContent(ContentID{}, value, i)
		if err != nil {
			return false
		}
		if len(rec.summary) == 0 {
			return true
		}
	}
	return false
}

// hasKey says whether any key begins with prefix.
func hasKey(ctx context.Context, r kv.Reader, prefix []byte) (found bool, err error) {
	err = r.Scan(ctx, prefix, prefixEnd(prefix), false, func(_, _ []byte) (bool, error) {
		found = true
		return false, nil
	})
	return found, err
}
