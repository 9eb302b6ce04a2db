package storage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/crashtest"
)

// The notes: a user was told that the message is in Junk; the pupil has the lesson.
type (
	taught struct{ subject string }
	learnt struct{ subject string }
)

// lessonWork is a user who moves mail into Junk and a worker that tells a pupil.
type lessonWork struct {
	messages  int
	forgetful bool // a mutant: removes lessons that the pupil has never had
}

func (k lessonWork) run(w *crashtest.World) error {
	ctx := context.Background()
	var hasty atomic.Bool
	s, e, err := openCrash(w, w.FS(), &hasty)
	if err != nil {
		return err
	}
	a, err := s.CreateAccount(ctx, crashUser, "secret", storage.AccountOptions{})
	if err != nil {
		return err
	}
	kicks := make(chan struct{}, 1)
	s.Teach(func(storage.LessonKind) []string { return []string{"bayes"} }, func() {
		select {
		case kicks <- struct{}{}:
		default:
		}
	})
	errs := make(chan error, 2)
	done := make(chan struct{})
	w.Go(func() {
		defer close(done)
		errs <- k.user(ctx, w, s, a.ID)
	})
	w.Go(func() { errs <- k.worker(ctx, w, s, kicks, done) })
	w.Wait()
	return errors.Join(<-errs, <-errs, s.Close(ctx), e.Close())
}

func (k lessonWork) user(ctx context.Context, w *crashtest.World, s *storage.Store, a storage.AccountID) error {
	for n := range k.messages {
		p, err := prepareCrash(ctx, s, crashBody("lesson", n))
		if err != nil {
			return err
		}
		var uid storage.UID
		if _, err = s.Update(ctx, a, func(tx *storage.Tx) error {
			inbox, err := tx.Mailbox("INBOX")
			if err != nil {
				return err
			}
			p.Put(tx.Batch(), "")
			uid, err = tx.Append(inbox.ID, storage.Delivery{Info: p.Info(0)})
			return err
		}); err != nil {
			return err
		}
		pos, err := s.Update(ctx, a, func(tx *storage.Tx) error {
			inbox, err := tx.Mailbox("INBOX")
			if err != nil {
				return err
			}
			junk, err := tx.EnsureUse(storage.UseJunk)
			if err != nil {
				return err
			}
			_, err = tx.Move(inbox.ID, junk.ID, []storage.UID{uid})
			return err
		})
		if err == nil {
			err = s.WaitDurable(ctx, pos)
		}
		if err != nil {
			return err
		}
		w.Note(taught{fmt.Sprintf("lesson %d", n)})
	}
	return nil
}

func (k lessonWork) worker(ctx context.Context, w *crashtest.World, s *storage.Store, kicks, done chan struct{}) error {
	for {
		select {
		case <-kicks:
		case <-done:
			return nil
		case <-w.Dead():
			return nil
		}
		var list []storage.Lesson
		err := s.Lessons(ctx, "bayes", func(l storage.Lesson) (bool, error) {
			list = append(list, l)
			return true, nil
		})
		if err == nil {
			err = s.WaitDurable(ctx, s.KV().Tail())
		}
		for _, l := range list {
			if err != nil {
				return err
			}
			var subject string
			if subject, err = lessonSubject(ctx, s, l); err != nil {
				return err
			}
			if k.forgetful {
				if err := s.Learnt(ctx, l); err != nil {
					return err
				}
				continue
			}
			w.Note(learnt{subject})
			err = s.Learnt(ctx, l)
		}
		if err != nil {
			return err
		}
	}
}

func lessonSubject(ctx context.Context, s *storage.Store, l storage.Lesson) (string, error) {
	c, err := s.OpenContent(ctx, l.Content, l.Variant, nil)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(c.Reader())
	_, rest, _ := strings.Cut(string(text), "Subject: ")
	subject, _, _ := strings.Cut(rest, "\r\n")
	return subject, errors.Join(err, c.Close())
}

// check: whatever a user was told is learnt or still waits, with its content.
func (k lessonWork) check(fs vfs.FS, notes []any) (err error) {
	ctx := context.Background()
	s, e, err := openCrash(nil, fs, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close(ctx), e.Close()) }()
	have := make(map[string]bool)
	var list []storage.Lesson
	if err := s.Lessons(ctx, "bayes", func(l storage.Lesson) (bool, error) {
		list = append(list, l)
		return true, nil
	}); err != nil {
		return err
	}
	for _, l := range list {
		subject, err := lessonSubject(ctx, s, l)
		if err != nil {
			return fmt.Errorf("a lesson without its content: %w", err)
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
	report, err := s.Verify(ctx, storage.VerifyOptions{})
	if err == nil && len(report.Problems) > 0 {
		err = fmt.Errorf("verify: %q", report.Problems)
	}
	return err
}

// TestLessonsSurvive: no crash and no failing disk loses a lesson.
func TestLessonsSurvive(t *testing.T) {
	k := lessonWork{messages: 8}
	crashtest.Run(t, crashtest.Scenario{Run: k.run, Check: k.check}, crashtest.Options{Points: 16})
	t.Run("mutant", func(t *testing.T) {
		k := lessonWork{messages: 8, forgetful: true}
		if _, err := crashtest.PowerLoss(crashtest.Scenario{Run: k.run, Check: k.check}, crashtest.Options{Points: 40}); err == nil {
			t.Error("a worker that forgets lessons was not found out")
		}
	})
}
