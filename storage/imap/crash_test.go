package imap

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/crashtest"
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/kv/pebble"
	"github.com/sluicemail/sluice/storage/storagetest"
)

// TestCrashes lets a client work over the protocol while the power fails, or the
// disk does, at each n-th moment. What a tagged OK said must be there afterwards;
// of the command that had no answer yet, all or nothing (RULES B1, E1).
func TestCrashes(t *testing.T) {
	run := func(w *crashtest.World) error { return crashRun(w, false) }
	crashtest.Run(t, crashtest.Scenario{Run: run, Check: crashCheck}, crashtest.Options{Points: points()})
}

// A server that answers without waiting for the disk must be caught.
func TestCrashesMutant(t *testing.T) {
	run := func(w *crashtest.World) error { return crashRun(w, true) }
	if n, err := crashtest.PowerLoss(crashtest.Scenario{Run: run, Check: crashCheck}, crashtest.Options{Points: 40}); err == nil {
		t.Errorf("%d crashes found nothing wrong", n)
	}
}

// hasty is an engine that calls durable what is not, from some moment on.
type hasty struct {
	kv.Engine
	on *atomic.Bool
}

func (h hasty) WaitDurable(ctx context.Context, p kv.Pos) error {
	if h.on.Load() {
		return nil
	}
	return h.Engine.WaitDurable(ctx, p)
}

func points() int {
	if testing.Short() {
		return 15
	}
	return 40
}

// step is one command: its text, and what it does to a mailbox model.
type step struct {
	cmd string
	do  func(m crashModel)
}

// crashModel is the mailboxes: UIDs with flags, and the next UID.
type crashModel map[string]*crashBox

type crashBox struct {
	next  int
	flags map[int]string
}

func (m crashModel) clone() crashModel {
	c := crashModel{}
	for name, b := range m {
		c[name] = &crashBox{b.next, maps.Clone(b.flags)}
	}
	return c
}

func (m crashModel) String() string {
	var b strings.Builder
	for _, name := range []string{"INBOX", "Archive", "Trash", "new", "newer"} {
		if box := m[name]; box != nil {
			fmt.Fprintf(&b, "%s %v; ", name, box.flags)
		}
	}
	return b.String()
}

func (m crashModel) add(box, flags string) {
	b := m[box]
	b.flags[b.next] = flags
	b.next++
}

// The script works on INBOX, which is selected; mailboxes hold messages by UID.
func crashScript() []step {
	mail := "Subject: crash\r\n\r\n" + strings.Repeat("x", 3000) + "\r\n" // over the inline limit: a file
	appendTo := func(box, flags, body string) step {
		return step{fmt.Sprintf("APPEND %s (%s) {%d+}\r\n%s", box, flags, len(body), body), func(m crashModel) { m.add(box, flags) }}
	}
	var list []step
	for range 4 {
		list = append(list, appendTo("INBOX", "", shortMail))
	}
	return append(list,
		appendTo("INBOX", `\Flagged`, mail),
		step{`UID STORE 1 +FLAGS (\Seen)`, func(m crashModel) { m["INBOX"].flags[1] = `\Seen` }},
		step{`UID STORE 2:3 FLAGS.SILENT (\Deleted)`, func(m crashModel) { m["INBOX"].flags[2], m["INBOX"].flags[3] = `\Deleted`, `\Deleted` }},
		step{`UID COPY 1,5 Archive`, func(m crashModel) { m.add("Archive", `\Seen`); m.add("Archive", `\Flagged`) }},
		step{`UID EXPUNGE 2`, func(m crashModel) { delete(m["INBOX"].flags, 2) }},
		step{`UID MOVE 4:5 Trash`, func(m crashModel) {
			m.add("Trash", "")
			m.add("Trash", `\Flagged`)
			delete(m["INBOX"].flags, 4)
			delete(m["INBOX"].flags, 5)
		}},
		step{`CREATE new`, func(m crashModel) { m["new"] = &crashBox{1, map[int]string{}} }},
		appendTo("new", `\Draft`, mail),
		step{`RENAME new newer`, func(m crashModel) { m["newer"] = m["new"]; delete(m, "new") }},
		step{`EXPUNGE`, func(m crashModel) { delete(m["INBOX"].flags, 3) }},
		appendTo("INBOX", "", shortMail),
		step{`DELETE newer`, func(m crashModel) { delete(m, "newer") }},
		step{`UID FETCH 6 BODY[]`, func(m crashModel) { m["INBOX"].flags[6] = `\Seen` }},
	)
}

// The notes: step n is about to be sent, or was answered.
type (
	about    int
	answered int
)

