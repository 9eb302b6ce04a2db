package pop3

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/storagetest"
)

// storeFixture is the real store on a file system in memory, with the accounts
// of fixture.
type storeFixture struct {
	t     testing.TB
	fs    *vfs.MemFS
	store *storage.Store
	back  *storeBackend
	alice storage.AccountID
}

func newStoreFixture(t testing.TB, fs vfs.FS, dir string) *storeFixture {
	f := &storeFixture{t: t}
	if fs == nil {
		f.fs = vfs.NewCrashableMem()
		fs = f.fs
	}
	f.open(fs, dir)
	for user, password := range memPasswords {
		a, err := f.store.CreateAccount(t.Context(), user, password, storage.AccountOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(user, "alice") {
			f.alice = a.ID
		}
	}
	return f
}

func (f *storeFixture) open(fs vfs.FS, dir string) {
	store, err := storage.Open(context.Background(), storage.Options{Dir: dir, FS: fs, Cost: storagetest.Cheap()})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { store.Close(context.Background()) })
	f.store, f.back = store, &storeBackend{store: store, maxMessages: DefaultMaxMessages}
}

// deliver puts a message into alice's INBOX and returns its UID.
func (f *storeFixture) deliver(front, text string) storage.UID {
	f.t.Helper()
	spool := f.store.Blobs().NewSpool()
	if _, err := spool.Write([]byte(text)); err != nil {
		f.t.Fatal(err)
	}
	draft, err := spool.Finish()
	if err != nil {
		f.t.Fatal(err)
	}
	defer draft.Discard()
	prepared, err := f.store.Prepare(f.t.Context(), draft, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	var uid storage.UID
	f.update(func(tx *storage.Tx) error {
		box, err := tx.Mailbox(inbox)
		if err != nil {
			return err
		}
		prepared.Put(tx.Batch(), "")
		uid, err = tx.Deliver(box.ID, storage.Delivery{Info: prepared.Info(0), Front: []byte(front)})
		return err
	})
	return uid
}

func (f *storeFixture) update(fn func(*storage.Tx) error) {
	f.t.Helper()
	if _, err := f.store.Update(f.t.Context(), f.alice, fn); err != nil {
		f.t.Fatal(err)
	}
}

// TestDialoguesStore plays the dialogues over the real store.
func TestDialoguesStore(t *testing.T) {
	paths, err := filepath.Glob("testdata/dialogues/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no dialogues: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			d, err := readDialogue(path)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			s := newStoreFixture(t, nil, "data")
			for _, text := range d.messages {
				s.deliver("", text)
			}
			play(t, path, d, newFixture(t, d.options, s.back))
		})
	}
}

func (c *client) line() string {
	c.t.Helper()
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSuffix(line, "\r\n")
}

// multi returns the lines behind +OK, up to the final dot.
func (c *client) multi(command string) []string {
	c.t.Helper()
	c.send(command + "\r\n")
	c.want("+OK")
	var lines []string
	for {
		line := c.line()
		if line == "." {
			return lines
		}
		lines = append(lines, line)
	}
}

func (c *client) login() {
	c.t.Helper()
	c.send(aliceLogin)
	c.want("+OK")
	c.want("+OK")
}

