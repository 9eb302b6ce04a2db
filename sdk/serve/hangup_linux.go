package serve

import (
	"net"

	"golang.org/x/sys/unix"
)

// hungUp reports whether the other side has closed a connection, whatever it sent before that is
// still unread.
func hungUp(conn net.Conn) bool {
	c, ok := conn.(interface{ Control(func(fd uintptr)) error }) // wire.Quick's
	if !ok {
		return false
	}
	gone := false
	err := c.Control(func(fd uintptr) {
		list := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(list, 0)
		gone = err == nil && n > 0 && list[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone || err != nil
}
