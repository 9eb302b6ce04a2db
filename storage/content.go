package storage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/codec"
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/mime"
)

const (
	maxVariants      = 16        // RULES A4
	maxInlineSummary = 16 << 10  // a larger one has a key of its own, so that records stay small
	maxRecordSize    = 900 << 10 // the limit of kv for a value is 1 MiB
	maxThreadHashes  = 8
)

// ContentInfo is what a mailbox needs to know of one variant of a content.
type ContentInfo struct {
	ID      ContentID
	Variant int
	Size    int64 // octets of the variant
	// Thread holds hashes of message IDs: its own (0: it has none), then those that it refers to, the parent first.
	Thread []uint64
}

// EmailID returns the EMAILID of the variant.
func (i ContentInfo) EmailID() EmailID { return EmailID{i.ID, uint8(i.Variant)} }

// Prepared is a content that is ready to be named by a batch.
type Prepared struct {
	draft     *blob.Draft
	id        ContentID
	ref       blob.Ref
	bodies    []*blob.Draft // of variants with a body of their own, by its number
	infos     []ContentInfo
	record    []byte
	summaries [][]byte // nil: inside record
}

// Prepare computes the structure of each variant (none: the octets as they are) and makes the content durable as far as it
// is files: the draft, and the bodies of variants, which have to be drafts (blob.NewBody). It calls no lock and writes nothing to
// the engine. If no batch comes of it, Withdraw of each draft removes the files.
func (s *Store) Prepare(ctx context.Context, draft *blob.Draft, variants []blob.Variant) (*Prepared, error) {
	if len(variants) == 0 {
		variants = []blob.Variant{{}}
	}
	if len(variants) > maxVariants {
		return nil, fmt.Errorf("prepare content: %d variants: %w", len(variants), ErrTooLarge)
	}
	p := &Prepared{
		draft: draft, id: s.NewID(),
		infos:     make([]ContentInfo, len(variants)),
		summaries: make([][]byte, len(variants)),
	}
	var err error
	if p.ref, err = draft.Persist(ctx); err != nil {
		return nil, fmt.Errorf("prepare content: %w", err)
	}
	rec := append(make([]byte, 0, 2<<10), recordVersion)
	rec = p.ref.AppendBinary(rec)
	rec = binary.AppendUvarint(rec, uint64(len(variants)))
	for i := range variants {
		v := variants[i]
		if v.Body, err = p.body(ctx, v.Body); err != nil {
			return nil, fmt.Errorf("prepare content: %w", err)
		}
		if rec, err = s.prepareVariant(p, i, &v, rec); err != nil {
			return nil, fmt.Errorf("prepare content: %w", err)
		}
	}
	if len(rec) > maxRecordSize {
		return nil, fmt.Errorf("prepare content: the record of %d variants: %w", len(variants), ErrTooLarge)
	}
	p.record = rec
	return p, nil
}

// body makes the body of a variant durable, once, and returns it as it is stored.
func (p *Prepared) body(ctx context.Context, b *blob.Body) (*blob.Body, error) {
	if b == nil {
		return nil, nil
	}
	draft, ok := b.From.(*blob.Draft)
	if !ok {
		return nil, errors.New("the body of a variant is no draft")
	}
	number := slices.Index(p.bodies, draft)
	if number < 0 {
		number = len(p.bodies)
		p.bodies = append(p.bodies, draft)
	}
	ref, err := draft.Persist(ctx)
	if err != nil {
		return nil, err
	}
	return &blob.Body{Number: uint8(number), Off: b.Off, Ref: ref, From: draft}, nil
}

