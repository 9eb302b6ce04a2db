package queue

import (
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
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/kv/pebble"
)

var errSick = errors.New("the disk is sick")

// sickStore refuses batches while sick is set; if it lies, it has them all the same.
type sickStore struct {
	Store
	sick, lies bool
}

type sickEngine struct {
	kv.Engine
	s *sickStore
}

func (s *sickStore) KV() kv.Engine { return sickEngine{s.Store.KV(), s} }

func (e sickEngine) Apply(ctx context.Context, b *kv.Batch) (kv.Pos, error) {
	if !e.s.sick {
		return e.Engine.Apply(ctx, b)
	}
	if e.s.lies {
		_, _ = e.Engine.Apply(ctx, b)
	}
	return 0, errSick
}

// bench is a model whose steps a test chooses.
func newBench(t *testing.T) (*model, *sickStore) {
	t.Helper()
	store, err := storage.Open(context.Background(), storage.Options{
		Dir: "data", FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler),
		Pebble: pebble.Options{MemTableSize: 1 << 20, CacheSize: 1 << 20, MinFree: -1, Fatal: func(err error) { panic(err) }},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close(context.Background()) })
	m := &model{
		t: t, rnd: rand.New(rand.NewPCG(1, 7)), store: store, now: time.Now().Truncate(time.Minute), sent: map[string]int{}, want: map[string]bool{},
	}
	m.start()
	s := &sickStore{Store: store}
	m.q.Store = s
	return m, s
}

func (m *model) to(address string, received time.Time) storage.ID {
	m.t.Helper()
	sp := m.store.Blobs().NewSpool()
	fmt.Fprint(sp, "Subject: x\r\n\r\nhello\r\n")
	draft, err := sp.Finish()
	if err != nil {
		m.t.Fatal(err)
	}
	msg := &pipeline.Message{
		ID: m.store.NewID(), Origin: sdk.Login, Pipeline: "outbound", Received: received, Trace: &trace.Trace{}, Sender: "s@example.test",
		Recipients: []*pipeline.Recipient{{Address: address, Hops: []pipeline.Hop{{Kind: pipeline.HopRemote, Address: address}}}},
	}
	if err := errors.Join(msg.SetContent(draft), m.q.Commit(context.Background(), msg)); err != nil {
		m.t.Fatal(err)
	}
	return msg.ID
}

// settleDown does all that can be done at the moment.
func (m *model) settleDown() {
	for range 3 {
		for m.work() {
		}
		m.upkeep()
	}
}

func (m *model) left() (n int) {
	if err := List(context.Background(), m.store.KV(), func(Item) (bool, error) { n++; return true, nil }); err != nil {
		m.t.Fatal(err)
	}
	return n
}

// TestKnownThroughASuspension: what a server has taken is not sent again because our disk was in trouble, although the server can't
// be reached meanwhile; and no administrator gets hold of it before it is written.
func TestKnownThroughASuspension(t *testing.T) {
	t.Parallel()
	m, s := newBench(t)
	id := m.to("a@a1.example", m.now)
	for len(m.trips) == 0 {
		m.work()
	}
	first := m.trips[0]
	m.trips = nil
	s.sick = true
	sent := m.q.travel(context.Background(), first)
	s.sick = false
	if m.sent["a@a1.example"] != 1 || m.left() != 1 {
		t.Fatalf("sent %v, %d left", m.sent, m.left())
	}
	m.q.finish(first, &sent, first.part.e.left(first.part), 0)
	if m.q.schedule.seize(id) {
		t.Error("an administrator could have it")
	}
	m.q.mu.Lock()
	st := first.site
	st.fail(&pipeline.Sent{Why: "time-out"}, &timetable{retry: time.Hour, retryMax: time.Hour}, m.now, 0)
	m.q.suspend(st)
	m.q.mu.Unlock()
	m.now = m.now.Add(10 * time.Second)
	m.q.wake()
	m.settleDown()
	if m.left() != 0 {
		t.Error("what was known is not written while the next hop is suspended")
	}
	m.now = m.now.Add(3 * time.Hour)
	m.settleDown()
	if n := m.sent["a@a1.example"]; n != 1 || m.left() != 0 {
		t.Errorf("sent %d times, %d left", n, m.left())
	}
}

// TestRecordsElsewhere (DRILLS E2.7): a record under another's key is set aside; settling it would never end it.
func TestRecordsElsewhere(t *testing.T) {
	t.Parallel()
	m, _ := newBench(t)
	ctx := context.Background()
	ids := []storage.ID{m.to("a@a1.example", m.now), m.to("b@b1.example", m.now), m.to("c@c1.example", m.now)}
	var b kv.Batch
	entry, err := m.store.KV().Get(ctx, entryKey(ids[1]))
	if err != nil {
		t.Fatal(err)
	}
	b.Set(entryKey(ids[0]), entry)
	recipient, err := m.store.KV().Get(ctx, recipientKey(ids[1], 0))
	if err != nil {
		t.Fatal(err)
	}
	b.Set(recipientKey(ids[1], 7), recipient)
	b.Set(dueKey(minuteOf(m.now), "@b1.example", ids[1], 7), nil)
	if _, err := m.store.KV().Apply(ctx, &b); err != nil {
		t.Fatal(err)
	}
	m.start()
	for range 5 {
		m.settleDown()
		m.now = m.now.Add(10 * time.Minute)
	}
	if m.sent["a@a1.example"] != 0 || m.sent["b@b1.example"] != 0 || m.sent["c@c1.example"] != 1 {
		t.Errorf("sent %v", m.sent)
	}
	if in, _ := m.q.Depth(); in != 0 || m.left() != 2 {
		t.Errorf("%d in memory, %d left", in, m.left())
	}
}

