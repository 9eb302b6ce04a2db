package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Options are a Pool's. The zero value keeps no connection.
type Options struct {
	Connect  time.Duration // the most that connecting may take; 0: the context's time
	Open     int           // connections in use at a time; a Get beyond waits; 0: no bound
	Idle     int           // connections kept for later
	IdleTime time.Duration // how long one is kept; 0: 30 s. Less than the daemon keeps it
}

// Pool keeps connections to one daemon. Its methods may be called from any goroutine.
type Pool struct {
	at    Address
	o     Options
	slots chan struct{} // of Options.Open; nil: no bound

	mu     sync.Mutex
	idle   []idleConn // the one used last at the end: it is the least likely to be dead
	closed bool
}

type idleConn struct {
	net.Conn
	since time.Time
}

// NewPool connects to nothing yet.
func NewPool(at Address, o Options) *Pool {
	if o.IdleTime == 0 {
		o.IdleTime = 30 * time.Second
	}
	p := &Pool{at: at, o: o}
	if o.Open > 0 {
		p.slots = make(chan struct{}, o.Open)
	}
	return p
}

// Address returns where the daemon is.
func (p *Pool) Address() Address { return p.at }

// Conn is a connection in use. It is bound to the context that it was got with: the
// deadline is the context's, and a cancel makes reads and writes fail.
type Conn struct {
	net.Conn
	Reused bool // it was used before, so the daemon may have closed it meanwhile

	pool     *Pool
	stop     func() bool // of the context
	answered bool
	over     bool
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.answered = c.answered || n > 0
	return n, err
}

// Answered reports whether the daemon has sent anything since Get. A question that was
// not answered on a connection that was used before may be asked again.
func (c *Conn) Answered() bool { return c.answered }

// Release gives the connection back for later questions. Nothing may be unread.
func (c *Conn) Release() {
	if c.over {
		return
	}
	c.over = true
	if !c.stop() { // the context ended: its deadline is set, or is being set
		_ = c.Conn.Close()
	} else {
		c.pool.keep(c.Conn)
	}
	c.pool.leave()
}

// Close ends the connection. After Release or Close it does nothing.
func (c *Conn) Close() error {
	if c.over {
		return nil
	}
	c.over = true
	c.stop()
	err := c.Conn.Close()
	c.pool.leave()
	return err
}

// Get returns a kept connection, or a new one. The error says what failed and where.
func (p *Pool) Get(ctx context.Context) (*Conn, error) { return p.get(ctx, true) }

// Fresh returns a new connection. Those that are kept are closed: it is called when one
// of them turned out to be dead, and they are no younger.
func (p *Pool) Fresh(ctx context.Context) (*Conn, error) {
	p.drop(func(idleConn) bool { return true })
	return p.get(ctx, false)
}

func (p *Pool) get(ctx context.Context, reuse bool) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", p.at, err)
	}
	if err := p.enter(ctx); err != nil {
		return nil, err
	}
	var raw net.Conn
	reused := false
	if reuse {
		raw = p.take()
		reused = raw != nil
	}
	if raw == nil {
		var err error
		if raw, err = p.at.Dial(ctx, p.o.Connect); err != nil {
			p.leave()
			return nil, err
		}
	}
	deadline, _ := ctx.Deadline() // the zero time is no deadline
	if err := raw.SetDeadline(deadline); err != nil {
		_ = raw.Close()
		p.leave()
		return nil, fmt.Errorf("connect to %s: %w", p.at, err)
	}
	c := &Conn{Conn: raw, Reused: reused, pool: p}
	c.stop = context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	return c, nil
}

func (p *Pool) enter(ctx context.Context) error {
	if p.slots == nil {
		return nil
	}
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for one of %d connections to %s: %w", cap(p.slots), p.at, ctx.Err())
	}
}

func (p *Pool) leave() {
	if p.slots != nil {
		<-p.slots
	}
}

// take returns a kept connection that is not known to be dead, or nil.
func (p *Pool) take() net.Conn {
	p.drop(func(c idleConn) bool { return time.Since(c.since) > p.o.IdleTime })
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			return nil
		}
		c := p.idle[n-1].Conn
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		if !stale(c) {
			return c
		}
		_ = c.Close()
	}
}

// keep takes a connection back.
func (p *Pool) keep(c net.Conn) {
	err := c.SetDeadline(time.Time{}) // the one of the last question says nothing about the next
	p.mu.Lock()
	if err != nil || p.closed || len(p.idle) >= p.o.Idle {
		p.mu.Unlock()
		_ = c.Close()
		return
	}
	p.idle = append(p.idle, idleConn{Conn: c, since: time.Now()})
	p.mu.Unlock()
}

// drop closes the kept connections that which says.
func (p *Pool) drop(which func(idleConn) bool) {
	p.mu.Lock()
	var gone []idleConn
	kept := p.idle[:0]
	for _, c := range p.idle {
		if which(c) {
			gone = append(gone, c)
		} else {
			kept = append(kept, c)
		}
	}
	p.idle = kept
	p.mu.Unlock()
	for _, c := range gone {
		_ = c.Close()
	}
}

// Close closes the kept connections; those in use are closed when they are given back.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.drop(func(idleConn) bool { return true })
	return nil
}

// Do calls ask with a connection, and releases it when ask returns nil, else closes it.
// If ask fails on a connection that was used before without having read anything, the
// daemon had most likely closed it meanwhile: then, and only then, ask is called once
// more on a new one, provided that rewind, which makes ask's input whole again, says
// that it could. rewind may be nil: then nothing is repeated.
func (p *Pool) Do(ctx context.Context, rewind func() bool, ask func(*Conn) error) error {
	c, err := p.Get(ctx)
	if err != nil {
		return err
	}
	err = c.run(ask)
	if err == nil || !c.Reused || c.answered || ctx.Err() != nil || rewind == nil || !rewind() {
		return err
	}
	second, dialErr := p.Fresh(ctx)
	if dialErr != nil {
		return errors.Join(dialErr, err)
	}
	return second.run(ask)
}

func (c *Conn) run(ask func(*Conn) error) error {
	defer c.Close()
	if err := ask(c); err != nil {
		return err
	}
	c.Release()
	return nil
}
