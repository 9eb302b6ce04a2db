package storage

import (
	"encoding/binary"
	"time"

	"github.com/sluicemail/sluice/storage/codec"
)

// recordVersion is the first octet of every value that this package encodes.
const recordVersion = 1

// decode begins to read a value of this package.
func decode(value []byte) codec.Decoder { return codec.Record(value, recordVersion) }

func readID(d *codec.Decoder) (i ID) {
	copy(i[:], d.Take(len(i)))
	return i
}

// appendDate writes seconds since 1970 and the zone in minutes east of Greenwich: INTERNALDATE keeps both (RFC 9051
// section 2.3.3).
func appendDate(b []byte, t time.Time) []byte {
	_, east := t.Zone()
	b = binary.AppendVarint(b, t.Unix())
	return binary.AppendVarint(b, int64(east/60))
}

func readDate(d *codec.Decoder) time.Time {
	unix, east := d.Int(), d.Int()
	if east < -24*60 || east > 24*60 {
		d.Fail()
		return time.Time{}
	}
	if east == 0 {
		return time.Unix(unix, 0).UTC()
	}
	return time.Unix(unix, 0).In(time.FixedZone("", int(east)*60))
}
