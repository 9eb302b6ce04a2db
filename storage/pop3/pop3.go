// Package pop3 is Sluice's POP3 server: it shows an account's INBOX to a mail
// reader and removes what the reader deleted.
//
// It implements RFC 1939 (without APOP), RFC 2449 (CAPA, RESP-CODES, PIPELINING,
// LOGIN-DELAY, EXPIRE NEVER), RFC 2595 section 4 (STLS), RFC 3206
// (AUTH-RESP-CODE) and RFC 5034 (AUTH PLAIN), with TLS from the first octet
// where Options.ImplicitTLS is set (RFC 8314).
//
// # Promises
//
//   - A session shows the messages that were in the INBOX, durable, when it logged
//     in, at most Options.MaxMessages of them, oldest first. Numbers and UIDL ids
//     stay for the whole session; a UIDL id stays with its message for ever.
//   - DELE takes effect at QUIT alone. +OK to QUIT is sent when the removal is on
//     stable storage. A session that ends in any other way removes nothing.
//   - One session at a time has an account's maildrop; a second one is refused with
//     [IN-USE]. The maildrop is free again before QUIT is answered. IMAP and
//     delivery go on meanwhile; a message that IMAP removes answers -ERR here.
//   - RETR and TOP send the octets as stored, dot-stuffed, in pieces: no message is
//     held in memory. A bare LF, which RFC 1939 cannot carry, is sent as CRLF.
//   - Passwords travel over TLS only, unless Options.AllowPlaintextLogin.
//   - No flag changes: reading by POP3 does not set \Seen.
//
// # Hostile input
//
// Everything a client sends: command lines (bounded by maxLine), base64 in AUTH,
// octets behind STLS (the connection is dropped, because they were not
// encrypted), too many commands, too many failures, silence. What a session may
// cost is bounded by Options; how many sessions there are, by the listener.
//
// # Failures
//
// What the store reports is logged once with its cause; the client hears one of
// the sentences in reply.go and never an inner error. A temporary trouble
// carries [SYS/TEMP], so that a mail reader does not ask its user for another
// password.
package pop3

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/sluicemail/sluice/storage"
)

// ErrServerClosed is returned by Serve after Shutdown.
var ErrServerClosed = errors.New("pop3: server is closed")

// Defaults of Options.
const (
	DefaultIdleTimeout  = 10 * time.Minute // the least that RFC 1939 section 3 allows
	DefaultLoginTimeout = 3 * time.Minute
	DefaultMaxCommands  = 10000
	DefaultMaxMessages  = 200000
)

// Options are what a Server is made of. Store is required; a zero value of
// everything else works.
type Options struct {
	Store               *storage.Store
	TLS                 *tls.Config  // nil: neither STLS nor implicit TLS
	ImplicitTLS         bool         // TLS from the first octet; needs TLS
	AllowPlaintextLogin bool         // a password without TLS; only makes sense on loopback
	Hostname            string       // shown in the greeting
	Logger              *slog.Logger // nil: nothing is logged

	// Locks says which maildrops are in use. Servers that show the same store (one
	// with STLS, one with implicit TLS) share one; nil makes one for this server.
	Locks *Locks

	IdleTimeout  time.Duration // the wait for a command of a client that is logged in
	LoginTimeout time.Duration // from the connection to the login
	MaxCommands  int           // commands in a session, beside four for each message of the maildrop
	MaxMessages  int           // messages shown in one session
	LoginDelay   time.Duration // the least time between two logins of an account (RFC 2449 section 6.5); 0: none
}

func (o *Options) setDefaults() {
	setDuration := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	setInt := func(n *int, value int) {
		if *n <= 0 {
			*n = value
		}
	}
	setDuration(&o.IdleTimeout, DefaultIdleTimeout)
	setDuration(&o.LoginTimeout, DefaultLoginTimeout)
	setInt(&o.MaxCommands, DefaultMaxCommands)
	setInt(&o.MaxMessages, DefaultMaxMessages)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Locks == nil {
		o.Locks = NewLocks()
	}
	if o.Hostname == "" {
		o.Hostname = "localhost"
	}
	o.TLS = withALPN(o.TLS)
}

// Server is a POP3 server. Its methods may be called from any goroutine.
type Server struct {
	opts Options
	back backend

	ctx    context.Context // ends when sessions must end at once
	cancel context.CancelFunc
	buffer sync.Pool // of *buffers

	mu        sync.Mutex
	closing   bool
	listeners map[net.Listener]struct{}
	sessions  map[*session]struct{}
	wait      sync.WaitGroup
}

// New makes a server; Serve starts it.
func New(opts Options) *Server {
	s := newServer(opts, nil)
	s.back = &storeBackend{store: opts.Store, maxMessages: s.opts.MaxMessages}
	return s
}

func newServer(opts Options, back backend) *Server {
	opts.setDefaults()
	s := &Server{
		opts:      opts,
		back:      back,
		listeners: make(map[net.Listener]struct{}),
		sessions:  make(map[*session]struct{}),
	}
	s.buffer.New = func() any { return newBuffers() }
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve accepts connections from l until Shutdown, which closes l. It may be
// called for several listeners. It returns ErrServerClosed, or what made
// accepting impossible. How many may connect and for how long, and who a client
// behind a proxy is, is l's business (package listen); l knows nothing of TLS.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		l.Close()
		return ErrServerClosed
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	for {
		conn, err := l.Accept()
		if s.isClosing() {
			if err == nil {
				conn.Close()
			}
			return ErrServerClosed
		}
		if err != nil {
			return fmt.Errorf("accept a connection: %w", err)
		}
		s.start(conn)
	}
}

func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// start runs a session for conn in a goroutine of its own.
func (s *Server) start(conn net.Conn) {
	sess := newSession(s, conn)
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		conn.Close()
		return
	}
	s.sessions[sess] = struct{}{}
	s.wait.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.wait.Done()
		defer func() {
			conn.Close()
			s.mu.Lock()
			delete(s.sessions, sess)
			s.mu.Unlock()
		}()
		sess.run()
	}()
}

// Shutdown closes the listeners, lets each session finish the command that it
// is working on, and returns when all have ended. POP3 knows no word for it: an
// idle client sees the connection close. When ctx ends first, the sessions that
// are left are cut off, and ctx's error is returned. Nothing is lost by that: what
// a client deleted without QUIT stays.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	for l := range s.listeners {
		l.Close()
	}
	for sess := range s.sessions {
		sess.interrupt()
	}
	s.mu.Unlock()

	done := make(chan struct{})
	go func() { s.wait.Wait(); close(done) }()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
		s.cancel()
		s.mu.Lock()
		for sess := range s.sessions {
			sess.conn.Close()
		}
		s.mu.Unlock()
		<-done
	}
	s.cancel()
	return err
}

// withALPN makes the TLS configuration refuse clients that negotiate another
// protocol than POP3 (RFC 7301; DRILLS E1.5, ALPACA). Clients that negotiate
// none are served.
func withALPN(config *tls.Config) *tls.Config {
	if config == nil {
		return nil
	}
	config = config.Clone()
	config.NextProtos = []string{"pop3"}
	if choose := config.GetConfigForClient; choose != nil {
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := choose(hello)
			if chosen == nil || err != nil {
				return chosen, err
			}
			chosen = chosen.Clone()
			chosen.NextProtos = []string{"pop3"}
			return chosen, nil
		}
	}
	return config
}
