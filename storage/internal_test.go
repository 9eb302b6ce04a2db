package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/storage/account"
	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/codec"
	"github.com/sluicemail/sluice/storage/id"
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/kv/kvtest"
	"github.com/sluicemail/sluice/storage/mime"
)

func openMemory(t *testing.T, change func(*Options)) *Store {
	t.Helper()
	o := Options{Dir: "data", FS: vfs.NewMem(), Engine: kvtest.NewMemory(), Config: DefaultConfig(), Cost: account.Cost{Memory: 64, Time: 1, Threads: 1}}
	if change != nil {
		change(&o)
	}
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func put(t *testing.T, s *Store, octets string) *Prepared {
	t.Helper()
	sp := s.Blobs().NewSpool()
	if _, err := io.WriteString(sp, octets); err != nil {
		t.Fatal(err)
	}
	d, err := sp.Finish()
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Prepare(t.Context(), d, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A later release may add to a message's record; this one keeps what it does not know.
func TestExtensionsStay(t *testing.T) {
	r := exampleRecord()
	var got record
	if err := decodeRecord(r.appendTo(nil), &got); err != nil {
		t.Fatal(err)
	}
	got.system = 0
	if value := got.appendTo(nil); !bytes.HasSuffix(value, []byte("later")) {
		t.Errorf("the record ends in %q", value)
	}
}

func TestKeysSort(t *testing.T) {
	a := ID{1}
	keys := [][]byte{
		appendMessageKey(nil, a, 1, 1), appendMessageKey(nil, a, 1, 255), appendMessageKey(nil, a, 1, 256),
		appendMessageKey(nil, a, 1, 1<<31), appendMessageKey(nil, a, 2, 1), appendMessageKey(nil, a, 256, 1),
		appendMessageKey(nil, ID{2}, 1, 1),
	}
	if !slices.IsSortedFunc(keys, bytes.Compare) {
		t.Error("keys of messages do not sort like their numbers")
	}
	if tailUID(keys[2]) != 256 || boxOf(keys[5]) != 256 {
		t.Error("a key does not give its numbers back")
	}
	for prefix, want := range map[string]string{"a": "b", "a\xff": "b", "\xff\xff": "", "": ""} {
		if got := string(prefixEnd([]byte(prefix))); got != want {
			t.Errorf("end of %q: %q, want %q", prefix, got, want)
		}
	}
}

// DropRef asks for the collector only when the batch takes the last use that it knows of.
func TestDropRef(t *testing.T) {
	s := openMemory(t, nil)
	asks := func(fill func(b *kv.Batch)) bool {
		var b kv.Batch
		fill(&b)
		return slices.ContainsFunc(b.Ops(), func(op kv.Op) bool { return bytes.HasPrefix(op.Key, []byte(ownerGC)) })
	}
	c := ID{7}
	for name, tc := range map[string]struct {
		want bool
		fill func(b *kv.Batch)
	}{
		"alone":     {true, func(b *kv.Batch) { s.DropRef(b, c, "x") }},
		"moved":     {false, func(b *kv.Batch) { s.AddRef(b, c, "y"); s.DropRef(b, c, "x") }},
		"same":      {true, func(b *kv.Batch) { s.AddRef(b, c, "x"); s.DropRef(b, c, "x") }},
		"both":      {true, func(b *kv.Batch) { s.AddRef(b, c, "y"); s.DropRef(b, c, "x"); s.DropRef(b, c, "y") }},
		"other":     {true, func(b *kv.Batch) { s.AddRef(b, ID{8}, "y"); s.DropRef(b, c, "x") }},
		"too large": {true, func(b *kv.Batch) { large(b); s.AddRef(b, c, "y"); s.DropRef(b, c, "x") }},
	} {
		if got := asks(tc.fill); got != tc.want {
			t.Errorf("%s: asks %v, want %v", name, got, tc.want)
		}
	}
}

func large(b *kv.Batch) {
	for i := range 100 {
		b.Set([]byte{byte(i)}, nil)
	}
}

// A parser that panics costs the message its structure, not its delivery (RULES B6).
func TestParserPanics(t *testing.T) {
	s := openMemory(t, nil)
	r := &panics{Reader: strings.NewReader("A: b\r\n\r\nbody")}
	sum := s.parse(r, 12)
	if !sum.Opaque || sum.Size != 12 || sum.Root.BodyStart != 8 {
		t.Errorf("summary %+v, root %+v", sum, sum.Root)
	}
}

type panics struct {
	*strings.Reader
	done bool
}

func (p *panics) ReadAt(b []byte, off int64) (int, error) {
	if !p.done {
		p.done = true
		panic("hostile message")
	}
	return p.Reader.ReadAt(b, off)
}

// What an older parser stored is computed again.
func TestOlderParser(t *testing.T) {
	s := openMemory(t, nil)
	octets := "Subject: new\r\n\r\nbody\r\n"
	p := put(t, s, octets)
	old := mime.Opaque(int64(len(octets)), 0)
	old.Version = 0
	enc, err := old.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if currentSummary(enc) != nil {
		t.Error("an old summary counts as current")
	}
	if currentSummary([]byte("rubbish")) != nil {
		t.Error("a damaged summary counts as current")
	}
	rec := append([]byte{recordVersion}, p.ref.AppendBinary(nil)...)
	rec = append(rec, 1)
	rec = codec.AppendBytes(rec, p.variant0())
	rec = append(rec, byte(len(octets)), 0)
	rec = codec.AppendBytes(rec, enc)
	var b kv.Batch
	p.Put(&b, "queue/1")
	b.Set(contentKey(contentRecord, p.id), rec)
	if _, err := s.engine.Apply(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	c, err := s.OpenContent(t.Context(), p.id, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sum, err := c.Summary(t.Context())
	if err != nil || sum.Opaque || sum.Envelope.Subject != "new" {
		t.Errorf("summary %+v, %v", sum, err)
	}
}

func (p *Prepared) variant0() []byte {
	d := decode(p.record)
	blob.ReadRef(&d)
	d.Uint()
	return d.Bytes()
}

// A structure that is too large for the record has a key of its own, which goes with the content.
func TestLargeSummary(t *testing.T) {
	s := openMemory(t, func(o *Options) { o.CollectAfter = 1 })
	octets := "Subject: " + strings.Repeat("x", 40000) + "\r\n\r\nbody\r\n"
	p := put(t, s, octets)
	var b kv.Batch
	p.Put(&b, "queue/1")
	if _, err := s.engine.Apply(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if len(p.record) > 2*maxInlineSummary {
		t.Errorf("the record has %d octets", len(p.record))
	}
	c, err := s.OpenContent(t.Context(), p.id, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := c.Summary(t.Context())
	if err != nil || len(sum.Envelope.Subject) != 40000 {
		t.Errorf("summary: %v", err)
	}
	c.Close()
	b.Reset()
	s.DropRef(&b, p.id, "queue/1")
	if _, err := s.engine.Apply(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := s.CollectNow(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left, err := hasKey(t.Context(), s.engine, []byte(ownerContent)); err != nil {
			t.Fatal(err)
		} else if !left {
			return
		}
	}
	t.Error("something of the content is left")
}

// TestBounds: what does not fit in a batch is refused and changes nothing.
func TestBounds(t *testing.T) {
	s := openMemory(t, nil)
	a, err := s.CreateAccount(t.Context(), "a@example.test", "secret", AccountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Update(t.Context(), a.ID, func(tx *Tx) error {
		for i := range 20 {
			tx.Batch().Set(fmt.Appendf(nil, "queue/%d", i), make([]byte, 1<<20))
		}
		return nil
	})
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("20 MiB: %v", err)
	}
	p := put(t, s, "a: b\r\n\r\n")
	_, err = s.Update(t.Context(), a.ID, func(tx *Tx) error {
		m, err := tx.Mailbox("INBOX")
		if err == nil {
			_, err = tx.Deliver(m.ID, Delivery{Info: p.Info(0), Front: make([]byte, maxFrontSize+1)})
		}
		return err
	})
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("a large front: %v", err)
	}
	_, err = s.Update(t.Context(), a.ID, func(tx *Tx) error {
		m, err := tx.Mailbox("INBOX")
		if err != nil {
			return err
		}
		d, err := tx.box(m.ID)
		if err != nil {
			return err
		}
		d.UIDNext = ^UID(0)
		_, err = tx.Deliver(m.ID, Delivery{Info: p.Info(0)})
		return err
	})
	if !errors.Is(err, ErrTooManyMail) {
		t.Errorf("no UID left: %v", err)
	}
}

// TestLocks: updates of an account follow each other, those of different accounts do not wait, and a context ends the wait.
func TestLocks(t *testing.T) {
	s := openMemory(t, func(o *Options) { o.Config.CacheAccounts = 1 })
	var ids [4]AccountID
	for i := range ids {
		a, err := s.CreateAccount(t.Context(), fmt.Sprintf("u%d@example.test", i), "secret", AccountOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ids[i] = a.ID
	}
	var wg sync.WaitGroup
	var inside [4]atomic.Int32
	for i := range 16 {
		wg.Go(func() {
			for range 50 {
				_, err := s.Update(t.Context(), ids[i%4], func(tx *Tx) error {
					if inside[i%4].Add(1) != 1 {
						t.Error("two updates of one account at once")
					}
					defer inside[i%4].Add(-1)
					return tx.Subscribe(fmt.Sprintf("m%d", i), true)
				})
				if err == nil {
					err = s.View(t.Context(), ids[(i+1)%4], func(v *View) error {
						v.Mailboxes()
						return nil
					})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	_, err := s.Update(t.Context(), ids[0], func(*Tx) error {
		if _, err := s.Update(t.Context(), ids[1], func(*Tx) error { return nil }); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := s.Update(ctx, ids[0], func(*Tx) error { return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("an update inside an update: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	if len(s.cache.entries) > 1 {
		t.Errorf("%d accounts stay in memory", len(s.cache.entries))
	}
}

// TestCacheCost: what the cache counts is what it holds, and watched accounts lose their state but keep their watchers.
func TestCacheCost(t *testing.T) {
	s := openMemory(t, func(o *Options) { o.Config.CacheAccounts = 2 })
	for i := range 5 {
		a, err := s.CreateAccount(t.Context(), fmt.Sprintf("u%d@example.test", i), "secret", AccountOptions{})
		if err != nil {
			t.Fatal(err)
		}
		w := s.Watch(a.ID)
		defer w.Close()
	}
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	total, states := int64(0), 0
	for _, e := range s.cache.entries {
		total += e.cost
		if e.state != nil {
			states++
		}
	}
	if len(s.cache.entries) != 5 || states > 2 || total != s.cache.cost {
		t.Errorf("%d entries, %d with state, cost %d, counted %d", len(s.cache.entries), states, total, s.cache.cost)
	}
}

func TestConfigProblems(t *testing.T) {
	c := Config{CacheAccounts: 0, CacheSize: 1, MaxMailboxes: 1 << 20, InlineLimit: 1 << 30}
	err := c.Validate()
	for _, key := range []string{"cache_accounts", "cache_size", "max_mailboxes", "inline_limit"} {
		if err == nil || !strings.Contains(err.Error(), key+": ") {
			t.Errorf("%s is not reported in %v", key, err)
		}
	}
	if err := (&Config{CacheAccounts: 1, CacheSize: 1 << 20, MaxMailboxes: 6}).Validate(); err != nil {
		t.Error(err)
	}
}

// TestCollectRounds has more garbage than a round takes, some of it being read or young, and in between content in use.
func TestCollectRounds(t *testing.T) {
	now := time.Date(2026, 11, 21, 20, 0, 0, 0, time.UTC)
	s := openMemory(t, func(o *Options) { o.Clock = func() time.Time { return now } })
	var b kv.Batch
	var ids []ContentID
	var late id.Source
	for i := range 2*collectRound + 100 {
		p := put(t, s, fmt.Sprintf("a: %d\r\n\r\n", i))
		p.Put(&b, "")
		if i%100 == 7 {
			s.AddRef(&b, p.id, "queue/1")
		}
		if i%100 == 9 {
			b.Set(appendGCKey(nil, p.id, late.New(now.Add(time.Hour))), nil) // dropped once more, lately
		}
		b.Set(appendGCKey(nil, p.id, s.NewID()), nil)
		ids = append(ids, p.id)
	}
	if _, err := s.engine.Apply(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	c, err := s.OpenContent(t.Context(), ids[3], 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	now = now.Add(30 * time.Minute)
	if err := s.CollectNow(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		_, err := s.ContentInfo(t.Context(), id, 0)
		if want := i%100 == 7 || i%100 == 9 || i == 3; want != (err == nil) {
			t.Errorf("content %d: %v, want it there: %v", i, err, want)
		}
	}
	for i, want := range map[int]bool{0: false, 3: true, 7: false, 9: true} {
		if got, err := hasKey(t.Context(), s.engine, append([]byte(ownerGC), ids[i][:]...)); err != nil || got != want {
			t.Errorf("content %d is on the collector's list: %v, %v, want %v", i, got, err, want)
		}
	}
}

// TestWarmDelivery: into an account in memory a message goes with one call of the engine, and three keys of its own.
func TestWarmDelivery(t *testing.T) {
	engine := kvtest.Fail(kvtest.NewMemory(), 0, nil)
	s := openMemory(t, func(o *Options) { o.Engine = engine })
	a, err := s.CreateAccount(t.Context(), "a@example.test", "secret", AccountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := put(t, s, "Message-ID: <x@y>\r\n\r\nbody\r\n")
	s.stop() // the tail syncer's calls would count
	s.work.Wait()
	deliver := func() (keys int) {
		_, err := s.Update(t.Context(), a.ID, func(tx *Tx) error {
			m, err := tx.Mailbox("INBOX")
			if err == nil {
				_, err = tx.Deliver(m.ID, Delivery{Info: p.Info(0)})
			}
			keys = tx.Batch().Len() + 1 // the mailbox's state comes at the end
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	deliver()
	before := engine.Calls()
	if keys := deliver(); keys != 3 {
		t.Errorf("%d keys, want message, use and state", keys)
	}
	if n := engine.Calls() - before; n != 1 {
		t.Errorf("%d calls of the engine", n)
	}
}

// TestDamageDoesNotSpread: what the collector and the remover cannot read keeps nothing else (DRILLS E2.7).
func TestDamageDoesNotSpread(t *testing.T) {
	now := time.Date(2026, 11, 21, 20, 0, 0, 0, time.UTC)
	s := openMemory(t, func(o *Options) { o.Clock = func() time.Time { return now } })
	a, err := s.CreateAccount(t.Context(), "a@example.test", "secret", AccountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := put(t, s, "a: b\r\n\r\n")
	_, err = s.Update(t.Context(), a.ID, func(tx *Tx) error {
		m, err := tx.CreateMailbox("old", 0)
		if err == nil {
			_, err = tx.Deliver(m.ID, Delivery{Info: p.Info(0)})
		}
		p.Put(tx.Batch(), "")
		tx.Batch().Set([]byte(ownerGC+"!"), nil)
		tx.Batch().Set(appendGCKey(nil, ID{1}, s.NewID()), nil)
		tx.Batch().Set(contentKey(contentRecord, ID{1}), []byte{recordVersion, 99})
		tx.Batch().Set([]byte(keyPurge+"!"), nil)
		return err
	})
	if err == nil {
		_, err = s.Update(t.Context(), a.ID, func(tx *Tx) error { return tx.DeleteMailbox("old") })
	}
	if err == nil {
		err = s.purgeAll(t.Context())
	}
	now = now.Add(30 * time.Minute)
	if err = errors.Join(err, s.CollectNow(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ContentInfo(t.Context(), p.ID(), 0); !errors.Is(err, ErrNoContent) {
		t.Errorf("the content of the deleted mailbox: %v, want it gone", err)
	}
}

// TestVerifyDamagedAccount: an account that cannot be read is a problem among others, and does not end the search.
func TestVerifyDamagedAccount(t *testing.T) {
	s := openMemory(t, nil)
	a, err := s.CreateAccount(t.Context(), "a@example.test", "secret", AccountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var b kv.Batch
	b.Set(account.RecordKey(a.ID), []byte{99})
	if _, err := s.engine.Apply(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	report, err := s.Verify(t.Context(), VerifyOptions{})
	if err != nil || len(report.Problems) != 1 {
		t.Errorf("%v, %q", err, report.Problems)
	}
}

// TestDamagedCounter: a counter that is far too large asks for no memory.
func TestDamagedCounter(t *testing.T) {
	s := openMemory(t, nil)
	a, err := s.CreateAccount(t.Context(), "a@example.test", "secret", AccountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := s.lockAccount(t.Context(), a.ID)
	if err != nil {
		t.Fatal(err)
	}
	bad := box{Mailbox: Mailbox{UIDNext: 1, Exists: 1<<32 - 9}}
	var b kv.Batch
	b.Set(appendBoxKey(nil, a.ID, kindState, 1), bad.appendState(nil))
	_, err = s.engine.Apply(t.Context(), &b)
	unlock()
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err = s.View(t.Context(), a.ID, func(v *View) error {
		_, err := v.UIDs(1)
		return err
	})
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; err != nil || got > 64<<20 {
		t.Errorf("%d octets were allocated, %v", got, err)
	}
}
