package imap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	goimap "github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/mime"
)

// How many messages are read before their answers are written.
const (
	fetchRecords = 500 // flags, dates, sizes
	fetchParsed  = 50  // with a structure or content
)

// Fetch answers FETCH (RFC 3501 section 6.4.5). It writes to the wire itself: the
// library's writer sends an envelope of its own making and a flush a message, and
// holds its lock if one is left open (LIBRARIES 2.4, traps 3, 8, 13, 14).
func (s *session) Fetch(w *imapserver.FetchWriter, set goimap.NumSet, o *goimap.FetchOptions) error {
	box, err := s.current(false)
	if err != nil {
		return err
	}
	p, err := newPlan(w, o, box.readOnly)
	if err != nil {
		return err
	}
	spans, err := resolve(box.seq, set)
	if err != nil {
		return err
	}
	f := &fetcher{s: s, box: box, plan: p, buf: outBuffers.Get().(*[]byte)}
	f.enc = encoder{b: *f.buf, utf8: s.lib.EnabledCaps().Has(goimap.CapUTF8Accept)}
	defer f.release()
	limit := fetchRecords
	if p.parsed() || len(p.items) > 0 {
		limit = fetchParsed
	}
	if err := eachPiece(box.seq, spans, limit, f.piece); err != nil {
		return s.fail("fetch", err)
	}
	if err := f.flush(); err != nil {
		return err
	}
	switch _, byUID := set.(goimap.UIDSet); {
	case f.undecoded:
		return no(goimap.ResponseCodeUnknownCTE, "The encoding of a part is not known") // RFC 3516 section 4.3
	case f.missing && !byUID: // RFC 5530; RFC 3501 section 6.4.8 for UIDs
		return no("EXPUNGEISSUED", "Some of these messages are gone")
	}
	return nil
}

// fetcher carries out one FETCH.
type fetcher struct {
	s         *session
	box       *selected
	plan      *plan
	enc       encoder
	buf       *[]byte
	missing   bool // a message was expunged by another session
	undecoded bool // a BINARY of unknown encoding
	first     bool // nothing was written of the current message
}

func (f *fetcher) release() {
	*f.buf = (*f.buf)[:0]
	outBuffers.Put(f.buf)
}

// flush gives the wire what was written so far.
func (f *fetcher) flush() error {
	err := f.s.w.send(f.enc.b)
	if cap(f.enc.b) > outSize { // grown by a long structure
		f.enc.b = *f.buf
	}
	f.enc.b = f.enc.b[:0]
	return err
}

// record is one message to answer for.
type record struct {
	*storage.Message
	sum  *mime.Summary
	told bool // its flags are news to the client
}

// piece answers for some UIDs. Nothing is written before all that was read is
// durable.
func (f *fetcher) piece(uids []storage.UID) error {
	ctx, cancel := f.s.command()
	defer cancel()
	var changed []storage.UID
	if f.plan.seen {
		_, err := f.s.srv.o.Store.Update(ctx, f.s.account, func(tx *storage.Tx) error {
			res, err := tx.StoreFlags(f.box.id, uids, storage.FlagsAdd, storage.Flags{System: storage.Seen}, ^storage.ModSeq(0))
			changed = res.Changed
			f.box.noteOwn(res.ModSeq)
			return err
		})
		if err != nil {
			return err
		}
	}
	records := make([]record, 0, len(uids))
	err := f.s.view(ctx, func(v *storage.View) error {
		return v.MessagesOf(f.box.id, uids, func(m *storage.Message) (bool, error) {
			r := record{Message: m.Clone()}
			_, r.told = slices.BinarySearch(changed, m.UID)
			if len(f.plan.items) == 0 && f.plan.parsed() { // otherwise the content is opened, which knows it
				var err error
				if r.sum, err = v.Summary(m); err != nil {
					return false, err
				}
			}
			records = append(records, r)
			return true, nil
		})
	})
	if err != nil {
		return err
	}
	f.missing = f.missing || len(records) < len(uids)
	for i := range records {
		if err := f.one(&records[i]); err != nil {
			return err
		}
		records[i] = record{}
	}
	return nil
}

