package storage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/crashtest"
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/kv/pebble"
	"github.com/sluicemail/sluice/storage/storagetest"
)

// The notes: what simulated SMTP and IMAP clients have been told, and what they are about to ask for.
type (
	accepted struct{ queue, body string } // a 250
	box      struct {                     // a mailbox was shown
		name     string
		validity uint32
		next     storage.UID
		highest  storage.ModSeq
	}
	shown struct { // a message was shown
		validity uint32
		uid      storage.UID
		seq      storage.ModSeq
		body     string
		instance storage.ID
	}
	leaving struct { // is about to be expunged or moved away
		validity uint32
		uid      storage.UID
	}
	left struct { // has been, and the client knows
		validity uint32
		uid      storage.UID
	}
)

const crashInline = 2 << 10

// crashWork is the scenario: an SMTP client whose messages go through a queue into INBOX, an IMAP client that works on the
// same account, and another one that only looks.
type crashWork struct {
	messages int
	// Mutants: once the account is there, nobody waits for a sync; only who looks does not.
	noSync, noWaitToShow bool
}

// hasty is an engine that says durable when nothing is, from some moment on.
type hasty struct {
	kv.Engine
	now *atomic.Bool
}

func (h hasty) WaitDurable(ctx context.Context, pos kv.Pos) error {
	if h.now.Load() {
		return nil
	}
	return h.Engine.WaitDurable(ctx, pos)
}

// openCrash opens the store of a world, or, without one, what a crash left.
func openCrash(w *crashtest.World, fs vfs.FS, noSync *atomic.Bool) (*storage.Store, kv.Engine, error) {
	fatal := func(err error) { panic(err) }
	if w != nil {
		fatal = w.Fatal
	}
	e, err := pebble.Open(pebble.Options{
		Dir: "data/store", FS: fs, MemTableSize: 64 << 10, CacheSize: 1 << 20, MinFree: -1, Fatal: fatal,
	})
	if err != nil {
		return nil, nil, err
	}
	var engine kv.Engine = e
	if w != nil {
		engine = w.Engine(e)
	}
	if noSync != nil {
		engine = hasty{engine, noSync}
	}
	c := storage.DefaultConfig()
	c.InlineLimit = crashInline
	s, err := storage.Open(context.Background(), storage.Options{
		Dir: "data", FS: fs, Engine: engine, Config: c, Cost: storagetest.Cheap(), CollectAfter: time.Millisecond,
	})
	if err != nil {
		return nil, nil, errors.Join(err, e.Close())
	}
	return s, e, nil
}

const crashUser = "user@example.test"

func (k crashWork) run(w *crashtest.World) error {
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
	w.Note(a.ID)
	hasty.Store(k.noSync)
	errs := make(chan error, 3)
	stop := make(chan struct{})
	w.Go(func() { errs <- k.smtp(ctx, w, s, a.ID) })
	w.Go(func() { errs <- k.imap(ctx, w, s, a.ID) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		errs <- k.look(ctx, w, s, a.ID, stop)
	}()
	w.Wait()
	close(stop)
	<-done
	return errors.Join(<-errs, <-errs, <-errs, s.Close(ctx), e.Close())
}

func queueKey(n int) string { return fmt.Sprintf("queue/%04d", n) }

func crashBody(what string, n int) string {
	size := 100
	if n%4 == 3 {
		size = crashInline + 500 // a file
	}
	return fmt.Sprintf("Message-ID: <%s-%d@x>\r\nSubject: %s %d\r\n\r\n%s\r\n", what, n, what, n, strings.Repeat("x", size))
}

// smtp commits messages to the queue, and moves each into INBOX.
func (k crashWork) smtp(ctx context.Context, w *crashtest.World, s *storage.Store, a storage.AccountID) error {
	for n := range k.messages {
		body := crashBody("smtp", n)
		p, err := prepareCrash(ctx, s, body)
		if err != nil {
			return err
		}
		var b kv.Batch
		p.Put(&b, queueKey(n))
		b.Set([]byte(queueKey(n)), []byte(body))
		pos, err := s.KV().Apply(ctx, &b)
		if err != nil {
			return err
		}
		if err := s.WaitDurable(ctx, pos); err != nil {
			return err
		}
		w.Note(accepted{queueKey(n), body})
		_, err = s.Update(ctx, a, func(tx *storage.Tx) error {
			inbox, err := tx.Mailbox("INBOX")
			if err != nil {
				return err
			}
			tx.Batch().Delete([]byte(queueKey(n)))
			_, err = tx.Deliver(inbox.ID, storage.Delivery{Info: p.Info(0), Use: queueKey(n)})
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func prepareCrash(ctx context.Context, s *storage.Store, body string) (*storage.Prepared, error) {
	sp := s.Blobs().NewSpool()
	if _, err := io.WriteString(sp, body); err != nil {
		sp.Discard()
		return nil, err
	}
	d, err := sp.Finish()
	if err != nil {
		return nil, err
	}
	defer d.Discard()
	return s.Prepare(ctx, d, nil)
}

// imap appends, flags, copies, moves and expunges in a mailbox of its own, which it sometimes makes anew.
func (k crashWork) imap(ctx context.Context, w *crashtest.World, s *storage.Store, a storage.AccountID) error {
	c := &crashClient{ctx: ctx, w: w, s: s, a: a}
	for n := range k.messages {
		c.step(func() error { return c.append(n) })
		switch n % 6 {
		case 1:
			c.step(func() error { return c.flag() })
		case 2:
			c.step(func() error { return c.transfer(true) })
		case 3:
			c.step(func() error { return c.transfer(false) })
		case 4:
			c.step(func() error { return c.expunge() })
		case 5:
			c.step(func() error { return c.remake(n) })
		}
	}
	return c.err
}

// look is an IMAP client in IDLE: it is told of changes, waits until they are durable, and shows them.
func (k crashWork) look(ctx context.Context, w *crashtest.World, s *storage.Store, a storage.AccountID, stop chan struct{}) error {
	watch := s.Watch(a)
	defer watch.Close()
	for {
		select {
		case <-watch.C:
		case <-time.After(time.Millisecond): // a NOOP
		case <-stop:
			return nil
		case <-w.Dead():
			return nil
		}
		var notes []any
		var pos kv.Pos
		err := s.View(ctx, a, func(v *storage.View) error {
			pos = v.Pos()
			for _, m := range v.Mailboxes() {
				notes = append(notes, box{m.Name, m.UIDValidity, m.UIDNext, m.HighestModSeq})
				err := v.Messages(m.ID, m.UIDNext-min(m.UIDNext, 5), m.UIDNext, func(msg *storage.Message) (bool, error) {
					notes = append(notes, shown{validity: m.UIDValidity, uid: msg.UID, seq: msg.ModSeq, instance: msg.Instance})
					return true, nil
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil && !k.noWaitToShow {
			err = s.WaitDurable(ctx, pos)
		}
		if err != nil {
			return fmt.Errorf("look: %w", err)
		}
		for _, n := range notes {
			w.Note(n)
		}
	}
}
