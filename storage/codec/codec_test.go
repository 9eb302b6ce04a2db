package codec

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"testing"
	"time"
)

func sample() []byte {
	b := AppendBytes([]byte{7}, []byte("ab"))
	b = AppendStrings(AppendString(b, "c"), []string{"", "d"})
	b = AppendTime(AppendTime(b, time.Time{}), time.Unix(5, 6))
	b = AppendBool(AppendFloat(b, -1.5), true)
	return binary.AppendVarint(binary.AppendUvarint(b, 1<<32-1), -300)
}

func read(value []byte) ([]any, error) {
	d := Record(value, 7)
	out := []any{
		string(d.Bytes()), d.String(), d.Strings(), d.Time(), d.Time(), d.Float(), d.Bool(), d.Uint32(), d.Int(), len(d.Rest()),
	}
	return out, d.End("sample")
}

func TestRoundTrip(t *testing.T) {
	got, err := read(sample())
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []any{"ab", "c", nil, time.Time{}, time.Unix(5, 6).UTC(), -1.5, true, uint32(math.MaxUint32), int64(-300), 0} {
		if i != 2 && got[i] != want {
			t.Errorf("value %d: %v, want %v", i, got[i], want)
		}
	}
	if list := got[2].([]string); !slices.Equal(list, []string{"", "d"}) {
		t.Errorf("list %q", list)
	}
	for n := range len(sample()) {
		if _, err := read(sample()[:n]); !errors.Is(err, ErrDamaged) {
			t.Errorf("%d octets: %v", n, err)
		}
	}
	if _, err := read(append([]byte{8}, sample()[1:]...)); !errors.Is(err, ErrDamaged) {
		t.Errorf("another form: %v", err)
	}
}

// TestZeros: after the first thing amiss everything is zero, whatever follows.
func TestZeros(t *testing.T) {
	d := New([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1})
	if n := d.Count(); n != 0 || !d.Bad() {
		t.Errorf("a count of %d", n)
	}
	if d.Octet() != 0 || d.Uint() != 0 || d.Int() != 0 || d.Bytes() != nil || d.String() != "" || d.Strings() != nil ||
		d.Float() != 0 || !d.Time().IsZero() || d.Bool() || d.Uint32() != 0 || d.Size() != 0 || d.Take(1) != nil || len(d.Rest()) != 0 {
		t.Error("something is read after an error")
	}
	if d := New([]byte("abc")); d.Take(-1) != nil || !d.Bad() {
		t.Error("a negative number of octets")
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add(sample())
	f.Add([]byte{7, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, value []byte) {
		out, err := read(value)
		if err == nil && value[0] != 7 {
			t.Errorf("%x reads as %v", value, out)
		}
	})
}
