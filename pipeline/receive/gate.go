package receive

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/listen"
)

const (
	smallBuffer = 512      // of a connection that waits for a command
	largeBuffer = 16 << 10 // while content arrives or lines are long; holds the longest line, 12288 octets of AUTH
	flushAt     = 16 << 10 // replies held back at most

	writeTime     = 30 * time.Second // for one write to be taken by the peer
	farewellTime  = 2 * time.Second  // for a 421, when the peer may not be reading
	handshakeTime = 30 * time.Second
)

// gate is the net.Conn that the library reads from and writes to; see the package comment for what it is there for. Except
// where it says otherwise its methods are called by the library's goroutine of the connection.
type gate struct {
	server *Server
	lib    *smtp.Server // of this connection alone
	conn   net.Conn     // raw, or TLS over it
	raw    net.Conn
	client netip.Addr
	port   uint16
	trust  bool
	id     string // session ID, for the log

	buf    []byte // of small, or of the server's pool
	r, w   int    // buf[r:w] came from the network and was not used yet
	small  [smallBuffer]byte
	line   []byte // what the library may read: one line, or the end of data
	chunk  int64  // octets of a BDAT chunk that the library has still to read
	out    []byte // replies that were not written yet
	begun  bool
	dead   bool // nothing is read or written any more
	closed bool

	greeted     bool // EHLO, HELO or LHLO was accepted (since STARTTLS)
	esmtp       bool // it was not HELO
	sasl        bool // the next line answers a challenge
	tls         *tls.ConnectionState
	until       time.Time // by when the content has to be here
	verb        string    // of the command that the library works on
	path        path      // of the MAIL or RCPT that the library works on
	pendingHelo string    // of the EHLO that the library works on
	orcpt       string    // its ORCPT parameter as sent
	session     *session
	talk        *pipeline.Session // what plugins said about the connection; nil: they were not asked
	resting     bool              // the library has to go: the client is silent
	lineBy      time.Time         // by when the next command has to be here; zero: not waited for yet
	again       []byte            // the EHLO that a new library server is told
	mute        bool              // its answers so far are not for the client
	commands    int
	errors      int
	refused     int // RCPT

	mu       sync.Mutex
	waiting  bool // for a command, outside a transaction
	stopping bool
}

var _ net.Conn = (*gate)(nil)

// newGate makes the gate of a connection that was accepted.
func newGate(s *Server, raw net.Conn) *gate {
	g := &gate{server: s, conn: raw, raw: raw, id: s.nextSession()}
	g.buf = g.small[:]
	if c, ok := raw.(*listen.Conn); ok {
		g.client, g.trust = c.Client(), c.Trusted()
		if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
			g.port = uint16(a.Port)
		}
	} else if a, ok := raw.RemoteAddr().(*net.TCPAddr); ok {
		g.client, g.port = a.AddrPort().Addr().Unmap().WithZone(""), uint16(a.Port)
	}
	g.session = &session{gate: g}
	return g
}

// Read gives the library the next command line that is its business, the end of data that Session.Data has found already,
// or octets of the BDAT chunk that it has announced.
func (g *gate) Read(b []byte) (n int, err error) {
	defer func() {
		// The library recovers from panics in commands, but this runs before one is known to it.
		if p := recover(); p != nil {
			g.server.options.Logger.Error("panic", "session", g.id, "stage", "receive", "why", fmt.Sprint(p), "stack", string(debug.Stack()))
			g.die("")
			n, err = 0, io.EOF
		}
	}()
	if g.again != nil {
		g.line, g.again = g.again, nil
	} else {
		g.mute = false
	}
	for len(g.line) == 0 {
		if g.chunk > 0 {
			return g.readChunk(b)
		}
		if g.dead || g.closed {
			return 0, io.EOF
		}
		if g.errors >= g.server.options.Config.MaxErrors || g.refused >= g.server.options.Config.MaxRefused {
			g.log("connection closed", "why", "too many errors", "errors", g.errors, "refused", g.refused)
			g.die("421 4.7.0 " + g.server.options.Hostname + " Too many errors")
			continue
		}
		if g.pause() {
			return 0, io.EOF
		}
		g.command()
	}
	n = copy(b, g.line)
	g.line = g.line[n:]
	return n, nil
}

