package blob

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"

	"github.com/sluicemail/sluice/storage/codec"
)

// Variant says how octets differ from those that arrived, which never change
// (RULES A4): fields in front, parts of the header replaced, and another body. The
// zero Variant is what arrived.
type Variant struct {
	Front []byte
	Edits []Edit // ascending, not overlapping, before the body if that is another one
	Body  *Body  // nil: the base's
}

// Edit replaces Len octets at Off of the base with With; an empty With deletes.
type Edit struct {
	Off, Len int64
	With     []byte
}

// Body is octets that stand in place of all those of the base from Off on.
type Body struct {
	Number uint8 // which of the content's bodies; variants with the same one share it
	Off    int64
	Ref    Ref // where it is; before it is durable its Size alone counts

	// From is the octets that Ref names, while somebody reads them; it is not stored.
	// Of a variant that is not stored yet it is a *Draft.
	From io.ReaderAt
}

// NewBody returns a body that is complete and belongs to nobody yet. The draft goes on
// belonging to the caller.
func NewBody(off int64, d *Draft) *Body {
	return &Body{Off: off, Ref: Ref{Size: d.Size()}, From: d}
}

// The stored form of a Variant begins with a version and flags.
const (
	variantVersion = 1
	variantBody    = 1 // flag: a body follows the edits
)

// The bounds of a Variant; a message's header is smaller.
const (
	maxEdits = 10000
	maxFront = 1 << 20
)

// IsZero says that v is the base as it is.
func (v Variant) IsZero() bool { return len(v.Front) == 0 && len(v.Edits) == 0 && v.Body == nil }

// AppendBinary appends the stored form of v: version, flags, Front with its
// length, the number of edits, and of each the distance from the end of the one
// before, Len, and With with its length; then, with its flag, the body: number, Off
// and Ref. Numbers are varints, but for the body's, which is an octet.
func (v Variant) AppendBinary(b []byte) []byte {
	flags := byte(0)
	if v.Body != nil {
		flags = variantBody
	}
	b = append(b, variantVersion, flags)
	b = codec.AppendBytes(b, v.Front)
	b = binary.AppendUvarint(b, uint64(len(v.Edits)))
	end := int64(0)
	for _, e := range v.Edits {
		b = binary.AppendUvarint(b, uint64(e.Off-end))
		b = binary.AppendUvarint(b, uint64(e.Len))
		b = codec.AppendBytes(b, e.With)
		end = e.Off + e.Len
	}
	if v.Body != nil {
		b = binary.AppendUvarint(append(b, v.Body.Number), uint64(v.Body.Off))
		b = v.Body.Ref.AppendBinary(b)
	}
	return b
}

// DecodeVariant reads what AppendBinary wrote. The Variant shares memory with b.
func DecodeVariant(b []byte) (Variant, error) {
	d := codec.New(b)
	version, flags := d.Octet(), d.Octet()
	if version != variantVersion || flags&^variantBody != 0 {
		return Variant{}, fmt.Errorf("decode variant: this release does not know version %d with flags %#x: %w", version, flags, codec.ErrDamaged)
	}
	v := Variant{Front: readPatch(&d)}
	n := d.Count() // an edit takes three octets
	if n > maxEdits {
		d.Fail()
		n = 0
	}
	if n > 0 {
		v.Edits = make([]Edit, 0, n)
	}
	end := int64(0)
	for range n {
		e := Edit{Off: end + int64(d.UpTo(1<<48)), Len: int64(d.UpTo(1 << 48)), With: readPatch(&d)}
		if end = e.Off + e.Len; end > 1<<60 {
			d.Fail()
		}
		v.Edits = append(v.Edits, e)
	}
	if flags&variantBody != 0 {
		v.Body = &Body{Number: d.Octet(), Off: int64(d.UpTo(1 << 48)), Ref: ReadRef(&d)}
		if end > v.Body.Off {
			d.Fail()
		}
	}
	if len(d.Rest()) > 0 {
		d.Fail()
	}
	if err := d.End("variant"); err != nil {
		return Variant{}, err
	}
	return v, nil
}

// readPatch reads octets to put in; none are nil.
func readPatch(d *codec.Decoder) []byte {
	p := d.Bytes()
	if len(p) > maxFront {
		d.Fail()
	}
	if len(p) == 0 {
		return nil
	}
	return p
}

