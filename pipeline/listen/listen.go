package listen

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"
)

// Options is what Wrap takes.
type Options struct {
	Name     string // of the listener in TOML, for the log
	Protocol string // smtp, submission, lmtp, imap, pop3: how a refusal is worded
	Hostname string // for the refusal
	Implicit bool   // TLS from the first octet: a refusal is silent
	Config   Config
	Logger   *slog.Logger
	Clock    func() time.Time // nil: time.Now
}

// How long a PROXY header may take (RULES D3), and a refusal to be written.
const (
	proxyHeaderTime = 5 * time.Second
	refusalTime     = time.Second
)

// Listener is a net.Listener whose connections are *Conn. Accept, Close, CloseConns, Wait and Stats may be called from
// any goroutine.
type Listener struct {
	inner   net.Listener
	options Options
	refusal string

	start    sync.Once
	accepted chan accepted
	closed   chan struct{}
	close    sync.Once

	mu      sync.Mutex
	conns   map[*Conn]struct{}
	perAddr map[netip.Addr]int
	done    sync.Cond // signalled when conns becomes empty

	refused, failures atomic.Uint64
	starved           atomic.Bool
}

type accepted struct {
	conn *Conn
	err  error
}

// Wrap returns inner with the limits and the PROXY header of o.Config. It owns inner from then on.
func Wrap(inner net.Listener, o Options) *Listener {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	l := &Listener{
		inner: inner, options: o, refusal: refusal(o),
		accepted: make(chan accepted),
		closed:   make(chan struct{}),
		conns:    make(map[*Conn]struct{}),
		perAddr:  make(map[netip.Addr]int),
	}
	l.done.L = &l.mu
	return l
}

// refusal is what a client over a limit is told, in the words of its protocol.
func refusal(o Options) string {
	if o.Implicit {
		return ""
	}
	switch o.Protocol {
	case "imap":
		return "* BYE Too many connections, please try again later\r\n" // RFC 3501 section 7.1.5
	case "pop3":
		return "-ERR [SYS/TEMP] Too many connections, please try again later\r\n" // RFC 3206
	case "admin":
		return "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" // RFC 9110 section 15.6.4
	}
	return "421 4.3.2 " + o.Hostname + " Too many connections, please try again later\r\n" // RFC 5321 section 3.8
}

// Accept returns the next connection, always a *Conn. After Close it returns net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	l.start.Do(func() { go l.run() })
	select {
	case a := <-l.accepted:
		if a.err != nil {
			return nil, a.err
		}
		return a.conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Addr returns the address that is listened on.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Close stops accepting; connections that were returned live on.
func (l *Listener) Close() error {
	err := error(nil)
	l.close.Do(func() {
		close(l.closed)
		err = l.inner.Close()
	})
	return err
}

// Stats is a moment's view of a Listener.
type Stats struct {
	Open    int    // connections now
	Refused uint64 // turned away for a limit, so far
	Failed  uint64 // failures of accept, so far
	Starved bool   // the last accept failed for want of descriptors or memory: not ready
}

// Stats returns the moment's numbers.
func (l *Listener) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{Open: len(l.conns), Refused: l.refused.Load(), Failed: l.failures.Load(), Starved: l.starved.Load()}
}

// CloseConns closes every connection at once, without a word to the clients.
func (l *Listener) CloseConns() {
	l.mu.Lock()
	conns := make([]*Conn, 0, len(l.conns))
	for c := range l.conns {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

// Wait returns when no connection is open.
func (l *Listener) Wait() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.conns) > 0 {
		l.done.Wait()
	}
}

// run accepts until Close.
func (l *Listener) run() {
	delay := time.Duration(0)
	for {
		raw, err := l.inner.Accept()
		if err == nil {
			delay = 0
			l.starved.Store(false)
			l.admit(raw)
			continue
		}
		if l.isClosed() {
			return
		}
		l.failures.Add(1)
		if !passing(err) {
			select {
			case l.accepted <- accepted{err: fmt.Errorf("accept on %s: %w", l.options.Name, err)}:
			case <-l.closed:
			}
			return
		}
		// Without a pause an accept that fails for want of descriptors fails again at once, and takes the processor
		// from the sessions that could give descriptors back.
		l.starved.Store(true)
		if delay == 0 {
			delay = 5 * time.Millisecond
			l.options.Logger.Warn("accept failed, pausing", "listener", l.options.Name, "err", err)
		}
		select {
		case <-time.After(delay):
		case <-l.closed:
			return
		}
		delay = min(2*delay, time.Second)
	}
}

