package wire

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// quickConn is a unix socket that costs a process that rests between two questions less than a net.Conn does, on both
// sides of the socket. Two things do:
//
// It is read and written without telling Go's scheduler. The descriptor never blocks, so there is nothing to tell; but a
// call that is told wakes the thread that watches over calls that block (sysmon), which costs more than the call.
//
// It is waited for by an epoll of its own, which Go's waits for. Go's own asks for "readable" and "writable" together,
// and a unix socket is newly writable each time the other side has read: so each question wakes both processes once too often.
type quickConn struct {
	net.Conn // for its addresses; it is closed
	in, out  direction
	fd       int
	closing  sync.Once
}

// direction is one half of the socket. It has one user at a time.
type direction struct {
	call  uintptr
	ready syscall.RawConn    // of the epoll: readable when the socket is ready
	once  func(uintptr) bool // kept, so that a call allocates nothing

	p     []byte // what to move
	n     int
	errno syscall.Errno

	mu     sync.Mutex // held while descriptors are used
	closed bool
	file   *os.File // the epoll; nil: not made yet
	epoll  int
}

// Quick takes a unix socket over and returns a connection that is used in its place. Others, and one that
// can't be had quicker, are returned as they are. The result has one reader and one writer at a time, and no deadlines.
func Quick(conn net.Conn) net.Conn {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return conn
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return conn
	}
	q := &quickConn{Conn: conn, fd: -1, in: direction{call: syscall.SYS_READ}, out: direction{call: syscall.SYS_WRITE}}
	q.in.once, q.out.once = q.read, q.write
	if raw.Control(func(fd uintptr) { q.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }) != nil || err != nil {
		return conn
	}
	if q.in.open(q.fd, unix.EPOLLIN) != nil {
		_ = unix.Close(q.fd)
		return conn
	}
	_ = conn.Close()
	return q
}

// open makes the direction's epoll. d.mu is held, or nobody else has d yet.
func (d *direction) open(fd int, events uint32) error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events})
	if err == nil {
		err = unix.SetNonblock(epoll, true) // or Go does not wait for it
	}
	if err != nil {
		_ = unix.Close(epoll)
		return err
	}
	d.file, d.epoll = os.NewFile(uintptr(epoll), "epoll"), epoll
	d.ready, err = d.file.SyscallConn()
	return err
}

// move makes one call.
func (d *direction) move(fd int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		d.errno = syscall.EBADF
		return
	}
	for {
		n, _, errno := syscall.RawSyscall(d.call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(d.p))), uintptr(len(d.p)))
		if errno != syscall.EINTR {
			d.n, d.errno = int(n), errno
			return
		}
	}
}

// result is what the last call came to.
func (d *direction) result(what string) (int, error) {
	switch d.errno {
	case 0:
		return d.n, nil
	case syscall.EBADF:
		return 0, net.ErrClosed
	}
	return 0, os.NewSyscallError(what, d.errno)
}

// rest gives the epoll of a writer back: most write without ever waiting for room. Only the writer calls it.
func (d *direction) rest() {
	d.p = nil
	if d.file == nil {
		return
	}
	d.mu.Lock()
	file := d.file
	d.file = nil
	d.mu.Unlock()
	_ = file.Close()
}

// close has no call of the direction use a descriptor any more, and wakes who waits.
func (d *direction) close() {
	d.mu.Lock()
	d.closed = true
	file := d.file
	d.mu.Unlock()
	if file != nil {
		_ = file.Close()
	}
}

func (q *quickConn) read(uintptr) bool {
	q.in.move(q.fd)
	return q.in.errno != syscall.EAGAIN
}

// Read implements io.Reader.
func (q *quickConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	q.in.p = p
	err := q.in.ready.Read(q.in.once)
	q.in.p = nil
	if err != nil {
		return 0, net.ErrClosed
	}
	n, err := q.in.result("read")
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// Write implements io.Writer.
func (q *quickConn) Write(p []byte) (n int, err error) {
	d := &q.out
	defer d.rest()
	for n < len(p) {
		d.p = p[n:]
		if d.move(q.fd); d.errno == syscall.EAGAIN {
			if err := q.waitForRoom(); err != nil {
				return n, err
			}
		}
		moved, err := d.result("write")
		if err != nil {
			return n, err
		}
		n += moved
	}
	return n, nil
}

// writeNow writes what there is room for, without waiting.
func (q *quickConn) writeNow(p []byte) (n int, err error) {
	d := &q.out
	d.p = p
	d.move(q.fd)
	d.p = nil
	if d.errno == syscall.EAGAIN {
		return 0, nil
	}
	return d.result("write")
}

// waitForRoom waits until a write has moved something.
func (q *quickConn) waitForRoom() error {
	d := &q.out
	d.mu.Lock()
	var err error
	if d.file == nil && !d.closed {
		err = d.open(q.fd, unix.EPOLLOUT|unix.EPOLLONESHOT)
	}
	closed := d.closed
	d.mu.Unlock()
	if closed {
		return net.ErrClosed
	}
	if err != nil {
		return err
	}
	if d.ready.Read(d.once) != nil {
		return net.ErrClosed
	}
	return nil
}

// write has the epoll say when there is room, once: it is silent while nobody waits.
func (q *quickConn) write(uintptr) bool {
	d := &q.out
	if d.move(q.fd); d.errno != syscall.EAGAIN {
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		d.errno = syscall.EBADF
		return true
	}
	err := unix.EpollCtl(d.epoll, unix.EPOLL_CTL_MOD, q.fd, &unix.EpollEvent{Events: unix.EPOLLOUT | unix.EPOLLONESHOT})
	if err != nil {
		d.errno = syscall.EBADF
	}
	return err != nil
}

// Control calls f with the descriptor.
func (q *quickConn) Control(f func(fd uintptr)) error {
	q.in.mu.Lock()
	defer q.in.mu.Unlock()
	if q.in.closed {
		return net.ErrClosed
	}
	f(uintptr(q.fd))
	return nil
}

// Close implements io.Closer.
func (q *quickConn) Close() error {
	q.closing.Do(func() {
		q.in.close()
		q.out.close()
		_ = unix.Close(q.fd)
	})
	return nil
}

// Deadlines: none.
func (q *quickConn) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (q *quickConn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (q *quickConn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