// one answers for one message.
func (f *fetcher) one(r *record) error {
	at, ok := f.box.seq.Index(r.UID)
	if !ok {
		return nil
	}
	if len(f.plan.items) == 0 {
		f.metadata(r, at+1)
		f.enc.raw(")\r\n")
		return f.maybeFlush()
	}
	ctx, cancel := f.s.command()
	defer cancel()
	c, err := f.s.srv.o.Store.Open(ctx, r.Message)
	if errors.Is(err, storage.ErrNoContent) { // expunged and collected meanwhile
		f.missing = true
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	if f.plan.parsed() {
		if r.sum, err = c.Summary(ctx); err != nil {
			return err
		}
	}
	sources := make([]source, len(f.plan.items))
	for i := range f.plan.items {
		sources[i], err = find(ctx, &f.plan.items[i], r.sum, c)
		if errors.Is(err, mime.ErrUnknownEncoding) {
			f.undecoded = true
			return nil
		}
		if err != nil {
			return err
		}
	}
	f.metadata(r, at+1)
	for i := range sources {
		if err := f.content(&f.plan.items[i], &sources[i]); err != nil {
			// The client counts on octets that do not come: the stream is lost.
			f.s.srv.o.Logger.Error("imap: send a message", "account", f.s.address, "uid", r.UID, "why", err)
			f.s.w.cut()
			return err
		}
	}
	f.enc.raw(")\r\n")
	return f.maybeFlush()
}

func (f *fetcher) maybeFlush() error {
	if len(f.enc.b) < outSize*3/4 {
		return nil
	}
	return f.flush()
}

// metadata begins the response with what is known without the content. UID comes
// only if asked for: some clients read by position.
func (f *fetcher) metadata(r *record, num int) {
	e, p := &f.enc, f.plan
	e.raw("* ")
	e.int(int64(num))
	e.raw(" FETCH (")
	f.first = true
	if p.uid {
		f.name("UID")
		e.int(int64(r.UID))
	}
	if p.flags || r.told {
		f.name("FLAGS")
		e.b = appendFlags(e.b, r.Flags)
	}
	if p.date {
		f.name("INTERNALDATE")
		e.b = r.InternalDate.AppendFormat(e.b, `"_2-Jan-2006 15:04:05 -0700"`)
	}
	if p.size {
		f.name("RFC822.SIZE")
		e.int(r.Size)
	}
	if p.envelope {
		f.name("ENVELOPE")
		e.envelope(&r.sum.Envelope)
	}
	if p.body {
		f.name("BODY")
		e.body(r.sum.Root, false)
	}
	if p.bodyStructure {
		f.name("BODYSTRUCTURE")
		e.body(r.sum.Root, true)
	}
}

// name writes the name of an item and what separates it from the one before.
func (f *fetcher) name(s string) {
	if !f.first {
		f.enc.byte(' ')
	}
	f.first = false
	f.enc.raw(s)
	f.enc.byte(' ')
}

// source is where the octets of an item come from.
type source struct {
	absent bool // NIL
	size   int64
	reader io.Reader
}

// find locates an item in the message c. Nothing of it is read yet, but for
// header fields and the size of what has to be decoded.
func find(ctx context.Context, it *item, sum *mime.Summary, c *storage.Content) (source, error) {
	ranges, err := mime.Ranges{{Off: 0, Len: c.Size()}}, error(nil)
	if !it.whole() {
		ranges, err = sum.Find(c, c.Front(), it.section)
	}
	if errors.Is(err, mime.ErrNoSection) {
		return source{absent: true}, nil
	}
	if err != nil {
		return source{}, fmt.Errorf("find section: %w", err)
	}
	if it.binary && len(it.section.Path) > 0 {
		return findBinary(ctx, it, sum, ranges, c)
	}
	if it.partial != nil {
		ranges = ranges.Partial(it.partial.Offset, it.partial.Size)
	}
	return source{size: ranges.Size(), reader: ranges.Reader(c)}, nil
}

// findBinary decodes a part (RFC 3516). Its size is only known once it was
// decoded, so that is done twice.
func findBinary(ctx context.Context, it *item, sum *mime.Summary, ranges mime.Ranges, c *storage.Content) (source, error) {
	part, err := sum.Part(it.section.Path)
	if err != nil {
		return source{absent: true}, nil
	}
	encoding := part.Encoding
	if len(part.Children) > 0 { // multiparts and messages are not encoded (RFC 2045 section 6.4)
		encoding = ""
	}
	r, err := mime.Decoder(encoding, ranges.Reader(c))
	if err != nil {
		return source{}, err
	}
	size, err := io.Copy(io.Discard, contextReader{ctx, r})
	if err != nil {
		return source{}, fmt.Errorf("decode part: %w", err)
	}
	if r, err = mime.Decoder(encoding, ranges.Reader(c)); err != nil {
		return source{}, err
	}
	if it.partial == nil {
		return source{size: size, reader: r}, nil
	}
	off := min(it.partial.Offset, size)
	if _, err := io.CopyN(io.Discard, r, off); err != nil {
		return source{}, fmt.Errorf("decode part: %w", err)
	}
	return source{size: min(it.partial.Size, size-off), reader: r}, nil
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// content writes one item. After an error the stream is out of step.
func (f *fetcher) content(it *item, src *source) error {
	e := &f.enc
	name := it.name
	if it.partial != nil {
		name += "<" + strconv.FormatInt(it.partial.Offset, 10) + ">"
	}
	f.name(name)
	switch {
	case src.absent && it.sizeOf:
		e.byte('0')
		return nil
	case src.absent:
		e.nil()
		return nil
	case it.sizeOf:
		e.int(src.size)
		return nil
	case it.binary:
		e.byte('~') // literal8: it may hold NUL
	}
	e.byte('{')
	e.int(src.size)
	e.raw("}\r\n")
	return f.copy(src)
}

// copy streams src by way of the encoder's buffer.
func (f *fetcher) copy(src *source) error {
	for left := src.size; left > 0; {
		if cap(f.enc.b)-len(f.enc.b) < 4096 {
			if err := f.flush(); err != nil {
				return err
			}
		}
		b := f.enc.b
		room := b[len(b):cap(b)]
		n, err := io.ReadFull(src.reader, room[:min(int64(len(room)), left)])
		f.enc.b = b[:len(b)+n]
		if left -= int64(n); err != nil {
			return fmt.Errorf("read content with %d octets to go: %w", left, err)
		}
	}
	return nil
}