func crashStore(fs vfs.FS, fatal func(error), mutant *atomic.Bool) (*storage.Store, func() error, error) {
	e, err := pebble.Open(pebble.Options{Dir: "data/store", FS: fs, MemTableSize: 64 << 10, CacheSize: 1 << 20, MinFree: -1, Fatal: fatal})
	if err != nil {
		return nil, nil, err
	}
	c := storage.DefaultConfig()
	c.InlineLimit = 2 << 10
	s, err := storage.Open(context.Background(), storage.Options{Dir: "data", FS: fs, Engine: hasty{e, mutant}, Config: c, Cost: storagetest.Cheap()})
	if err != nil {
		return nil, nil, errors.Join(err, e.Close())
	}
	return s, func() error { return errors.Join(s.Close(context.Background()), e.Close()) }, nil
}

func crashRun(w *crashtest.World, mutant bool) error {
	var noSync atomic.Bool
	store, stop, err := crashStore(w.FS(), w.Fatal, &noSync)
	if err != nil {
		return err
	}
	if _, err := store.CreateAccount(context.Background(), testUser, testPass, storage.AccountOptions{}); err != nil {
		return errors.Join(err, stop())
	}
	noSync.Store(mutant)
	srv, err := New(Options{Store: store, AllowPlaintextLogin: true})
	if err != nil {
		return errors.Join(err, stop())
	}
	here, there := net.Pipe()
	defer here.Close()
	srv.start(newWire(&link{srv: srv, started: time.Now()}, there, false), srv.plain)
	err = crashTalk(w, here)
	here.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(err, srv.Shutdown(ctx), stop())
}

func crashTalk(w *crashtest.World, c net.Conn) error {
	r := bufio.NewReader(c)
	c.SetDeadline(time.Now().Add(time.Minute))
	do := func(cmd string) error {
		if cmd != "" {
			sent := make(chan error, 1)
			go func() { // a pipe has no buffer, and the reply to the first line comes before the last is taken
				_, err := c.Write([]byte("t " + cmd + "\r\n"))
				sent <- err
			}()
			defer func() { <-sent }()
		}
		for {
			l, err := r.ReadString('\n')
			switch {
			case err != nil:
				return err
			case strings.HasPrefix(l, "t OK"), cmd == "":
				return nil
			case strings.HasPrefix(l, "t "), strings.HasPrefix(l, "* BYE"):
				return fmt.Errorf("%.40s: %s", cmd, l)
			}
		}
	}
	for _, cmd := range []string{"", fmt.Sprintf("LOGIN %s %q", testUser, testPass), "SELECT INBOX"} {
		if err := do(cmd); err != nil {
			return err
		}
	}
	for n, s := range crashScript() {
		w.Note(about(n))
		if err := do(s.cmd); err != nil {
			return err
		}
		w.Note(answered(n))
	}
	return nil
}

func crashCheck(fs vfs.FS, notes []any) error {
	if len(notes) == 0 { // the account was not promised yet
		return nil
	}
	want := crashModel{}
	for _, name := range []string{"INBOX", "Archive", "Trash"} {
		want[name] = &crashBox{1, map[int]string{}}
	}
	script := crashScript()
	var pending crashModel
	for _, n := range notes {
		switch n := n.(type) {
		case about:
			pending = want.clone()
			script[n].do(pending)
		case answered:
			want, pending = pending, nil
		}
	}
	store, stop, err := crashStore(fs, nil, new(atomic.Bool))
	if err != nil {
		return err
	}
	have, err := crashState(store)
	if err = errors.Join(err, stop()); err != nil {
		return err
	}
	if have.String() != want.String() && (pending == nil || have.String() != pending.String()) {
		return fmt.Errorf("after %d notes there is\n%v\nbut\n%v\nwas promised, with perhaps\n%v", len(notes), have, want, pending)
	}
	for name, b := range want { // UIDs that were told are never given again
		if now := have[name]; now != nil && now.next < b.next {
			return fmt.Errorf("UIDNEXT of %s went from %d to %d", name, b.next, now.next)
		}
	}
	return nil
}

func crashState(store *storage.Store) (crashModel, error) {
	ctx := context.Background()
	a, err := store.Accounts().Lookup(ctx, testUser)
	if err != nil {
		return nil, err
	}
	have := crashModel{}
	err = store.View(ctx, a.ID, func(v *storage.View) error {
		for _, m := range v.Mailboxes() {
			b := &crashBox{int(m.UIDNext), map[int]string{}}
			have[m.Name] = b
			err := v.Messages(m.ID, 1, ^storage.UID(0), func(msg *storage.Message) (bool, error) {
				b.flags[int(msg.UID)] = strings.Trim(string(appendFlags(nil, msg.Flags)), "()")
				c, err := store.Open(ctx, msg) // the octets must be there too
				if err != nil {
					return false, err
				}
				_, err = c.ReadAt(make([]byte, c.Size()), 0)
				return true, errors.Join(err, c.Close())
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return have, err
}