func (l *Listener) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// passing reports whether a failed accept may succeed later.
func passing(err error) bool {
	for _, passes := range [...]error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.EPROTO, syscall.EPERM} { // EPERM: a packet filter's
		if errors.Is(err, passes) {
			return true
		}
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// admit decides about one TCP connection and, without waiting, sees to it that Accept returns it.
func (l *Listener) admit(raw net.Conn) {
	c := &Conn{Conn: raw, listener: l, opened: l.options.Clock()}
	c.end = time.Now().Add(l.options.Config.MaxSession.Std())
	c.client = addrOf(raw.RemoteAddr())
	l.mu.Lock()
	if len(l.conns) >= l.options.Config.MaxConnections {
		l.mu.Unlock()
		l.refuse(c)
		return
	}
	l.conns[c] = struct{}{}
	l.mu.Unlock()

	if !contains(l.options.Config.ProxyFrom, c.client) {
		c.watch = true
		c.trusted = contains(l.options.Config.Trusted, c.client)
		l.hand(c)
		return
	}
	go l.readProxy(c)
}

// readProxy waits for the PROXY header of a peer in proxy_from and takes the client's address from it.
func (l *Listener) readProxy(c *Conn) {
	p := proxyproto.NewConn(c.Conn, proxyproto.WithPolicy(proxyproto.REQUIRE),
		proxyproto.SetReadHeaderTimeout(proxyHeaderTime), proxyproto.WithBufferSize(512))
	_ = c.Conn.SetReadDeadline(time.Now().Add(proxyHeaderTime))
	header := p.ProxyHeader()
	_ = c.Conn.SetReadDeadline(time.Time{})
	if header == nil {
		l.options.Logger.Info("connection closed", "listener", l.options.Name, "peer", c.client.String(),
			"why", "no valid PROXY header from a peer in proxy_from")
		c.Close()
		return
	}
	c.proxied = p
	if addr, ok := claimed(header); ok {
		c.client = addr
		c.trusted = contains(l.options.Config.Trusted, addr)
	}
	l.hand(c)
}

// claimed returns the client that a PROXY header names; LOCAL and UNKNOWN name none.
func claimed(h *proxyproto.Header) (netip.Addr, bool) {
	if h.Command.IsLocal() {
		return netip.Addr{}, false
	}
	source, _, ok := h.TCPAddrs()
	if !ok {
		return netip.Addr{}, false
	}
	addr := addrOf(source)
	return addr, addr.IsValid() && !addr.IsUnspecified()
}

// hand counts the client's address and passes the connection to Accept.
func (l *Listener) hand(c *Conn) {
	if !l.count(c) {
		l.refuse(c)
		return
	}
	_ = c.Conn.SetDeadline(c.end)
	select {
	case l.accepted <- accepted{conn: c}:
	case <-l.closed:
		c.Close()
	}
}

// count adds the connection to its address's number, unless that is at its limit.
func (l *Listener) count(c *Conn) bool {
	if c.trusted || c.client.IsLoopback() || !c.client.IsValid() {
		return true
	}
	group := Group(c.client)
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, open := l.conns[c]; !open { // closed by CloseConns meanwhile
		return false
	}
	if l.perAddr[group] >= l.options.Config.MaxConnectionsPerAddress {
		return false
	}
	l.perAddr[group]++
	c.counted = group
	return true
}

// refuse tells the client that there are too many, and closes. The socket is new, so the write does not wait.
func (l *Listener) refuse(c *Conn) {
	if l.refused.Add(1)%1000 == 1 { // a flood is one line in a thousand
		l.options.Logger.Warn("connection refused", "listener", l.options.Name, "client", c.client.String(),
			"why", "too many connections", "so_far", l.refused.Load())
	}
	l.drop(c)
	if l.refusal != "" {
		_ = c.Conn.SetWriteDeadline(time.Now().Add(refusalTime))
		_, _ = c.Conn.Write([]byte(l.refusal))
	}
	c.Close()
}

// drop forgets a connection.
func (l *Listener) drop(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, open := l.conns[c]; !open {
		return
	}
	delete(l.conns, c)
	if c.counted.IsValid() {
		if l.perAddr[c.counted]--; l.perAddr[c.counted] <= 0 {
			delete(l.perAddr, c.counted)
		}
	}
	if len(l.conns) == 0 {
		l.done.Broadcast()
	}
}

// Group returns whom an address stands for in limits: itself, or its /64 for IPv6, which is what one customer gets.
func Group(a netip.Addr) netip.Addr {
	if a.Is4() || a.Is4In6() {
		return a.Unmap()
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// addrOf returns the IP address in a, without zone and IPv4 as such; invalid for a Unix socket.
func addrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap().WithZone("")
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}
