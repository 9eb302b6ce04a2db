package imap

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	goimap "github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv/kvtest"
)

// checkedSession holds that the library carries out the command that the guard
// believes it reads: were a literal taken for commands, the two would differ.
type checkedSession struct {
	*session
	wrong func(method, verb string)
}

func (c *checkedSession) check(verbs ...string) {
	if v := c.w.guard.verb; !slices.Contains(verbs, v) {
		c.wrong(verbs[0], v)
	}
}

func (c *checkedSession) Login(u, p string) error {
	c.check("LOGIN", "AUTHENTICATE")
	return c.session.Login(u, p)
}

func (c *checkedSession) Select(n string, o *goimap.SelectOptions) (*goimap.SelectData, error) {
	c.check("SELECT", "EXAMINE")
	return c.session.Select(n, o)
}

func (c *checkedSession) Create(n string, o *goimap.CreateOptions) error {
	c.check("CREATE")
	return c.session.Create(n, o)
}

func (c *checkedSession) Delete(n string) error { c.check("DELETE"); return c.session.Delete(n) }

func (c *checkedSession) Rename(a, b string, o *goimap.RenameOptions) error {
	c.check("RENAME")
	return c.session.Rename(a, b, o)
}

func (c *checkedSession) Subscribe(n string) error {
	c.check("SUBSCRIBE")
	return c.session.Subscribe(n)
}

func (c *checkedSession) Unsubscribe(n string) error {
	c.check("UNSUBSCRIBE")
	return c.session.Unsubscribe(n)
}

func (c *checkedSession) List(w *imapserver.ListWriter, ref string, p []string, o *goimap.ListOptions) error {
	c.check("LIST", "LSUB")
	return c.session.List(w, ref, p, o)
}

func (c *checkedSession) Status(n string, o *goimap.StatusOptions) (*goimap.StatusData, error) {
	c.check("STATUS")
	return c.session.Status(n, o)
}

func (c *checkedSession) Append(n string, r goimap.LiteralReader, o *goimap.AppendOptions) (*goimap.AppendData, error) {
	c.check("APPEND")
	return c.session.Append(n, r, o)
}

func (c *checkedSession) Expunge(w *imapserver.ExpungeWriter, s *goimap.UIDSet) error {
	c.check("EXPUNGE", "CLOSE")
	return c.session.Expunge(w, s)
}

func (c *checkedSession) Search(k imapserver.NumKind, q *goimap.SearchCriteria, o *goimap.SearchOptions) (*goimap.SearchData, error) {
	c.check("SEARCH")
	return c.session.Search(k, q, o)
}

func (c *checkedSession) Fetch(w *imapserver.FetchWriter, s goimap.NumSet, o *goimap.FetchOptions) error {
	c.check("FETCH")
	return c.session.Fetch(w, s, o)
}

func (c *checkedSession) Store(w *imapserver.FetchWriter, s goimap.NumSet, f *goimap.StoreFlags, o *goimap.StoreOptions) error {
	c.check("STORE")
	return c.session.Store(w, s, f, o)
}

func (c *checkedSession) Copy(s goimap.NumSet, d string) (*goimap.CopyData, error) {
	c.check("COPY")
	return c.session.Copy(s, d)
}

func (c *checkedSession) Move(w *imapserver.MoveWriter, s goimap.NumSet, d string) error {
	c.check("MOVE")
	return c.session.Move(w, s, d)
}

// waitConn is a fakeConn whose end can be waited for.
type waitConn struct {
	fakeConn
	once sync.Once
	done chan struct{}
}

func (c *waitConn) Close() error { c.once.Do(func() { close(c.done) }); return nil }

// slowReader hands out what it has in uneven pieces, so that lines and literals
// are cut everywhere.
type slowReader struct {
	b    []byte
	step int
}

func (r *slowReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	r.step = r.step*5%97 + 1
	n := copy(p[:min(len(p), r.step)], r.b)
	r.b = r.b[n:]
	return n, nil
}

