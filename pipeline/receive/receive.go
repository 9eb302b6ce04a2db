package receive

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/listen"
	"github.com/sluicemail/sluice/pipeline/resolver"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/blob"
)

// The protocols, as [listener.X] protocol has them.
const (
	SMTP       = "smtp"
	Submission = "submission"
	LMTP       = "lmtp"
)

// Pipeline is what receive asks; *pipeline.Pipeline is one. All methods are called from the goroutine of a connection,
// from many at a time. A Reply that is not OK goes to the peer after Clean.
type Pipeline interface {
	// Asks reports whether plugins want to be asked in a phase before the content. What only they need, such as the
	// client's name, is not waited for otherwise; Connect is called only if it is true.
	Asks(phase sdk.Phase) bool

	// Connect decides about a connection before the greeting. s stays with the connection, and is each message's Session.
	// A Reply that is not OK, 421 or 554, stands in the greeting's place, and the connection is closed.
	Connect(ctx context.Context, s *pipeline.Session) pipeline.Reply

	// Sender decides about MAIL FROM. If it is refused, m is not used again.
	Sender(ctx context.Context, m *pipeline.Message) pipeline.Reply

	// Recipient decides about one RCPT and, if it is accepted, adds it to m.
	Recipient(ctx context.Context, m *pipeline.Message, address string, params pipeline.RecipientParams) pipeline.Reply

	// Submit takes over a message whose content has arrived. It owns m from then on, whatever the result. When ctx ends
	// before the commit, because the peer has gone or the server has to stop, nothing may be committed.
	Submit(ctx context.Context, m *pipeline.Message) pipeline.Result

	// Refuse is told of a message whose content is not even submitted, which may be without content. It owns m from then
	// on. What it can't keep of it is lost; the peer hears u.Reply in any case.
	Refuse(ctx context.Context, m *pipeline.Message, u pipeline.Unfit)
}

// Errors of Accounts.Login that a peer is told about; any other is a passing trouble of ours.
var (
	ErrBadLogin = errors.New("unknown account or wrong password")
	ErrSlowDown = errors.New("too many failed logins")
)

// Accounts proves logins and knows whose addresses are whose. It is called from the goroutine of a connection.
type Accounts interface {
	// Login checks a password and returns the account's address. It fails with ErrBadLogin, ErrSlowDown or a passing
	// trouble. It must not keep or log the password.
	Login(ctx context.Context, user, password string, client netip.Addr) (address string, err error)

	// MaySendAs reports whether address belongs to the account: one of its own, an alias that leads to it, or in its
	// send_as (RULES A1).
	MaySendAs(ctx context.Context, login, address string) (bool, error)
}

// Options is what New takes.
type Options struct {
	Hostname            string
	Protocol            string // SMTP, Submission or LMTP
	Listener            string // its name in TOML
	TLS                 *tls.Config
	ImplicitTLS         bool // TLS from the first octet; otherwise a TLS that is not nil is offered as STARTTLS
	AllowPlaintextLogin bool
	Config              Config
	Limits              listen.Config
	Pipeline            Pipeline
	Accounts            Accounts               // Submission only
	Resolver            resolver.ReverseLookup // nil: names are not looked up
	Blobs               *blob.Store
	NewID               func() storage.ID
	Ready               func() pipeline.Reply // asked at each MAIL; not OK when there is no room for mail; nil: always OK
	Logger              *slog.Logger
	Clock               func() time.Time // nil: time.Now

	restAfter time.Duration // in tests; 0: restAfter
}

// Server receives on any number of listeners. Make one with New; a Server is not used again after Shutdown.
type Server struct {
	options Options
	tls     *tls.Config
	base    context.Context
	cancel  context.CancelCauseFunc
	buffers sync.Pool // of *[largeBuffer]byte
	errors  *log.Logger

	started string // of session IDs
	serial  atomic.Uint64
	counts  counters

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	gates     map[*gate]struct{}
	stopping  bool
	empty     chan struct{} // closed when stopping and the last connection has ended
}

// ErrStopped is what Serve returns after Shutdown, and the cause of the contexts that end when its patience does.
var ErrStopped = errors.New("the server stops")

