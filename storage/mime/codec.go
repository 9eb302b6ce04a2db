package mime

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// The stored form of a Summary, FORMAT 1: one octet with the format, then
//
//	parser version, flags (1: opaque), defects, size
//	envelope, references (count, strings), root part, preview
//
// Numbers are unsigned varints, strings are a length and octets. Offsets of a
// part are distances: header start from the start of the enclosing part's
// header, body start from header start, body end from body start.
const codecFormat = 1

// Bounds of Decode: generous against Limits, so that stored summaries of other
// limits still read, and small enough that hostile bytes cost nothing.
const (
	maxDecodeDepth = 500
	maxDecodeParts = 100000
)

var errCorrupt = errors.New("decode summary: corrupt")

// AppendBinary appends the stored form of s to b.
func (s *Summary) AppendBinary(b []byte) ([]byte, error) {
	if s.Root == nil {
		return b, errors.New("encode summary: no root part")
	}
	var flags uint64
	if s.Opaque {
		flags |= 1
	}
	b = append(b, codecFormat, s.Version)
	b = putUint(b, flags)
	b = putUint(b, uint64(s.Defects))
	b = putUint(b, uint64(s.Size))
	b = putEnvelope(b, &s.Envelope)
	b = putStrings(b, s.References)
	b = putPart(b, s.Root, 0)
	return putString(b, s.Preview), nil
}

func putUint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

func putString(b []byte, s string) []byte { return append(putUint(b, uint64(len(s))), s...) }

func putStrings(b []byte, list []string) []byte {
	b = putUint(b, uint64(len(list)))
	for _, s := range list {
		b = putString(b, s)
	}
	return b
}

func putParams(b []byte, list []Param) []byte {
	b = putUint(b, uint64(len(list)))
	for _, p := range list {
		b = putString(putString(b, p.Name), p.Value)
	}
	return b
}

func putEnvelope(b []byte, e *Envelope) []byte {
	b = append(b, byte(e.Present))
	b = putString(putString(b, e.Date), e.Subject)
	for _, list := range [...][]Address{e.From, e.Sender, e.ReplyTo, e.To, e.Cc, e.Bcc} {
		b = putUint(b, uint64(len(list)))
		for i := range list {
			a := &list[i]
			b = putString(putString(putString(putString(b, a.Name), a.Route), a.Mailbox), a.Host)
		}
	}
	return putString(putString(b, e.InReplyTo), e.MessageID)
}

// Bits of a part's first octet: most parts have few of these.
const (
	partHasExtras = 1 << iota // ID, description, disposition, language, location, MD5
	partEmbedded
	partChildren
)

func putPart(b []byte, p *Part, parent int64) []byte {
	var bits byte
	if p.ID+p.Description+p.Disposition+p.Location+p.MD5 != "" || len(p.Language)+len(p.DispositionParams) > 0 {
		bits |= partHasExtras
	}
	if p.Embedded != nil {
		bits |= partEmbedded
	}
	if len(p.Children) > 0 {
		bits |= partChildren
	}
	b = append(b, bits)
	b = putString(putString(putString(b, p.Type), p.Subtype), p.Encoding)
	b = putParams(b, p.Params)
	b = putUint(b, uint64(p.HeaderStart-parent))
	b = putUint(b, uint64(p.BodyStart-p.HeaderStart))
	b = putUint(b, uint64(p.BodyEnd-p.BodyStart))
	b = putUint(b, uint64(p.Lines))
	if bits&partHasExtras != 0 {
		b = putString(putString(putString(b, p.ID), p.Description), p.Disposition)
		b = putParams(b, p.DispositionParams)
		b = putStrings(b, p.Language)
		b = putString(putString(b, p.Location), p.MD5)
	}
	if bits&partEmbedded != 0 {
		b = putEnvelope(b, p.Embedded)
	}
	if bits&partChildren != 0 {
		b = putUint(b, uint64(len(p.Children)))
		for _, c := range p.Children {
			b = putPart(b, c, p.HeaderStart)
		}
	}
	return b
}

// Decode reads the stored form. The Summary does not refer to b afterwards. Every
// range in it lies inside the size in it; whether that is the size of the
// message is for the caller to know.
func Decode(b []byte) (*Summary, error) {
	d := decoding{s: string(b)}
	if f := d.octet(); f != codecFormat {
		if d.bad {
			return nil, errCorrupt
		}
		return nil, fmt.Errorf("decode summary: unknown format %d", f)
	}
	s := &Summary{Version: d.octet()}
	s.Opaque = d.uint()&1 != 0
	s.Defects = Defects(d.uint())
	s.Size = d.int()
	d.envelope(&s.Envelope)
	s.References = d.strings()
	s.Root = &Part{}
	d.part(s.Root, 0, s.Size, 0)
	s.Preview = d.string()
	if d.bad || len(d.s) > 0 {
		return nil, errCorrupt
	}
	return s, nil
}

