package account

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	home    = "192.0.2.1"
	webmail = "198.51.100.5"
)

// try is one or more logins, one after the other. Times more than one with %d in the login or the password makes them differ.
type try struct {
	after    time.Duration // since the one before
	times    int           // 0: one
	login    string
	password string
	peer     string
	want     error
	took     time.Duration // the last one
	change   bool          // password is made the one of login; nothing is tried
}

// TestWhoIsHeldBack (DRILLS E4.6) plays who logs in from where against who is waited for, refused or let in.
func TestWhoIsHeldBack(t *testing.T) {
	const u, v, nobody = "u@example.test", "v@example.test", "nobody@example.test"
	wrong, blocked := ErrCredentials, ErrBlocked
	for name, tries := range map[string][]try{
		"a phone with an old password, for a day, in an office": {
			{times: 288, after: 5 * time.Minute, login: u, password: "old", peer: home, want: wrong},
			{login: u, password: "u", peer: home},
			{login: v, password: "v", peer: home},
		},
		"and without a pause": {
			{times: 1000, login: u, password: "old", peer: home, want: wrong},
			{login: u, password: "u", peer: home},
		},
		"a household of programs with an old password each": {
			{times: 4, login: u, password: "old%d", peer: home, want: wrong},
			{times: 4, login: u, password: "old%d", peer: home, want: wrong},
			{times: 4, login: u, password: "old%d", peer: home, want: wrong},
			{login: u, password: "u", peer: home},
		},
		"an office of people who have been there": {
			{login: v, password: "v", peer: home},
			{times: 25, login: "n%d@example.test", password: "x", peer: home, want: wrong, took: 16 * time.Second},
			{login: u, password: "u", peer: home, want: blocked},
			{login: v, password: "v", peer: home},
			{login: v, password: "x", peer: home, want: blocked}, // is told no more than anybody else
			{login: v, password: "v", peer: home},
			{after: 36 * time.Second, login: u, password: "u", peer: home, took: 16 * time.Second},
			{login: u, password: "u", peer: home}, // who is known from now on
		},
		"an office in which somebody fails all day": {
			{times: 200, after: 40 * time.Second, login: "n%d@example.test", password: "x", peer: home, want: wrong},
			{login: u, password: "u", peer: home},
		},
		"a stranger elsewhere": {
			{times: 10, login: u, password: "x%d", peer: "203.0.113.9", want: wrong, took: 16 * time.Second},
			{login: u, password: "u", peer: "203.0.113.9", want: blocked},
			{login: u, password: "u", peer: home},
		},
		"a stranger behind the same address": {
			{login: u, password: "u", peer: home},
			{times: 10, login: u, password: "x%d", peer: home, want: wrong, took: 16 * time.Second},
			{times: 10, login: u, password: "y%d", peer: home, want: blocked},
			{login: u, password: "u", peer: home},
			{login: v, password: "v", peer: home},
			// But nobody is compared with a known password for ever.
			{times: 20, login: u, password: "z%d", peer: home, want: blocked},
			{login: u, password: "u", peer: home, want: blocked},
			{login: v, password: "v", peer: home},
			{after: 45 * time.Second, login: u, password: "u", peer: home},
		},
		"a stranger behind the same address gets no pardon from its owner": {
			{login: u, password: "u", peer: home},
			{times: 5, login: u, password: "x%d", peer: home, want: wrong},
			{login: u, password: "u", peer: home},
			{login: u, password: "y", peer: home, want: wrong, took: time.Second},
		},
		"somebody who remembers after all": {
			{times: 6, login: u, password: "x%d", peer: home, want: wrong, took: time.Second},
			{login: u, password: "u", peer: home, took: 2 * time.Second},
			{login: u, password: "y", peer: home, want: wrong},
		},
		"nobody is refused like somebody": {
			{times: 10, login: nobody, password: "x%d", peer: home, want: wrong, took: 16 * time.Second},
			{login: nobody, password: "y", peer: home, want: blocked},
			{login: nobody, password: "x3", peer: home, want: wrong},
			{times: 10, login: u, password: "x%d", peer: "192.0.2.7", want: wrong, took: 16 * time.Second},
			{login: u, password: "y", peer: "192.0.2.7", want: blocked},
			{login: u, password: "x3", peer: "192.0.2.7", want: wrong},
		},
		"a new password": {
			{login: u, password: "u", peer: home},
			{login: u, password: "new", peer: home, want: wrong},
			{change: true, login: u, password: "new"},
			{login: u, password: "new", peer: home}, // although it was wrong before
			{times: 100, login: u, password: "u", peer: home, want: wrong},
			{login: u, password: "new", peer: home},
		},
		"a /64 is one client": {
			{times: 25, login: "n%d@example.test", password: "x", peer: "2001:db8::%d", want: wrong, took: 16 * time.Second},
			{login: u, password: "u", peer: "2001:db8::ffff:1", want: blocked},
			{login: u, password: "u", peer: "2001:db8:0:1::1"},
		},
		"an IPv4 client on an IPv6 socket": {
			{times: 10, login: u, password: "x%d", peer: "::ffff:" + home, want: wrong, took: 16 * time.Second},
			{login: u, password: "u", peer: home, want: blocked},
		},
		"a webmail that is trusted": {
			{times: 100, login: "n%d@example.test", password: "x", peer: webmail, want: wrong},
			{login: u, password: "u", peer: webmail},
			{times: 30, login: v, password: "x%d", peer: webmail, want: wrong, took: 16 * time.Second},
			{login: v, password: "v", peer: webmail, took: 16 * time.Second},
			{login: v, password: "v", peer: webmail},
		},
		"loopback is no exception": {
			{times: 10, login: u, password: "x%d", peer: "127.0.0.1", want: wrong, took: 16 * time.Second},
			{login: u, password: "u", peer: "127.0.0.1", want: blocked},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(o *Options) {
					o.Clock = time.Now
					o.Config.Trusted = []netip.Prefix{netip.MustParsePrefix(webmail + "/32")}
				})
				w.create(u, "u")
				w.create(v, "v")
				for i, c := range tries {
					play(t, w, i, c)
				}
			})
		})
	}
}

