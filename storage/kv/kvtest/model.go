package kvtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sluicemail/sluice/storage/kv"
)

// testModel does the same random things to the engine and to Memory, and holds
// every answer of the one against the other's.
func testModel(t *testing.T, p Place) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := &modelTest{t: t, place: p, rng: rand.New(rand.NewPCG(seed, 1)), model: NewMemory()}
			m.engine = mustOpen(t, p.Open)
			for range 3000 {
				m.step()
			}
			m.closeSnapshots()
			m.compareAll(m.engine, m.model)
			apply(t, m.engine, "-\x00..\xff\xff\xff\xff") // the next seed begins empty
			if err := m.engine.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

type modelTest struct {
	t      *testing.T
	place  Place
	rng    *rand.Rand
	engine kv.Engine
	model  kv.Engine
	snaps  [][2]kv.Snapshot // the engine's and the model's
}

func (m *modelTest) step() {
	m.t.Helper()
	ctx := context.Background()
	switch n := m.rng.IntN(1000); {
	case n < 450:
		b := m.randomBatch()
		q, err := m.engine.Apply(ctx, b)
		if err != nil {
			m.t.Fatal(err)
		}
		if _, err := m.model.Apply(ctx, b); err != nil {
			m.t.Fatal(err)
		}
		if m.rng.IntN(10) == 0 {
			if err := m.engine.WaitDurable(ctx, q); err != nil {
				m.t.Fatal(err)
			}
		}
	case n < 700:
		m.compareGet(m.pick())
	case n < 900:
		m.compareScan(m.pick())
	case n < 960 && len(m.snaps) < 5:
		m.openSnapshot()
	case n < 990:
		m.closeSnapshots()
	case !m.place.Volatile && n >= 997:
		m.reopen()
	}
}

// key is short, so that ranges hit keys.
func (m *modelTest) key() []byte {
	k := make([]byte, m.rng.IntN(3)+1)
	for i := range k {
		k[i] = "\x00abcdef\xff"[m.rng.IntN(8)]
	}
	return k
}

func (m *modelTest) randomBatch() *kv.Batch {
	var b kv.Batch
	for range m.rng.IntN(6) + 1 {
		switch m.rng.IntN(10) {
		case 0:
			lower, upper := m.key(), m.key()
			if bytes.Compare(lower, upper) > 0 {
				lower, upper = upper, lower
			}
			b.DeleteRange(lower, upper)
		case 1, 2:
			b.Delete(m.key())
		default:
			v := make([]byte, m.rng.IntN(300))
			for i := range v {
				v[i] = byte(m.rng.Uint32())
			}
			b.Set(m.key(), v)
		}
	}
	return &b
}

// pick returns the engine or one of the snapshots, with its model.
func (m *modelTest) pick() (kv.Reader, kv.Reader) {
	if i := m.rng.IntN(len(m.snaps) + 1); i < len(m.snaps) {
		return m.snaps[i][0], m.snaps[i][1]
	}
	return m.engine, m.model
}

func (m *modelTest) compareGet(r, model kv.Reader) {
	k := m.key()
	got, err := r.Get(context.Background(), k)
	want, wantErr := model.Get(context.Background(), k)
	if !bytes.Equal(got, want) || errors.Is(err, kv.ErrNotFound) != errors.Is(wantErr, kv.ErrNotFound) {
		m.t.Fatalf("Get(%q) = %q, %v; want %q, %v", k, got, err, want, wantErr)
	}
}

func (m *modelTest) compareScan(r, model kv.Reader) {
	lower, upper, reverse, limit := m.key(), m.key(), m.rng.IntN(2) == 0, m.rng.IntN(40)+1
	if m.rng.IntN(5) == 0 {
		lower = nil
	}
	if m.rng.IntN(5) == 0 {
		upper = nil
	}
	got, want := m.scan(r, lower, upper, reverse, limit), m.scan(model, lower, upper, reverse, limit)
	if got != want {
		m.t.Fatalf("Scan(%q, %q, %v) = %.300s; want %.300s", lower, upper, reverse, got, want)
	}
}

func (m *modelTest) scan(r kv.Reader, lower, upper []byte, reverse bool, limit int) string {
	var out bytes.Buffer
	n := 0
	err := r.Scan(context.Background(), lower, upper, reverse, func(k, v []byte) (bool, error) {
		fmt.Fprintf(&out, "%q=%x ", k, v)
		n++
		return n < limit, nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return out.String()
}

func (m *modelTest) compareAll(r, model kv.Reader) {
	m.t.Helper()
	if got, want := m.scan(r, nil, nil, false, 1<<30), m.scan(model, nil, nil, false, 1<<30); got != want {
		m.t.Fatalf("the store holds %.300s; want %.300s", got, want)
	}
}

func (m *modelTest) openSnapshot() {
	s, err := m.engine.Snapshot(context.Background())
	if err != nil {
		m.t.Fatal(err)
	}
	model, _ := m.model.Snapshot(context.Background())
	m.snaps = append(m.snaps, [2]kv.Snapshot{s, model})
}

func (m *modelTest) closeSnapshots() {
	for _, s := range m.snaps {
		m.compareAll(s[0], s[1])
		if err := errors.Join(s[0].Close(), s[1].Close()); err != nil {
			m.t.Fatal(err)
		}
	}
	m.snaps = nil
}

func (m *modelTest) reopen() {
	m.closeSnapshots()
	if err := m.engine.Close(); err != nil {
		m.t.Fatal(err)
	}
	m.engine = mustOpen(m.t, m.place.Open)
	m.compareAll(m.engine, m.model)
}
