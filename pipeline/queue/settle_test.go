package queue_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
)

// commitFrom is commit for a message of that origin.
func (r *rig) commitFrom(t testing.TB, origin sdk.Origin, subject string, hops ...pipeline.Hop) *pipeline.Message {
	t.Helper()
	m, err := message(r.store, subject, hops...)
	if err != nil {
		t.Fatal(err)
	}
	m.Origin = origin
	if err := r.queue.Commit(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

// writer makes notices that go to alice.
type writer struct {
	r    *rig
	mu   sync.Mutex
	made []*pipeline.Message
}

func (w *writer) Notice(context.Context, *queue.Notice) (*pipeline.Message, string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, err := message(w.r.store, "notice", w.r.mailbox())
	w.made = append(w.made, m)
	return m, "", err
}

var bounce = pipeline.Hop{Kind: pipeline.HopBounce, Why: "550 5.7.1 no"}

// TestOneNoticeForARound (RULES A8): three recipients that fail together make one DSN.
func TestOneNoticeForARound(t *testing.T) {
	told := &teller{make(chan string, 10)}
	r := newRig(t, func(o *queue.Options) { o.Notify = told })
	m := r.commitFrom(t, sdk.Login, "three", bounce, r.mailbox(), bounce, bounce)
	eventually(t, "the notice", func() bool { return len(told.told) > 0 })
	eventually(t, "delivery", func() bool { return r.subjects(t, "INBOX")["three"] == 1 })
	if got := <-told.told; strings.Count(got, "550") != 3 || len(told.told) != 0 {
		t.Errorf("told: %s, and %d more notices", got, len(told.told))
	}
	if got := r.actions(t, m.ID); strings.Count(got, "failed") != 3 {
		t.Errorf("the trace says %q", got)
	}
}

// TestNoticeIsQueuedAndItsContentReleased: what a notice takes of max_buffered is given back.
func TestNoticeIsQueuedAndItsContentReleased(t *testing.T) {
	w := &writer{}
	r := newRig(t, func(o *queue.Options) { o.Notify = w })
	w.r = r
	r.commitFrom(t, sdk.Trusted, "bad", bounce)
	eventually(t, "the notice in the mailbox", func() bool { return r.subjects(t, "INBOX")["notice"] == 1 })
	eventually(t, "an empty queue", func() bool { return len(r.list(t)) == 0 })
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.made[0].Content.ReadAt(make([]byte, 1), 0); err == nil {
		t.Error("the content of the notice is still held")
	}
}

// TestNobodyIsToldWhomNobodyVerified (RULES A7, DRILLS E2.2): mail of a stranger that fails after its 250 is kept for the postmaster.
func TestNobodyIsToldWhomNobodyVerified(t *testing.T) {
	told := &teller{make(chan string, 10)}
	r := newRig(t, func(o *queue.Options) {
		o.Notify = told
		o.Deliver = &stubborn{next: o.Deliver, fail: func(*pipeline.Attempt) (pipeline.Outcome, error) {
			return pipeline.Outcome{Kind: pipeline.Failed, Text: "never"}, nil
		}}
	})
	for origin, want := range map[sdk.Origin]string{
		sdk.Stranger: "queued failed not notified quarantined",
		sdk.LMTP:     "queued failed not notified quarantined",
		sdk.Login:    "queued failed not notified quarantined", // whom the teller can't reach
	} {
		m := r.commitFrom(t, origin, string(origin), r.mailbox())
		eventually(t, "quarantine", func() bool {
			item, err := queue.Show(context.Background(), r.store.KV(), m.ID)
			return err == nil && item.Recipients[0].State == "quarantined"
		})
		if got := r.actions(t, m.ID); got != want {
			t.Errorf("%s: the trace says %q", origin, got)
		}
	}
	if len(told.told) != 1 {
		t.Errorf("%d notices, expected the one to the login", len(told.told))
	}
	if in, _ := r.queue.Depth(); in != 0 {
		t.Errorf("%d entries in memory", in)
	}
}

// moody is an engine whose calls fail when a test wants.
type moody struct {
	queue.Store
	engine moodyEngine
}

type moodyEngine struct {
	kv.Engine
	get, apply atomic.Bool // fail
}

func (m *moody) KV() kv.Engine { return &m.engine }

var errMoody = errors.New("disk trouble")

func (m *moodyEngine) Get(ctx context.Context, key []byte) ([]byte, error) {
	if m.get.Load() {
		return nil, errMoody
	}
	return m.Engine.Get(ctx, key)
}

func (m *moodyEngine) Apply(ctx context.Context, b *kv.Batch) (kv.Pos, error) {
	if m.apply.Load() {
		return 0, errMoody
	}
	return m.Engine.Apply(ctx, b)
}

// TestSettlingThatFailsChangesNothing: neither the state in memory nor the notice is lost when the store is in trouble.
func TestSettlingThatFailsChangesNothing(t *testing.T) {
	w := &writer{}
	var trouble *moody
	r := newRig(t, func(o *queue.Options) {
		o.Notify = w
		trouble = &moody{Store: o.Store}
		trouble.engine.Engine = o.Store.KV()
		o.Store = trouble
	})
	w.r = r
	notices := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.made)
	}
	gone := r.mailbox()
	gone.Account[9] ^= 1
	m, err := message(r.store, "bad", bounce, gone)
	if err != nil {
		t.Fatal(err)
	}
	m.Origin = sdk.Login
	hold := make(chan struct{})
	go func() {
		eventually(t, "the entry", func() bool { items, _ := list(r.store); return len(items) > 0 })
		trouble.engine.apply.Store(true)
		close(hold)
	}()
	if err := r.queue.Commit(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	<-hold
	eventually(t, "a try", func() bool { return notices() > 0 })
	time.Sleep(20 * time.Millisecond)
	trouble.engine.apply.Store(false)
	eventually(t, "the notice in the mailbox", func() bool { return r.subjects(t, "INBOX")["notice"] == 1 })
	item, err := queue.Show(context.Background(), r.store.KV(), m.ID)
	if err != nil || len(item.Recipients) != 1 || item.Recipients[0].State != "quarantined" {
		t.Errorf("%+v %v", item, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, m := range w.made {
		if _, err := m.Content.ReadAt(make([]byte, 1), 0); err == nil {
			t.Errorf("the content of notice %d is still held", i)
		}
	}
}

// TestStoreInTroubleAtStart: an entry that could not be read for a moment is not forgotten.
func TestEntryThatCouldNotBeReadForAMoment(t *testing.T) {
	r := newRig(t, nil)
	if err := r.queue.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.commit(t, "late", r.mailbox()) // by a queue whose workers have stopped
	trouble := &moody{Store: r.store}
	trouble.engine.Engine = r.store.KV()
	o := options(r.store)
	o.Store = trouble
	var ahead atomic.Int64
	o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load()) - time.Hour) }
	q := queue.New(o) // whose clock is late: what is due is read by the ticker
	if err := q.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer q.Stop(context.Background())
	trouble.engine.get.Store(true)
	ahead.Store(int64(2 * time.Hour))
	time.Sleep(100 * time.Millisecond)
	trouble.engine.get.Store(false)
	eventually(t, "delivery", func() bool { return r.subjects(t, "INBOX")["late"] == 1 })
}

