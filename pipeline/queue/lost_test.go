package queue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/kv/kvtest"
	"github.com/sluicemail/sluice/storage/kv/pebble"
	"github.com/sluicemail/sluice/storage/storagetest"
)

// TestLostAnswers: the n-th call of the engine fails, before or after it was
// done. Whoever had a 250 has the message once; whoever had none, at most once.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	trouble := errors.New("the answer is lost")
	ways := map[string]func(kv.Engine, int64, error) *kvtest.Wrapped{"not done": kvtest.Fail, "done": kvtest.FailAfter}
	for name, fail := range ways {
		t.Run(name, func(t *testing.T) {
			for n := int64(1); ; n++ {
				calls, err := lostAnswer(func(e kv.Engine) *kvtest.Wrapped { return fail(e, n, trouble) })
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

// lostAnswer commits and delivers two messages over an engine that fails.
func lostAnswer(wrap func(kv.Engine) *kvtest.Wrapped) (calls int64, err error) {
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
	account, err := store.CreateAccount(ctx, "alice@example.test", "correct horse", storage.AccountOptions{})
	if err := errors.Join(err, store.Close(ctx)); err != nil {
		return 0, err
	}

	wrapped := wrap(engine)
	accepted := make(map[string]bool)
	if store, err = open(wrapped); err == nil { // else the failure was there
		o := options(store)
		o.Now = fast()
		q := queue.New(o)
		if q.Start(ctx) == nil {
			for _, subject := range []string{"one", "two"} {
				hop := pipeline.Hop{Kind: pipeline.HopMailbox, Account: account.ID, Address: account.Address}
				m, err := message(store, subject, hop)
				if err != nil {
					return 0, err
				}
				accepted[subject] = q.Commit(ctx, m) == nil
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
	return wrapped.Calls(), checkLost(ctx, open, engine, account.ID, accepted)
}

// checkLost starts again on the sound engine and looks at what is there.
func checkLost(ctx context.Context, open func(kv.Engine) (*storage.Store, error), engine kv.Engine, alice storage.AccountID, accepted map[string]bool) error {
	store, err := open(engine)
	if err != nil {
		return err
	}
	defer store.Close(ctx)
	o := options(store)
	o.Now = fast()
	q := queue.New(o)
	if err := q.Start(ctx); err != nil {
		return err
	}
	if err := errors.Join(drained(store), q.Stop(ctx)); err != nil {
		return err
	}
	found, err := subjects(store, alice, "INBOX")
	if err != nil {
		return err
	}
	for subject, ok := range accepted {
		if found[subject] > 1 || ok && found[subject] != 1 {
			return fmt.Errorf("%s: had its 250: %v, in the mailbox %d times", subject, ok, found[subject])
		}
	}
	return nil
}
