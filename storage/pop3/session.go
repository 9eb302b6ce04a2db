package pop3

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"
)

const (
	maxBadCommands   = 20 // before the connection ends
	maxBadLogins     = 3
	handshakeTimeout = 30 * time.Second
	writeTimeout     = time.Minute // for one write of at most outputSize
	outputSize       = 64 << 10    // answers to pipelined commands leave together
	pieceSize        = 32 << 10    // of a message
	greetingSize     = 1 << 10     // output buffer before the login
)

// buffers are lent to a session while it is logged in.
type buffers struct {
	out   *bufio.Writer
	piece []byte
}

func newBuffers() *buffers {
	return &buffers{out: bufio.NewWriterSize(nil, outputSize), piece: make([]byte, pieceSize)}
}

// session is one client's connection. All fields belong to the goroutine of run,
// except those used by interrupt.
type session struct {
	srv   *Server
	conn  net.Conn // as accepted
	wire  net.Conn // conn, or TLS over it
	isTLS bool
	r     *bufio.Reader
	w     *bufio.Writer
	log   *slog.Logger
	peer  netip.Addr
	began time.Time

	user      string // from USER
	owner     string // of the maildrop; "" before the login
	drop      maildrop
	deleted   []bool // by index in drop.messages()
	marked    int    // how many are deleted
	bufs      *buffers
	badCmds   int
	badLogins int
	commands  int

	mu          sync.Mutex // guards the read deadline against interrupt
	interrupted bool
}

func newSession(srv *Server, conn net.Conn) *session {
	return &session{srv: srv, conn: conn, wire: conn, log: srv.opts.Logger, began: time.Now()}
}

// interrupt ends the session at its next wait for a command.
func (s *session) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.interrupted = true
	s.conn.SetReadDeadline(time.Now())
}

// Reasons for a session's end, beside what the connection reports.
var (
	errQuit        = errors.New("quit")
	errInterrupted = errors.New("server is shutting down")
	errMisbehaved  = errors.New("client misbehaved")
)

// run serves the client until either side has enough.
func (s *session) run() {
	// The address is known only now where a PROXY header is awaited.
	s.peer = addrOf(s.conn.RemoteAddr())
	s.log = s.log.With("peer", s.peer)
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("pop3: session panicked", "why", p, "stack", string(debug.Stack()))
		}
		s.closeDrop()
		s.returnBuffers()
		s.wire.Close() // with TLS it says so, and a client need not suspect a cut
	}()
	if s.srv.opts.ImplicitTLS {
		if err := s.startTLS(); err != nil {
			s.log.Debug("pop3: TLS handshake", "why", err)
			return
		}
	} else {
		s.useWire(s.conn)
	}
	err := s.serve()
	if err == nil || errors.Is(err, errQuit) {
		return
	}
	s.log.Debug("pop3: session ended", "owner", s.owner, "why", err)
}

// useWire starts reading and writing on c with empty buffers.
func (s *session) useWire(c net.Conn) {
	s.wire = c
	s.r = bufio.NewReaderSize(c, maxLine)
	s.w = bufio.NewWriterSize(deadlineWriter{c}, greetingSize)
}

// deadlineWriter gives each write a time of its own, so that a client that stops
// reading ends its session and one that reads slowly does not.
type deadlineWriter struct{ c net.Conn }

func (d deadlineWriter) Write(p []byte) (int, error) {
	if err := d.c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return d.c.Write(p)
}

