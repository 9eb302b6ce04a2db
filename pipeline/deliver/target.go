package deliver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/deliver/mx"
)

// target is one server that may take a parcel.
type target struct {
	host mx.Host
	unix string       // the path of a socket in place of a host
	rest []netip.Addr // addresses that were left for the end of the attempt
}

// String names the server.
func (t *target) String() string {
	if t.unix != "" {
		return "unix:" + t.unix
	}
	return t.host.Name
}

// plan is where a parcel may go.
type plan struct {
	targets    []target
	exchangers mx.Exchangers // without fixed
	fixed      bool          // the configuration, or a router plugin, named the servers
	transport  pipeline.Transport
}

// errNull is the null MX (RFC 7505).
var errNull = errors.New("it takes no mail (null MX)")

// plan finds the servers: those of via, of the domain's relay, or of its MX records, in this order. Errors are those of mx,
// errNull, or of what stands in via.
func (r *Remote) plan(ctx context.Context, domain, via string, port uint16) (plan, error) {
	var t pipeline.Transport
	switch via {
	case "":
		t = r.Transport(domain)
	case pipeline.ViaMX:
	default:
		var err error
		if t, err = parseVia(via); err != nil {
			return plan{}, err
		}
	}
	if len(t.Hosts) > 0 {
		targets, err := fixed(&t)
		return plan{targets: targets, fixed: true, transport: t}, err
	}
	x, err := r.Finder.Find(ctx, domain)
	if err != nil {
		return plan{}, err
	}
	if x.Null {
		return plan{}, fmt.Errorf("deliver to %s: %w", domain, errNull)
	}
	p := plan{exchangers: x, targets: make([]target, min(len(x.Hosts), maxHosts))}
	for i := range p.targets {
		p.targets[i].host = x.Hosts[i]
		if port != 0 {
			p.targets[i].host.Port = port
		}
	}
	return p, nil
}

// errVia is the address of a server that is none, from a router plugin.
var errVia = errors.New("not the address of a server")

// parseVia reads "smtp://host:port", "lmtp://host:port" and "lmtp:///path".
func parseVia(via string) (pipeline.Transport, error) {
	u, err := url.Parse(via)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "smtp" && u.Scheme != "lmtp" {
		return pipeline.Transport{}, fmt.Errorf("deliver by %q: %w", via, errVia)
	}
	t := pipeline.Transport{Name: "route", LMTP: u.Scheme == "lmtp"}
	switch {
	case u.Host == "" && t.LMTP && len(u.Path) > 1:
		t.Hosts = []string{"unix:" + u.Path}
	case u.Host != "" && (u.Path == "" || u.Path == "/"):
		t.Hosts = []string{u.Host}
	default:
		return pipeline.Transport{}, fmt.Errorf("deliver by %q: %w", via, errVia)
	}
	return t, nil
}

// hostOctets are those of names and addresses.
const hostOctets = "abcdefghijklmnopqrstuvwxyz0123456789-_.:"

// fixed reads the hosts of a transport: "name:port", "name", "[2001:db8::1]:25", "unix:/path". Port 25 is SMTP's, 24 LMTP's.
func fixed(t *pipeline.Transport) ([]target, error) {
	targets := make([]target, 0, min(len(t.Hosts), maxHosts))
	for i, h := range t.Hosts {
		if len(targets) == maxHosts {
			break
		}
		if path, found := strings.CutPrefix(h, "unix:"); found {
			if clean(path) != path { // it stands in traces and notices
				return nil, fmt.Errorf("deliver by %q: %w", h, errVia)
			}
			targets = append(targets, target{unix: path})
			continue
		}
		port := uint16(25)
		if t.LMTP {
			port = 24
		}
		name := h
		if host, text, err := net.SplitHostPort(h); err == nil {
			n, err := strconv.ParseUint(text, 10, 16)
			if err != nil || n == 0 {
				return nil, fmt.Errorf("deliver by %q: %w", h, errVia)
			}
			name, port = host, uint16(n)
		}
		name = strings.ToLower(strings.TrimSuffix(strings.Trim(name, "[]"), "."))
		if name == "" || strings.Trim(name, hostOctets) != "" {
			return nil, fmt.Errorf("deliver by %q: %w", h, errVia)
		}
		host := mx.Host{Name: name, Port: port, Preference: uint16(i)}
		if addr, err := netip.ParseAddr(name); err == nil {
			host.Addr = addr
		}
		targets = append(targets, target{host: host})
	}
	return targets, nil
}

// Bounds of an attempt.
const (
	maxHosts = 10
	maxAddrs = 5 // of a host
)

