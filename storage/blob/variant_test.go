package blob

import (
	"bytes"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/sluicemail/sluice/storage/codec"
)

// plain makes the octets of v the slow way.
func plain(v Variant, base []byte) (all []byte) {
	out := bytes.Clone(v.Front)
	pos := int64(0)
	if v.Body != nil {
		base = base[:v.Body.Off]
		defer func() {
			body, _ := io.ReadAll(io.NewSectionReader(v.Body.From, 0, v.Body.Ref.Size))
			all = append(all, body...)
		}()
	}
	for _, e := range v.Edits {
		out = append(append(out, base[pos:e.Off]...), e.With...)
		pos = e.Off + e.Len
	}
	return append(out, base[pos:]...)
}

func TestVariant(t *testing.T) {
	const base = "From: a\r\nSubject: old\r\nX-Sluice-Forged: yes\r\n\r\nbody\r\n"
	for _, c := range []struct {
		name, want string
		v          Variant
	}{
		{"zero", base, Variant{}},
		{"front", "Received: x\r\n" + base, Variant{Front: []byte("Received: x\r\n")}},
		{"delete", "From: a\r\nSubject: old\r\n\r\nbody\r\n", Variant{Edits: []Edit{{23, 22, nil}}}},
		{"replace", "From: a\r\nSubject: [JUNK] old\r\n\r\nbody\r\n", Variant{Edits: []Edit{
			{18, 3, []byte("[JUNK] old")}, {23, 22, nil},
		}}},
		{"insert at both ends", "1" + base + "2", Variant{Edits: []Edit{{0, 0, []byte("1")}, {int64(len(base)), 0, []byte("2")}}}},
		{"all gone", "", Variant{Edits: []Edit{{0, int64(len(base)), nil}}}},
		{"edits that touch", "Fromxyz" + base[9:], Variant{Edits: []Edit{{4, 2, []byte("x")}, {6, 3, []byte("yz")}}}},
	} {
		r, err := c.v.Reader(strings.NewReader(base), int64(len(base)))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got, err := io.ReadAll(r.Section(0, r.Size()))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
		if c.v.Size(int64(len(base))) != int64(len(c.want)) || r.Size() != int64(len(c.want)) {
			t.Errorf("%s: Size %d and %d, want %d", c.name, c.v.Size(int64(len(base))), r.Size(), len(c.want))
		}
		if c.v.IsZero() != (c.name == "zero") {
			t.Errorf("%s: IsZero = %v", c.name, c.v.IsZero())
		}
		back, err := DecodeVariant(c.v.AppendBinary([]byte{}))
		if err != nil || !reflect.DeepEqual(back, c.v) {
			t.Errorf("%s: DecodeVariant = %v, %v; want %v", c.name, back, err, c.v)
		}
		if _, err := DecodeVariant(append(c.v.AppendBinary(nil), 0)); err == nil {
			t.Errorf("%s: something behind it is read as nothing", c.name)
		}
	}
}

func TestVariantRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 500 {
		base := octets(rng.IntN(2000))
		v := Variant{Front: octets(rng.IntN(3) * rng.IntN(50))}
		for pos := int64(0); rng.IntN(6) > 0; {
			e := Edit{Off: pos + int64(rng.IntN(200)), Len: int64(rng.IntN(100)), With: octets(rng.IntN(2) * rng.IntN(80))}
			if pos = e.Off + e.Len; pos > int64(len(base)) {
				break
			}
			v.Edits = append(v.Edits, e)
		}
		r, err := v.Reader(bytes.NewReader(base), int64(len(base)))
		if err != nil {
			t.Fatal(err)
		}
		want := plain(v, base)
		if err := iotest.TestReader(r.Section(0, r.Size()), want); err != nil {
			t.Fatalf("%+v: %v", v, err)
		}
		for range 20 {
			off, p := rng.IntN(len(want)+10), make([]byte, rng.IntN(300))
			n, err := r.ReadAt(p, int64(off))
			rest := want[min(off, len(want)):]
			if full := len(p) <= len(rest); n != min(len(p), len(rest)) || !bytes.Equal(p[:n], rest[:n]) || full != (err == nil) && !(len(p) == 0 && len(rest) == 0) {
				t.Fatalf("ReadAt(%d, %d) = %d, %v of %d", len(p), off, n, err, len(want))
			}
		}
	}
}

func TestVariantRefuses(t *testing.T) {
	for _, v := range []Variant{
		{Edits: []Edit{{-1, 1, nil}}},
		{Edits: []Edit{{0, -1, nil}}},
		{Edits: []Edit{{9, 2, nil}}},
		{Edits: []Edit{{11, 0, nil}}},
		{Edits: []Edit{{5, 3, nil}, {7, 1, nil}}},
		{Edits: []Edit{{5, 1, nil}, {2, 1, nil}}},
		{Edits: []Edit{{1, 1<<63 - 1, nil}}},
	} {
		if _, err := v.Reader(strings.NewReader("0123456789"), 10); err == nil {
			t.Errorf("%+v works", v)
		}
	}
	r, err := Variant{}.Reader(strings.NewReader("short"), 10)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r.Section(0, 10)); err != io.ErrUnexpectedEOF {
		t.Errorf("a base that is too short: %v", err)
	}
	if _, err := r.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("a negative offset works")
	}
}

func TestWithFront(t *testing.T) {
	v := Variant{Front: []byte("b")}
	w := v.WithFront([]byte("a"))
	if string(w.Front) != "ab" || string(v.Front) != "b" {
		t.Errorf("%q and %q", w.Front, v.Front)
	}
}

