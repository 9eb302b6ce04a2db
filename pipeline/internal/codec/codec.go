// Package codec is the binary form in which the pipeline keeps its own records
// (traces, queue entries): strings are an unsigned varint length and octets,
// times are varint nanoseconds since 1970, lists are a length and their items.
// JSON would take ten times as long, and these records are written for each
// message. Decoding never allocates more than its input holds.
package codec

import (
	"encoding/binary"
	"errors"
	"math"
	"time"
)

// ErrForm is the error of a Decoder whose input is not what was expected.
var ErrForm = errors.New("not a stored record of a form that this version reads")

// AppendString appends s.
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

// Decoder reads what the Append functions wrote. After the first error it returns
// zero values; Err tells.
type Decoder struct {
	rest []byte
	err  error
}

// NewDecoder returns a decoder of b.
func NewDecoder(b []byte) *Decoder { return &Decoder{rest: b} }

// Err returns ErrForm if anything was amiss so far.
func (d *Decoder) Err() error { return d.err }

func (d *Decoder) fail() { d.rest, d.err = nil, ErrForm }

// Form reads the octet that every record begins with.
func (d *Decoder) Form(want byte) {
	if d.Octet() != want {
		d.fail()
	}
}

// Octet reads one octet.
func (d *Decoder) Octet() byte {
	if len(d.rest) == 0 {
		d.fail()
		return 0
	}
	c := d.rest[0]
	d.rest = d.rest[1:]
	return c
}

// Bool reads what AppendBool wrote.
func (d *Decoder) Bool() bool { return d.Octet() != 0 }

// Varint reads a signed number.
func (d *Decoder) Varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// Count reads a length, which can't be more than the octets that are left.
func (d *Decoder) Count() int {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > uint64(len(d.rest)-n) {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return int(v)
}

// String reads what AppendString wrote.
func (d *Decoder) String() string {
	n := d.Count()
	if d.err != nil {
		return ""
	}
	s := string(d.rest[:n])
	d.rest = d.rest[n:]
	return s
}

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

// Octets reads n octets into a copy.
func (d *Decoder) Octets(n int) []byte {
	if len(d.rest) < n {
		d.fail()
		return make([]byte, n)
	}
	b := append([]byte(nil), d.rest[:n]...)
	d.rest = d.rest[n:]
	return b
}

// Float reads what AppendFloat wrote.
func (d *Decoder) Float() float64 {
	return math.Float64frombits(binary.LittleEndian.Uint64(d.Octets(8)))
}

// Time reads what AppendTime wrote.
func (d *Decoder) Time() time.Time {
	n := d.Varint()
	if n == math.MinInt64 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
