package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv/pebble"
)

// model is a queue without goroutines, on a real store, driven by chance. After each step every recipient that is
// not settled has to be in memory or where the loader finds it.
type model struct {
	t     *testing.T
	rnd   *rand.Rand
	store *storage.Store
	q     *Queue
	now   time.Time
	trips []*trip
	finds []*hop
	few   bool            // hops may be known at once
	sick  bool            // other servers answer as chance has it
	sent  map[string]int  // how often each recipient was delivered
	want  map[string]bool // recipients that were committed
	ids   []storage.ID    //
}

func (m *model) NextHop(_ context.Context, domain, _ string) (pipeline.NextHop, error) {
	if m.sick && m.rnd.IntN(5) == 0 {
		return pipeline.NextHop{}, errors.New("SERVFAIL")
	}
	return pipeline.NextHop{Key: "mx" + domain[:1]}, nil // some domains share a site
}

func (m *model) Send(_ context.Context, _ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, func(), error) {
	s := pipeline.Sent{Pace: pipeline.PaceFine}
	luck := 0
	if m.sick {
		luck = m.rnd.IntN(10)
	}
	kind := pipeline.Delivered
	switch luck {
	case 1, 2, 3:
		s.Pace, s.Why, kind = pipeline.PaceWait, "time-out", pipeline.Delayed
	case 4:
		s.Pace, s.Why, kind = pipeline.PaceSlow, "421", pipeline.Delayed
	case 5:
		kind, s.Pace = pipeline.Delayed, pipeline.PaceSame
	case 6:
		return s, nil, errors.New("our own trouble")
	}
	for _, to := range p.Recipients {
		s.Outcomes = append(s.Outcomes, pipeline.Outcome{Kind: kind, Text: s.Why})
		if kind == pipeline.Delivered {
			m.sent[to.Address]++
		}
	}
	return s, nil, nil
}

func (m *model) Deliver(_ context.Context, a *pipeline.Attempt) (pipeline.Outcome, bool, error) {
	if m.sick && m.rnd.IntN(3) == 0 {
		return pipeline.Outcome{Kind: pipeline.Delayed}, false, nil
	}
	m.sent[a.Hop.Address]++
	return pipeline.Outcome{Kind: pipeline.Delivered}, false, nil
}

// start begins with what is on disk, as a new process would.
func (m *model) start() {
	m.trips, m.finds = nil, nil
	m.q = New(Options{
		Store: m.store, Deliver: m, Courier: m, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return m.now },
		Jitter: func() float64 { return 2*m.rnd.Float64() - 1 }, Window: 4, Limits: Limits{Connections: 6, Memory: 16},
	})
	m.q.stop = func() {}
	if m.few {
		m.q.memory.hops = 5
	}
	m.q.remote.carry = func(t *trip) { m.trips = append(m.trips, t) }
	m.q.remote.find = func(h *hop) { m.finds = append(m.finds, h) }
	if err := m.q.recover(context.Background()); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) commit() {
	sp := m.store.Blobs().NewSpool()
	fmt.Fprint(sp, "Subject: x\r\n\r\nhello\r\n")
	draft, err := sp.Finish()
	if err != nil {
		m.t.Fatal(err)
	}
	msg := &pipeline.Message{
		ID: m.store.NewID(), Origin: sdk.Login, Pipeline: "outbound", Received: m.now, Trace: &trace.Trace{},
		Sender: fmt.Sprintf("s%d@example.test", m.rnd.IntN(3)),
	}
	for i := range 1 + m.rnd.IntN(4) {
		hop := pipeline.Hop{Kind: pipeline.HopMailbox, Address: fmt.Sprintf("%s.%d@example.test", msg.ID, i)}
		if m.rnd.IntN(4) > 0 {
			hop.Kind = pipeline.HopRemote
			hop.Address = fmt.Sprintf("%s.%d@%c%d.example", msg.ID, i, 'a'+rune(m.rnd.IntN(4)), m.rnd.IntN(3))
		}
		m.want[hop.Address] = true
		msg.Recipients = append(msg.Recipients, &pipeline.Recipient{Address: hop.Address, Hops: []pipeline.Hop{hop}})
	}
	if err := msg.SetContent(draft); err != nil {
		m.t.Fatal(err)
	}
	if err := m.q.Commit(context.Background(), msg); err != nil {
		m.t.Fatal(err)
	}
	m.ids = append(m.ids, msg.ID)
}