// startTLS makes the connection a TLS connection.
func (s *session) startTLS() error {
	if s.srv.opts.TLS == nil {
		return errors.New("no TLS configuration")
	}
	c := tls.Server(s.conn, s.srv.opts.TLS)
	ctx, cancel := context.WithTimeout(s.srv.ctx, handshakeTimeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	s.isTLS = true
	s.useWire(c)
	return nil
}

func (s *session) serve() error {
	s.ok(s.srv.opts.Hostname + " POP3 server ready")
	for {
		line, err := s.readLine()
		if err != nil {
			return errors.Join(s.readFailed(err), s.w.Flush())
		}
		s.commands++
		if s.commands > s.commandLimit() {
			s.err(errTextTooMany)
			return errors.Join(errMisbehaved, s.w.Flush())
		}
		cmd, err := parseCommand(line)
		if err == nil {
			err = s.handle(cmd)
		} else {
			err = s.bad(errTextSyntax)
		}
		if err != nil {
			return errors.Join(err, s.w.Flush())
		}
	}
}

// commandLimit is MaxCommands and what it takes to read a whole maildrop: LIST,
// TOP, RETR and DELE for each message.
func (s *session) commandLimit() int { return s.srv.opts.MaxCommands + 4*len(s.deleted) }

// readLine returns the next line without its end. Answers that are waiting leave
// first, unless the client already sent another whole line (RFC 2449 section 6.6,
// PIPELINING). The slice is valid until the next read.
func (s *session) readLine() ([]byte, error) {
	if err := s.prepareRead(); err != nil {
		return nil, err
	}
	line, err := s.r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line, nil
}

// prepareRead flushes if the next line is not here yet, and sets the deadline for
// the whole of it, so that a client cannot live on an octet a minute.
func (s *session) prepareRead() error {
	if s.lineBuffered() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.interrupted {
			return errInterrupted
		}
		return nil
	}
	if err := s.w.Flush(); err != nil {
		return err
	}
	now := time.Now()
	deadline := now.Add(s.srv.opts.IdleTimeout)
	if last := s.began.Add(s.srv.opts.LoginTimeout); s.drop == nil && deadline.After(last) {
		deadline = last
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.interrupted {
		return errInterrupted
	}
	return s.wire.SetReadDeadline(deadline)
}

func (s *session) lineBuffered() bool {
	n := s.r.Buffered()
	if n == 0 {
		return false
	}
	waiting, _ := s.r.Peek(n)
	return bytes.IndexByte(waiting, '\n') >= 0
}

// readFailed says a last word where there is one to say. Silence is not such a
// case: an autologout closes without a word, and removes nothing (RFC 1939
// section 3).
func (s *session) readFailed(err error) error {
	if errors.Is(err, bufio.ErrBufferFull) {
		s.err(errTextLong)
		return errMisbehaved
	}
	return err
}

// ok and err write a one-line response; it leaves by the next readLine. A write
// error stays in the writer and shows at Flush.
func (s *session) ok(text string) {
	s.w.WriteString("+OK")
	if text != "" {
		s.w.WriteByte(' ')
		s.w.WriteString(text)
	}
	s.w.WriteString("\r\n")
}

func (s *session) err(text string) {
	s.w.WriteString("-ERR ")
	s.w.WriteString(text)
	s.w.WriteString("\r\n")
}

// bad answers a command that makes no sense, and ends a session that sends
// little else.
func (s *session) bad(text string) error {
	s.err(text)
	if s.badCmds++; s.badCmds >= maxBadCommands {
		return errMisbehaved
	}
	return nil
}

// borrowBuffers gives a session that is logged in a larger output buffer.
func (s *session) borrowBuffers() error {
	if err := s.w.Flush(); err != nil {
		return err
	}
	s.bufs = s.srv.buffer.Get().(*buffers)
	s.bufs.out.Reset(deadlineWriter{s.wire})
	s.w = s.bufs.out
	return nil
}

func (s *session) returnBuffers() {
	if s.bufs == nil {
		return
	}
	s.bufs.out.Reset(nil)
	s.srv.buffer.Put(s.bufs)
	s.bufs = nil
}

// closeDrop gives the maildrop back. It may be called twice.
func (s *session) closeDrop() {
	if s.drop == nil {
		return
	}
	s.drop = nil
	s.srv.opts.Locks.release(s.owner)
}

func addrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	if a != nil {
		if ap, err := netip.ParseAddrPort(a.String()); err == nil {
			return ap.Addr().Unmap()
		}
	}
	return netip.Addr{}
}
