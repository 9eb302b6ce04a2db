package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/mime"
)

// contents counts the readers of each content, so that the collector waits for them.
type contents struct {
	mu      sync.Mutex
	readers map[ContentID]int
	going   map[ContentID]struct{} // being collected: nobody may begin to read

	collecting sync.Mutex // held during a round of the collector, and during a pause
}

func (c *contents) init() {
	c.readers, c.going = make(map[ContentID]int), make(map[ContentID]struct{})
}

// enter counts a reader; false: the content is being collected.
func (c *contents) enter(id ContentID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, going := c.going[id]; going {
		return false
	}
	c.readers[id]++
	return true
}

func (c *contents) leave(id ContentID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.readers[id]--; c.readers[id] <= 0 {
		delete(c.readers, id)
	}
}

// Content is a message open for reading: Front and the variant of a content. It is safe for several goroutines. It must be
// closed, and not read afterwards.
type Content struct {
	s     *Store
	id    ContentID
	base  *blob.Content
	body  *blob.Content // of a variant that has one of its own, else nil
	all   io.ReaderAt   // Front and variant
	size  int64
	front int64
	rec   *contentRec
	once  sync.Once
}

var _ io.ReaderAt = (*Content)(nil)

// OpenContent opens a variant of a content behind the octets of front, or ErrNoContent.
func (s *Store) OpenContent(ctx context.Context, id ContentID, variant int, front []byte) (*Content, error) {
	if !s.content.enter(id) {
		return nil, fmt.Errorf("open content %s: %w", id, ErrNoContent)
	}
	c, err := s.openContent(ctx, id, variant, front)
	if err != nil {
		s.content.leave(id)
		return nil, err
	}
	return c, nil
}

func (s *Store) openContent(ctx context.Context, id ContentID, variant int, front []byte) (*Content, error) {
	rec, err := readContent(ctx, s.engine, id, variant)
	if err != nil {
		return nil, err
	}
	base, err := s.openOctets(ctx, id, rec.ref, contentKey(contentBody, id))
	if err != nil {
		return nil, err
	}
	c := &Content{s: s, id: id, base: base, all: base, size: base.Size(), front: int64(len(front)), rec: rec}
	if b := rec.variant.Body; b != nil {
		if c.body, err = s.openOctets(ctx, id, b.Ref, bodyKey(id, b.Number)); err != nil {
			return nil, errors.Join(err, base.Close())
		}
		b.From = c.body
	}
	if len(front) > 0 || !rec.variant.IsZero() {
		vr, err := rec.variant.WithFront(front).Reader(base, base.Size())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open content %s: %w", id, err), c.closeOctets())
		}
		c.all, c.size = vr, vr.Size()
	}
	return c, nil
}

// openOctets opens what a content's record refers to; key is where it is if it is inline.
func (s *Store) openOctets(ctx context.Context, id ContentID, ref blob.Ref, key []byte) (*blob.Content, error) {
	c, err := s.blobs.Open(ref, func() ([]byte, error) { return s.engine.Get(ctx, key) })
	if err == nil {
		return c, nil
	}
	if errors.Is(err, kv.ErrNotFound) || errors.Is(err, blob.ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrNoContent, err)
	}
	return nil, fmt.Errorf("open content %s: %w", id, err)
}

func (c *Content) closeOctets() error {
	if c.body == nil {
		return c.base.Close()
	}
	return errors.Join(c.base.Close(), c.body.Close())
}

// Open opens the content of a message.
func (s *Store) Open(ctx context.Context, m *Message) (*Content, error) {
	return s.OpenContent(ctx, m.ContentID, m.Variant, m.Front)
}

// Size returns the number of octets, front included.
func (c *Content) Size() int64 { return c.size }

// Front returns how many octets are in front of those that Summary is about: mime's Find wants to know.
func (c *Content) Front() int64 { return c.front }

// ReadAt implements io.ReaderAt.
func (c *Content) ReadAt(p []byte, off int64) (int, error) { return c.all.ReadAt(p, off) }

// Reader reads all of it.
func (c *Content) Reader() *io.SectionReader { return io.NewSectionReader(c, 0, c.size) }

// Summary returns the structure of the variant, without the octets in front. What an older parser stored, or what cannot
// be read, is computed again.
func (c *Content) Summary(ctx context.Context) (*mime.Summary, error) {
	enc, err := c.rec.readSummary(ctx, c.s.engine)
	if err != nil {
		return nil, fmt.Errorf("read the structure of content %s: %w", c.id, err)
	}
	if sum := currentSummary(enc); sum != nil {
		return sum, nil
	}
	variant, err := c.rec.variant.Reader(c.base, c.base.Size())
	if err != nil {
		return nil, fmt.Errorf("read the structure of content %s: %w", c.id, err)
	}
	return c.s.parse(variant, variant.Size()), nil
}

// currentSummary decodes a summary of this version of the parser, else nil.
func currentSummary(enc []byte) *mime.Summary {
	sum, err := mime.Decode(enc)
	if err != nil || sum.Version < mime.Version {
		return nil
	}
	return sum
}

// Close ends reading; later calls do nothing.
func (c *Content) Close() error {
	var err error
	c.once.Do(func() {
		err = c.closeOctets()
		c.s.content.leave(c.id)
	})
	return err
}

// Summary returns the structure of a message without reading its content, unless that has to be parsed again.
func (v *View) Summary(m *Message) (*mime.Summary, error) {
	rec, err := readContent(v.ctx, v.snap, m.ContentID, m.Variant)
	if err != nil {
		return nil, err
	}
	enc, err := rec.readSummary(v.ctx, v.snap)
	if err != nil {
		return nil, fmt.Errorf("read the structure of content %s: %w", m.ContentID, err)
	}
	if sum := currentSummary(enc); sum != nil {
		return sum, nil
	}
	c, err := v.s.Open(v.ctx, m)
	if err != nil {
		return nil, err
	}
	sum, err := c.Summary(v.ctx)
	return sum, errors.Join(err, c.Close())
}