// work does one thing that is ready; false means that nothing is.
func (m *model) work() bool {
	ctx := context.Background()
	switch n := m.rnd.IntN(3); {
	case n == 0 && len(m.trips) > 0:
		i := m.rnd.IntN(len(m.trips))
		t := m.trips[i]
		m.trips = append(m.trips[:i], m.trips[i+1:]...)
		sent := m.q.travel(ctx, t)
		l := t.part.e.left(t.part)
		m.q.finish(t, &sent, l, 0)
	case n == 1 && len(m.finds) > 0:
		h := m.finds[0]
		m.finds = m.finds[1:]
		next, err := m.NextHop(ctx, h.domain, h.via)
		m.q.found(h, next, err, 0)
	case n == 2 && len(m.q.queue) > 0:
		p := m.q.queue[0]
		if p.state != ready {
			m.q.queue = m.q.queue[1:]
			return true
		}
		p = m.q.pop()
		m.q.process(ctx, p)
		l := p.e.left(p)
		m.q.rest(p, l)
	default:
		return len(m.trips)+len(m.finds)+len(m.q.queue) > 0
	}
	return true
}

func (m *model) upkeep() {
	ctx := context.Background()
	look := m.q.watchClock()
	m.q.wake()
	if err := errors.Join(m.q.load(ctx), m.q.tidy(ctx)); err != nil {
		m.t.Fatal(err)
	}
	if look {
		if err := m.q.lookAhead(ctx); err != nil {
			m.t.Fatal(err)
		}
	}
	if err := m.q.reviewLate(ctx); err != nil {
		m.t.Fatal(err)
	}
	for len(m.q.remote.reviews) > 0 {
		for _, h := range m.q.suspendedHops(<-m.q.remote.reviews) {
			if err := m.q.reviewHop(ctx, h); err != nil {
				m.t.Fatal(err)
			}
		}
	}
}

// hands does what an administrator does.
func (m *model) hands() {
	id := m.ids[m.rnd.IntN(len(m.ids))]
	if e := m.q.entries[id]; e != nil && e.busy > 0 {
		return // Do would wait
	}
	verb := []Verb{Hold, Release, Retry}[m.rnd.IntN(3)]
	_, err := m.q.Do(context.Background(), id, verb, nil)
	if err != nil && !errors.Is(err, ErrNothing) && !errors.Is(err, ErrNotFound) {
		m.t.Fatal(err)
	}
}

