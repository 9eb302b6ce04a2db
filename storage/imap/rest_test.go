package imap

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// resting counts the server's connections without and with the library.
func resting(srv *Server) (without, with int) {
	wires, _ := srv.all()
	for _, w := range wires {
		w.mu.Lock()
		s := w.session
		w.mu.Unlock()
		if s == nil {
			with++
			continue
		}
		s.mu.Lock()
		if s.lib == nil {
			without++
		} else {
			with++
		}
		s.mu.Unlock()
	}
	return without, with
}

func eventually(t *testing.T, what string, ask func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ask(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what + ": not within 10 s")
		}
	}
}

// rested waits until no connection has the library.
func rested(t *testing.T, srv *Server) {
	t.Helper()
	eventually(t, "the connections rest", func() bool {
		without, with := resting(srv)
		return without > 0 && with == 0
	})
}

// TestDialoguesResting plays the dialogues with a client so slow that its connection
// rests before each of its lines: nobody can tell.
func TestDialoguesResting(t *testing.T) {
	if testing.Short() {
		t.Skip("the dialogues are played already, without pauses")
	}
	files, _ := filepath.Glob("testdata/*.dialogue")
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".dialogue"), func(t *testing.T) {
			t.Parallel()
			playWith(t, name, &player{t: t, peers: map[string]*peer{}, pause: 10 * time.Millisecond,
				o: Options{AllowPlaintextLogin: true, LoginTimeout: 20 * time.Second, restAfter: time.Millisecond}})
		})
	}
}

// TestRestInIdle: a client in IDLE has no library, hears of changes all the same and
// finds everything as it was when it goes on, again and again.
func TestRestInIdle(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS=%v", secure), func(t *testing.T) {
			o := Options{Store: openStore(t), AllowPlaintextLogin: true, restAfter: 5 * time.Millisecond}
			srv, plain := start(t, o)
			addr := plain
			if secure {
				o.TLS, o.ImplicitTLS = testTLS(t), true
				srv, addr = start(t, o)
			}
			writer := dial(t, plain).login()
			writer.append("INBOX", "", shortMail)
			reader := dial(t, addr)
			if secure {
				if err := reader.secure(); err != nil {
					t.Fatal(err)
				}
			}
			reader.login()
			reader.ok("ENABLE UTF8=ACCEPT")
			reader.ok("EXAMINE INBOX")
			for round := range 3 {
				reader.send("i" + fmt.Sprint(round) + " IDLE\r\n")
				reader.until("+ ")
				rested(t, srv)
				writer.append("INBOX", "", shortMail)
				reader.until(fmt.Sprintf("* %d EXISTS", round+2))
				reader.until("* 0 RECENT")
				rested(t, srv)
				reader.send("DONE\r\n")
				if l := reader.line(); !strings.HasPrefix(l, fmt.Sprintf("i%d OK", round)) {
					t.Fatalf("after DONE: %q", l)
				}
				rested(t, srv)
				if l := reader.ok(fmt.Sprintf("UID SEARCH UID %d", round+2)); l[0] != fmt.Sprintf("* SEARCH %d", round+2) {
					t.Fatalf("%q", l)
				}
			}
			rested(t, srv)
			if l := reader.do(`STORE 1 +FLAGS (\Seen)`); strings.HasPrefix(l[len(l)-1], "t OK") {
				t.Errorf("EXAMINE was forgotten: %q", l)
			}
			reader.ok(`CREATE "&AOk-"`)
			rested(t, srv)
			if l := strings.Join(reader.ok(`LIST "" *`), "\n"); !strings.Contains(l, "é") {
				t.Errorf("ENABLE was forgotten: %q", l)
			}
			reader.ok("UNSELECT")
			rested(t, srv)
			if l := reader.do("FETCH 1 UID"); strings.HasPrefix(l[len(l)-1], "t OK") {
				t.Errorf("UNSELECT was forgotten: %q", l)
			}
		})
	}
}

// TestRestEnds: connections that rest end as others do, and leave nothing behind.
func TestRestEnds(t *testing.T) {
	begin := func(t *testing.T, o Options) (*Server, *peer) {
		o.AllowPlaintextLogin, o.restAfter = true, 5*time.Millisecond
		srv, addr := start(t, o)
		p := dial(t, addr).login()
		p.ok("SELECT INBOX")
		p.send("i IDLE\r\n")
		p.until("+ ")
		rested(t, srv)
		return srv, p
	}
	gone := func(t *testing.T, srv *Server) {
		t.Helper()
		eventually(t, "the end", func() bool {
			wires, sessions := srv.all()
			return len(wires) == 0 && sessions == 0 && srv.Connections() == 0
		})
	}
	t.Run("the client leaves", func(t *testing.T) {
		srv, p := begin(t, Options{})
		p.conn.Close()
		gone(t, srv)
	})
	t.Run("time-out", func(t *testing.T) {
		srv, p := begin(t, Options{IdleTimeout: 300 * time.Millisecond})
		if l := p.line(); l != "* BYE Nothing heard for too long" {
			t.Errorf("%q", l)
		}
		if l := p.line(); l != "<closed>" {
			t.Errorf("%q", l)
		}
		gone(t, srv)
	})
	t.Run("shutdown", func(t *testing.T) {
		srv, p := begin(t, Options{})
		if err := srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if l := p.line(); l != "* BYE Server is shutting down" {
			t.Errorf("%q", l)
		}
		gone(t, srv)
	})
	t.Run("cut", func(t *testing.T) {
		srv, _ := begin(t, Options{})
		all, _ := srv.all()
		all[0].cut()
		gone(t, srv)
	})
	t.Run("DONE and nothing else", func(t *testing.T) {
		srv, p := begin(t, Options{})
		p.send("DON")
		eventually(t, "the library is back", func() bool { _, with := resting(srv); return with == 1 })
		p.conn.Close()
		gone(t, srv)
	})
	t.Run("nonsense", func(t *testing.T) {
		srv, p := begin(t, Options{})
		p.send("x NOOP\r\n")
		if l := p.line(); !strings.HasPrefix(l, "* BYE Expected DONE") {
			t.Errorf("%q", l)
		}
		gone(t, srv)
	})
	t.Run("no rest before the login", func(t *testing.T) {
		srv, addr := start(t, Options{AllowPlaintextLogin: true, restAfter: time.Millisecond})
		p := dial(t, addr)
		p.until("* OK")
		time.Sleep(50 * time.Millisecond)
		if _, with := resting(srv); with != 1 {
			t.Error("the library has gone")
		}
	})
}
