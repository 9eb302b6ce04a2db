package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// Times are how long each step may take.
type Times struct {
	Greeting, Hello, TLS, Mail, Rcpt, Data, Block, Final, Quit time.Duration
}

// DefaultTimes returns the minimums of RFC 5321 section 4.5.3.2, and ours for what it does not name.
func DefaultTimes() Times {
	return Times{
		Greeting: 5 * time.Minute, Hello: 5 * time.Minute, TLS: time.Minute, Mail: 5 * time.Minute, Rcpt: 5 * time.Minute,
		Data: 2 * time.Minute, Block: 3 * time.Minute, Final: 10 * time.Minute, Quit: 2 * time.Second,
	}
}

// Options are what a Conn is made of.
type Options struct {
	Hostname string // for EHLO: our name, or an address literal
	LMTP     bool
	Times    *Times // nil: DefaultTimes
}

// Conn is a connection to a server.
type Conn struct {
	Extensions Extensions // what it offers, after Hello
	Name       string     // as it calls itself in its greeting, clean; "" if it does not
	Used       int        // transactions begun

	options Options
	times   *Times
	raw     net.Conn // as given to New
	conn    net.Conn // raw, or TLS over it
	tls     *tls.ConnectionState

	in          []byte // what was read, in buffer
	buffer      []byte
	text        []byte // of the reply that is read; kept for the next
	out         []byte // what is to be written; nil between transactions
	broken      bool   // nothing can be sent any more
	reset       bool   // RSET has to come before the next MAIL
	saidHello   bool
	deadline    time.Time // of Bind
	patient     bool      // the replies to the content need not meet it
	interrupted *atomic.Bool
}

// New takes a connection over. Nothing is sent or read yet. A *tls.Conn is TLS from the start ("implicit").
func New(conn net.Conn, options Options) *Conn {
	c := &Conn{options: options, times: options.Times, raw: conn, conn: conn}
	if c.times == nil {
		t := DefaultTimes()
		c.times = &t
	}
	if t, ok := conn.(*tls.Conn); ok {
		state := t.ConnectionState()
		c.tls = &state
	}
	return c
}

// Bind gives everything that follows the context's deadline, and ends it when the context ends. The function returned
// takes that back, and has to be called before the next Bind.
func (c *Conn) Bind(ctx context.Context) (release func()) {
	until, _ := ctx.Deadline()
	return c.bind(ctx, until)
}

// BindUntil is Bind with an end before that of the context, which the replies to the content do not have to meet: they have their own time
// (RFC 5321 section 4.5.3.2.6), since who goes away while the server delivers the message sends it again.
func (c *Conn) BindUntil(ctx context.Context, until time.Time) (release func()) {
	c.patient = true
	return c.bind(ctx, until)
}

func (c *Conn) bind(ctx context.Context, until time.Time) (release func()) {
	c.deadline = until
	if ctx.Done() == nil {
		return func() { c.deadline, c.patient = time.Time{}, false }
	}
	interrupted := new(atomic.Bool)
	c.interrupted = interrupted
	raw := c.raw
	stop := context.AfterFunc(ctx, func() {
		interrupted.Store(true)
		raw.SetDeadline(time.Unix(1, 0)) // wakes who waits; limit() looks at interrupted after it set a deadline of its own
	})
	return func() {
		if !stop() {
			c.broken = true // it may set that deadline at any time from now on
		}
		c.deadline, c.interrupted, c.patient = time.Time{}, nil, false
	}
}

// Usable reports whether another transaction may be tried on the connection.
func (c *Conn) Usable() bool { return !c.broken }

// TLS returns what is known about the TLS connection, or nil without TLS.
func (c *Conn) TLS() *tls.ConnectionState { return c.tls }

// Raw returns the connection that New was given.
func (c *Conn) Raw() net.Conn { return c.raw }

// Close ends the connection without a word.
func (c *Conn) Close() error {
	c.broken = true
	c.in, c.buffer, c.out, c.text = nil, nil, nil, nil
	return c.raw.Close()
}

// Quit says goodbye (RFC 5321 section 4.1.1.10) and closes. It waits for the reply for a moment only.
func (c *Conn) Quit() {
	if !c.broken && c.saidHello {
		c.deadline = time.Now().Add(c.times.Quit)
		c.queue("QUIT\r\n")
		if c.flush(c.times.Quit) == nil {
			c.readReply(c.times.Quit, nil)
		}
	}
	c.Close()
}

