package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/sluicemail/sluice/storage/codec"
)

const limit = 64 << 10

func openStore(t testing.TB, fs vfs.FS, budget *Budget) *Store {
	t.Helper()
	s, err := Open(fs, "data/blob", budget, limit, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func octets(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(7, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// draft writes p in pieces of odd sizes.
func draft(t testing.TB, s *Store, p []byte) *Draft {
	t.Helper()
	sp := s.NewSpool()
	for rest := p; len(rest) > 0; {
		k := min(len(rest), 1+rand.IntN(9000))
		if n, err := sp.Write(rest[:k]); n != k || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
		rest = rest[k:]
	}
	d, err := sp.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func readAll(t testing.TB, r io.ReaderAt, size int64) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(r, 0, size))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func files(t testing.TB, s *Store) (n int) {
	t.Helper()
	if err := s.List(context.Background(), func(Entry) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func incoming(t testing.TB, fs vfs.FS) int {
	t.Helper()
	names, err := fs.List("data/blob/incoming")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestRoundTrip(t *testing.T) {
	for _, size := range []int{0, 1, 4096, firstBuffer, firstBuffer + 1, limit - 1, limit, limit + 1, limit + fileBuffer, 1 << 20} {
		fs, budget := vfs.NewMem(), NewBudget(1<<20)
		s := openStore(t, fs, budget)
		want := octets(size)
		d := draft(t, s, want)
		if inMemory := d.Bytes() != nil; inMemory != (size <= limit) {
			t.Errorf("%d octets: in memory: %v", size, inMemory)
		}
		if d.Size() != int64(size) || !bytes.Equal(readAll(t, d, d.Size()), want) {
			t.Errorf("%d octets: the draft is not what was written", size)
		}
		ref, err := d.Persist(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if again, err := d.Persist(context.Background()); again != ref || err != nil {
			t.Errorf("second Persist = %v, %v; first %v", again, err, ref)
		}
		mem := bytes.Clone(d.Bytes())
		d.Discard()
		d.Discard()
		if budget.Used() != 0 {
			t.Errorf("%d octets: %d of the budget are still in use", size, budget.Used())
		}
		dec := codec.New(append(ref.AppendBinary(nil), "rest"...))
		back := ReadRef(&dec)
		if back != ref || string(dec.Rest()) != "rest" || dec.Bad() {
			t.Errorf("ReadRef = %v, %q; want %v", back, dec.Rest(), ref)
		}
		s = openStore(t, fs, budget)
		c, err := s.Open(back, func() ([]byte, error) { return mem, nil })
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(readAll(t, c, c.Size()), want) {
			t.Errorf("%d octets: the content is not what was written", size)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestDiscard(t *testing.T) {
	fs, budget := vfs.NewMem(), NewBudget(1<<20)
	s := openStore(t, fs, budget)
	for _, size := range []int{100, limit + 1} {
		sp := s.NewSpool()
		_, _ = sp.Write(octets(size))
		sp.Discard()
		if _, err := sp.Write([]byte("x")); !errors.Is(err, ErrDiscarded) {
			t.Errorf("Write after Discard: %v", err)
		}
		if _, err := sp.Finish(); !errors.Is(err, ErrDiscarded) {
			t.Errorf("Finish after Discard: %v", err)
		}
		d := draft(t, s, octets(size))
		d.Discard()
		if _, err := d.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrDiscarded) {
			t.Errorf("ReadAt after Discard: %v", err)
		}
		if _, err := d.Persist(context.Background()); !errors.Is(err, ErrDiscarded) {
			t.Errorf("Persist after Discard: %v", err)
		}
		d = draft(t, s, octets(size))
		if _, err := d.Persist(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := d.Withdraw(); err != nil {
			t.Fatal(err)
		}
	}
	if n := files(t, s) + incoming(t, fs); n != 0 || budget.Used() != 0 {
		t.Errorf("left: %d files, %d octets of the budget", n, budget.Used())
	}
}

func TestBudgetSendsToFiles(t *testing.T) {
	fs, budget := vfs.NewMem(), NewBudget(20<<10)
	s := openStore(t, fs, budget)
	a, b, c := draft(t, s, octets(4096)), draft(t, s, octets(8192)), draft(t, s, octets(4096))
	if a.Bytes() == nil || b.Bytes() == nil || c.Bytes() != nil {
		t.Errorf("in memory: %v, %v, %v; want the first two", a.Bytes() != nil, b.Bytes() != nil, c.Bytes() != nil)
	}
	if budget.Used() > 20<<10 {
		t.Errorf("%d octets in use", budget.Used())
	}
	ref, err := c.Persist(context.Background())
	if err != nil || ref.Kind != File {
		t.Errorf("Persist = %v, %v", ref, err)
	}
	for _, d := range []*Draft{a, b, c} {
		d.Discard()
	}
	if budget.Used() != 0 {
		t.Errorf("%d octets in use", budget.Used())
	}
}

func TestOpenSweepsOnlyIncoming(t *testing.T) {
	fs := vfs.NewMem()
	s := openStore(t, fs, nil)
	_ = draft(t, s, octets(limit+1)) // the process ends here
	d := draft(t, s, octets(limit+2))
	ref, err := d.Persist(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	s = openStore(t, fs, nil)
	if n := incoming(t, fs); n != 0 {
		t.Errorf("%d files in incoming", n)
	}
	if n := files(t, s); n != 1 {
		t.Errorf("%d files persisted, want 1", n)
	}
	if c, err := s.Open(ref, nil); err != nil {
		t.Error(err)
	} else if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestRemoveLeavesReadersAlone(t *testing.T) {
	s := openStore(t, vfs.NewMem(), nil)
	ref, err := draft(t, s, octets(limit+1)).Persist(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Open(ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !s.InUse(ref) {
		t.Error("not in use")
	}
	if err := s.Remove(ref); !errors.Is(err, ErrInUse) {
		t.Errorf("Remove while reading: %v", err)
	}
	_, _ = c.Close(), c.Close()
	if s.InUse(ref) {
		t.Error("in use after Close")
	}
	for range 2 {
		if err := s.Remove(ref); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Open(ref, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("Open after Remove: %v", err)
	}
}

func TestNamesStayInside(t *testing.T) {
	s := openStore(t, vfs.NewMem(), nil)
	for _, name := range []string{"", "x", "../../../../../../etc/passwd", strings.Repeat("z", nameLen), strings.Repeat("A", nameLen)} {
		ref := Ref{File, name, 1}
		if _, err := s.Open(ref, nil); err == nil {
			t.Errorf("Open(%q) works", name)
		}
		if err := s.Remove(ref); err == nil {
			t.Errorf("Remove(%q) works", name)
		}
		dec := codec.New(ref.AppendBinary(nil))
		if ReadRef(&dec); !dec.Bad() {
			t.Errorf("ReadRef(%q) works", name)
		}
	}
}

// A sync that failed may have lost octets for good, although the next one would
// say that all is well.
func TestPersistIsNotTriedAgain(t *testing.T) {
	syncs := 0
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync && strings.Contains(op.Path, incomingDir) {
			if syncs++; syncs == 2 { // the first is the directory's, at Open
				return syscall.EIO
			}
		}
		return nil
	}))
	s := openStore(t, fs, nil)
	syncs = 1
	d := draft(t, s, octets(limit+1))
	for range 3 {
		if _, err := d.Persist(context.Background()); !errors.Is(err, syscall.EIO) {
			t.Errorf("Persist: %v", err)
		}
	}
	d.Discard()
	if n := files(t, s) + incoming(t, fs); n != 0 {
		t.Errorf("%d files left", n)
	}
}

func TestDiskFullWhileSpooling(t *testing.T) {
	full := false
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full && op.Kind == errorfs.OpFileWrite {
			return syscall.ENOSPC
		}
		return nil
	}))
	budget := NewBudget(1 << 20)
	s := openStore(t, fs, budget)
	full = true
	sp := s.NewSpool()
	if _, err := sp.Write(octets(limit + 1 + fileBuffer)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Write: %v", err)
	}
	if _, err := sp.Finish(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Finish: %v", err)
	}
	if n := incoming(t, fs); n != 0 || budget.Used() != 0 {
		t.Errorf("left: %d files, %d octets of the budget", n, budget.Used())
	}
}
