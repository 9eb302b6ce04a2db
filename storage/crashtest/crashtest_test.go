package crashtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/codec"
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/kv/pebble"
)

// The scenario: writers take in content, small and large, name it in batches, and
// some of it is deleted again; the engine is so small that it flushes, compacts
// and changes logs all the time.

// begun, applied and durable are the notes: an item is about to be written, its
// batch was applied, its batch was durable. dropping: it is about to be deleted;
// dropped: that was durable.
type (
	begun    struct{ id string }
	applied  struct{ id string }
	durable  struct{ id string }
	dropping struct{ id string }
	dropped  struct{ id string }
)

const inlineLimit = 4 << 10

type work struct {
	writers, items int
	// Mutants, to see that the test finds them.
	noWait   bool // says durable without waiting
	noBlob   bool // names content that Persist was not asked for
	earlyDel bool // unlinks a file before the batch that forgets it is durable
}

func openEngine(fs vfs.FS, fatal func(error)) (kv.Engine, error) {
	return pebble.Open(pebble.Options{
		Dir: "data/store", FS: fs, MemTableSize: 48 << 10, CacheSize: 1 << 20, Fatal: fatal,
		Boundaries: [][]byte{[]byte("item/"), []byte("item0")},
	})
}

func openBlobs(fs vfs.FS) (*blob.Store, error) {
	return blob.Open(fs, "data/blob", nil, inlineLimit, nil)
}

// content is what the item id holds; every third is a file.
func content(id string) []byte {
	n := 300
	if crc32.ChecksumIEEE([]byte(id))%3 == 0 {
		n = inlineLimit + 2000
	}
	return bytes.Repeat([]byte(id+"\r\n"), n/(len(id)+2))
}

func (k work) run(w *World) error {
	e, err := openEngine(w.FS(), w.Fatal)
	if err != nil {
		return err
	}
	blobs, err := openBlobs(w.FS())
	if err != nil {
		return err
	}
	errs := make(chan error, k.writers)
	for n := range k.writers {
		w.Go(func() { errs <- k.write(w, e, blobs, n) })
	}
	w.Wait()
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(append(all, e.Close())...)
}

func (k work) write(w *World, e kv.Engine, blobs *blob.Store, writer int) error {
	for i := range k.items {
		id := fmt.Sprintf("%d-%03d", writer, i)
		ref, err := k.put(w, e, blobs, id, i%2 == 0 || i%5 == 4)
		if err != nil {
			return fmt.Errorf("put %s: %w", id, err)
		}
		if i%5 == 4 {
			if err := k.drop(w, e, blobs, id, ref); err != nil {
				return fmt.Errorf("drop %s: %w", id, err)
			}
		}
	}
	return nil
}

func (k work) put(w *World, e kv.Engine, blobs *blob.Store, id string, wait bool) (blob.Ref, error) {
	ctx := context.Background()
	w.Note(begun{id})
	sp := blobs.NewSpool()
	if _, err := sp.Write(content(id)); err != nil {
		sp.Discard()
		return blob.Ref{}, err
	}
	d, err := sp.Finish()
	if err != nil {
		return blob.Ref{}, err
	}
	defer d.Discard()
	ref, err := d.Persist(ctx)
	if err != nil {
		return blob.Ref{}, err
	}
	if k.noBlob && ref.Kind == blob.File {
		ref.Name = strings.Repeat("0", len(ref.Name))
	}
	var b kv.Batch
	b.Set([]byte("item/"+id), append(ref.AppendBinary(nil), d.Bytes()...))
	b.Set([]byte("twin/"+id), binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(content(id))))
	p, err := e.Apply(ctx, &b)
	if err != nil {
		return blob.Ref{}, err
	}
	w.Note(applied{id})
	if wait {
		if !k.noWait {
			if err := e.WaitDurable(ctx, p); err != nil {
				return blob.Ref{}, err
			}
		}
		w.Note(durable{id})
	}
	return ref, nil
}

func (k work) drop(w *World, e kv.Engine, blobs *blob.Store, id string, ref blob.Ref) error {
	ctx := context.Background()
	w.Note(dropping{id})
	if k.earlyDel {
		if err := blobs.Remove(ref); err != nil {
			return err
		}
	}
	var b kv.Batch
	b.Delete([]byte("item/" + id))
	b.DeleteRange([]byte("twin/"+id), []byte("twin/"+id+"\x00"))
	p, err := e.Apply(ctx, &b)
	if err != nil {
		return err
	}
	if err := e.WaitDurable(ctx, p); err != nil {
		return err
	}
	w.Note(dropped{id})
	return blobs.Remove(ref)
}

