package queue_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/crashtest"
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/kv/kvtest"
	"github.com/sluicemail/sluice/storage/kv/pebble"
	"github.com/sluicemail/sluice/storage/storagetest"
)

// What the crash test notes beside begun and accepted: another server got a message, and its connection was let go on,
// which says that the outcome is on disk.
type (
	arrived   struct{ what string }
	leftAlone struct{ what string }
)

// noter is a courier that notes what other servers see.
type noter struct {
	*world
	note func(any)
}

func (n *noter) Send(ctx context.Context, hop pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, func(), error) {
	subject, err := subjectOf(ctx, p)
	if err != nil {
		return pipeline.Sent{}, nil, err
	}
	for _, to := range p.Recipients {
		n.note(arrived{subject + " to " + to.Address})
	}
	return took(p), func() {
		for _, to := range p.Recipients {
			n.note(leftAlone{subject + " to " + to.Address})
		}
	}, nil
}

var crashTo = []string{"a@example.net", "b@example.net", "c@example.org"}

func remoteRun(w *crashtest.World) error {
	ctx := context.Background()
	store, err := openStore(w.FS(), w.Fatal)
	if err != nil {
		return err
	}
	o := options(store)
	o.Courier = &noter{newWorld(), w.Note}
	q := queue.New(o)
	if err := q.Start(ctx); err != nil {
		return errors.Join(err, store.Close(ctx))
	}
	var all []error
	for i := range 6 {
		subject := fmt.Sprint("m", i)
		w.Note(begun{subject})
		m, err := message(store, subject, to(crashTo[0]), to(crashTo[1]), to(crashTo[2]))
		if err == nil {
			err = q.Commit(ctx, m)
		}
		if err != nil {
			all = append(all, err)
			continue
		}
		w.Note(accepted{subject})
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if in, more := q.Depth(); in == 0 && !more {
			break
		}
	}
	return errors.Join(append(all, q.Stop(ctx), store.Close(ctx))...)
}

// witness is the other servers in a check, which may crash itself: what they get is on their disk, which is
// the same one here, before they answer.
type witness struct {
	*world
	fs vfs.FS
}

const witnessed = "witnessed-"

func (w *witness) Send(ctx context.Context, hop pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, func(), error) {
	subject, err := subjectOf(ctx, p)
	for _, to := range p.Recipients {
		if err == nil {
			err = w.keep(subject + " to " + to.Address)
		}
	}
	if err != nil {
		return pipeline.Sent{}, nil, err
	}
	return w.world.Send(ctx, hop, p)
}

