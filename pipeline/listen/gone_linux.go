package listen

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Gone reports, without waiting, whether the client has closed its side and left nothing that we have not looked at. A
// client that sent more commands before it closed (QUIT behind the final dot) may still be listening; unread says that
// the caller has read such already. Under TLS what is left in the socket cannot be told from TLS's own farewell, so there
// closing is going. May be called from any goroutine.
func (c *Conn) Gone(unread, underTLS bool) bool {
	if c.closed.Load() {
		return true
	}
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		var octet [1]byte
		n, _, err := unix.Recvfrom(int(fd), octet[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
		case err != nil:
			gone = true
		case n == 0:
			gone = !unread
		case underTLS && !unread:
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			gone = err == nil && info.State == tcpCloseWait
		}
	})
	return gone || err != nil
}

const tcpCloseWait = 8 // TCP_CLOSE_WAIT of linux/tcp_states.h
