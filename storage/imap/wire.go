package imap

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// outSize is how much output is held back at most: one TLS record.
const outSize = 16 << 10

var outBuffers = sync.Pool{New: func() any { b := make([]byte, 0, outSize); return &b }}

// wire is the net.Conn that the library sees, in clear text. Read is called by
// one goroutine at a time, the library's; Write also by that of IDLE.
//
// The library's own deadlines are ignored: it gives a literal five minutes in
// all and a client without login thirty seconds, fixed.
type wire struct {
	link   *link
	secure bool
	guard  guard // of the reading goroutine

	session *session // from the library's first call on; that goroutine's, too, which sets it with mu

	mu      sync.Mutex // of what follows; held while output is written
	net     net.Conn
	out     *[]byte // output held back; nil if none
	waiting bool    // a Read waits for the network: output goes out at once
	swallow bool    // drop the greeting: the second one, after STARTTLS
	closed  bool
	handed  bool // the connection went on to another wire

	ending atomic.Pointer[string] // BYE at the next opportunity
	gone   atomic.Bool            // the library is about to go, the connection rests (rest.go)
	mute   atomic.Bool            // the library is told again what it knew
	plus   atomic.Bool            // since the last line read: the library asked for more
	tagged atomic.Bool            // since the last line read: the library answered
}

func newWire(l *link, c net.Conn, secure bool) *wire {
	w := &wire{link: l, net: c, secure: secure}
	w.guard.w = w
	return w
}

// Read gives the library what the guard lets through.
func (w *wire) Read(p []byte) (int, error) { return w.guard.read(p) }

// Write takes one reply line, or a piece of a long one, from the library.
func (w *wire) Write(p []byte) (int, error) {
	if w.gone.Load() || w.mute.Load() {
		return len(p), nil
	}
	switch {
	case len(p) > 1 && p[0] == '+' && p[1] == ' ':
		w.plus.Store(true)
	case len(p) > 0 && p[0] != '*':
		w.tagged.Store(true)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.swallow {
		w.swallow = false
		return len(p), nil
	}
	return w.put(p)
}

// send writes our own replies, whole lines.
func (w *wire) send(p []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.put(p)
	return err
}

// put holds p back or writes it; w.mu is held.
func (w *wire) put(p []byte) (int, error) {
	if w.closed {
		return 0, net.ErrClosed
	}
	if w.out != nil && len(*w.out)+len(p) > outSize {
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	if len(p) >= outSize {
		return len(p), w.write(p)
	}
	if w.out == nil {
		w.out = outBuffers.Get().(*[]byte)
	}
	*w.out = append(*w.out, p...)
	if w.waiting {
		return len(p), w.flush()
	}
	return len(p), nil
}

// flush writes what is held back; w.mu is held.
func (w *wire) flush() error {
	if w.out == nil {
		return nil
	}
	b := w.out
	w.out = nil
	err := w.write(*b)
	*b = (*b)[:0]
	outBuffers.Put(b)
	return err
}

func (w *wire) write(p []byte) error {
	w.net.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := w.net.Write(p)
	return err
}

// await writes what is held back and reads from the network. atCommand says that
// nothing of a command has begun: there BYE may be said instead.
func (w *wire) await(p []byte, deadline time.Time, atCommand bool) (int, error) {
	n, err := w.hear(p, deadline, atCommand)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, w.bye("Nothing heard for too long")
	}
	return n, err
}

// hear is await that leaves the deadline to its caller: os.ErrDeadlineExceeded.
func (w *wire) hear(p []byte, deadline time.Time, atCommand bool) (int, error) {
	w.mu.Lock()
	if err := w.flush(); err != nil || w.closed {
		w.mu.Unlock()
		return 0, io.EOF
	}
	if why := w.ending.Load(); why != nil && atCommand {
		w.mu.Unlock()
		return 0, w.bye(*why)
	}
	w.waiting = atCommand
	c := w.net
	w.mu.Unlock()

	c.SetReadDeadline(deadline)
	n, err := c.Read(p)

	w.mu.Lock()
	w.waiting = false
	w.mu.Unlock()
	if n > 0 {
		return n, nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, os.ErrDeadlineExceeded
	}
	return 0, io.EOF // whatever it was, the library takes it as the end
}

// bye says why and ends the connection. It returns io.EOF.
func (w *wire) bye(why string) error {
	w.mu.Lock()
	if !w.closed {
		w.put([]byte("* BYE " + why + "\r\n"))
		w.flush()
	}
	w.mu.Unlock()
	w.shut()
	return io.EOF
}

// endSoon asks for a BYE at the next opportunity, which may be now.
func (w *wire) endSoon(why string) {
	w.ending.CompareAndSwap(nil, &why)
	if !w.mu.TryLock() { // it is writing: a later call, or its next read, will find it
		return
	}
	waiting := w.waiting
	w.mu.Unlock()
	if waiting {
		w.bye(why)
	}
}

// cut ends the connection at once.
func (w *wire) cut() {
	w.net.Close()
	w.shut()
}

// Close implements net.Conn for the library: it is done with the connection, which
// may only rest.
func (w *wire) Close() error {
	if w.gone.CompareAndSwap(true, false) {
		go w.rest()
		return nil
	}
	return w.shut()
}

// shut ends the connection. What is held back is written.
func (w *wire) shut() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	handed := w.handed
	if !handed {
		w.flush()
	} else if w.out != nil {
		w.out = nil
	}
	w.mu.Unlock()
	s := w.link.srv
	s.mu.Lock()
	delete(s.wires, w)
	s.mu.Unlock()
	if handed {
		return nil
	}
	w.link.release()
	return w.net.Close()
}

// LocalAddr implements net.Conn.
func (w *wire) LocalAddr() net.Addr { return w.net.LocalAddr() }

// RemoteAddr implements net.Conn.
func (w *wire) RemoteAddr() net.Addr { return w.net.RemoteAddr() }

// SetDeadline implements net.Conn and does nothing: deadlines are the wire's own.
func (w *wire) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn and does nothing.
func (w *wire) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn and does nothing.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }
