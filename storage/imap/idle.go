package imap

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	goimap "github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/sluicemail/sluice/storage"
)

// idling is a session in IDLE. It has no goroutine while nothing happens: most
// sessions are in IDLE most of the time, and a stack each is what they would cost.
type idling struct {
	s     *session
	watch *storage.Watch

	mu      sync.Mutex
	looking bool // there is a goroutine that looks
	again   bool // something changed since it began to
}

// Idle begins to tell of changes as they come (RFC 2177) and returns; Poll, which
// the library calls when the client has ended IDLE, and Close end it. The watch
// begins before the first look, so that nothing falls between.
func (s *session) Idle(_ *imapserver.UpdateWriter, stop <-chan struct{}) error {
	s.srv.enter() // the library may call this later than Close
	defer s.srv.leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle != nil {
		return nil // the library is told again
	}
	select {
	case <-stop:
		return nil
	case <-s.ctx.Done():
		return nil
	default:
	}
	i := &idling{s: s}
	i.watch = s.srv.o.Store.WatchFunc(s.account, i.changed)
	s.idle = i
	i.changed()
	return nil
}

// endIdle ends IDLE, if the session is in it. A look that is under way tells what
// it found before, or nothing.
func (s *session) endIdle() {
	s.mu.Lock()
	i := s.idle
	s.idle = nil
	s.mu.Unlock()
	if i != nil {
		i.watch.Close()
	}
}

// changed has somebody look, soon.
func (i *idling) changed() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.again = true; !i.looking {
		i.looking = true
		i.s.srv.enter()
		go i.look()
	}
}

// look looks until nothing has changed.
func (i *idling) look() {
	defer i.s.srv.leave()
	for {
		i.mu.Lock()
		if i.looking = i.again; !i.looking {
			i.mu.Unlock()
			return
		}
		i.again = false
		i.mu.Unlock()
		i.once()
	}
}

// once is one look. A store that fails now is asked again at the next change; a
// connection that fails ends IDLE by itself.
func (i *idling) once() {
	s := i.s
	defer func() {
		if v := recover(); v != nil { // the library recovers for its own goroutines
			s.srv.o.Logger.Error("imap: panic in a session", "account", s.address, "why", fmt.Sprint(v), "stack", string(debug.Stack()))
			s.w.bye("Internal error, see the server's log")
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle != i {
		return
	}
	var reply *goimap.Error
	if err := s.syncLocked(true); err != nil && !errors.As(err, &reply) {
		s.srv.o.Logger.Debug("imap: idle", "account", s.address, "why", err)
	}
}