// NextHop says where mail of a domain goes now; see pipeline.Courier. What MX records said is remembered for a moment.
func (r *Remote) NextHop(ctx context.Context, domain, via string) (pipeline.NextHop, error) {
	fromMX := via == pipeline.ViaMX || via == "" && len(r.Transport(domain).Hosts) == 0
	now := r.Now()
	if fromMX {
		if key, found := r.hops.get(domain, now); found {
			return pipeline.NextHop{Key: key}, nil
		}
	}
	p, err := r.plan(ctx, domain, via, 0)
	switch {
	case err == nil:
		hop := pipeline.NextHop{Key: p.key()}
		if fromMX {
			r.hops.put(domain, hop.Key, now)
		}
		return hop, nil
	case definite(err):
		key := noHop(domain, via, err) // Send says why
		if fromMX {
			r.hops.put(domain, key, now)
		}
		return pipeline.NextHop{Key: key}, nil
	}
	return pipeline.NextHop{}, fmt.Errorf("find the next hop of %s: %w", domain, err)
}

// noHop is the key of a next hop that is none. It is no server's: a host that takes no mail for its own name (RFC 7505) may well
// be the server of other domains, and nothing that is said about the one holds for the other.
func noHop(domain, via string, err error) string {
	if errors.Is(err, errVia) {
		return clipKey("none:" + strings.ToLower(via))
	}
	return clipKey("none:" + strings.ToLower(domain))
}

// definite reports whether another attempt would meet the same error.
func definite(err error) bool {
	return errors.Is(err, errNull) || errors.Is(err, errVia) || !mx.Temporary(err)
}

// key names the servers in an order that does not change from one look-up to the next. Servers by MX are named without their
// port: it is the same for all.
func (p *plan) key() string {
	targets := p.targets
	if !p.fixed {
		targets = slices.Clone(targets)
		slices.SortFunc(targets, func(a, b target) int {
			return cmp.Or(cmp.Compare(a.host.Preference, b.host.Preference), cmp.Compare(a.host.Name, b.host.Name))
		})
	}
	var b strings.Builder
	for i := range targets {
		if i > 0 {
			b.WriteByte(',')
		}
		switch t := &targets[i]; {
		case t.unix != "":
			b.WriteString("unix:" + t.unix)
		case p.fixed:
			b.WriteString(net.JoinHostPort(t.host.Name, strconv.Itoa(int(t.host.Port))))
		default:
			b.WriteString(t.host.Name)
		}
	}
	return clipKey(b.String())
}

// clipKey keeps a key within 255 octets, and different keys different.
func clipKey(key string) string {
	const limit = 255
	if len(key) <= limit {
		return key
	}
	h := fnv.New128a()
	h.Write([]byte(key))
	sum := fmt.Sprintf("+%x", h.Sum(nil))
	return key[:limit-len(sum)] + sum
}

// hopCache remembers the keys of domains, so that the queue may ask for every entry.
type hopCache struct {
	mu   sync.Mutex
	keys map[string]hopKey
}

type hopKey struct {
	key   string
	until time.Time
}

const (
	hopTime = time.Minute
	maxHops = 20_000
)

func (c *hopCache) get(domain string, now time.Time) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, found := c.keys[domain]
	return h.key, found && now.Before(h.until)
}

func (c *hopCache) put(domain, key string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys == nil {
		c.keys = make(map[string]hopKey)
	}
	if len(c.keys) >= maxHops {
		evict(c.keys, func(h hopKey) bool { return now.After(h.until) })
	}
	c.keys[domain] = hopKey{key, now.Add(hopTime)}
}

// evict makes room: what is over, and if that is not enough, a tenth of the rest.
func evict[K comparable, V any](m map[K]V, over func(V) bool) {
	keep := len(m) * 9 / 10
	for k, v := range m {
		if over(v) {
			delete(m, k)
		}
	}
	for k := range m {
		if len(m) <= keep {
			break
		}
		delete(m, k)
	}
}

// deadList remembers addresses that could not be connected to a moment ago.
type deadList struct {
	mu    sync.Mutex
	until map[netip.AddrPort]time.Time
}

const (
	deadTime = time.Minute
	maxDead  = 20_000
)

func (d *deadList) has(addr netip.AddrPort, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	until, found := d.until[addr]
	return found && now.Before(until)
}

func (d *deadList) add(addr netip.AddrPort, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.until == nil {
		d.until = make(map[netip.AddrPort]time.Time)
	}
	if len(d.until) >= maxDead {
		evict(d.until, now.After)
	}
	d.until[addr] = now.Add(deadTime)
}

func (d *deadList) remove(addr netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.until, addr)
}
