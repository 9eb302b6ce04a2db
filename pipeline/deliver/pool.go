package deliver

import (
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/sluicemail/sluice/pipeline/deliver/tlspolicy"
	"github.com/sluicemail/sluice/pipeline/deliver/wire"
)

// sessionKey says under which conditions a connection was made: only under the same it is used again. What TLS policy asks is
// held against the connection itself.
type sessionKey struct {
	host     string
	addr     netip.AddrPort
	unix     string
	lmtp     bool
	clear    bool // TLS was not to be tried
	implicit bool
	source   netip.Addr
	username string
	password string
}

// session is a connection after EHLO, TLS and login.
type session struct {
	key    sessionKey
	conn   *wire.Conn
	raw    net.Conn // under TLS
	name   string   // "mx.example.net [192.0.2.1]"
	tls    string   // words for the trace, or ""
	level  tlspolicy.Level
	source string // of the policy that tls is about
	state  *tls.ConnectionState
	note   string        // why it has no TLS where that was tried, or ""
	old    bool          // it closed at EHLO and took HELO: nobody knows what it can
	most   int           // transactions
	keep   time.Duration // between two
	taken  int           // recipients that it took when it said that there were too many; 0: it did not
	reused bool

	since time.Time // it waits
	until time.Time
	prev  *session // of all that wait, the next one to go
	next  *session
}

// pool keeps connections between messages. One that has waited for its time is ended by a goroutine that is there while the pool
// is not empty.
type pool struct {
	most int

	mu      sync.Mutex
	idle    map[sessionKey][]*session
	hosts   map[string]int // connections by name of the host
	oldest  *session       // the list is in the order in which they came
	newest  *session
	size    int
	sweeps  bool
	closed  bool
	closers sync.WaitGroup
}

func newPool(most int) *pool {
	return &pool{most: most, idle: make(map[sessionKey][]*session), hosts: make(map[string]int)}
}

// has reports whether a connection to a host waits.
func (p *pool) has(host string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hosts[host] > 0
}

// get takes the connection that came last, so that those too many grow old. It is looked at however short it waited: a reply to
// nothing would be taken for one to MAIL, and so on to the end, where a message that was refused counts as delivered.
func (p *pool) get(key *sessionKey) *session {
	for {
		s := p.take(key)
		if s == nil || alive(s.raw) {
			return s
		}
		s.conn.Close()
	}
}

func (p *pool) take(key *sessionKey) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	waiting := p.idle[*key]
	if len(waiting) == 0 {
		return nil
	}
	s := waiting[len(waiting)-1]
	p.remove(s)
	s.reused = true
	return s
}

// remove takes s out. The lock is held.
func (p *pool) remove(s *session) {
	waiting := p.idle[s.key]
	for i := len(waiting) - 1; i >= 0; i-- {
		if waiting[i] == s {
			copy(waiting[i:], waiting[i+1:])
			waiting[len(waiting)-1] = nil
			waiting = waiting[:len(waiting)-1]
			break
		}
	}
	if len(waiting) == 0 {
		delete(p.idle, s.key)
	} else {
		p.idle[s.key] = waiting
	}
	if p.hosts[s.key.host]--; p.hosts[s.key.host] == 0 {
		delete(p.hosts, s.key.host)
	}
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		p.oldest = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		p.newest = s.prev
	}
	s.prev, s.next = nil, nil
	p.size--
}

// put keeps a connection for the next message, or ends it.
func (p *pool) put(s *session) {
	if !s.conn.Usable() {
		s.conn.Close()
		return
	}
	if s.keep <= 0 || s.conn.Used >= s.most {
		p.end(s)
		return
	}
	s.since = time.Now()
	s.until = s.since.Add(s.keep)
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		s.conn.Close()
		return
	}
	p.idle[s.key] = append(p.idle[s.key], s)
	p.hosts[s.key.host]++
	if s.prev = p.newest; s.prev != nil {
		s.prev.next = s
	} else {
		p.oldest = s
	}
	p.newest = s
	p.size++
	var over *session
	if p.size > p.most {
		over = p.oldest
		p.remove(over)
	}
	sweep := !p.sweeps
	p.sweeps = true
	p.mu.Unlock()
	if over != nil {
		p.end(over)
	}
	if sweep {
		go p.sweep()
	}
}

// end says goodbye without keeping anybody waiting. There are never more goodbyes under way than connections that were there.
func (p *pool) end(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		s.conn.Close()
		return
	}
	p.goodbye(s)
}

// goodbye is end with the lock held: close waits for those that began before it.
func (p *pool) goodbye(s *session) {
	p.closers.Add(1)
	go func() {
		defer p.closers.Done()
		s.conn.Quit()
	}()
}

// sweep ends what has waited too long, until nothing waits.
func (p *pool) sweep() {
	for {
		time.Sleep(sweepEvery)
		now := time.Now()
		var over []*session
		p.mu.Lock()
		for s := p.oldest; s != nil; {
			next := s.next
			if now.After(s.until) {
				p.remove(s)
				over = append(over, s)
			}
			s = next
		}
		done := p.size == 0
		if done {
			p.sweeps = false
		}
		p.mu.Unlock()
		for _, s := range over {
			p.end(s)
		}
		if done {
			return
		}
	}
}

const sweepEvery = 250 * time.Millisecond

// close ends everything that waits, politely, and waits for that a moment.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	for p.oldest != nil {
		s := p.oldest
		p.remove(s)
		p.goodbye(s)
	}
	p.mu.Unlock()
	p.closers.Wait()
}

// alive looks whether the peer has said something, or closed: neither belongs between two messages.
func alive(conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, errno := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = errno == syscall.EAGAIN
	})
	return err == nil && quiet
}