// check holds the promise.
func (m *model) check(step string) {
	ctx := context.Background()
	due := map[string][]place{} // of recipients, by hop, ID and number
	err := m.store.KV().Scan(ctx, []byte(duePrefix), []byte("queue/0/due0"), false, func(key, _ []byte) (bool, error) {
		label, at, number, ok := parseDue(key)
		if !ok {
			m.t.Fatalf("%s: key %x", step, key)
		}
		k := fmt.Sprint(label, at.id, number)
		due[k] = append(due[k], at)
		return true, nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	err = List(ctx, m.store.KV(), func(i Item) (bool, error) {
		id := idOf(m.t, i.ID)
		_, recipients, err := readEntry(ctx, m.store.KV(), id)
		if err != nil {
			return false, err
		}
		for _, r := range recipients {
			if !r.Next.IsZero() {
				m.checkRecipient(step, id, &r, due[fmt.Sprint(hopOf(&r.Hop), id, r.Number)])
			}
		}
		return true, nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) checkRecipient(step string, id storage.ID, r *Recipient, due []place) {
	label := hopOf(&r.Hop)
	mark, found, safe := m.q.loader.low, false, false
	if label == localHop {
		mark = m.q.loader.local
	}
	if e := m.q.entries[id]; e != nil {
		p := e.part(label)
		found = p != nil && p.state != away && p.state != over
	}
	h := m.q.hops[label]
	for _, at := range due {
		safe = safe || at.minute >= mark
		found = found || m.q.lost || bytes.Compare(placeKey(label, at), m.q.loader.swept) >= 0 || h != nil && !at.before(h.from)
	}
	if !safe {
		m.t.Fatalf("%s: %s %d of %s would not be found after a restart: keys at %v, mark %d", step, id, r.Number, label, due, mark)
	}
	if !found {
		m.t.Fatalf("%s: %s %d of %s is neither in memory nor to be found: keys at %v, hop %+v, loaded %d", step, id, r.Number, label, due, h, m.q.loaded)
	}
}

func idOf(t *testing.T, s string) storage.ID {
	t.Helper()
	id, err := storage.ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestNothingIsEverForgotten: whatever happens in whatever order, each recipient is in memory or found by the
// loader, memory is bounded, and in the end each was delivered exactly once.
func TestNothingIsEverForgotten(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runModel(t, seed) })
	}
}

func runModel(t *testing.T, seed uint64) {
	store, err := storage.Open(context.Background(), storage.Options{
		Dir: "data", FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler),
		Pebble: pebble.Options{MemTableSize: 1 << 20, CacheSize: 1 << 20, MinFree: -1, Fatal: func(err error) { panic(err) }},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close(context.Background())
	m := &model{
		t: t, rnd: rand.New(rand.NewPCG(seed, 7)), store: store, now: time.Now().Truncate(time.Minute).Add(time.Duration(seed) * time.Second), sick: true,
		sent: map[string]int{}, want: map[string]bool{},
	}
	m.few = seed%3 == 0
	m.start()
	m.commit()
	for i := range 400 {
		step := fmt.Sprintf("seed %d step %d", seed, i)
		switch n := m.rnd.IntN(20); {
		case n < 6:
			m.commit()
		case n < 14:
			m.work()
		case n < 16:
			m.now = m.now.Add(time.Duration(m.rnd.IntN(1800)) * time.Second)
		case n == 16 && m.rnd.IntN(4) == 0:
			m.now = m.now.Add(-time.Duration(m.rnd.IntN(600)) * time.Second)
		case n == 17:
			m.hands()
		case n == 18 && m.rnd.IntN(10) == 0:
			m.start()
		default:
			m.upkeep()
		}
		m.check(step)
		const mostOfEntry = 4
		if total := m.q.memory.total; total > 2*16+mostOfEntry+(4+1)*mostOfEntry { // beside those that leave: four that stay, one under review
			for _, e := range m.q.entries {
				for _, p := range e.parts {
					t.Logf("%s weight %d: %s state %d due %s", e.ID, e.weight, p.hop.label, p.state, p.due.Sub(m.now))
				}
			}
			t.Fatalf("%s: %d recipients in memory", step, total)
		}
	}
	m.sick = false
	m.finish()
}

// finish lets everything go well.
func (m *model) finish() {
	for _, id := range m.ids {
		for e := m.q.entries[id]; e != nil && e.busy > 0; e = m.q.entries[id] {
			if !m.work() {
				m.t.Fatalf("%s is busy with nothing", id)
			}
		}
		if _, err := m.q.Do(context.Background(), id, Release, nil); err != nil && !errors.Is(err, ErrNothing) && !errors.Is(err, ErrNotFound) {
			m.t.Fatal(err)
		}
	}
	for round := 0; ; round++ {
		for m.work() {
		}
		m.upkeep()
		n := 0
		if err := List(context.Background(), m.store.KV(), func(Item) (bool, error) { n++; return true, nil }); err != nil {
			m.t.Fatal(err)
		}
		if n == 0 && len(m.trips)+len(m.finds)+len(m.q.queue) == 0 {
			break
		}
		if round > 3000 {
			m.t.Fatalf("%d entries do not come to an end: %+v", n, m.q.Sites())
		}
		m.now = m.now.Add(time.Minute)
	}
	for range 3 { // what was too much to remember is read again when there is less
		m.now = m.now.Add(2 * oldHop)
		m.upkeep()
	}
	for address := range m.want {
		if m.sent[address] != 1 {
			m.t.Errorf("%s was delivered %d times", address, m.sent[address])
		}
	}
	if in, more := m.q.Depth(); in != 0 || more || m.q.memory.total != 0 {
		m.t.Errorf("%d entries in memory, more: %v, weight %d", in, more, m.q.memory.total)
	}
}