// TestClockWentBackAtStart: the low-water mark is ahead of the clock; what stands at it is due all the same.
func TestClockWentBackAtStart(t *testing.T) {
	t.Parallel()
	m, _ := newBench(t)
	m.now = m.now.Add(365 * 24 * time.Hour)
	m.settleDown()
	m.now = m.now.Add(-365 * 24 * time.Hour)
	m.to("a@a1.example", m.now)
	m.sick = false
	m.start() // before it has left
	m.to("b@b1.example", m.now)
	m.settleDown()
	if m.sent["a@a1.example"] != 1 || m.sent["b@b1.example"] != 1 || m.left() != 0 {
		t.Errorf("sent %v, %d left", m.sent, m.left())
	}
}

// noticeToC makes each notice a message of its own.
type noticeToC struct{ m *model }

func (n noticeToC) Notice(context.Context, *Notice) (*pipeline.Message, string, error) {
	sp := n.m.store.Blobs().NewSpool()
	fmt.Fprint(sp, "Subject: notice\r\n\r\nhello\r\n")
	draft, err := sp.Finish()
	if err != nil {
		return nil, "", err
	}
	msg := &pipeline.Message{ID: n.m.store.NewID(), Origin: sdk.Generated, Pipeline: "outbound", Received: n.m.now, Trace: &trace.Trace{},
		Recipients: []*pipeline.Recipient{{Address: "c@c1.example", Hops: []pipeline.Hop{{Kind: pipeline.HopRemote, Address: "c@c1.example"}}}}}
	return msg, "", msg.SetContent(draft)
}

// TestNoticeOfALostAnswer: a batch is there although the engine said that it failed; so is the notice in it, and it leaves.
func TestNoticeOfALostAnswer(t *testing.T) {
	t.Parallel()
	m, s := newBench(t)
	m.q.Notify = noticeToC{m}
	m.to("a@a1.example", m.now.Add(-6*24*time.Hour))
	for len(m.trips) == 0 {
		m.work()
	}
	trip := m.trips[0]
	m.trips = nil
	trip.never = &pipeline.Outcome{Kind: pipeline.Failed, Text: "no"}
	s.sick, s.lies = true, true
	sent := m.q.travel(context.Background(), trip)
	s.sick = false
	m.q.finish(trip, &sent, trip.part.e.left(trip.part), 0)
	for range 4 {
		m.settleDown()
		m.now = m.now.Add(time.Minute)
	}
	if m.sent["c@c1.example"] != 1 || m.sent["a@a1.example"] != 0 || m.left() != 0 {
		t.Errorf("sent %v, %d left", m.sent, m.left())
	}
}

// mostlyDead are servers of which only that of z.example can be reached.
type mostlyDead struct{ *model }

func (d mostlyDead) Send(ctx context.Context, key pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, func(), error) {
	if p.Domain == "z.example" {
		return d.model.Send(ctx, key, p)
	}
	return pipeline.Sent{Pace: pipeline.PaceWait, Why: "time-out", Outcomes: []pipeline.Outcome{{Kind: pipeline.Delayed, Text: "time-out"}}}, nil, nil
}

// TestMoreDeadDomainsThanAreKnown: what stands behind more dead domains than a process knows at once has its turn after a start; the
// dead ones have theirs too, and are given up in time.
func TestMoreDeadDomainsThanAreKnown(t *testing.T) {
	t.Parallel()
	m, s := newBench(t)
	received := m.now
	const dead = 20
	for i := range 2 * dead { // the second of each stays on disk when the first has failed, and its hop is known as long
		m.to(fmt.Sprintf("u%d@%c.example", i/dead, 'a'+rune(i%dead)), received)
	}
	m.to("u@z.example", received)
	m.few = true
	m.start()
	m.q.Store, m.q.Courier = s, mostlyDead{m}
	begin := m.now
	for m.sent["u@z.example"] == 0 && m.now.Sub(begin) < 12*time.Hour {
		m.settleDown()
		m.now = m.now.Add(time.Minute)
		m.check("dead domains")
	}
	if took := m.now.Sub(begin); took > time.Hour {
		t.Errorf("it has left after %s", took)
	}
	for m.left() > 0 && m.now.Sub(begin) < 8*24*time.Hour {
		m.settleDown()
		m.now = m.now.Add(10 * time.Minute)
		if len(m.q.hops) > 5+2 {
			t.Fatalf("%d hops are known", len(m.q.hops))
		}
	}
	if took := m.now.Sub(begin); m.left() != 0 || took > 6*24*time.Hour {
		t.Errorf("%d left after %s", m.left(), took)
	}
}