// prepareVariant parses one variant and encodes it.
func (s *Store) prepareVariant(p *Prepared, i int, v *blob.Variant, rec []byte) ([]byte, error) {
	r, size := io.ReaderAt(p.draft), p.draft.Size()
	if !v.IsZero() {
		vr, err := v.Reader(p.draft, size)
		if err != nil {
			return nil, err
		}
		r, size = vr, vr.Size()
	}
	sum := s.parse(r, size)
	p.infos[i] = ContentInfo{ID: p.id, Variant: i, Size: size, Thread: threadHashes(sum)}
	start := len(rec)
	rec = codec.AppendBytes(rec, v.AppendBinary(nil))
	rec = binary.AppendUvarint(rec, uint64(size))
	rec = append(rec, byte(len(p.infos[i].Thread)))
	for _, h := range p.infos[i].Thread {
		rec = binary.BigEndian.AppendUint64(rec, h)
	}
	enc, err := sum.AppendBinary(make([]byte, 0, 1<<10))
	if err != nil {
		// The summary is a convenience; the message is not lost for it.
		s.log.Warn("store: a message's structure cannot be kept, it is opaque", "content", p.id, "err", err)
		if enc, err = mime.Opaque(size, headerEnd(r, size)).AppendBinary(nil); err != nil {
			return rec[:start], err
		}
	}
	if len(enc) > maxInlineSummary {
		p.summaries[i] = enc
		enc = nil
	}
	return codec.AppendBytes(rec, enc), nil
}

// parse computes the structure; a panic there makes the message opaque (RULES B6).
func (s *Store) parse(r io.ReaderAt, size int64) (sum *mime.Summary) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("store: the parser failed, the message is kept as opaque", "panic", p)
			sum = mime.Opaque(size, headerEnd(r, size))
		}
	}()
	return mime.Parse(r, size, mime.Limits{})
}

// headerEnd finds the empty line within the first 64 KiB, or returns 0.
func headerEnd(r io.ReaderAt, size int64) int64 {
	buf := make([]byte, min(size, 64<<10))
	n, err := r.ReadAt(buf, 0)
	if err != nil && err != io.EOF {
		return 0
	}
	if at := bytes.Index(buf[:n], []byte("\r\n\r\n")); at >= 0 {
		return int64(at) + 4
	}
	return 0
}

// threadHashes are the IDs by which conversations are found: the message's own, its parent's (the last of References, or
// the first of In-Reply-To), the first of References, and then the others, the nearest first (RFC 5322 section 3.6.4).
func threadHashes(sum *mime.Summary) []uint64 {
	refs := sum.References
	irt := firstMessageID(sum.Envelope.InReplyTo)
	own := firstMessageID(sum.Envelope.MessageID)
	if own == "" && irt == "" && len(refs) == 0 {
		return nil
	}
	out := make([]uint64, 1, min(2+len(refs), maxThreadHashes))
	if own != "" {
		out[0] = messageIDHash(own)
	}
	add := func(id string) {
		if id == "" || len(out) >= maxThreadHashes {
			return
		}
		h := messageIDHash(id)
		for _, have := range out {
			if have == h {
				return
			}
		}
		out = append(out, h)
	}
	if n := len(refs); n > 0 {
		add(refs[n-1])
		add(refs[0])
		add(irt)
		for i := n - 2; i > 0; i-- {
			add(refs[i])
		}
	} else {
		add(irt)
	}
	return out
}

// firstMessageID returns what is between the first pair of angle brackets.
func firstMessageID(field string) string {
	_, rest, ok := strings.Cut(field, "<")
	if !ok {
		return ""
	}
	id, _, ok := strings.Cut(rest, ">")
	if !ok {
		return ""
	}
	return strings.TrimSpace(id)
}

func messageIDHash(id string) uint64 {
	sum := sha256.Sum256([]byte(id))
	return max(binary.BigEndian.Uint64(sum[:8]), 1) // 0 means none
}

// Info returns what a mailbox needs to know of variant k.
func (p *Prepared) Info(k int) ContentInfo { return p.infos[k] }

// ID returns the content's name.
func (p *Prepared) ID() ContentID { return p.id }

