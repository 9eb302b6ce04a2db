package mx

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Own returns a Rules.Own for the addresses at which this server listens. One that listens at all addresses ("0.0.0.0:25",
// "[::]:25") listens at each one of this machine's. listening is asked at each call; the machine's addresses are looked up
// once a minute.
func Own(listening func() []netip.AddrPort) func(netip.AddrPort) bool {
	var machine machine
	return func(addr netip.AddrPort) bool {
		ip := addr.Addr().Unmap().WithZone("")
		for _, l := range listening() {
			if l.Port() != addr.Port() {
				continue
			}
			at := l.Addr().Unmap().WithZone("")
			if at == ip || at.IsUnspecified() && (ip.IsLoopback() || ip.IsUnspecified() || machine.has(ip)) {
				return true
			}
		}
		return false
	}
}

// machine knows the addresses of this machine's interfaces.
type machine struct {
	mu    sync.Mutex
	addrs []netip.Addr
	next  time.Time
}

func (m *machine) has(ip netip.Addr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); now.After(m.next) {
		m.next = now.Add(time.Minute)
		if found, err := net.InterfaceAddrs(); err == nil { // or what was known stays
			m.addrs = m.addrs[:0]
			for _, a := range found {
				if n, ok := a.(*net.IPNet); ok {
					if addr, ok := netip.AddrFromSlice(n.IP); ok {
						m.addrs = append(m.addrs, addr.Unmap())
					}
				}
			}
		}
	}
	return slices.Contains(m.addrs, ip)
}