// TestListShowsWhatCannotBeRead (DRILLS E2.7).
func TestListShowsWhatCannotBeRead(t *testing.T) {
	r := newRig(t, nil)
	good := r.commit(t, "good", pipeline.Hop{Kind: pipeline.HopQuarantine})
	var b kv.Batch
	bad := storage.ID{0, 1}
	b.Set(append([]byte("queue/0/entry/"), bad[:]...), []byte{99})
	if _, err := r.store.KV().Apply(context.Background(), &b); err != nil {
		t.Fatal(err)
	}
	items := r.list(t)
	if len(items) != 2 || items[0].ID != bad.String() || items[0].Problem == "" || items[1].ID != good.ID.String() {
		t.Errorf("%+v", items)
	}
	if item, err := queue.Show(context.Background(), r.store.KV(), bad); err != nil || item.Problem == "" {
		t.Errorf("%+v %v", item, err)
	}
}

// TestStopLetsAnAttemptFinish.
func TestStopLetsAnAttemptFinish(t *testing.T) {
	begun, cut := make(chan struct{}), make(chan error, 1)
	r := newRig(t, func(o *queue.Options) { o.Deliver = &patient{o.Deliver, begun, cut} })
	r.commit(t, "slow", r.mailbox())
	<-begun
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.queue.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-cut; err != nil {
		t.Errorf("the attempt was cut off: %v", err)
	}
	if r.subjects(t, "INBOX")["slow"] != 1 {
		t.Error("not delivered")
	}
}

type patient struct {
	next  pipeline.Deliverer
	begun chan struct{}
	cut   chan error
}

func (p *patient) Deliver(ctx context.Context, a *pipeline.Attempt) (pipeline.Outcome, bool, error) {
	close(p.begun)
	time.Sleep(100 * time.Millisecond)
	p.cut <- ctx.Err()
	return p.next.Deliver(ctx, a)
}