// decoding eats s from the front; after the first fault everything is zero.
type decoding struct {
	s     string
	bad   bool
	parts int
}

func (d *decoding) fail() {
	d.bad, d.s = true, ""
}

func (d *decoding) octet() byte {
	if len(d.s) == 0 {
		d.fail()
		return 0
	}
	c := d.s[0]
	d.s = d.s[1:]
	return c
}

func (d *decoding) uint() uint64 {
	var v uint64
	for i := 0; i < len(d.s) && i < binary.MaxVarintLen64; i++ {
		c := d.s[i]
		if i == binary.MaxVarintLen64-1 && c > 1 {
			break
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.s = d.s[i+1:]
			return v
		}
	}
	d.fail()
	return 0
}

func (d *decoding) int() int64 {
	v := d.uint()
	if v > math.MaxInt64 {
		d.fail()
		return 0
	}
	return int64(v)
}

// count reads the length of a list whose members take at least size octets each.
func (d *decoding) count(size int) int {
	n := d.uint()
	if n > uint64(len(d.s)/size) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoding) string() string {
	n := d.count(1)
	s := d.s[:n]
	d.s = d.s[n:]
	return s
}

func (d *decoding) strings() []string {
	n := d.count(1)
	if n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = d.string()
	}
	return list
}

func (d *decoding) params() []Param {
	n := d.count(2)
	if n == 0 {
		return nil
	}
	list := make([]Param, n)
	for i := range list {
		list[i] = Param{Name: d.string(), Value: d.string()}
	}
	return list
}

func (d *decoding) envelope(e *Envelope) {
	e.Present = Present(d.octet())
	e.Date, e.Subject = d.string(), d.string()
	for _, list := range [...]*[]Address{&e.From, &e.Sender, &e.ReplyTo, &e.To, &e.Cc, &e.Bcc} {
		n := d.count(4)
		if n == 0 {
			continue
		}
		*list = make([]Address, n)
		for i := range *list {
			(*list)[i] = Address{Name: d.string(), Route: d.string(), Mailbox: d.string(), Host: d.string()}
		}
	}
	e.InReplyTo, e.MessageID = d.string(), d.string()
}

// distance adds what it reads to from; the sum stays within limit.
func (d *decoding) distance(from, limit int64) int64 {
	v := d.int()
	if v > limit-from {
		d.fail()
		return from
	}
	return from + v
}

func (d *decoding) part(p *Part, parent, limit int64, depth int) {
	if d.parts++; depth > maxDecodeDepth || d.parts > maxDecodeParts {
		d.fail()
		return
	}
	bits := d.octet()
	p.Type, p.Subtype, p.Encoding = d.string(), d.string(), d.string()
	p.Params = d.params()
	p.HeaderStart = d.distance(parent, limit)
	p.BodyStart = d.distance(p.HeaderStart, limit)
	p.BodyEnd = d.distance(p.BodyStart, limit)
	p.Lines = d.int()
	if bits&partHasExtras != 0 {
		p.ID, p.Description, p.Disposition = d.string(), d.string(), d.string()
		p.DispositionParams = d.params()
		p.Language = d.strings()
		p.Location, p.MD5 = d.string(), d.string()
	}
	if bits&partEmbedded != 0 {
		p.Embedded = &Envelope{}
		d.envelope(p.Embedded)
	}
	if bits&partChildren != 0 {
		d.children(p, limit, depth)
	}
	d.check(p, bits)
}

func (d *decoding) children(p *Part, limit int64, depth int) {
	n := d.count(8)
	if n == 0 {
		d.fail()
		return
	}
	parts := make([]Part, n)
	p.Children = make([]*Part, n)
	for i := range parts {
		p.Children[i] = &parts[i]
		d.part(&parts[i], p.HeaderStart, limit, depth+1)
		if d.bad {
			return
		}
	}
}

// check holds the shape that writers of BODYSTRUCTURE rely on: a multipart has
// children, an embedded message has exactly one.
func (d *decoding) check(p *Part, bits byte) {
	multi, embedded := p.Type == "multipart", p.Embedded != nil
	switch {
	case bits&^(partHasExtras|partEmbedded|partChildren) != 0,
		multi && (embedded || len(p.Children) == 0),
		embedded && len(p.Children) != 1,
		!multi && !embedded && len(p.Children) > 0,
		p.Type == "" || p.Subtype == "":
		d.fail()
	}
}
