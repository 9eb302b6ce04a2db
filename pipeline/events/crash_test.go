package events

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/account"
	"github.com/sluicemail/sluice/storage/crashtest"
	"github.com/sluicemail/sluice/storage/kv/pebble"
)

// The notes: a user was told that his message is in Junk; the plugin was told the lesson.
type (
	taught struct{ subject string }
	learnt struct{ subject string }
)

// crashed is a store, a teacher and a plugin that learns, on a disk that fails. The plugin refuses each lesson once.
type crashed struct {
	messages int
	lies     bool // a mutant: the plugin says that it has learnt, and has not
}

func openCrashed(fs vfs.FS, fatal func(error)) (*storage.Store, error) {
	return storage.Open(context.Background(), storage.Options{
		Dir: "data", FS: fs, Cost: account.Cost{Memory: 64, Time: 1, Threads: 1}, CollectAfter: time.Millisecond,
		Pebble: pebble.Options{MemTableSize: 64 << 10, CacheSize: 1 << 20, MinFree: -1, Fatal: fatal},
	})
}

// student is the plugin.
type student struct {
	*fake
	w    *crashtest.World
	lies bool
	seen map[string]bool
}

func (s *student) Ask(_ context.Context, q *pluginhost.Question) (sdk.Verdict, time.Duration, error) {
	r, err := q.Open()
	if err != nil {
		return sdk.Verdict{}, 0, err
	}
	subject, err := subjectIn(r)
	if err != nil {
		return sdk.Verdict{}, 0, err
	}
	if !s.seen[subject] {
		s.seen[subject] = true
		return sdk.Verdict{}, 0, &pluginhost.Failure{Kind: pluginhost.Error, Err: errors.New("not yet")}
	}
	if !s.lies {
		s.w.Note(learnt{subject})
	}
	return sdk.Verdict{}, 0, nil
}

func subjectIn(r io.Reader) (string, error) {
	octets, err := io.ReadAll(r)
	subject, _, _ := strings.Cut(strings.TrimPrefix(string(octets), "Subject: "), "\r\n")
	return subject, err
}

func (k crashed) run(w *crashtest.World) error {
	ctx := context.Background()
	store, err := openCrashed(w.FS(), w.Fatal)
	if err != nil {
		return err
	}
	a, err := store.CreateAccount(ctx, "alice@example.test", "correct horse", storage.AccountOptions{})
	if err != nil {
		return err
	}
	plugin := &student{fake: wanting("bayes", sdk.EventLearnSpam), w: w, lies: k.lies, seen: make(map[string]bool)}
	teacher := NewTeacher(TeacherOptions{
		Store: store, Plugins: func() []Plugin { return []Plugin{plugin} }, Logger: quiet, Retry: time.Millisecond,
		Account: func(ctx context.Context, id storage.AccountID) (string, error) {
			a, err := store.Accounts().ByID(ctx, id)
			return a.Address, err
		},
	})
	teacher.Start(ctx) // before there is anything to learn
	errs := make(chan error, 1)
	w.Go(func() { errs <- k.user(ctx, w, store, a.ID) })
	w.Wait()
	w.Go(func() {
		for end := time.Now().Add(time.Second); teacher.Counts().Learnt < uint64(k.messages) && time.Now().Before(end); {
			select {
			case <-w.Dead():
				return
			case <-time.After(time.Millisecond):
			}
		}
		teacher.Stop()
	})
	w.Wait()
	select {
	case err = <-errs:
	default: // the disk has ended the world
	}
	return errors.Join(err, store.Close(ctx))
}

func (k crashed) user(ctx context.Context, w *crashtest.World, store *storage.Store, a storage.AccountID) error {
	for n := range k.messages {
		subject := fmt.Sprint("lesson ", n)
		sp := store.Blobs().NewSpool()
		if _, err := io.WriteString(sp, "Subject: "+subject+"\r\n\r\nbody\r\n"); err != nil {
			return err
		}
		draft, err := sp.Finish()
		if err != nil {
			return err
		}
		p, err := store.Prepare(ctx, draft, nil)
		if err != nil {
			return err
		}
		pos, err := store.Update(ctx, a, func(tx *storage.Tx) error {
			box, err := tx.EnsureUse(storage.UseJunk)
			if err != nil {
				return err
			}
			p.Put(tx.Batch(), "")
			_, err = tx.Append(box.ID, storage.Delivery{Info: p.Info(0)})
			return err
		})
		if err == nil {
			err = store.WaitDurable(ctx, pos)
		}
		if err != nil {
			return err
		}
		w.Note(taught{subject})
	}
	return nil
}

// check: what was acknowledged was learnt, or waits with its content.
func (k crashed) check(fs vfs.FS, notes []any) (err error) {
	ctx := context.Background()
	store, err := openCrashed(fs, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close(ctx)) }()
	have := make(map[string]bool)
	var list []storage.Lesson
	if err := store.Lessons(ctx, "bayes", func(l storage.Lesson) (bool, error) {
		list = append(list, l)
		return true, nil
	}); err != nil {
		return err
	}
	for _, l := range list {
		c, err := store.OpenContent(ctx, l.Content, l.Variant, nil)
		if err != nil {
			return fmt.Errorf("a lesson without its content: %w", err)
		}
		subject, err := subjectIn(c.Reader())
		if err := errors.Join(err, c.Close()); err != nil {
			return err
		}
		have[subject] = true
	}
	for _, n := range notes {
		if n, ok := n.(learnt); ok {
			have[n.subject] = true
		}
	}
	for _, n := range notes {
		if n, ok := n.(taught); ok && !have[n.subject] {
			return fmt.Errorf("%q was taught, and is neither learnt nor waits", n.subject)
		}
	}
	return nil
}

// TestNoLessonIsLost: whatever the disk does, and at whatever moment the power goes.
func TestNoLessonIsLost(t *testing.T) {
	k := crashed{messages: 6}
	crashtest.Run(t, crashtest.Scenario{Run: k.run, Check: k.check}, crashtest.Options{Points: 16})
	t.Run("mutant", func(t *testing.T) {
		k := crashed{messages: 6, lies: true}
		if _, err := crashtest.PowerLoss(crashtest.Scenario{Run: k.run, Check: k.check}, crashtest.Options{Points: 40}); err == nil {
			t.Error("a plugin that says that it has learnt, and has not, was not found out")
		}
	})
}
