package resolver

import (
	"context"
	"net"

	"github.com/miekg/dns"
)

// LookupSRV returns the servers of a service (RFC 2782), "_imaps._tcp.example.net" for one, in no order; targets without a
// final dot, but "." where the service is said not to exist (RFC 6186 section 3.4).
func (r *Resolver) LookupSRV(ctx context.Context, name string) ([]*net.SRV, error) {
	a, err := r.lookup(ctx, name, dns.TypeSRV)
	if err != nil {
		return nil, err
	}
	return a.services, nil
}