// TestUIDLStable: an id stays with its message when others come and go, when the
// message moves away and back, and across a crash of the machine; it is new for
// another copy and for another message.
func TestUIDLStable(t *testing.T) {
	s := newStoreFixture(t, nil, "data")
	options := map[string]bool{"plaintext": true}
	uids := make([]storage.UID, 4)
	for i := range uids {
		uids[i] = s.deliver("Return-Path: <>\r\n", fmt.Sprintf("Subject: %d\r\n\r\n%d\r\n", i, i))
	}
	c := dial(t, newFixture(t, options, s.back))
	c.login()
	first := c.multi("UIDL")
	if len(first) != 4 {
		t.Fatalf("got %q", first)
	}
	ids := make(map[string]bool)
	for i, line := range first {
		id, ok := strings.CutPrefix(line, fmt.Sprintf("%d ", i+1))
		if !ok || ids[id] || id == "" || len(id) > 70 {
			t.Errorf("line %d is %q", i, line)
		}
		ids[id] = true
	}
	c.send("DELE 2\r\nQUIT\r\n")
	c.want("+OK")
	c.want("+OK")

	// +OK to QUIT was said: from here on the machine may stop at any time, and what
	// was not synced is lost.
	clone := s.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
	s.store.Close(t.Context())
	s.fs = clone
	s.open(clone, "data")

	s.update(func(tx *storage.Tx) error {
		from, err := tx.Mailbox(inbox)
		if err != nil {
			return err
		}
		to, err := tx.Mailbox("Archive")
		if err != nil {
			return err
		}
		there, err := tx.Move(from.ID, to.ID, uids[2:3])
		if err != nil {
			return err
		}
		if _, err := tx.Move(to.ID, from.ID, there.Dest); err != nil {
			return err
		}
		_, err = tx.Copy(from.ID, from.ID, uids[3:4])
		return err
	})
	s.deliver("", "Subject: new\r\n\r\nnew\r\n")

	c = dial(t, newFixture(t, options, s.back))
	c.login()
	var got []string
	for _, line := range c.multi("UIDL") {
		_, id, _ := strings.Cut(line, " ")
		got = append(got, id)
	}
	id := func(i int) string { return strings.TrimPrefix(first[i], fmt.Sprintf("%d ", i+1)) }
	want := []string{id(0), id(3), id(2)} // the moved one has a new UID, behind the others
	if len(got) != 5 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] || ids[got[3]] || ids[got[4]] || got[3] == got[4] {
		t.Errorf("got %q, want %q and two new ones", got, want)
	}
}

// TestSizes: what LIST says is what RETR sends, fields in front included.
func TestSizes(t *testing.T) {
	s := newStoreFixture(t, nil, "data")
	front := "Return-Path: <a@example.org>\r\nDelivered-To: <alice@example.test>\r\n"
	texts := []string{"Subject: 1\r\n\r\n.one\r\n", "Subject: large\r\n\r\n" + strings.Repeat(strings.Repeat("y", 76)+"\r\n", 5000)}
	for _, text := range texts {
		s.deliver(front, text)
	}
	c := dial(t, newFixture(t, map[string]bool{"plaintext": true}, s.back))
	c.login()
	sizes := c.multi("LIST")
	for i, text := range texts {
		whole := front + text
		if want := fmt.Sprintf("%d %d", i+1, len(whole)); sizes[i] != want {
			t.Errorf("LIST says %q, want %q", sizes[i], want)
		}
		lines := c.multi(fmt.Sprintf("RETR %d", i+1))
		for k, line := range lines {
			lines[k] = strings.TrimPrefix(line, ".") + "\r\n"
			if strings.HasPrefix(line, "..") {
				lines[k] = line[1:] + "\r\n"
			}
		}
		if got := strings.Join(lines, ""); got != whole {
			t.Errorf("message %d came back as %.100q with %d octets, want %d", i+1, got, len(got), len(whole))
		}
	}
}

// TestExpungedElsewhere: IMAP removes a message during the session, and another
// one that this session deletes too.
func TestExpungedElsewhere(t *testing.T) {
	s := newStoreFixture(t, nil, "data")
	var uids []storage.UID
	for i := range 3 {
		uids = append(uids, s.deliver("", fmt.Sprintf("Subject: %d\r\n\r\n%d\r\n", i, i)))
	}
	f := newFixture(t, map[string]bool{"plaintext": true}, s.back)
	c := dial(t, f)
	c.login()
	c.send("DELE 1\r\n")
	c.want("+OK")
	s.update(func(tx *storage.Tx) error {
		box, err := tx.Mailbox(inbox)
		if err != nil {
			return err
		}
		_, err = tx.Expunge(box.ID, uids[:2], false)
		return err
	})
	c.send("RETR 2\r\nRETR 3\r\n")
	c.want("-ERR message was removed")
	c.want("+OK")
	for c.line() != "." {
	}
	c.send("QUIT\r\n")
	c.want("+OK bye")
	c = dial(t, f)
	c.login()
	if left := c.multi("UIDL"); len(left) != 1 {
		t.Errorf("left: %q", left)
	}
}

