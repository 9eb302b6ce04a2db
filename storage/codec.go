package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// recordVersion is the first octet of every value that this package encodes.
const recordVersion = 1

// errCorrupt is wrapped by every error about a value that cannot be read.
var errCorrupt = errors.New("the stored value is damaged")

// decoder reads a value; after the first problem it reads zeros and bad is set.
type decoder struct {
	b   []byte
	bad bool
}

// decode begins to read a value of this package.
func decode(value []byte) decoder {
	d := decoder{b: value}
	if v := d.byte(); v != recordVersion {
		d.bad = true
	}
	return d
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.bad = true
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint32() uint32 {
	v := d.uint()
	if v > 1<<32-1 {
		d.bad = true
	}
	return uint32(v)
}

func (d *decoder) size() int64 {
	v := d.uint()
	if v > 1<<62 {
		d.bad = true
		return 0
	}
	return int64(v)
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) id() (i ID) {
	copy(i[:], d.take(len(i)))
	return i
}

// take returns the next n octets of the value itself, not a copy.
func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.bad, d.b = true, nil
		return nil
	}
	out := d.b[:n:n]
	d.b = d.b[n:]
	return out
}

// bytes reads a length and that many octets.
func (d *decoder) bytes() []byte {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	return d.take(int(n))
}

// end reports damage; what names the value.
func (d *decoder) end(what string) error {
	if d.bad {
		return fmt.Errorf("read %s: %w", what, errCorrupt)
	}
	return nil
}

func appendBytes(b, v []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

func appendString(b []byte, v string) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

// appendDate writes seconds since 1970 and the zone in minutes east of Greenwich: INTERNALDATE keeps both (RFC 9051
// section 2.3.3).
func appendDate(b []byte, t time.Time) []byte {
	_, east := t.Zone()
	b = binary.AppendVarint(b, t.Unix())
	return binary.AppendVarint(b, int64(east/60))
}

func (d *decoder) date() time.Time {
	unix, east := d.int(), d.int()
	if east < -24*60 || east > 24*60 {
		d.bad = true
		return time.Time{}
	}
	if east == 0 {
		return time.Unix(unix, 0).UTC()
	}
	return time.Unix(unix, 0).In(time.FixedZone("", int(east)*60))
}