// limit sets the deadline of the next read and write.
func (c *Conn) limit(d time.Duration) error {
	at := time.Now().Add(d)
	if !c.deadline.IsZero() && c.deadline.Before(at) {
		at = c.deadline
	}
	if err := c.raw.SetDeadline(at); err != nil {
		return err
	}
	if c.interrupted != nil && c.interrupted.Load() {
		return context.Canceled
	}
	return nil
}

// fail marks the connection as broken.
func (c *Conn) fail(err error) error {
	c.broken = true
	if c.interrupted != nil && c.interrupted.Load() && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %w", context.Canceled, err)
	}
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// queue adds to what will be written.
func (c *Conn) queue(parts ...string) {
	for _, p := range parts {
		c.out = append(c.out, p...)
	}
}

// flush writes what was queued, in one piece.
func (c *Conn) flush(d time.Duration) error {
	if len(c.out) == 0 {
		return nil
	}
	if c.broken {
		return net.ErrClosed
	}
	if err := c.limit(d); err != nil {
		return c.fail(err)
	}
	_, err := c.conn.Write(c.out)
	c.out = c.out[:0]
	if err != nil {
		return c.fail(err)
	}
	return nil
}

// readReply reads one reply, which has to be complete within d. A reply of 421 ends the use of the connection (RFC 5321
// section 3.8). 3yz is a reply to some commands only; whoever asks has to look.
func (c *Conn) readReply(d time.Duration, each func([]byte)) (Reply, error) {
	p := parser{each: each, text: c.text[:0]}
	limited := false
	for {
		line, err := c.readLine(d, &limited)
		if err != nil {
			return Reply{}, c.fail(err)
		}
		last, err := p.line(line)
		if err != nil {
			return Reply{}, c.fail(err)
		}
		if last {
			break
		}
	}
	r := p.reply()
	c.text = p.text
	if r.Code == 421 {
		c.broken = true
	}
	return r, nil
}

// readLine returns the next line without its end, valid until the next call. A lone LF ends a line too: some servers send it,
// and a reply has nothing that could be smuggled.
func (c *Conn) readLine(d time.Duration, limited *bool) ([]byte, error) {
	seen := 0
	for {
		if i := bytes.IndexByte(c.in[seen:], '\n'); i >= 0 && seen+i <= maxReplyLine {
			line := c.in[:seen+i]
			c.in = c.in[seen+i+1:]
			return bytes.TrimSuffix(line, []byte("\r")), nil
		}
		if seen = len(c.in); seen >= maxReplyLine {
			return nil, &ProtocolError{What: errTooLong, Got: cleaned(c.in, 80)}
		}
		if !*limited { // once a reply, so that a trickle does not stretch it
			if err := c.limit(d); err != nil {
				return nil, err
			}
			*limited = true
		}
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
}

// fill reads more. The buffer has room for one line that is too long.
func (c *Conn) fill() error {
	if c.buffer == nil {
		c.buffer = make([]byte, 2<<10)
	}
	if len(c.in) == 0 {
		c.in = c.buffer[:0]
	} else if cap(c.in)-len(c.in) < 512 {
		// What is left goes to the front; a longer line gets a larger buffer.
		if len(c.in) > len(c.buffer)/2 {
			c.buffer = make([]byte, maxReplyLine+2<<10)
		}
		c.in = c.buffer[:copy(c.buffer, c.in)]
	}
	n, err := c.conn.Read(c.in[len(c.in):cap(c.in)])
	c.in = c.in[:len(c.in)+n]
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// unasked is the error of a peer that has said something without being asked: the next replies could not be told apart.
// Over TLS it may be in the buffers there, where a look at the socket does not find it.
func (c *Conn) unasked() error {
	if len(c.in) == 0 && c.tls != nil {
		if err := c.raw.SetReadDeadline(time.Unix(1, 0)); err != nil { // the socket is not read: limit() sets another one
			return c.fail(err)
		}
		if err := c.fill(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return c.fail(err)
		}
	}
	if len(c.in) == 0 {
		return nil
	}
	return c.fail(&ProtocolError{What: errors.New("a reply to nothing"), Got: cleaned(c.in, 80)})
}

// ask sends one command, and reads its reply.
func (c *Conn) ask(d time.Duration, command string) (Reply, error) {
	c.queue(command, "\r\n")
	if err := c.flush(d); err != nil {
		return Reply{}, err
	}
	return c.readReply(d, nil)
}
