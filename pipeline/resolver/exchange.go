package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// udpSize is what we say that we can take in a datagram: what passes without fragments (DNS flag day 2020).
const udpSize = 1232

// rounds is how often the list of servers is gone through before a look-up has failed.
const rounds = 2

// failureTTL is how long "nobody could tell" is remembered, so that a dead zone is not asked about in each session
// (RFC 9520 section 3.2: at least one second, at most five minutes).
const failureTTL = 5 * time.Second

// maxStrays is how many datagrams that do not answer our question are read before we ask over TCP: a flood of them is
// an attempt at spoofing.
const maxStrays = 16

var (
	errMismatch = errors.New("the answer is to another question")
	errStrays   = errors.New("too many answers to other questions")
)

// resolve asks until it has a definite answer, or ctx, the servers or the patience with CNAMEs are at an end.
func (r *Resolver) resolve(ctx context.Context, k key) *answer {
	ttl := r.config.MaxTTL.Std()
	asked := k
	secure := true // so far: one answer of the chain that nobody vouches for spoils all of it
	for range maxChain {
		m, err := r.ask(ctx, asked)
		if err != nil {
			a := failure(k.name, cause(err), true)
			a.err.UnwrapErr = err // with the server, whose address is not for DSNs
			a.err.IsTimeout = errors.Is(err, context.DeadlineExceeded)
			a.ttl = failureTTL
			return a
		}
		a, next, chain := r.read(m, asked)
		ttl = min(ttl, chain)
		secure = secure && r.vouched(m)
		if a != nil {
			a.ttl = min(a.ttl, ttl)
			a.secure = secure
			if a.err != nil {
				a.err.Name = k.name
			}
			return a
		}
		asked.name = next
	}
	return absent(k.name, "too many CNAMEs", min(ttl, r.config.NegativeTTL.Std()))
}

// ask sends the query to one server after the other until one gives a response that says something about the name.
func (r *Resolver) ask(ctx context.Context, k key) (*dns.Msg, error) {
	first := int(r.good.Load())
	var last error
	for i := range rounds * len(r.servers) {
		n := (first + i) % len(r.servers)
		m, err := r.askServer(ctx, r.servers[n], k)
		if err == nil {
			r.good.Store(uint32(n))
			return m, nil
		}
		last = fmt.Errorf("server %s: %w", r.servers[n], err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

// cause says what went wrong without addresses: it goes into notices to senders (RFC 3464 section 4.2).
func cause(err error) string {
	var refused rcodeError
	var timeout interface{ Timeout() bool }
	var call syscall.Errno
	switch {
	case errors.As(err, &refused):
		return refused.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no name server answered in time"
	case errors.As(err, &call):
		return "no name server can be asked: " + call.Error()
	}
	return "no name server gave an answer"
}

// rcodeError is a response that says nothing about the name.
type rcodeError int

func (e rcodeError) Error() string { return "answered " + rcodeText(int(e)) }

// askServer asks one server once: by datagram, then by TCP if the answer was cut short, and without EDNS if the server
// does not know it.
func (r *Resolver) askServer(ctx context.Context, server string, k key) (*dns.Msg, error) {
	return r.askWith(ctx, server, r.query(k))
}

// askWith is askServer for a query that is there already.
func (r *Resolver) askWith(ctx context.Context, server string, query *dns.Msg) (*dns.Msg, error) {
	m, err := r.send(ctx, "udp", server, query)
	if err == nil && m.Rcode == dns.RcodeFormatError && m.IsEdns0() == nil {
		query.Extra = nil // RFC 6891 section 7: it does not know the OPT record
		m, err = r.send(ctx, "udp", server, query)
	}
	if errors.Is(err, errStrays) || err == nil && m.Truncated {
		m, err = r.send(ctx, "tcp", server, query)
	}
	if err != nil {
		return nil, err
	}
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
		return m, nil
	default:
		return nil, rcodeError(m.Rcode)
	}
}

func (r *Resolver) query(k key) *dns.Msg {
	query := new(dns.Msg)
	query.SetQuestion(wireName(k.name), k.qtype)
	query.AuthenticatedData = r.config.TrustAD // RFC 6840 section 5.7: please tell us whether you validated it
	query.SetEdns0(udpSize, false)
	return query
}

func (r *Resolver) send(ctx context.Context, network, server string, query *dns.Msg) (*dns.Msg, error) {
	r.queries.Add(1)
	ctx, cancel := context.WithTimeout(ctx, r.config.Timeout.Std())
	defer cancel()
	m, err := r.exchange(ctx, network, server, query)
	if err != nil {
		return nil, err
	}
	if !answers(m, query) {
		return nil, errMismatch
	}
	return m, nil
}

func rcodeText(rcode int) string {
	if s, ok := dns.RcodeToString[rcode]; ok {
		return s
	}
	return fmt.Sprintf("rcode %d", rcode)
}

// answers reports whether m is a response to query: ID, question, class and type (RFC 5452 section 9.1). A server that
// fails may leave the question out.
func answers(m, query *dns.Msg) bool {
	if m.Id != query.Id || !m.Response || m.Opcode != dns.OpcodeQuery {
		return false
	}
	if len(m.Question) == 0 {
		return m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError
	}
	q, want := m.Question[0], query.Question[0]
	return len(m.Question) == 1 && q.Qtype == want.Qtype && q.Qclass == want.Qclass && strings.EqualFold(q.Name, want.Name)
}

// exchangeSocket is the Exchange of a real server. Each datagram has a socket, and with it a port, of its own (RFC 5452
// section 9.2); being connected, the socket takes datagrams from that server only.
func exchangeSocket(ctx context.Context, network, server string, query *dns.Msg) (*dns.Msg, error) {
	wire, err := query.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack the query: %w", err)
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	if network == "tcp" {
		return exchangeStream(conn, wire)
	}
	if _, err := conn.Write(wire); err != nil {
		return nil, err
	}
	buf := make([]byte, udpSize)
	for range maxStrays {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		m := new(dns.Msg)
		if err := m.Unpack(buf[:n]); err != nil && !m.Truncated {
			continue // rubbish, perhaps not even from our server: wait for the answer
		}
		if answers(m, query) {
			return m, nil
		}
	}
	return nil, errStrays
}

// exchangeStream is one query over TCP: two octets of length, then the message (RFC 1035 section 4.2.2).
func exchangeStream(conn net.Conn, wire []byte) (*dns.Msg, error) {
	framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(wire)), uint16(len(wire)))
	if _, err := conn.Write(append(framed, wire...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	if err := m.Unpack(buf); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	m.Truncated = false // over TCP there is no more to be had
	return m, nil
}
