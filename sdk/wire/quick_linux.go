package wire

import (
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// quickConn is a unix socket that is read and written without telling Go's scheduler. The descriptor
// never blocks, so there is nothing to tell: a call moves at most what the socket's buffer takes. A process that rests
// between two questions is spared, at each call, the wake-up of the thread that watches over calls that block (sysmon),
// which costs both sides more than the call.
type quickConn struct {
	net.Conn
	raw  syscall.RawConn
	r, w transfer
}

// transfer is one direction; the function is kept, so that a call allocates nothing.
type transfer struct {
	call  uintptr
	f     func(fd uintptr) bool
	p     []byte
	n     int
	errno syscall.Errno
}

// quick returns conn itself where it can't be had quicker. The result has one reader and one writer at a time.
func quick(conn net.Conn) net.Conn {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return conn
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return conn
	}
	q := &quickConn{Conn: conn, raw: raw, r: transfer{call: syscall.SYS_READ}, w: transfer{call: syscall.SYS_WRITE}}
	q.r.f, q.w.f = q.r.once, q.w.once
	return q
}

// once makes one call; false has the caller wait until the socket is ready.
func (t *transfer) once(fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall(t.call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(t.p))), uintptr(len(t.p)))
		switch errno {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		case 0:
			t.n = int(n)
		}
		t.errno = errno
		return true
	}
}

// Read implements io.Reader.
func (q *quickConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	t := &q.r
	t.p, t.n, t.errno = p, 0, 0
	err := q.raw.Read(t.f)
	t.p = nil
	switch {
	case err != nil:
		return 0, err
	case t.errno != 0:
		return 0, os.NewSyscallError("read", t.errno)
	case t.n == 0:
		return 0, io.EOF
	}
	return t.n, nil
}

// Write implements io.Writer.
func (q *quickConn) Write(p []byte) (n int, err error) {
	t := &q.w
	defer func() { t.p = nil }()
	for n < len(p) {
		t.p, t.n, t.errno = p[n:], 0, 0
		if err := q.raw.Write(t.f); err != nil {
			return n, err
		}
		if t.errno != 0 {
			return n, os.NewSyscallError("write", t.errno)
		}
		n += t.n
	}
	return n, nil
}