func FuzzDecodeVariant(f *testing.F) {
	for _, v := range []Variant{
		{},
		{Front: []byte("X: y\r\n")},
		{Edits: []Edit{{3, 4, []byte("z")}, {9, 0, nil}}},
		{Edits: []Edit{{3, 4, []byte("z")}}, Body: &Body{2, 50, Ref{Kind: Inline, Size: 9}, nil}},
		{Body: &Body{15, 1 << 40, Ref{File, strings.Repeat("0a", nameLen/2), 1 << 40}, nil}},
	} {
		f.Add(v.AppendBinary(nil))
	}
	f.Add([]byte{1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := DecodeVariant(b)
		if err != nil {
			return
		}
		again, err := DecodeVariant(v.AppendBinary(nil))
		if err != nil || !reflect.DeepEqual(again, v) {
			t.Fatalf("%+v became %+v, %v", v, again, err)
		}
		if v.Body != nil && v.Body.Ref.Size < 1<<16 {
			v.Body.From = bytes.NewReader(make([]byte, v.Body.Ref.Size))
		}
		r, err := v.Reader(bytes.NewReader(make([]byte, 100)), 100)
		if err != nil {
			return
		}
		if got, err := io.ReadAll(r.Section(0, r.Size())); err != nil || !bytes.Equal(got, plain(v, make([]byte, 100))) {
			t.Fatalf("%+v reads as %q, %v", v, got, err)
		}
	})
}

func FuzzReadRef(f *testing.F) {
	f.Add(Ref{Kind: Inline, Size: 4096}.AppendBinary(nil))
	f.Add(Ref{File, strings.Repeat("0a", nameLen/2), 1 << 40}.AppendBinary(nil))
	f.Add([]byte{2, 1, 0})
	f.Add([]byte{3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		d := codec.New(b)
		r := ReadRef(&d)
		if d.Bad() {
			return
		}
		again := codec.New(r.AppendBinary(nil))
		if got := ReadRef(&again); again.Bad() || len(again.Rest()) != 0 || got != r {
			t.Fatalf("%+v became %+v", r, got)
		}
	})
}

func TestVariantBody(t *testing.T) {
	const base = "From: a\r\nSubject: old\r\n\r\nbody\r\n"
	body := func(off int64, s string) *Body {
		return &Body{Number: 3, Off: off, Ref: Ref{Kind: Inline, Size: int64(len(s))}, From: strings.NewReader(s)}
	}
	for _, c := range []struct {
		name, want string
		v          Variant
	}{
		{"body", "From: a\r\nSubject: old\r\n\r\nnew\r\n", Variant{Body: body(25, "new\r\n")}},
		{"empty", "From: a\r\nSubject: old\r\n\r\n", Variant{Body: body(25, "")}},
		{"all of it", "X: 1\r\n\r\nnew", Variant{Front: []byte("X: 1\r\n"), Edits: []Edit{{0, 23, nil}}, Body: body(25, "new")}},
		{"an edit that ends where it begins", "From: a\r\nnew", Variant{Edits: []Edit{{9, 16, nil}}, Body: body(25, "new")}},
		{"behind the base", base + "more", Variant{Body: body(int64(len(base)), "more")}},
	} {
		r, err := c.v.Reader(strings.NewReader(base), int64(len(base)))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if err := iotest.TestReader(r.Section(0, r.Size()), []byte(c.want)); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.v.Size(int64(len(base))) != int64(len(c.want)) || c.v.IsZero() {
			t.Errorf("%s: Size %d, IsZero %v", c.name, c.v.Size(int64(len(base))), c.v.IsZero())
		}
		back, err := DecodeVariant(c.v.AppendBinary(nil))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if _, err := back.Reader(strings.NewReader(base), int64(len(base))); err == nil {
			t.Errorf("%s: a body that is not open is read", c.name)
		}
		back.Body.From = c.v.Body.From
		if !reflect.DeepEqual(back, c.v) {
			t.Errorf("%s: DecodeVariant = %+v, want %+v", c.name, back, c.v)
		}
	}
	for _, v := range []Variant{
		{Body: body(-1, "x")},
		{Body: body(int64(len(base))+1, "x")},
		{Edits: []Edit{{20, 6, nil}}, Body: body(25, "x")},
		{Body: &Body{Off: 25, Ref: Ref{Size: -1}, From: strings.NewReader("")}},
	} {
		if _, err := v.Reader(strings.NewReader(base), int64(len(base))); err == nil {
			t.Errorf("%+v works", v)
		}
	}
	if _, err := DecodeVariant([]byte{1, 2, 0, 0}); err == nil {
		t.Error("an unknown flag is read as nothing")
	}
}

// TestVariantForm holds the stored form, octet by octet (FORMAT.md): it is read for ever.
func TestVariantForm(t *testing.T) {
	name := strings.Repeat("0a", nameLen/2)
	for want, v := range map[string]Variant{
		"\x01\x00\x00\x00":                                    {},
		"\x01\x00\x03X:\n\x01\x05\x02\x01y":                   {Front: []byte("X:\n"), Edits: []Edit{{5, 2, []byte("y")}}},
		"\x01\x01\x00\x00\x02\x96\x01\x01\x09\x00":            {Body: &Body{Number: 2, Off: 150, Ref: Ref{Kind: Inline, Size: 9}}},
		"\x01\x01\x00\x00\x00\x05\x03\x80\x80\x04\x1c" + name: {Body: &Body{Off: 5, Ref: Ref{File, name, 1 << 16}}},
	} {
		if got := string(v.AppendBinary(nil)); got != want {
			t.Errorf("%+v is stored as %q, want %q", v, got, want)
		}
		if back, err := DecodeVariant([]byte(want)); err != nil || !reflect.DeepEqual(back, v) {
			t.Errorf("%q is %+v, %v", want, back, err)
		}
	}
}