func play(t *testing.T, w *world, i int, c try) {
	t.Helper()
	if c.change {
		if err := w.SetPassword(t.Context(), c.login, c.password); err != nil {
			t.Fatal(err)
		}
		return
	}
	number := func(s string, n int) string { return strings.Replace(s, "%d", fmt.Sprint(n), 1) }
	var took time.Duration
	for n := range max(c.times, 1) {
		time.Sleep(c.after)
		start := time.Now()
		err := w.login(number(c.login, n), number(c.password, n), number(c.peer, n))
		if took = time.Since(start); !errors.Is(err, c.want) {
			t.Fatalf("%d, time %d: %s with %q from %s: %v, want %v", i, n, c.login, c.password, c.peer, err, c.want)
		}
	}
	if took != c.took {
		t.Errorf("%d: %s with %q from %s took %v, want %v", i, c.login, c.password, c.peer, took, c.took)
	}
}

// TestRepeatCostsNothing: the same wrong password again takes no hash, of an account that exists as of one that does not;
// until anything changes, when it is looked at again.
func TestRepeatCostsNothing(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Config.HashWait = 1 })
	w.create("u@example.test", "u")
	all := []string{"u@example.test", "nobody@example.test", "nonsense", ""}
	for _, login := range all {
		if err := w.login(login, "x", home); !errors.Is(err, ErrCredentials) {
			t.Fatal(err)
		}
	}
	for range cap(w.hashes.slots) {
		w.hashes.slots <- struct{}{} // a hash would be ErrBusy
	}
	for _, login := range all {
		if err := w.login(login, "x", home); !errors.Is(err, ErrCredentials) {
			t.Errorf("%q again: %v", login, err)
		}
		if err := w.login(login, "x", "192.0.2.2"); !errors.Is(err, ErrBusy) {
			t.Errorf("%q elsewhere: %v", login, err)
		}
	}
	w.Forget("new@example.test") // as whoever makes, changes or removes an account does
	for _, login := range all {
		if err := w.login(login, "x", home); !errors.Is(err, ErrBusy) {
			t.Errorf("%q after a change: %v", login, err)
		}
	}
}

// TestGuessesAreBounded: whatever strangers try, memory has an end, and what is known of those who were here stays.
func TestGuessesAreBounded(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Config.Remembered = 3 })
	g := &w.guesses
	for i := range 5 {
		w.create(fmt.Sprintf("u%d@example.test", i), "one")
		if err := w.login(fmt.Sprintf("u%d@example.test", i), "one", home); err != nil {
			t.Fatal(err)
		}
	}
	peer := netip.MustParseAddr("203.0.113.1")
	for i := range maxGuessers + 100 {
		a, err := g.begin(t.Context(), fmt.Sprintf("n%d@example.test", i), "x", peer, 1)
		if err != nil {
			t.Fatal(err)
		}
		a.withdrawn()
		peer = peer.Next()
	}
	if n, m := g.pairs.Len(), g.peers.Len(); n != maxGuessers || m != maxGuessers {
		t.Errorf("%d pairs and %d peers are counted", n, m)
	}
	if n := g.proven.Len(); n != 3 {
		t.Errorf("%d are known, want 3", n)
	}
	// A refused peer does not make entries for names.
	one := netip.MustParseAddr("198.51.100.1")
	g.mu.Lock()
	g.peers.Put(one, &count{failures: level{n: freePeer + slowAttempts, since: w.now}})
	g.pairs.Clear()
	g.mu.Unlock()
	for i := range 100 {
		if _, err := g.begin(t.Context(), fmt.Sprintf("n%d@example.test", i), "x", one, 1); !errors.Is(err, ErrBlocked) {
			t.Fatal(err)
		}
	}
	if n := g.pairs.Len(); n != 0 {
		t.Errorf("a refused peer made %d entries", n)
	}
}

