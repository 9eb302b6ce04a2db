package imap

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	goimap "github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
)

// How long a client is silent before its connection rests: between commands, and in
// IDLE, which says by itself that nothing will come soon. To begin again takes some
// ten microseconds, once.
const (
	restAfter = time.Second
	idleAfter = 100 * time.Millisecond
)

// A connection whose client is silent, in IDLE or between two commands, costs the
// library's goroutine with a stack of 8 KiB and its buffers of another 8, which are
// most of what it takes. So after a while it rests: the library is told that the
// connection has ended, its last words are dropped, and a goroutine of ours with
// little stack waits for the next octet. The session stays as it is; what IDLE has
// to tell goes past the library anyway. With the next octet the library begins
// anew on the same wire and session: it is greeted as one that is logged in
// (PREAUTH), and what it knew, ENABLE, that a mailbox is open, and IDLE, it is told
// again. Its answers to that are not the client's.
//
// Nobody rests before the login, nor in the middle of a command.

// rests waits for the client as long as a connection does not rest, by way of p. It
// reports true when the library has to go; otherwise err is what happened.
func (g *guard) rests(p []byte, deadline time.Time) (n int, gone bool, err error) {
	wait := g.w.link.srv.o.restAfter
	if g.idles() {
		wait = min(wait, idleAfter)
	}
	after := time.Now().Add(wait)
	if !g.mayRest() || !after.Before(deadline) {
		return 0, false, nil
	}
	n, err = g.w.hear(p, after, true)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, false, err
	}
	again, ok := g.w.session.recall(g.idles(), g.tag)
	if !ok {
		return 0, false, nil
	}
	g.again, g.until = again, deadline
	g.w.gone.Store(true)
	return 0, true, nil
}

// mayRest: the library waits for a line, and all that it knows can be told again.
func (g *guard) mayRest() bool {
	return g.login && g.atCommand() && !g.drain && g.w.session != nil && (g.idles() || g.w.tagged.Load())
}

// idles: the client is in IDLE.
func (g *guard) idles() bool { return g.verb == "IDLE" && g.continuation() }

// recall returns what a new library connection has to be told, a line each. ok is
// false while IDLE has not begun: the library's goroutine for it is on its way.
func (s *session) recall(idles bool, tag string) (lines []string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if idles && s.idle == nil {
		return nil, false
	}
	var caps []string
	for c := range s.lib.EnabledCaps() {
		caps = append(caps, string(c))
	}
	if slices.Sort(caps); len(caps) > 0 {
		lines = append(lines, "r ENABLE "+strings.Join(caps, " ")+"\r\n")
	}
	if s.opened {
		lines = append(lines, "r SELECT INBOX\r\n") // whichever it is: session knows
	}
	if idles {
		lines = append(lines, tag+" IDLE\r\n") // the tag is for the answer to DONE
	}
	s.lib = nil // its buffers
	return lines, true
}

// retell gives the library the next line of what it is told again; after the last
// one its answers are the client's. ok is false if there is none.
func (g *guard) retell(p []byte) (n int, ok bool) {
	if len(g.again) > 0 {
		n = copy(p, g.again[0])
		if g.again[0] = g.again[0][n:]; g.again[0] == "" {
			g.again = g.again[1:]
		}
		return n, true
	}
	if g.w.mute.CompareAndSwap(true, false) {
		idles := g.idled
		g.again, g.idled = nil, false
		g.w.plus.Store(idles)
		g.w.tagged.Store(!idles)
	}
	return 0, false
}

// rest waits for a client that is silent, on a goroutine of its own, and then gives
// the connection to the library again.
func (w *wire) rest() {
	defer func() {
		if v := recover(); v != nil { // the library has no part in this
			w.link.srv.o.Logger.Error("imap: panic in a session", "account", w.session.address, "why", fmt.Sprint(v), "stack", string(debug.Stack()))
			w.leave()
		}
	}()
	g := &w.guard
	var first [64]byte
	n, err := w.await(first[:], g.until, true)
	if err != nil {
		w.leave()
		return
	}
	g.in = append(g.in, first[:n]...)
	g.idled = g.idles()
	w.mute.Store(true)
	h := w.link.srv.plain
	if w.secure {
		h = w.link.srv.secure
	}
	if !h.give(w) {
		w.leave()
	}
}

// leave ends session and connection while the library has no part in them.
func (w *wire) leave() {
	_ = w.session.Close()
	w.shut()
}

// absent: the library is about to go because the client is silent, or it is told
// again what it knew. What it asks of the session then was done before.
func (s *session) absent() bool { return s.w.gone.Load() || s.w.mute.Load() }

// resume is newSession for a connection that has rested.
func (s *session) resume(c *imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
	s.mu.Lock()
	s.lib = c
	s.mu.Unlock()
	return s.outer, &imapserver.GreetingData{PreAuth: true}, nil
}

// reselect is what Select answers to a library that is told again.
func reselect() *goimap.SelectData { return &goimap.SelectData{UIDValidity: 1, UIDNext: 1} }
