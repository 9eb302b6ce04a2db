package resolvertest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/pipeline/resolver"
)

// Start serves the zone's text on a free port of 127.0.0.1, UDP and TCP, until stop is called. addr is what stands in
// [dns] servers.
func Start(zone string) (addr string, stop func(), err error) {
	z, err := ParseZone(zone)
	if err != nil {
		return "", nil, err
	}
	s, err := StartServer(z)
	if err != nil {
		return "", nil, err
	}
	return s.Addr, s.Stop, nil
}

// Server answers questions about a Zone on loopback.
type Server struct {
	Addr string // "127.0.0.1:port" or so, the same for UDP and TCP
	Zone *Zone

	udp, tcp *dns.Server
	done     chan error
}

// StartServer is Start for a zone that is to be changed or broken later.
func StartServer(z *Zone) (*Server, error) { return StartServerAt(z, "127.0.0.1:0") }

// StartServerAt is StartServer at an address of loopback; port 0 takes a free one.
func StartServerAt(z *Zone, addr string) (*Server, error) {
	packets, listener, err := listen(addr)
	if err != nil {
		return nil, fmt.Errorf("start a DNS server: %w", err)
	}
	s := &Server{Addr: listener.Addr().String(), Zone: z, done: make(chan error, 2)}
	ready := make(chan struct{}, 2)
	started := func() { ready <- struct{}{} }
	s.udp = &dns.Server{PacketConn: packets, Handler: s, UDPSize: 4096, NotifyStartedFunc: started}
	s.tcp = &dns.Server{Listener: listener, Handler: s, NotifyStartedFunc: started}
	go func() { s.done <- s.udp.ActivateAndServe() }()
	go func() { s.done <- s.tcp.ActivateAndServe() }()
	for range 2 {
		select {
		case <-ready:
		case err := <-s.done:
			packets.Close()
			listener.Close()
			return nil, fmt.Errorf("start a DNS server: %w", err)
		}
	}
	return s, nil
}

// listen finds a port that is free for both UDP and TCP.
func listen(addr string) (net.PacketConn, net.Listener, error) {
	var problems []error
	for range 20 {
		listener, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, nil, err
		}
		packets, err := net.ListenPacket("udp", listener.Addr().String())
		if err == nil {
			return packets, listener, nil
		}
		listener.Close()
		problems = append(problems, err)
	}
	return nil, nil, errors.Join(problems...)
}

// Stop ends the server and waits for it.
func (s *Server) Stop() {
	_ = s.udp.Shutdown()
	_ = s.tcp.Shutdown()
	<-s.done
	<-s.done
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	m, fault := s.Zone.respond(query)
	if fault.Silent {
		return
	}
	time.Sleep(fault.Delay)
	if w.LocalAddr().Network() == "udp" {
		if fault.Truncate {
			m.Answer, m.Truncated = nil, true
		}
		size := dns.MinMsgSize
		if opt := query.IsEdns0(); opt != nil {
			size = int(opt.UDPSize())
		}
		m.Truncate(size)
	}
	_ = w.WriteMsg(m) // a peer that is gone asks again
}

// New returns a resolver that answers from the zone without a socket, with the default configuration.
func New(z *Zone) *resolver.Resolver {
	return NewWith(z, resolver.DefaultConfig(), nil)
}

// NewWith is New with a configuration, whose servers do not matter, and a clock; nil is the real one.
func NewWith(z *Zone, config resolver.Config, clock func() time.Time) *resolver.Resolver {
	config.Servers = []string{"192.0.2.53:53"}
	r, err := resolver.New(config, resolver.Options{Exchange: z.Exchange, Clock: clock})
	if err != nil { // impossible: servers are given, so nothing is read
		return nil
	}
	return r
}

// MustParse is ParseZone for a zone that is written in the caller's source, where a mistake may panic.
func MustParse(text string) *Zone {
	z, err := ParseZone(text)
	if err != nil {
		panic(err) // a mistake in the program's own text
	}
	return z
}

// Exchange is the zone as a resolver's transport.
func (z *Zone) Exchange(ctx context.Context, network, _ string, query *dns.Msg) (*dns.Msg, error) {
	m, fault := z.respond(query)
	delay := fault.Delay
	if fault.Silent {
		delay = time.Hour
	}
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if fault.Truncate && network == "udp" {
		m.Answer, m.Truncated = nil, true
	}
	return m, nil
}
