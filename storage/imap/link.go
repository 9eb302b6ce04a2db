package imap

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// link is one TCP connection in the books of the server.
type link struct {
	srv     *Server
	addr    netip.Addr
	counted bool // towards the limit per address
	started time.Time
	once    sync.Once
}

// admit takes a connection into the books; why says what is full.
func (s *Server) admit(l *link) (why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing:
		return "Server is shutting down"
	case s.o.MaxConnections > 0 && s.links >= s.o.MaxConnections:
		return "Too many connections"
	}
	if s.o.MaxConnectionsPerAddress > 0 && l.addr.IsValid() && !l.addr.IsLoopback() && !contains(s.o.Trusted, l.addr) {
		if s.addresses[l.addr] >= s.o.MaxConnectionsPerAddress {
			return "Too many connections from your address"
		}
		s.addresses[l.addr]++
		l.counted = true
	}
	s.links++
	return ""
}

func (l *link) release() {
	l.once.Do(func() {
		s := l.srv
		s.mu.Lock()
		defer s.mu.Unlock()
		s.links--
		if l.counted {
			if s.addresses[l.addr]--; s.addresses[l.addr] == 0 {
				delete(s.addresses, l.addr)
			}
		}
	})
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func peerAddr(c net.Conn) netip.Addr {
	if a, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
		return a.Addr().Unmap()
	}
	return netip.Addr{}
}

// handover is the listener of a library server: we accept, it serves.
type handover struct {
	c    chan net.Conn
	done chan struct{}
	once sync.Once
}

func newHandover() *handover {
	return &handover{c: make(chan net.Conn), done: make(chan struct{})}
}

func (h *handover) give(c net.Conn) bool {
	select {
	case h.c <- c:
		return true
	case <-h.done:
		return false
	}
}

// Accept implements net.Listener.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.c:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (h *handover) Addr() net.Addr { return &net.TCPAddr{} }
