package mx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// Families says which kinds of address are used, and in which order.
type Families string

// The families, as they are written in [pipeline.X.deliver] families.
const (
	Any       Families = "any"        // both; IPv6 first, as one connection in two goes anyway to the address that was first
	IP4       Families = "ip4"        // IPv4 alone
	IP6       Families = "ip6"        // IPv6 alone
	PreferIP4 Families = "prefer_ip4" // both, IPv4 first
	PreferIP6 Families = "prefer_ip6" // both, IPv6 first
)

// Rules says which addresses may be used.
type Rules struct {
	Families Families // "" is Any

	// Allow are networks that are exempt from Forbidden.
	Allow []netip.Prefix

	// Trusted exempts everything from Forbidden: the administrator wrote the host down himself (a relay).
	Trusted bool

	// Own reports whether a socket of ours listens at an address; nil: none does. It holds whatever is allowed.
	Own func(netip.AddrPort) bool
}

// Addresses returns where host can be reached, in the order in which to try: at least one address, or an error. Secure says
// that DNSSEC vouches for all that was asked. Of a host with some good addresses and some that are forbidden, the good ones are
// used; with ErrSelf, servers that are no better than this one should not be tried either, and the next Find leaves them out.
func (f *Finder) Addresses(ctx context.Context, host Host, rules Rules) (addrs []netip.Addr, secure bool, err error) {
	if addr := host.Addr; addr.IsValid() {
		if err := rules.Check(netip.AddrPortFrom(addr, host.Port)); err != nil {
			return nil, false, fmt.Errorf("connect to %s: %w", host.Name, err)
		}
		return []netip.Addr{addr.Unmap()}, false, nil
	}
	found, secure, err := f.lookup(ctx, host.Name, rules.Families)
	if err != nil {
		return nil, false, err
	}
	var refused error
	for _, addr := range found {
		err := rules.Check(netip.AddrPortFrom(addr, host.Port))
		switch {
		case err == nil:
			addrs = append(addrs, addr.Unmap())
		case errors.Is(err, ErrSelf):
			f.rememberSelf(host.Name)
			return nil, false, fmt.Errorf("connect to %s: %w", host.Name, err)
		case refused == nil:
			refused = err
		}
	}
	if len(addrs) == 0 {
		return nil, false, fmt.Errorf("connect to %s: %w", host.Name, refused)
	}
	return addrs[:min(len(addrs), maxAddrs)], secure, nil
}

// lookup asks for the addresses of name, by families. One family that nobody could tell about does not matter while the
// other has addresses.
func (f *Finder) lookup(ctx context.Context, name string, families Families) (addrs []netip.Addr, secure bool, err error) {
	var networks []string
	switch families {
	case IP4:
		networks = []string{"ip4"}
	case IP6:
		networks = []string{"ip6"}
	case PreferIP4:
		networks = []string{"ip4", "ip6"}
	default:
		networks = []string{"ip6", "ip4"}
	}
	secure = true
	var unknown error
	for _, network := range networks {
		answer, err := f.options.DNS.SecureIP(ctx, network, name)
		if err != nil && !notFound(err) {
			unknown = err
			secure = false
			continue
		}
		secure = secure && answer.Secure
		part := slices.Clone(answer.Records)
		f.options.Shuffle(len(part), func(i, j int) { part[i], part[j] = part[j], part[i] })
		addrs = append(addrs, part...)
	}
	switch {
	case len(addrs) > 0:
		return addrs, secure, nil
	case unknown != nil:
		return nil, false, fmt.Errorf("find the addresses of %s: %w", name, unknown)
	}
	return nil, secure, fmt.Errorf("find the addresses of %s: %w", name, ErrNoAddress)
}

// Check returns nil, or why addr may not be connected to, as an ErrForbidden.
func (r Rules) Check(addr netip.AddrPort) error {
	if r.Own != nil && r.Own(netip.AddrPortFrom(addr.Addr().Unmap().WithZone(""), addr.Port())) {
		return fmt.Errorf("%s %w: %w", addr.Addr(), ErrSelf, ErrForbidden)
	}
	if r.Trusted {
		return nil
	}
	ip := addr.Addr().Unmap().WithZone("")
	for _, p := range r.Allow {
		if p.Contains(ip) {
			return nil
		}
	}
	if why := Forbidden(addr.Addr()); why != "" {
		return fmt.Errorf("%s is %s and %w", ip, why, ErrForbidden)
	}
	return nil
}

// DialOptions is what Dial takes beside the address.
type DialOptions struct {
	Rules   Rules
	Source  netip.Addr    // to connect from; invalid: the system chooses
	Timeout time.Duration // 0: that of the context alone
}

// Dial connects to addr, if Rules allow it. The kernel is asked once more, just before it connects, which address
// the socket is to be connected to; and afterwards who the peer is.
func Dial(ctx context.Context, addr netip.AddrPort, options DialOptions) (net.Conn, error) {
	if err := options.Rules.Check(addr); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	dialer := net.Dialer{
		Timeout: options.Timeout,
		Control: func(_, address string, _ syscall.RawConn) error {
			real, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("check the address %s: %w", address, err)
			}
			return options.Rules.Check(real)
		},
	}
	if options.Source.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(options.Source, 0))
	}
	conn, err := dialer.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	remote, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("connect to %s: the peer is %s", addr, conn.RemoteAddr())
	}
	if err := options.Rules.Check(remote.AddrPort()); err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	return conn, nil
}
