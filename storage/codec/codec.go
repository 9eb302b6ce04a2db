// Package codec is the binary form of the records of the store and of the pipeline: numbers are varints, strings are a length
// and octets, lists a length and their items, and the first octet of a record is the version of its form. JSON would take
// ten times as long, and these records are written for each message.
//
// A Decoder reads untrusted octets: a disk may be damaged. It never panics, never allocates more than its input
// holds, and after the first thing amiss returns zero values until its end, so that a record is read without an error check at
// each field. (storage/mime reads its summaries by itself: their strings share one copy of the whole.)
package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// ErrDamaged is wrapped by every error about a value that cannot be read.
var ErrDamaged = errors.New("the stored value is damaged")

// AppendBytes appends v and its length.
func AppendBytes(b, v []byte) []byte { return append(binary.AppendUvarint(b, uint64(len(v))), v...) }

// AppendString appends s and its length.
func AppendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// AppendStrings appends a list.
func AppendStrings(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = AppendString(b, s)
	}
	return b
}

// AppendFloat appends the 8 octets of f.
func AppendFloat(b []byte, f float64) []byte {
	return binary.LittleEndian.AppendUint64(b, math.Float64bits(f))
}

// AppendTime appends t to the nanosecond; the zero Time stays the zero Time.
func AppendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.AppendVarint(b, math.MinInt64)
	}
	return binary.AppendVarint(b, t.UnixNano())
}

// AppendBool appends one octet.
func AppendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// Decoder reads what the Append functions and those of encoding/binary wrote.
type Decoder struct {
	rest []byte
	bad  bool
}

// New begins to read octets.
func New(b []byte) Decoder { return Decoder{rest: b} }

// Record begins to read a record of a form.
func Record(value []byte, form byte) Decoder {
	d := Decoder{rest: value}
	if d.Octet() != form {
		d.Fail()
	}
	return d
}

// Rest returns what was not read yet.
func (d *Decoder) Rest() []byte { return d.rest }

// Bad reports whether anything was amiss so far.
func (d *Decoder) Bad() bool { return d.bad }

// Fail says that something is amiss with what was read.
func (d *Decoder) Fail() { d.rest, d.bad = nil, true }

// End returns an error if anything was amiss; what names the record.
func (d *Decoder) End(what string) error {
	if d.bad {
		return fmt.Errorf("read %s: %w", what, ErrDamaged)
	}
	return nil
}

// Octet reads one octet.
func (d *Decoder) Octet() byte {
	if len(d.rest) == 0 {
		d.Fail()
		return 0
	}
	c := d.rest[0]
	d.rest = d.rest[1:]
	return c
}

// Bool reads what AppendBool wrote.
func (d *Decoder) Bool() bool { return d.Octet() != 0 }

// Uint reads an unsigned number.
func (d *Decoder) Uint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.Fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// UpTo reads an unsigned number that is at most limit.
func (d *Decoder) UpTo(limit uint64) uint64 {
	v := d.Uint()
	if v > limit {
		d.Fail()
		return 0
	}
	return v
}

// Uint32 reads a number of 32 bits.
func (d *Decoder) Uint32() uint32 { return uint32(d.UpTo(math.MaxUint32)) }

// Size reads a number of octets.
func (d *Decoder) Size() int64 { return int64(d.UpTo(1 << 62)) }

// Count reads a length, which cannot be more than the octets that are left.
func (d *Decoder) Count() int {
	v := d.Uint()
	if v > uint64(len(d.rest)) {
		d.Fail()
		return 0
	}
	return int(v)
}

// Int reads a signed number.
func (d *Decoder) Int() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.Fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// Take returns the next n octets of the input itself, not a copy.
func (d *Decoder) Take(n int) []byte {
	if n < 0 || n > len(d.rest) {
		d.Fail()
		return nil
	}
	out := d.rest[:n:n]
	d.rest = d.rest[n:]
	return out
}

// Bytes reads what AppendBytes wrote: octets of the input itself.
func (d *Decoder) Bytes() []byte { return d.Take(d.Count()) }

// String reads what AppendString wrote.
func (d *Decoder) String() string { return string(d.Bytes()) }

// Strings reads what AppendStrings wrote; the empty list is nil.
func (d *Decoder) Strings() []string {
	n := d.Count()
	if n == 0 {
		return nil
	}
	list := make([]string, 0, n)
	for range n {
		list = append(list, d.String())
	}
	return list
}

// Float reads what AppendFloat wrote.
func (d *Decoder) Float() float64 {
	b := d.Take(8)
	if b == nil {
		return 0
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(b))
}

// Time reads what AppendTime wrote.
func (d *Decoder) Time() time.Time {
	n := d.Int()
	if n == math.MinInt64 || d.bad {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