// check holds what a crash left against what was noted.
func check(fs vfs.FS, notes []any) (err error) {
	e, err := openEngine(fs, func(err error) { panic(err) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	blobs, err := openBlobs(fs)
	if err != nil {
		return err
	}
	items, err := readItems(e, blobs)
	if err != nil {
		return err
	}
	return checkNotes(items, notes)
}

// readItems returns the items that are there, each of them whole.
func readItems(e kv.Engine, blobs *blob.Store) (map[string]bool, error) {
	ctx, items, twins := context.Background(), map[string]bool{}, 0
	err := e.Scan(ctx, []byte("item/"), []byte("item0"), false, func(k, v []byte) (bool, error) {
		id := strings.TrimPrefix(string(k), "item/")
		d := codec.New(v)
		ref := blob.ReadRef(&d)
		if err := d.End("item"); err != nil {
			return false, err
		}
		c, err := blobs.Open(ref, func() ([]byte, error) { return d.Rest(), nil })
		if err != nil {
			return false, fmt.Errorf("item %s: %w", id, err)
		}
		defer c.Close()
		got := make([]byte, c.Size())
		if _, err := c.ReadAt(got, 0); err != nil {
			return false, fmt.Errorf("item %s: %w", id, err)
		}
		if !bytes.Equal(got, content(id)) {
			return false, fmt.Errorf("item %s: its content is damaged", id)
		}
		if _, err := e.Get(ctx, []byte("twin/"+id)); err != nil {
			return false, fmt.Errorf("item %s: half a batch is there: %w", id, err)
		}
		items[id] = true
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	err = e.Scan(ctx, []byte("twin/"), []byte("twin0"), true, func(_, _ []byte) (bool, error) { twins++; return true, nil })
	if err == nil && twins != len(items) {
		err = fmt.Errorf("%d items, but %d of their twins", len(items), twins)
	}
	return items, err
}

// checkNotes: what was durable is there, what was deleted is not, and what is
// there is a prefix: nothing begun after the end of a batch that is missing.
func checkNotes(items map[string]bool, notes []any) error {
	state, lost := map[string]any{}, ""
	for _, n := range notes {
		switch n := n.(type) {
		case begun:
			state[n.id] = n
			if lost != "" && items[n.id] {
				return fmt.Errorf("item %s is there, but %s, which came before, is not", n.id, lost)
			}
		case dropping:
			state[n.id] = n
		case dropped:
			state[n.id] = n
		}
		if a, ok := n.(applied); ok && !items[a.id] && !laterDropped(notes, a.id) {
			lost = a.id
		}
		if d, ok := n.(durable); ok {
			state[d.id] = d
		}
	}
	for id, s := range state {
		switch s.(type) {
		case durable:
			if !items[id] {
				return fmt.Errorf("item %s was durable and is gone", id)
			}
		case dropped:
			if items[id] {
				return fmt.Errorf("item %s was deleted and is back", id)
			}
		}
	}
	for id := range items {
		if state[id] == nil {
			return fmt.Errorf("item %s is there, but nobody wrote it", id)
		}
	}
	return nil
}

func laterDropped(notes []any, id string) bool {
	for _, n := range notes {
		if n == (dropping{id}) {
			return true
		}
	}
	return false
}

func TestEngineAndBlobs(t *testing.T) {
	k := work{writers: 3, items: 60}
	Run(t, Scenario{Run: k.run, Check: check}, Options{})
}

// What the harness is for: each of these mistakes must be found.
func TestFindsMutants(t *testing.T) {
	for name, k := range map[string]work{
		"durable without waiting":        {writers: 1, items: 60, noWait: true},
		"content that was not persisted": {writers: 1, items: 20, noBlob: true},
		"unlinked too early":             {writers: 1, items: 60, earlyDel: true},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := PowerLoss(Scenario{Run: k.run, Check: check}, Options{Points: 1000, Seed: 1})
			t.Logf("%d crashes: %v", n, err)
			if err == nil {
				t.Error("not found")
			}
		})
	}
}

// A disk that says that it has synced and has not.
func TestFindsLyingDisk(t *testing.T) {
	for _, what := range []string{"store", "blob"} {
		t.Run(what, func(t *testing.T) {
			k := work{writers: 1, items: 60}
			s := Scenario{Check: check, Run: func(w *World) error {
				w.ignoreSync = what
				return k.run(w)
			}}
			n, err := PowerLoss(s, Options{Points: 1000, Seed: 1})
			t.Logf("%d crashes: %v", n, err)
			if err == nil {
				t.Error("not found")
			}
		})
	}
}