func (w *witness) keep(what string) error {
	f, err := w.fs.Create("data/"+witnessed+what, "")
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	dir, err := w.fs.OpenDir("data")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// remoteCheck starts again on what is left: what had its 250 arrives, and what another server was let go on after
// does not arrive again (I3).
func remoteCheck(fs vfs.FS, notes []any) error {
	ctx := context.Background()
	acceptedAt, arrivedAt, settledAt := map[string]bool{}, map[string]int{}, map[string]bool{}
	for _, n := range notes {
		switch n := n.(type) {
		case accepted:
			acceptedAt[n.subject] = true
		case arrived:
			arrivedAt[n.what]++
		case leftAlone:
			settledAt[n.what] = true
		}
	}
	store, err := openStore(fs, func(err error) { panic(err) })
	if err != nil {
		return fmt.Errorf("start again: %w", err)
	}
	defer store.Close(ctx)
	files, err := fs.List("data")
	if err != nil {
		return err
	}
	for _, name := range files { // from a check that crashed
		if what, ok := strings.CutPrefix(name, witnessed); ok {
			arrivedAt[what]++
		}
	}
	w := newWorld()
	o := options(store)
	o.Courier = &witness{w, fs}
	q := queue.New(o)
	if err := q.Start(ctx); err != nil {
		return err
	}
	if err := errors.Join(drained(store), q.Stop(ctx)); err != nil {
		return err
	}
	again := w.counts()
	for subject := range acceptedAt {
		for _, address := range crashTo {
			if what := subject + " to " + address; arrivedAt[what]+again[what] == 0 {
				return fmt.Errorf("%s had its 250 and did not arrive", what)
			}
		}
	}
	for what, n := range again {
		if settledAt[what] || n > 1 {
			return fmt.Errorf("%s arrived %d times before the crash (settled: %v) and %d times after", what, arrivedAt[what], settledAt[what], n)
		}
	}
	return nil
}

func TestRemoteCrash(t *testing.T) {
	t.Parallel()
	crashtest.Run(t, crashtest.Scenario{Run: remoteRun, Check: remoteCheck}, crashtest.Options{Points: 25})
}

// TestRemoteLostAnswers: the n-th call of the engine fails, before or after it was done, while mail leaves. What had a
// 250 arrives, and nothing twice while the process lives: what another server has answered is kept until it is written.
func TestRemoteLostAnswers(t *testing.T) {
	t.Parallel()
	trouble := errors.New("the answer is lost")
	ways := map[string]func(kv.Engine, int64, error) *kvtest.Wrapped{"not done": kvtest.Fail, "done": kvtest.FailAfter}
	for name, fail := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n := int64(1); ; n++ {
				calls, err := remoteLostAnswer(func(e kv.Engine) *kvtest.Wrapped { return fail(e, n, trouble) })
				if err != nil {
					t.Fatalf("call %d: %v", n, err)
				}
				if calls < n {
					t.Logf("%d calls", calls)
					return
				}
			}
		})
	}
}

func remoteLostAnswer(wrap func(kv.Engine) *kvtest.Wrapped) (calls int64, err error) {
	ctx := context.Background()
	engine, err := pebble.Open(pebble.Options{Dir: "store", FS: vfs.NewMem(), MinFree: -1, MemTableSize: 1 << 20, CacheSize: 1 << 20,
		Fatal: func(err error) { panic(err) }})
	if err != nil {
		return 0, err
	}
	defer engine.Close()
	open := func(e kv.Engine) (*storage.Store, error) {
		return storage.Open(ctx, storage.Options{Dir: "data", FS: vfs.NewMem(), Engine: e, Logger: quiet, Cost: storagetest.Cheap()})
	}
	store, err := open(engine)
	if err != nil {
		return 0, err
	}
	if err := store.Close(ctx); err != nil {
		return 0, err
	}
	wrapped, w := wrap(engine), newWorld()
	var accepted []string
	if store, err = open(wrapped); err == nil { // else the failure was there
		o := options(store)
		o.Courier, o.Now = w, fast()
		q := queue.New(o)
		if q.Start(ctx) == nil {
			for _, subject := range []string{"one", "two"} {
				m, err := message(store, subject, to(crashTo[0]), to(crashTo[2]))
				if err != nil {
					return 0, err
				}
				if q.Commit(ctx, m) == nil {
					accepted = append(accepted, subject)
				}
			}
			time.Sleep(5 * time.Millisecond)
			for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
				if in, more := q.Depth(); in == 0 && !more {
					break
				}
			}
		}
		_ = q.Stop(ctx)
		_ = store.Close(ctx)
	}
	before := w.counts()
	if store, err = open(engine); err != nil {
		return 0, err
	}
	defer store.Close(ctx)
	o := options(store)
	o.Courier, o.Now = w, fast()
	q := queue.New(o)
	if err := q.Start(ctx); err != nil {
		return 0, err
	}
	if err := errors.Join(drained(store), q.Stop(ctx)); err != nil {
		return 0, err
	}
	for _, subject := range accepted {
		for _, address := range []string{crashTo[0], crashTo[2]} {
			if n := w.counts()[subject+" to "+address]; n != 1 {
				return 0, fmt.Errorf("%s to %s arrived %d times, %d before the restart", subject, address, n, before[subject+" to "+address])
			}
		}
	}
	return wrapped.Calls(), nil
}