// Put adds the content to b, and a use of it. With use "" the same batch must add a use in another way (Tx.Append).
func (p *Prepared) Put(b *kv.Batch, use string) {
	b.Set(contentKey(contentRecord, p.id), p.record)
	if p.ref.Kind == blob.Inline {
		b.Set(contentKey(contentBody, p.id), p.draft.Bytes())
	}
	for i, body := range p.bodies {
		if octets := body.Bytes(); octets != nil {
			b.Set(bodyKey(p.id, uint8(i)), octets)
		}
	}
	for i, sum := range p.summaries {
		if sum != nil {
			b.Set(append(contentKey(contentSummary, p.id), byte(i)), sum)
		}
	}
	if use != "" {
		b.Set(appendRefKey(nil, p.id, use), nil)
	}
}

// contentRec is a decoded record of a content; slices point into the value.
type contentRec struct {
	ref      blob.Ref
	variants int
	// Of the variant that was asked for:
	variant blob.Variant
	info    ContentInfo
	summary []byte
}

// decodeContent reads the record and one of its variants.
func decodeContent(id ContentID, value []byte, variant int) (*contentRec, error) {
	d := decode(value)
	rec := &contentRec{ref: blob.ReadRef(&d)}
	n := d.Uint()
	if d.Bad() {
		return nil, d.End("content " + id.String())
	}
	if n > maxVariants || variant < 0 || uint64(variant) >= n {
		return nil, fmt.Errorf("read content %s: it has no variant %d: %w", id, variant, ErrNoContent)
	}
	rec.variants = int(n)
	for i := range rec.variants {
		enc := d.Bytes()
		info := ContentInfo{ID: id, Variant: i, Size: d.Size()}
		hashes := d.Take(8 * int(d.Octet()))
		summary := d.Bytes()
		if i != variant || d.Bad() {
			continue
		}
		for ; len(hashes) > 0; hashes = hashes[8:] {
			info.Thread = append(info.Thread, binary.BigEndian.Uint64(hashes))
		}
		rec.info, rec.summary = info, summary
		var err error
		if rec.variant, err = blob.DecodeVariant(enc); err != nil {
			return nil, fmt.Errorf("read content %s: %w", id, err)
		}
	}
	if d.Bad() {
		return nil, d.End("content " + id.String())
	}
	return rec, nil
}

// bodiesOf returns the bodies that variants have of their own, each once.
func bodiesOf(id ContentID, value []byte) ([]*blob.Body, error) {
	var list []*blob.Body
	for i, n := 0, 1; i < n; i++ {
		rec, err := decodeContent(id, value, i)
		if err != nil {
			return nil, err
		}
		n = rec.variants
		if b := rec.variant.Body; b != nil && !slices.ContainsFunc(list, func(have *blob.Body) bool { return have.Number == b.Number }) {
			list = append(list, b)
		}
	}
	return list, nil
}

func readContent(ctx context.Context, r kv.Reader, id ContentID, variant int) (*contentRec, error) {
	value, err := r.Get(ctx, contentKey(contentRecord, id))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, fmt.Errorf("read content %s: %w", id, ErrNoContent)
	}
	if err != nil {
		return nil, fmt.Errorf("read content %s: %w", id, err)
	}
	return decodeContent(id, value, variant)
}

// readSummary returns the stored form of the variant's structure.
func (rec *contentRec) readSummary(ctx context.Context, r kv.Reader) ([]byte, error) {
	if len(rec.summary) > 0 {
		return rec.summary, nil
	}
	return r.Get(ctx, append(contentKey(contentSummary, rec.info.ID), byte(rec.info.Variant)))
}

// ContentInfo reads what Prepared.Info returned.
func (s *Store) ContentInfo(ctx context.Context, id ContentID, variant int) (ContentInfo, error) {
	rec, err := readContent(ctx, s.engine, id, variant)
	if err != nil {
		return ContentInfo{}, err
	}
	return rec.info, nil
}