// New returns a server that is ready to Serve.
func New(o Options) (*Server, error) {
	switch {
	case o.Protocol != SMTP && o.Protocol != Submission && o.Protocol != LMTP:
		return nil, fmt.Errorf("listener %s: %q is not a protocol of receive", o.Listener, o.Protocol)
	case o.Protocol == Submission && o.Accounts == nil:
		return nil, fmt.Errorf("listener %s: submission without accounts", o.Listener)
	case o.ImplicitTLS && o.TLS == nil:
		return nil, fmt.Errorf("listener %s: implicit TLS without a certificate", o.Listener)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.restAfter == 0 {
		o.restAfter = restAfter
	}
	if o.Ready == nil {
		o.Ready = func() pipeline.Reply { return pipeline.Reply{} }
	}
	s := &Server{
		options: o, tls: serverTLS(o.TLS),
		started:   strconv.FormatInt(o.Clock().Unix(), 36),
		listeners: make(map[net.Listener]struct{}),
		gates:     make(map[*gate]struct{}),
		empty:     make(chan struct{}),
	}
	s.buffers.New = func() any { return new([largeBuffer]byte) }
	s.base, s.cancel = context.WithCancelCause(context.Background())
	s.errors = slog.NewLogLogger(o.Logger.With("stage", pipeline.StageReceive, "listener", o.Listener).Handler(), slog.LevelError)
	return s, nil
}

// Serve accepts from l, best a *listen.Listener, until Shutdown or until l fails. It owns l.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return ErrStopped
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	for {
		raw, err := l.Accept()
		if err != nil {
			if s.isStopping() {
				return ErrStopped
			}
			return fmt.Errorf("receive on listener %s: %w", s.options.Listener, err)
		}
		s.start(raw)
	}
}

// start takes a connection into the books and lets it run.
func (s *Server) start(raw net.Conn) {
	g := newGate(s, raw)
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		raw.Close()
		return
	}
	s.gates[g] = struct{}{}
	s.mu.Unlock()

	g.serve()
}

// cutOffTime is how long Shutdown waits for sessions that it has cut off.
const cutOffTime = 5 * time.Second

// Shutdown stops accepting, tells connections that are not in the middle of a message to go (421), lets the others finish
// it, and returns when all have ended. When ctx ends before, those that are left are cut off, nothing more is committed,
// and ctx's error is returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.stopping {
		s.stopping = true
		if len(s.gates) == 0 {
			close(s.empty)
		}
	}
	for l := range s.listeners {
		l.Close()
	}
	gates := s.snapshot()
	s.mu.Unlock()
	for _, g := range gates {
		g.stop()
	}
	select {
	case <-s.empty:
		s.cancel(ErrStopped)
		return nil
	case <-ctx.Done():
	}
	s.cancel(ErrStopped)
	s.mu.Lock()
	gates = s.snapshot()
	s.mu.Unlock()
	for _, g := range gates {
		g.raw.Close()
	}
	select {
	case <-s.empty:
	case <-time.After(cutOffTime): // a stage that does not heed its context
	}
	return fmt.Errorf("stop listener %s: %d connections were cut off: %w", s.options.Listener, len(gates), ctx.Err())
}

// snapshot returns the open connections; s.mu is held.
func (s *Server) snapshot() []*gate {
	gates := make([]*gate, 0, len(s.gates))
	for g := range s.gates {
		gates = append(gates, g)
	}
	return gates
}

// drop forgets a connection that has ended.
func (s *Server) drop(g *gate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, open := s.gates[g]; !open {
		return
	}
	delete(s.gates, g)
	if s.stopping && len(s.gates) == 0 {
		close(s.empty)
	}
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// counters count since the start.
type counters struct {
	messages, unfit, connections, senders, recipients, logins, badLogins atomic.Uint64
}

// Stats is a moment's view of a Server, for metrics; what is not Open counts since the start.
type Stats struct {
	Open               int    // connections now
	Connections        uint64 // accepted
	ConnectionsRefused uint64 // by plugins, in place of the greeting
	Messages           uint64 // handed to the pipeline
	MessagesRefused    uint64 // refused, or incomplete, before
	SendersRefused     uint64
	RecipientsRefused  uint64
	Logins             uint64
	LoginsFailed       uint64
}

// Stats returns the moment's numbers.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	open := len(s.gates)
	s.mu.Unlock()
	c := &s.counts
	return Stats{Open: open, Connections: s.serial.Load(), Messages: c.messages.Load(), MessagesRefused: c.unfit.Load(),
		ConnectionsRefused: c.connections.Load(), SendersRefused: c.senders.Load(), RecipientsRefused: c.recipients.Load(), Logins: c.logins.Load(), LoginsFailed: c.badLogins.Load()}
}

func (s *Server) nextSession() string {
	return s.started + "-" + strconv.FormatUint(s.serial.Add(1), 36)
}
