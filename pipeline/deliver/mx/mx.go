// Package mx finds the servers that take mail for a domain, and the addresses at which we may talk to them.
//
// Find follows RFC 5321 section 5.1: the MX records by preference, those of equal preference in another order each time;
// the domain itself where there are none; nothing where there is a null MX (RFC 7505); and where we are one of the
// servers, only those that are preferred to us. Addresses looks the chosen server up, and Dial connects to it.
//
// All of this is written by strangers, who may well write that their mail goes to 127.0.0.1, to the database beside us
// or to ourselves. So names are looked at before they are asked for, and every address is held against a table of
// networks that nobody outside may send us to (Forbidden), once when it is looked up and once more by Dial on the socket
// that is about to connect. Only what the administrator wrote himself (Rules.Allow, relays) is exempt.
//
// Bounds: the 20 most preferred servers, 16 addresses of each. Nothing is kept here but a few names that turned out to
// be ourselves; the resolver has the cache.
//
// Errors are of three kinds. ErrNoDomain, ErrNoAddress, ErrLoop, ErrBadMX and ErrForbidden are definite: mail to there
// will not arrive. All others (*net.DNSError, context errors) are temporary: nobody could tell.
package mx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicemail/sluice/pipeline/resolver"
)

// The definite errors, to be asked for with errors.Is.
var (
	ErrNoDomain  = errors.New("no such domain")
	ErrNoAddress = errors.New("has no address")
	ErrBadMX     = errors.New("has no usable MX record")
	ErrLoop      = errors.New("its most preferred mail server is this one")
	ErrForbidden = errors.New("may not be connected to")
	ErrSelf      = errors.New("is this server") // an ErrForbidden too; servers that are no better than it are left out from then on
)

// Temporary reports whether err, of this package, leaves the question open.
func Temporary(err error) bool {
	for _, definite := range []error{ErrNoDomain, ErrNoAddress, ErrBadMX, ErrLoop, ErrForbidden} {
		if errors.Is(err, definite) {
			return false
		}
	}
	return err != nil
}

// Host is a server that takes mail for a domain.
type Host struct {
	Name       string     // in lower case, without a final dot; "[192.0.2.1]" of an address literal
	Addr       netip.Addr // of an address literal or of a relay that is written as an address; else invalid
	Port       uint16
	Preference uint16
	Secure     bool // DNSSEC vouches for it being one of the domain's servers (RFC 7672 section 2.2.1)
}

// Exchangers are the servers of a domain, in the order in which to try them.
type Exchangers struct {
	Domain   string // as asked for; in lower case
	Hosts    []Host // empty only with Null
	Null     bool   // the domain takes no mail (RFC 7505)
	Implicit bool   // no MX record: the domain itself is the server
	Secure   bool   // DNSSEC vouches for the list, or for there being none

	// Expanded is where the domain is an alias (CNAME) to; the same as Domain without.
	Expanded string
}

// Options is what New takes.
type Options struct {
	DNS      resolver.SecureLookup
	Hostname string                 // our own name: a server of that name is ourselves
	Names    func(name string) bool // whether a name is ours too; nil: none is
	Port     uint16                 // of all servers; 0 is 25

	Shuffle func(n int, swap func(i, j int)) // nil: rand.Shuffle
	Now     func() time.Time                 // nil: time.Now
}

// Finder finds servers. Safe for concurrent use.
type Finder struct {
	options Options

	mu     sync.Mutex
	selves map[string]time.Time // names that led to ourselves, until when that is believed
}