// FuzzSession lets a logged-in client say anything: no panic, no hang, and the
// library and the guard agree on what every command is.
func FuzzSession(f *testing.F) {
	for _, s := range []string{
		"c FETCH 1:* (ENVELOPE BODYSTRUCTURE BODY.PEEK[1.HEADER.FIELDS (a b)]<1.2> BINARY[1] BINARY.SIZE[1])\r\n",
		"c APPEND INBOX {5+}\r\nd DELETE Trash\r\ne NOOP\r\n",
		"c APPEND INBOX (\\Seen) \"01-Feb-2026 10:00:00 +0200\" {8+}\r\nd x\r\n\r\n\r\n\r\ne APPEND nix {18+}\r\nx DELETE Archive\r\n\r\nf NOOP\r\n",
		"c NOOP {18+}\r\nx DELETE Archive\r\n\r\nd NOOP\r\n",
		"c SEARCH OR SMALLER 4 NOT (TEXT {3+}\r\nabc HEADER x {1+}\r\ny) UID 1:*\r\n",
		"c SEARCH BADKEY {18+}\r\nx DELETE Archive\r\n {18+}\r\nx DELETE Archive\r\n\r\nd NOOP\r\n",
		"c STORE 1 +FLAGS (\\Deleted x)\r\nd CLOSE\r\ne SELECT INBOX\r\nf EXPUNGE\r\ng MOVE 1 Trash\r\nh IDLE\r\nDONE\r\n",
		"c CREATE {3+}\r\na/b\r\nd LIST \"\" (a* %) RETURN (STATUS (MESSAGES))\r\ne RENAME a b\r\nf STATUS b (UNSEEN)\r\ng LSUB \"\" *\r\n",
		"c AUTHENTICATE PLAIN\r\nd DELETE Trash\r\ne IDLE\r\ndone\r\nf UNSELECT\r\ng ENABLE UTF8=ACCEPT\r\nh NAMESPACE\r\n",
		"c COPY $ Trash\r\nd UID COPY *:1 Trash\r\ne APPEND INBOX UTF8 (~{3+}\r\nabc)\r\nf APPEND INBOX {3+}\r\nabc {3+}\r\nabc\r\ng NOOP\r\n",
	} {
		f.Add([]byte(s))
	}
	ctx := context.Background()
	store, err := storage.Open(ctx, storage.Options{Dir: f.TempDir(), Engine: kvtest.NewMemory()})
	if err != nil {
		f.Fatal(err)
	}
	if _, err := store.CreateAccount(ctx, testUser, testPass, storage.AccountOptions{Quota: 1 << 20}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var log bytes.Buffer
		var mu sync.Mutex
		var wrong []string
		srv, err := New(Options{
			Store: store, AllowPlaintextLogin: true, Logger: slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, &slog.HandlerOptions{Level: slog.LevelError})),
			wrapSession: func(s *session) imapserver.Session {
				return &checkedSession{s, func(m, v string) {
					mu.Lock()
					wrong = append(wrong, m+" during "+v)
					mu.Unlock()
				}}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer srv.Shutdown(ctx)
		begin := "a LOGIN " + testUser + " \"" + testPass + "\"\r\nb SELECT INBOX\r\n"
		conn := &waitConn{fakeConn: fakeConn{r: &slowReader{b: append([]byte(begin), data...), step: len(data)}}, done: make(chan struct{})}
		srv.start(newWire(&link{srv: srv, started: time.Now()}, conn, false), srv.plain)
		select {
		case <-conn.done:
		case <-time.After(10 * time.Second):
			t.Fatalf("the session hangs; it said %q", conn.out.String())
		}
		mu.Lock()
		defer mu.Unlock()
		if len(wrong) > 0 {
			t.Fatalf("%v; it said %q", wrong, conn.out.String())
		}
		if strings.Contains(log.String(), "panic") {
			t.Fatal(log.String())
		}
	})
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