// readChunk passes octets of a BDAT chunk to the library.
func (g *gate) readChunk(b []byte) (int, error) {
	if g.dead || g.closed {
		return 0, io.ErrUnexpectedEOF // io.EOF would look like the end of the chunk
	}
	if g.r == g.w {
		if err := g.fill(g.server.options.Config.DataTimeout.Std(), g.until); err != nil {
			return 0, io.ErrUnexpectedEOF
		}
	}
	n := copy(b[:min(int64(len(b)), g.chunk)], g.buf[g.r:g.w])
	g.r += n
	g.chunk -= int64(n)
	return n, nil
}

// pipelining is the second line of the library's reply to EHLO.
const pipelining = "250-PIPELINING\r\n"

// Write holds the library's reply back until we have to wait for the peer; so the replies to pipelined commands go in one
// segment (RFC 2920 section 3.2).
func (g *gate) Write(p []byte) (int, error) {
	if !g.begun {
		g.begin()
	}
	if g.dead || g.closed || g.mute {
		return len(p), nil
	}
	g.out = append(g.out, p...)
	if g.tls != nil && string(p) == pipelining { // the library does not see the TLS, so it can't offer what goes with it
		g.out = append(g.out, "250-REQUIRETLS\r\n"...) // RFC 8689 section 2
	}
	if len(g.out) >= flushAt {
		g.flush(writeTime)
	}
	return len(p), nil
}

// flush writes the replies that were held back.
func (g *gate) flush(within time.Duration) {
	if len(g.out) == 0 || g.dead {
		return
	}
	_ = g.conn.SetWriteDeadline(time.Now().Add(within))
	_, err := g.conn.Write(g.out)
	g.out = g.out[:0]
	if cap(g.out) > 1024 {
		g.out = nil
	}
	if err != nil {
		g.dead = true
	}
}

// begin runs before the greeting: the handshake of implicit TLS, and the test for clients that talk before they are
// spoken to.
func (g *gate) begin() {
	g.begun = true
	o := &g.server.options
	if o.ImplicitTLS {
		g.handshake()
	}
	if wait := o.Config.GreetDelay.Std(); wait > 0 && !g.dead {
		_ = g.conn.SetReadDeadline(time.Now().Add(wait))
		n, err := g.conn.Read(g.buf)
		g.w = n
		var ne net.Error
		switch {
		case n > 0:
			g.log("connection closed", "why", "the client spoke before the greeting")
			g.die("554 5.5.1 " + o.Hostname + " A client waits for the greeting")
		case err != nil && !(errors.As(err, &ne) && ne.Timeout()):
			g.die("")
		}
	}
	g.connect()
}

// fill reads from the network, at least one octet, for at most the given time and not beyond the deadline (if set). Held
// replies go out first. After an error the gate is dead.
func (g *gate) fill(within time.Duration, deadline time.Time) error {
	g.flush(writeTime)
	if g.dead {
		return io.ErrUnexpectedEOF
	}
	g.room()
	until := time.Now().Add(within)
	if !deadline.IsZero() && deadline.Before(until) {
		until = deadline
	}
	return g.wait(until)
}

// wait reads at least one octet into buf, which has room. After an error the gate is dead.
func (g *gate) wait(until time.Time) error {
	if !g.arm(until) {
		g.die("421 4.3.2 " + g.server.options.Hostname + " Going down, please try again later")
		return io.ErrUnexpectedEOF
	}
	n, err := g.conn.Read(g.buf[g.w:])
	g.w += n
	if n > 0 {
		return nil
	}
	return g.failed(err)
}

