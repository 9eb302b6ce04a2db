package imap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	goimap "github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/sluicemail/sluice/storage"
)

// Options say what to serve, to whom, and how much. The connections of a listener
// and of a client address are limited by pipeline/listen, below this package;
// its own limits are for other listeners.
type Options struct {
	Store    *storage.Store
	Hostname string       // in the log
	Logger   *slog.Logger // nil: nothing is logged

	TLS                 *tls.Config // nil: no TLS
	ImplicitTLS         bool        // handshake first; otherwise STARTTLS is offered if TLS is set
	AllowPlaintextLogin bool        // logins without TLS

	Trusted                  []netip.Prefix // exempt from MaxConnectionsPerAddress, as loopback is
	MaxConnections           int            // 0: no limit
	MaxConnectionsPerAddress int            // 0: no limit
	MaxCommands              int            // in one session; 0: 10,000
	MaxSession               time.Duration  // 0: no limit. An idle session ends with BYE and may come back
	IdleTimeout              time.Duration  // after the login; 0: 30 min, which RFC 3501 section 5.4 asks for
	LoginTimeout             time.Duration  // for all until the login; 0: 3 min
	AppendLimit              int64          // octets of a message; 0: 100 MiB

	wrapSession   func(*session) imapserver.Session // in tests
	handshakeTime time.Duration                     // shortened in tests
	restAfter     time.Duration                     // likewise; see rest.go
	stallTime     time.Duration                     // for more of a command or literal that has begun
}

const (
	handshakeTimeout = 30 * time.Second
	stallTimeout     = time.Minute
	writeTimeout     = time.Minute // for 16 KiB
)

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&o.MaxCommands, 10000)
	setDefault(&o.LoginTimeout, 3*time.Minute)
	setDefault(&o.AppendLimit, 100<<20)
	o.AppendLimit = min(o.AppendLimit, 1<<32-1)
	setDefault(&o.IdleTimeout, 30*time.Minute)
	setDefault(&o.handshakeTime, handshakeTimeout)
	setDefault(&o.stallTime, stallTimeout)
	setDefault(&o.restAfter, restAfter)
	return o
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Server serves IMAP on any number of listeners that share its options.
type Server struct {
	o      Options
	ctx    context.Context // ends with the server
	cancel context.CancelFunc

	plain, secure *handover // connections for the library, without and with TLS
	libraries     sync.WaitGroup

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	wires     map[*wire]struct{}
	addresses map[netip.Addr]int
	links     int
	sessions  int // that may still use the store
	closing   bool
}

// enter and leave count what uses the store.
func (s *Server) enter() { s.count(1) }
func (s *Server) leave() { s.count(-1) }

func (s *Server) count(n int) {
	s.mu.Lock()
	s.sessions += n
	s.mu.Unlock()
}

// New makes a server. Shutdown must be called.
func New(o Options) (*Server, error) {
	switch {
	case o.Store == nil:
		return nil, errors.New("imap server: no store")
	case o.ImplicitTLS && o.TLS == nil:
		return nil, errors.New("imap server: implicit TLS without a TLS configuration")
	}
	s := &Server{
		o:     o.withDefaults(),
		plain: newHandover(), secure: newHandover(),
		listeners: map[net.Listener]struct{}{},
		wires:     map[*wire]struct{}{},
		addresses: map[netip.Addr]int{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	starttls := s.o.TLS
	if s.o.ImplicitTLS {
		starttls = nil
	}
	s.library(s.plain, starttls, s.o.AllowPlaintextLogin)
	s.library(s.secure, nil, true) // for the library it is clear text: the wire has done TLS
	return s, nil
}

// library starts an imapserver for the connections of h.
func (s *Server) library(h *handover, starttls *tls.Config, login bool) {
	lib := imapserver.New(&imapserver.Options{
		NewSession:   s.newSession,
		Caps:         capabilities(),
		Logger:       libraryLog{s.o.Logger},
		TLSConfig:    starttls,
		InsecureAuth: login,
	})
	s.libraries.Go(func() { lib.Serve(h) })
}

// capabilities are those that the library does not add by itself. IMAP4rev2 is
// not among them: it requires SEARCHRES, which the library answers wrong.
func capabilities() goimap.CapSet {
	return goimap.CapSet{
		goimap.CapIMAP4rev1: {}, goimap.CapNamespace: {}, goimap.CapUIDPlus: {}, goimap.CapESearch: {},
		goimap.CapListExtended: {}, goimap.CapListStatus: {}, goimap.CapMove: {}, goimap.CapStatusSize: {},
		goimap.CapBinary: {}, goimap.CapChildren: {}, goimap.CapSpecialUse: {}, goimap.CapCreateSpecialUse: {},
	}
}

// libraryLog turns what the library prints into log records: panics are errors,
// the rest is what clients do.
type libraryLog struct{ l *slog.Logger }

// Printf implements imapserver.Logger.
func (l libraryLog) Printf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if strings.HasPrefix(text, "panic") {
		l.l.Error("imap: panic in a session", "why", text)
		return
	}
	l.l.Debug("imap: library", "why", text)
}

// ErrServerClosed is what Serve returns after Shutdown.
var ErrServerClosed = errors.New("imap server is closed")

// Serve accepts connections from ln until Shutdown or an error that lasts. The
// addresses of its connections are those of the clients: PROXY is done below.
func (s *Server) Serve(ln net.Listener) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return ErrServerClosed
	}
	s.listeners[ln] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, ln)
		s.mu.Unlock()
	}()
	for wait := time.Duration(0); ; {
		c, err := ln.Accept()
		if err == nil {
			wait = 0
			s.accept(c)
			continue
		}
		if s.isClosing() {
			return ErrServerClosed
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept IMAP connections: %w", err)
		}
		wait = min(max(wait*2, 5*time.Millisecond), time.Second) // out of descriptors, most likely
		s.o.Logger.Warn("accept IMAP connections", "why", err, "wait", wait)
		select {
		case <-time.After(wait):
		case <-s.ctx.Done():
		}
	}
}

