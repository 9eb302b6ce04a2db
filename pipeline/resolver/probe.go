package resolver

import (
	"context"
	"fmt"

	"github.com/miekg/dns"
)

// Probe asks every server for the keys of the root, past the cache, and returns an error for the first one that does not
// answer or does not say that it has validated them: with Config.TrustAD it is either not what the administrator thinks, or
// somebody is in between. For "sluice check" and a line at the start; a network without the real root fails it too.
func (r *Resolver) Probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.config.Deadline.Std())
	defer cancel()
	root := key{"", dns.TypeDNSKEY}
	for _, server := range r.servers {
		query := r.query(root)
		query.AuthenticatedData = true
		m, err := r.askWith(ctx, server, query)
		if err != nil {
			return fmt.Errorf("ask %s for the keys of the root: %w", server, err)
		}
		if !m.AuthenticatedData {
			return fmt.Errorf("ask %s for the keys of the root: the answer is not validated, so the server does not validate DNSSEC", server)
		}
	}
	return nil
}