// TestRefusalIsTold: one line in the log when a refusal begins, and numbers.
func TestRefusalIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		w := newWorld(t, func(o *Options) { o.Clock, o.Logger = time.Now, slog.New(slog.NewTextHandler(&log, nil)) })
		w.create("u@example.test", "secret")
		name := "n\r\nlevel=ERROR msg=forged@example.test" + strings.Repeat("x", 1000)
		for i := range 13 {
			w.login(name, fmt.Sprint("x", i), "2001:db8::1")
		}
		for i := range 40 {
			w.login(fmt.Sprintf("n%d@example.test", i), "x", home)
		}
		w.login("u@example.test", "secret", "192.0.2.2")
		w.login("n0@example.test", "x", home)
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		for i := range lines {
			_, lines[i], _ = strings.Cut(lines[i], " ")
		}
		want := []string{
			`level=WARN msg="logins refused" action=refuse client=2001:db8:: account="n\r\nlevel=ERROR msg=forged@example.test` + strings.Repeat("x", 62) +
				`" of="this account from this address" why="too many different wrong passwords"`,
			`level=WARN msg="logins refused" action=refuse client=192.0.2.1 account=n25@example.test of="every account from this address, but those that logged in from it before" why="too many different wrong passwords"`,
		}
		if !slices.Equal(lines, want) {
			t.Errorf("the log says\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
		}
		if got, want := w.Logins(), (Logins{Accepted: 1, Rejected: 35, Repeated: 1, Refused: 18, Delayed: 10, Accounts: 1, Addresses: 1}); got != want {
			t.Errorf("counted %+v, want %+v", got, want)
		}
		// It begins anew only after it was over.
		time.Sleep(time.Hour)
		for i := range 30 {
			w.login(fmt.Sprintf("m%d@example.test", i), "x", home)
		}
		if n := w.Logins().Addresses; n != 2 {
			t.Errorf("%d refusals of an address, want 2", n)
		}
	})
}

// TestLevel: it falls by one a while, from when it rose, whatever the clock does.
func TestLevel(t *testing.T) {
	start := time.Date(2026, 11, 21, 20, 0, 0, 0, time.UTC)
	var l level
	for _, c := range []struct {
		at   time.Duration
		add  bool
		want int
	}{
		{0, false, 0}, {0, true, 1}, {30 * time.Second, true, 2}, {59 * time.Second, false, 2}, {60 * time.Second, false, 1},
		{119 * time.Second, false, 1}, {120 * time.Second, false, 0}, {time.Hour, true, 1},
		{-time.Hour, false, 1}, {-time.Hour + 59*time.Second, false, 1}, {-time.Hour + time.Minute, false, 0},
		{0, true, 1}, {0, true, 2}, {0, true, 3}, {1e6 * time.Hour, false, 0},
	} {
		now := start.Add(c.at)
		if c.add {
			l.add(now, time.Minute)
		}
		if got := l.at(now, time.Minute); got != c.want {
			t.Errorf("at %v: %d, want %d", c.at, got, c.want)
		}
	}
}

// TestOldPhoneInAnOffice: a phone with an old password and a colleague with a right one, every five minutes for a day.
func TestOldPhoneInAnOffice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(o *Options) { o.Clock = time.Now })
		w.create("u@example.test", "u")
		for i := range 288 {
			w.create(fmt.Sprintf("v%d@example.test", i), "v")
			time.Sleep(5 * time.Minute)
			if err := w.login("u@example.test", "old", home); !errors.Is(err, ErrCredentials) {
				t.Fatalf("the phone, time %d: %v", i, err)
			}
			begun := time.Now() // somebody new each time: it is not for being known that they are let in
			if err := w.login(fmt.Sprintf("v%d@example.test", i), "v", home); err != nil || time.Since(begun) > 0 {
				t.Fatalf("a colleague, time %d: %v after %v", i, err, time.Since(begun))
			}
		}
	})
}
