package blob

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// BenchmarkSpool is what it costs to take in a message of 4 KiB, in pieces as the
// SMTP reader gives them, and to have its Ref.
func BenchmarkSpool(b *testing.B) {
	s := openStore(b, vfs.NewMem(), NewBudget(64<<20))
	msg := octets(4096)
	b.ReportAllocs()
	b.SetBytes(int64(len(msg)))
	for b.Loop() {
		sp := s.NewSpool()
		for p := msg; len(p) > 0; p = p[1024:] {
			_, _ = sp.Write(p[:1024])
		}
		d, err := sp.Finish()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := d.Persist(context.Background()); err != nil {
			b.Fatal(err)
		}
		d.Discard()
	}
}

// BenchmarkPersistFile is content of 256 KiB as a file, on the disk.
func BenchmarkPersistFile(b *testing.B) {
	s, err := Open(vfs.Default, b.TempDir(), nil, limit, nil)
	if err != nil {
		b.Fatal(err)
	}
	msg := octets(256 << 10)
	b.SetBytes(int64(len(msg)))
	for b.Loop() {
		sp := s.NewSpool()
		for p := msg; len(p) > 0; p = p[4096:] {
			_, _ = sp.Write(p[:4096])
		}
		d, err := sp.Finish()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := d.Persist(context.Background()); err != nil {
			b.Fatal(err)
		}
		d.Discard()
	}
}

func BenchmarkVariantRead(b *testing.B) {
	base := octets(4096)
	v := Variant{Front: octets(600), Edits: []Edit{{100, 50, nil}, {400, 30, octets(60)}}}
	b.ReportAllocs()
	for b.Loop() {
		r, err := v.Reader(bytes.NewReader(base), int64(len(base)))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r.Section(0, r.Size())); err != nil {
			b.Fatal(err)
		}
	}
}