// New returns a Finder.
func New(options Options) *Finder {
	if options.Port == 0 {
		options.Port = 25
	}
	if options.Shuffle == nil {
		options.Shuffle = rand.Shuffle
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	options.Hostname = canonical(options.Hostname)
	return &Finder{options: options, selves: make(map[string]time.Time)}
}

const (
	maxHosts  = 20               // of a domain
	maxAddrs  = 16               // of a host
	maxSelves = 1000             // names that are remembered to be ourselves
	selfTime  = 10 * time.Minute // how long
)

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// Find returns the servers of domain: a name in A-labels, or an address literal as in RFC 5321 section 4.1.3.
func (f *Finder) Find(ctx context.Context, domain string) (Exchangers, error) {
	domain = canonical(domain)
	if strings.HasPrefix(domain, "[") {
		return f.literal(domain)
	}
	if why := badName(domain); why != "" {
		return Exchangers{}, fmt.Errorf("find the mail servers of %q: %s: %w", clip(domain), why, ErrNoDomain)
	}
	answer, err := f.options.DNS.SecureMX(ctx, domain)
	x := Exchangers{Domain: domain, Expanded: answer.Name, Secure: answer.Secure}
	switch {
	case err != nil && !notFound(err):
		return Exchangers{}, fmt.Errorf("find the mail servers of %s: %w", domain, err)
	case err != nil && answer.Unusable: // RFC 5321 section 5.1: with MX records, the domain's own address does not count
		return Exchangers{}, fmt.Errorf("find the mail servers of %s: %w", domain, ErrBadMX)
	case err != nil && answer.NoName:
		return Exchangers{}, fmt.Errorf("find the mail servers of %s: %w", domain, ErrNoDomain)
	case err != nil:
		x.Implicit = true
		x.Hosts = []Host{{Name: domain, Port: f.options.Port, Secure: answer.Secure}}
	case len(answer.Records) == 1 && answer.Records[0].Host == ".":
		x.Null = true
		return x, nil
	default:
		if x.Hosts = f.hosts(answer); len(x.Hosts) == 0 {
			return Exchangers{}, fmt.Errorf("find the mail servers of %s: %w", domain, ErrBadMX)
		}
	}
	if x.Hosts = f.beforeUs(x.Hosts); len(x.Hosts) == 0 {
		return Exchangers{}, fmt.Errorf("find the mail servers of %s: %w", domain, ErrLoop)
	}
	return x, nil
}

// hosts takes the usable names from the records and puts them in order.
func (f *Finder) hosts(answer resolver.Answer[*net.MX]) []Host {
	hosts := make([]Host, 0, min(len(answer.Records), 2*maxHosts))
	for _, r := range answer.Records {
		name := canonical(r.Host)
		if badName(name) != "" || slices.ContainsFunc(hosts, func(h Host) bool { return h.Name == name }) {
			continue
		}
		hosts = append(hosts, Host{Name: name, Port: f.options.Port, Preference: r.Pref, Secure: answer.Secure})
	}
	f.options.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	slices.SortStableFunc(hosts, func(a, b Host) int { return cmp.Compare(a.Preference, b.Preference) })
	return hosts
}

// beforeUs leaves out ourselves, and every server that is not preferred to us (RFC 5321 section 5.1), and cuts the list.
func (f *Finder) beforeUs(hosts []Host) []Host {
	ours := -1
	for _, h := range hosts {
		if f.isSelf(h.Name) && (ours < 0 || int(h.Preference) < ours) {
			ours = int(h.Preference)
		}
	}
	if ours >= 0 {
		hosts = slices.DeleteFunc(hosts, func(h Host) bool { return int(h.Preference) >= ours })
	}
	return hosts[:min(len(hosts), maxHosts)]
}

// isSelf reports whether name is our own, or was found to lead to us a moment ago.
func (f *Finder) isSelf(name string) bool {
	if name == f.options.Hostname || f.options.Names != nil && f.options.Names(name) {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.selves) == 0 {
		return false
	}
	until, found := f.selves[name]
	if found && !f.options.Now().Before(until) {
		delete(f.selves, name)
		return false
	}
	return found
}

// rememberSelf lets the next Find know that name leads to ourselves.
func (f *Finder) rememberSelf(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.selves) >= maxSelves {
		clear(f.selves)
	}
	f.selves[name] = f.options.Now().Add(selfTime)
}

// literal is the one server of a domain that is an address: "[192.0.2.1]" or "[ipv6:2001:db8::1]".
func (f *Finder) literal(domain string) (Exchangers, error) {
	addr, err := ParseLiteral(domain)
	if err != nil {
		return Exchangers{}, fmt.Errorf("find the mail server %s: %w: %w", clip(domain), err, ErrNoDomain)
	}
	return Exchangers{
		Domain: domain, Expanded: domain,
		Hosts: []Host{{Name: domain, Addr: addr, Port: f.options.Port}},
	}, nil
}

// ParseLiteral reads an address literal (RFC 5321 section 4.1.3), with its brackets.
func ParseLiteral(literal string) (netip.Addr, error) {
	text, ok := strings.CutPrefix(literal, "[")
	text, ok2 := strings.CutSuffix(text, "]")
	if !ok || !ok2 {
		return netip.Addr{}, errors.New("is not an address literal")
	}
	six := len(text) >= 5 && strings.EqualFold(text[:5], "IPv6:")
	if six {
		text = text[5:]
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" || addr.Is4() == six {
		return netip.Addr{}, errors.New("is not an address literal")
	}
	return addr, nil
}

// badName says why name is none that a mail server can have, or "".
func badName(name string) string {
	if name == "" || name == "." || len(name) > 253 {
		return "not a domain name"
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return "an address, not a name"
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	switch {
	case last == "localhost" || name == "localhost.localdomain":
		return "this machine" // RFC 6761 section 6.3
	case last == "invalid":
		return "never exists" // RFC 6761 section 6.4
	case strings.Trim(last, "0123456789") == "":
		return "not a domain name" // an address in some short form
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return "not a domain name"
		}
		for i := 0; i < len(label); i++ {
			c := label[i]
			if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return "not a domain name"
			}
		}
	}
	return ""
}

func clip(s string) string { return s[:min(len(s), 300)] }

func notFound(err error) bool {
	var e *net.DNSError
	return errors.As(err, &e) && e.IsNotFound
}