// WithFront returns v with more octets before its own Front, such as the fields
// of one mailbox (Return-Path, Delivered-To). v is not changed.
func (v Variant) WithFront(front []byte) Variant {
	if len(front) > 0 {
		v.Front = slices.Concat(front, v.Front)
	}
	return v
}

// Size returns the number of octets of v over a base of that many.
func (v Variant) Size(base int64) int64 {
	size := base + int64(len(v.Front))
	if v.Body != nil {
		size += v.Body.Off - base + v.Body.Ref.Size
	}
	for _, e := range v.Edits {
		size += int64(len(e.With)) - e.Len
	}
	return size
}

// Validate says whether v can stand on a base of size octets.
func (v Variant) Validate(size int64) error {
	end := int64(0)
	if b := v.Body; b != nil {
		if b.Off < 0 || b.Off > size || b.Ref.Size < 0 {
			return fmt.Errorf("variant: a body of %d octets at %d does not fit a base of %d", b.Ref.Size, b.Off, size)
		}
		size = b.Off
	}
	for i, e := range v.Edits {
		if e.Off < end || e.Len < 0 || e.Off > size || e.Len > size-e.Off {
			return fmt.Errorf("variant: edit %d of %d octets at %d does not fit a base of %d", i, e.Len, e.Off, size)
		}
		end = e.Off + e.Len
	}
	return nil
}

// Reader reads v over a base of size octets without copying it. It is safe for
// use from several goroutines if base is.
func (v Variant) Reader(base io.ReaderAt, size int64) (*VariantReader, error) {
	if err := v.Validate(size); err != nil {
		return nil, err
	}
	r := &VariantReader{base: base}
	if v.Body != nil {
		if r.body = v.Body.From; r.body == nil {
			return nil, errors.New("variant: its body is not open")
		}
		size = v.Body.Off
	}
	r.pieces = r.few[:0]
	r.add(piece{mem: v.Front}, int64(len(v.Front)))
	pos := int64(0)
	for _, e := range v.Edits {
		r.add(piece{off: pos}, e.Off-pos)
		r.add(piece{mem: e.With}, int64(len(e.With)))
		pos = e.Off + e.Len
	}
	r.add(piece{off: pos}, size-pos)
	if v.Body != nil {
		r.add(piece{off: inBody}, v.Body.Ref.Size)
	}
	return r, nil
}

// VariantReader is the octets of a Variant.
type VariantReader struct {
	base   io.ReaderAt
	body   io.ReaderAt // nil: the base's
	pieces []piece
	few    [4]piece // pieces, as long as they are few
	size   int64
}

// piece is a run of octets, in memory, in the base or in another body.
type piece struct {
	at  int64  // where it begins in the whole
	mem []byte // nil: in the base, or the body
	off int64  // there, or inBody: all of the body
}

const inBody = -1

func (r *VariantReader) add(p piece, n int64) {
	if n > 0 {
		p.at = r.size
		r.pieces = append(r.pieces, p)
		r.size += n
	}
}

// Size returns the number of octets.
func (r *VariantReader) Size() int64 { return r.size }

// Section returns a reader of n octets from off on.
func (r *VariantReader) Section(off, n int64) *io.SectionReader {
	return io.NewSectionReader(r, off, n)
}

// ReadAt implements io.ReaderAt.
func (r *VariantReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read variant: negative offset %d", off)
	}
	if off >= r.size {
		return 0, io.EOF
	}
	i := sort.Search(len(r.pieces), func(i int) bool { return r.pieces[i].at > off }) - 1
	n := 0
	for ; i < len(r.pieces) && n < len(p); i++ {
		end := r.size
		if i+1 < len(r.pieces) {
			end = r.pieces[i+1].at
		}
		skip := off + int64(n) - r.pieces[i].at
		want := p[n:min(int64(len(p)), int64(n)+end-r.pieces[i].at-skip)]
		k, err := r.readPiece(r.pieces[i], skip, want)
		n += k
		if err != nil {
			return n, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (r *VariantReader) readPiece(pc piece, skip int64, p []byte) (int, error) {
	if pc.mem != nil {
		return copy(p, pc.mem[skip:]), nil
	}
	from, off := r.base, pc.off+skip
	if pc.off == inBody {
		from, off = r.body, skip
	}
	n, err := from.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if err == nil || err == io.EOF { // it is shorter than was said
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