// TestDurableBeforeShown: what a session lists survives a machine that stops
// right behind the answer, without any other sync (RULES B1).
func TestDurableBeforeShown(t *testing.T) {
	s := newStoreFixture(t, nil, "data")
	for i := range 20 {
		s.deliver("", fmt.Sprintf("Subject: %d\r\n\r\n%d\r\n", i, i))
		drop, err := s.back.open(t.Context(), s.alice.String())
		if err != nil {
			t.Fatal(err)
		}
		clone := s.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
		told := drop.messages()
		s.store.Close(t.Context())
		s.fs = clone
		s.open(clone, "data")
		again, err := s.back.open(t.Context(), s.alice.String())
		if err != nil {
			t.Fatal(err)
		}
		if got := again.messages(); len(got) != len(told) || got[i] != told[i] {
			t.Fatalf("told of %v, and after the crash there is %v", told, got)
		}
	}
}

// TestMaxMessages: a maildrop is shown in bounded parts, the oldest first.
func TestMaxMessages(t *testing.T) {
	s := newStoreFixture(t, nil, "data")
	s.back.maxMessages = 2
	for i := range 3 {
		s.deliver("", fmt.Sprintf("Subject: %d\r\n\r\n%d\r\n", i, i))
	}
	f := newFixture(t, map[string]bool{"plaintext": true}, s.back)
	c := dial(t, f)
	c.login()
	c.send("STAT\r\nDELE 1\r\nDELE 2\r\nRETR 3\r\nQUIT\r\n")
	for _, want := range []string{"+OK 2 ", "+OK", "+OK", "-ERR no such", "+OK bye"} {
		c.want(want)
	}
	c = dial(t, f)
	c.login()
	if lines := c.multi("RETR 1"); lines[0] != "Subject: 2" {
		t.Errorf("got %q", lines)
	}
}

// TestRemoveMany removes more than one change may hold.
func TestRemoveMany(t *testing.T) {
	s := newStoreFixture(t, nil, "data")
	const n = 2*removeBatch + 10
	for range n {
		s.deliver("", "\r\n")
	}
	drop, err := s.back.open(t.Context(), s.alice.String())
	if err != nil {
		t.Fatal(err)
	}
	which := make([]int, n-1)
	for i := range which {
		which[i] = i
	}
	if err := drop.remove(t.Context(), which); err != nil {
		t.Fatal(err)
	}
	drop, err = s.back.open(t.Context(), s.alice.String())
	if err != nil || len(drop.messages()) != 1 {
		t.Errorf("%d are left, %v", len(drop.messages()), err)
	}
}

// BenchmarkStoreRETR is BenchmarkRETR over the real store on disk.
func BenchmarkStoreRETR(b *testing.B) {
	text := "Subject: benchmark\r\nFrom: <a@example.test>\r\n\r\n" + strings.Repeat(strings.Repeat("x", 62)+"\r\n", 63)
	s := newStoreFixture(b, vfs.Default, b.TempDir())
	const count = 5000
	for range count {
		s.deliver("Return-Path: <a@example.org>\r\nDelivered-To: <alice@example.test>\r\n", text)
	}
	f := newFixture(b, map[string]bool{"plaintext": true, "many-commands": true}, s.back)
	for _, inFlight := range []int{1, 32} {
		b.Run(fmt.Sprintf("in-flight=%d", inFlight), func(b *testing.B) {
			f.waitIdle(b, 0)
			benchmarkRETR(b, f.addr, inFlight, count, len(text))
		})
	}
	b.Run("login", func(b *testing.B) {
		begin := time.Now()
		for range b.N {
			if _, err := s.back.open(b.Context(), s.alice.String()); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(count*b.N)/time.Since(begin).Seconds(), "msg/s")
	})
}