// failed ends the connection after a failed read, with the words that fit.
func (g *gate) failed(err error) error {
	host := g.server.options.Hostname
	var ne net.Error
	switch {
	case g.isStopping() && g.session.idle():
		g.die("421 4.3.2 " + host + " Going down, please try again later")
	case errors.As(err, &ne) && ne.Timeout():
		g.die("421 4.4.2 " + host + " Nothing was heard for too long")
	default:
		g.die("")
	}
	return io.ErrUnexpectedEOF
}

// arm sets the deadline of the next read; it reports false if the server stops and nothing is under way here.
func (g *gate) arm(until time.Time) bool {
	idle := g.session.idle()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting = idle; idle && g.stopping {
		return false
	}
	_ = g.conn.SetReadDeadline(until)
	return true
}

// stop makes a connection that waits for a command end with a 421, now; one inside a transaction does so when that has
// ended. Called from any goroutine.
func (g *gate) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopping = true
	if g.waiting {
		_ = g.raw.SetReadDeadline(time.Unix(1, 0))
	}
}

func (g *gate) isStopping() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stopping
}

// room makes room in buf: the small buffer for somebody idle, a large one for who sends much.
func (g *gate) room() {
	switch {
	case g.r == g.w:
		g.r, g.w = 0, 0
		if len(g.buf) > smallBuffer && !g.session.inContent() {
			g.release()
		}
	case g.r > 0:
		g.w = copy(g.buf, g.buf[g.r:g.w])
		g.r = 0
	}
	if len(g.buf) == smallBuffer && (g.w == len(g.buf) || g.session.inContent()) {
		large := g.server.buffers.Get().(*[largeBuffer]byte)
		g.w = copy(large[:], g.buf[g.r:g.w])
		g.r = 0
		g.buf = large[:]
	}
}

// release gives a large buffer back.
func (g *gate) release() {
	if len(g.buf) == largeBuffer {
		g.server.buffers.Put((*[largeBuffer]byte)(g.buf))
		g.buf = g.small[:]
		g.r, g.w = 0, 0
	}
}

// die ends the conversation: a last line, if any, and nothing is read or written afterwards. The library sees the end of
// input and closes.
func (g *gate) die(last string) {
	if g.dead {
		return
	}
	if last != "" {
		g.out = append(append(g.out, last...), '\r', '\n')
	}
	g.flush(farewellTime)
	g.dead = true
}

// reply answers a command instead of the library.
func (g *gate) reply(code int, enhanced, text string) {
	g.out = fmt.Appendf(g.out, "%d %s %s\r\n", code, enhanced, text)
}

// Close is called by the library when the session has ended, perhaps more than once.
func (g *gate) Close() error {
	if g.closed {
		return nil
	}
	if g.resting {
		g.resting = false
		go g.rest()
		return nil
	}
	g.flush(farewellTime)
	g.closed = true
	g.line, g.out = nil, nil
	g.release()
	err := g.conn.Close()
	g.server.drop(g)
	return err
}

func (g *gate) log(msg string, args ...any) {
	g.server.options.Logger.Info(msg, append([]any{"session", g.id, "stage", "receive", "listener", g.server.options.Listener,
		"client", g.client.String()}, args...)...)
}

// LocalAddr and RemoteAddr are the connection's.
func (g *gate) LocalAddr() net.Addr { return g.raw.LocalAddr() }

// RemoteAddr is the client's address.
func (g *gate) RemoteAddr() net.Addr { return g.raw.RemoteAddr() }

// SetDeadline does nothing: every read and write here has a deadline of its own.
func (g *gate) SetDeadline(time.Time) error { return nil }

// SetReadDeadline is like SetDeadline.
func (g *gate) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline is like SetDeadline.
func (g *gate) SetWriteDeadline(time.Time) error { return nil }