func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// accept counts a connection, or turns it away, and hands it on.
func (s *Server) accept(c net.Conn) {
	l := &link{srv: s, addr: peerAddr(c), started: time.Now()}
	if why := s.admit(l); why != "" {
		s.o.Logger.Info("imap: connection refused", "client", l.addr, "why", why)
		c.SetDeadline(time.Now().Add(time.Second))
		if !s.o.ImplicitTLS {
			c.Write([]byte("* BYE [UNAVAILABLE] " + why + "\r\n"))
		}
		c.Close()
		return
	}
	if !s.o.ImplicitTLS {
		s.start(newWire(l, c, false), s.plain)
		return
	}
	go func() {
		t := tls.Server(c, s.o.TLS)
		if err := s.handshake(t); err != nil {
			s.o.Logger.Debug("imap: TLS handshake", "client", l.addr, "why", err)
			c.Close()
			l.release()
			return
		}
		s.start(newWire(l, t, true), s.secure)
	}()
}

// handshake does not outlive its time or the server.
func (s *Server) handshake(t *tls.Conn) error {
	ctx, cancel := context.WithTimeout(s.ctx, s.o.handshakeTime)
	defer cancel()
	return t.HandshakeContext(ctx)
}

// start registers w and gives it to the library.
func (s *Server) start(w *wire, h *handover) {
	s.mu.Lock()
	closing := s.closing
	if !closing {
		s.wires[w] = struct{}{}
	}
	s.mu.Unlock()
	if closing || !h.give(w) {
		w.Close()
	}
}

// lastWait is how long Shutdown waits for sessions whose connection it cut.
const lastWait = 5 * time.Second

// Shutdown stops accepting, says BYE to sessions as they become idle, and lets
// commands in flight finish until ctx ends; then it cuts what is left and returns
// the context's error. Afterwards the store is not used any more, unless a command
// hangs in it.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	for ln := range s.listeners {
		ln.Close()
	}
	s.mu.Unlock()
	err := s.drain(ctx, func(w *wire) { w.endSoon("Server is shutting down") })
	s.cancel()
	if err != nil {
		last, cancel := context.WithTimeout(context.Background(), lastWait)
		defer cancel()
		if s.drain(last, (*wire).cut) != nil {
			s.o.Logger.Error("imap: sessions do not end", "server", s.o.Hostname)
		}
	}
	s.plain.Close()
	s.secure.Close()
	s.libraries.Wait()
	return err
}

// drain ends connections until none is left and no session uses the store.
func (s *Server) drain(ctx context.Context, end func(*wire)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		left, sessions := s.all()
		if len(left) == 0 && sessions == 0 {
			return nil
		}
		for _, w := range left {
			end(w)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Server) all() ([]*wire, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*wire, 0, len(s.wires))
	for w := range s.wires {
		list = append(list, w)
	}
	return list, s.sessions
}

// Connections returns how many connections are open.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.links
}
