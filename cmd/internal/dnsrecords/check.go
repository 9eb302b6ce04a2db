package dnsrecords

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluicemail/sluice/pipeline/resolver"
)

// Lookup is what is asked of DNS; *resolver.Resolver is one.
type Lookup interface {
	resolver.Lookup
	LookupSRV(ctx context.Context, name string) ([]*net.SRV, error)
}

// State is how a record is.
type State string

// The states.
const (
	OK      State = "ok"
	Missing State = "missing"
	Differs State = "differs"
	Unknown State = "unknown" // DNS could not say
)

// Result is what DNS says about one record.
type Result struct {
	Record
	State State    `json:"state"`
	Found []string `json:"found,omitempty"` // what is there
	Notes []string `json:"notes,omitempty"` // why it is not good, or what is worth knowing
}

// Wrong says whether somebody has to do something about it: what is needed is not there, or what is there is not right.
func (r *Result) Wrong() bool {
	return r.State == Differs || r.Need == Needed && r.State != OK
}

func (r *Result) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

func (r *Result) found(texts ...string) {
	for _, text := range texts[:min(len(texts), 20)] {
		r.Found = append(r.Found, clip(text))
	}
}

func clip(text string) string {
	if len(text) <= 1000 {
		return text
	}
	return strings.ToValidUTF8(text[:1000], "?") + "..."
}

// fail records why there is no answer; false: there is one.
func (r *Result) fail(err error) bool {
	var dns *net.DNSError
	switch {
	case err == nil:
		return false
	case errors.As(err, &dns) && dns.IsNotFound:
		r.State = Missing
	default:
		r.State = Unknown
		r.note("%v", err)
	}
	return true
}

// Checker compares a plan with what DNS says.
type Checker struct {
	DNS Lookup

	// Fetch gets the MTA-STS policy that is served for a domain, as Policy.Text has it; nil: it is not looked at.
	Fetch func(ctx context.Context, domain string) (mode string, matches func(host string) bool, err error)
}

// Check compares every record.
func (c *Checker) Check(ctx context.Context, p *Plan) []Result {
	var list []Result
	ours := p.Site.Addresses
	if len(ours) == 0 { // what DNS says is the best that anybody knows
		ours, _ = c.DNS.LookupIP(ctx, "ip", p.Site.Hostname)
	}
	for _, record := range p.Records {
		r := Result{Record: record, State: OK}
		switch record.Kind {
		case "mx":
			c.mx(ctx, &r, p, ours)
		case "address":
			c.address(ctx, &r)
		case "ptr":
			c.ptr(ctx, &r, p.Site.Hostname)
		case "spf", "helo-spf":
			c.spf(ctx, &r, p.Site.Hostname, ours)
		case "dkim":
			c.dkim(ctx, &r)
		case "dmarc":
			c.dmarc(ctx, &r, p.Site.Domain)
		case "mta-sts":
			c.mtaSTS(ctx, &r, p)
		case "tlsrpt":
			c.tlsrpt(ctx, &r)
		case "srv":
			c.srv(ctx, &r, p.Site.Hostname)
		}
		list = append(list, r)
	}
	if len(p.Site.Addresses) == 0 {
		list = append(list, c.unknownPTR(ctx, p, ours)...)
	}
	return list
}

// unknownPTR looks at the way back from addresses that only DNS knows.
func (c *Checker) unknownPTR(ctx context.Context, p *Plan, ours []netip.Addr) (list []Result) {
	for _, a := range ours[:min(len(ours), 8)] {
		r := Result{Record: Record{Kind: "ptr", Name: reverse(a), Type: "PTR", Value: p.Site.Hostname + ".", Need: Needed, addr: a}, State: OK}
		c.ptr(ctx, &r, p.Site.Hostname)
		list = append(list, r)
	}
	return list
}

// mx: one of the domain's servers is us, under our name or by one of our addresses.
func (c *Checker) mx(ctx context.Context, r *Result, p *Plan, ours []netip.Addr) {
	hosts, err := c.DNS.LookupMX(ctx, p.Site.Domain)
	if r.fail(err) {
		if addrs, err := c.DNS.LookupIP(ctx, "ip", p.Site.Domain); r.State == Missing && err == nil && len(addrs) > 0 {
			r.note("without MX records mail goes to the domain's own address, %v (RFC 5321 section 5.1)", addrs[0])
		}
		return
	}
	best, us := ^uint16(0), -1
	for i, h := range hosts {
		r.found(fmt.Sprintf("%d %s", h.Pref, h.Host))
		best = min(best, h.Pref)
		if us < 0 && strings.EqualFold(h.Host, p.Site.Hostname) {
			us = i
		}
	}
	for i, h := range hosts[:min(len(hosts), 10)] {
		if us >= 0 {
			break
		}
		addrs, err := c.DNS.LookupIP(ctx, "ip", h.Host)
		if err == nil && slices.ContainsFunc(addrs, func(a netip.Addr) bool { return slices.Contains(ours, a) }) {
			us = i
			r.note("this server is there under the name %s", h.Host)
		}
	}
	switch {
	case len(hosts) == 1 && hosts[0].Host == ".":
		r.State = Differs
		r.note("the domain says that it takes no mail at all (RFC 7505)")
	case us < 0:
		r.State = Differs
		r.note("mail goes to other servers")
	case hosts[us].Pref > best:
		r.note("other servers are tried first")
	}
}

// address: the host name has this address.
func (c *Checker) address(ctx context.Context, r *Result) {
	network := map[string]string{"A": "ip4", "AAAA": "ip6"}[r.Type]
	if r.Value == "" {
		network = "ip"
	}
	addrs, err := c.DNS.LookupIP(ctx, network, r.Name)
	if r.fail(err) {
		return
	}
	for _, a := range addrs {
		r.found(a.String())
	}
	if r.addr.IsValid() && !slices.Contains(addrs, r.addr) {
		r.State = Differs
	}
}

// ptr: the address leads to a name that leads back (RFC 8601 section 3).
func (c *Checker) ptr(ctx context.Context, r *Result, hostname string) {
	names, err := c.DNS.LookupPTR(ctx, r.addr)
	if r.fail(err) {
		return
	}
	r.found(names...)
	switch result, name := resolver.VerifyReverse(ctx, c.DNS, r.addr); {
	case result == resolver.ReverseTempError:
		r.State = Unknown
	case result != resolver.ReversePass:
		r.State = Differs
		r.note("no name leads back to %s", r.addr)
	case !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, hostname) }):
		r.note("it leads back to %s under the name %s, which is not the one that this server says; most take that", r.addr, name)
	}
}

// srv: the service is at our host and port.
func (c *Checker) srv(ctx context.Context, r *Result, hostname string) {
	servers, err := c.DNS.LookupSRV(ctx, r.Name)
	if r.fail(err) {
		return
	}
	r.State = Differs
	for _, s := range servers {
		r.found(fmt.Sprintf("%d %d %d %s", s.Priority, s.Weight, s.Port, s.Target))
		if s.Port == r.port && strings.EqualFold(s.Target, hostname) {
			r.State = OK
		}
	}
}
