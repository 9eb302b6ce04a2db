package listen

import (
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"
)

// ErrProxyHeader is what Read returns when a peer that is not in proxy_from sends a PROXY header.
var ErrProxyHeader = errors.New("a PROXY header from a peer that is not in proxy_from")

// Conn is a connection whose client is known. It is a net.Conn with its usual rules for goroutines.
type Conn struct {
	net.Conn // the TCP connection
	listener *Listener
	proxied  *proxyproto.Conn // reads what followed the PROXY header; nil without one
	opened   time.Time
	end      time.Time // of max_session
	client   netip.Addr
	counted  netip.Addr // under which address it counts; invalid if exempt
	trusted  bool
	closed   atomic.Bool

	watch     bool   // the first octets are still compared with a PROXY header's
	seen      uint8  // how many of them matched
	signature string // of the version that the first octet belongs to
}

// Client returns the client's address by RULES D3; it is invalid on a Unix socket.
func (c *Conn) Client() netip.Addr { return c.client }

// Trusted reports whether the client is in the listener's trusted networks.
func (c *Conn) Trusted() bool { return c.trusted }

// Opened returns when the connection was accepted.
func (c *Conn) Opened() time.Time { return c.opened }

// RemoteAddr returns the client's address: the PROXY header's, or the TCP peer's.
func (c *Conn) RemoteAddr() net.Addr {
	if c.proxied != nil {
		return c.proxied.RemoteAddr()
	}
	return c.Conn.RemoteAddr()
}

// LocalAddr returns the address that the client connected to: the PROXY header's, or the socket's.
func (c *Conn) LocalAddr() net.Addr {
	if c.proxied != nil {
		return c.proxied.LocalAddr()
	}
	return c.Conn.LocalAddr()
}

// Read reads what follows the PROXY header.
func (c *Conn) Read(b []byte) (int, error) {
	if c.proxied != nil {
		return c.proxied.Read(b)
	}
	n, err := c.Conn.Read(b)
	if c.watch && n > 0 && c.compare(b[:n]) {
		c.Close()
		return 0, ErrProxyHeader
	}
	return n, err
}

// The signatures of both versions. Every octet of a header up to the end of its signature has to match, so a client
// of a protocol above can begin neither: no command is "PROXY ", no line is empty.
const (
	signature1 = "PROXY "
	signature2 = "\r\n\r\n\x00\r\nQUIT\n"
)

// compare reports whether what was read so far begins with a PROXY header, and stops watching once it cannot.
func (c *Conn) compare(b []byte) bool {
	for _, octet := range b {
		if c.seen == 0 {
			switch octet {
			case signature1[0]:
				c.signature = signature1
			case signature2[0]:
				c.signature = signature2
			}
		}
		if int(c.seen) >= len(c.signature) || octet != c.signature[c.seen] {
			c.watch = false
			return false
		}
		if c.seen++; int(c.seen) == len(c.signature) {
			return true
		}
	}
	return false
}

// Close closes the connection; the second time it does nothing.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	err := c.Conn.Close()
	c.listener.drop(c)
	return err
}

// SetDeadline, SetReadDeadline and SetWriteDeadline never go beyond the end of max_session.
func (c *Conn) SetDeadline(t time.Time) error { return c.Conn.SetDeadline(c.clamp(t)) }

// SetReadDeadline is like SetDeadline.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.Conn.SetReadDeadline(c.clamp(t)) }

// SetWriteDeadline is like SetDeadline.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.Conn.SetWriteDeadline(c.clamp(t)) }

func (c *Conn) clamp(t time.Time) time.Time {
	if t.IsZero() || t.After(c.end) {
		return c.end
	}
	return t
}
