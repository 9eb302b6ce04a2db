package dnsbl

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/sdk"
)

// client asks DNS for the addresses of names and keeps the answers.
type client struct {
	servers []string
	udp     dns.Client
	tcp     dns.Client
	limit   int

	mu    sync.Mutex
	cache map[string]cached
}

type cached struct {
	answers []netip.Addr
	until   time.Time
}

func newClient(servers []string, limit int) (*client, error) {
	if len(servers) == 0 {
		system, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil {
			return nil, fmt.Errorf("read the system's DNS servers (set servers to choose others): %w", err)
		}
		for _, s := range system.Servers {
			a, err := netip.ParseAddr(s)
			if err != nil {
				continue
			}
			servers = append(servers, netip.AddrPortFrom(a, 53).String())
		}
	}
	return &client{
		servers: servers, limit: limit, cache: make(map[string]cached),
		udp: dns.Client{Net: "udp", Timeout: 2 * time.Second, UDPSize: 1232}, tcp: dns.Client{Net: "tcp", Timeout: 2 * time.Second},
	}, nil
}

// How long answers are kept, whatever their TTL says.
const (
	shortest = 10 * time.Second
	longest  = time.Hour
)

// maxName is the length of a name in DNS, in its text form without escapes (RFC 1035 section 2.3.4).
const maxName = 253 + 1 // with the last dot

// errSilent: no DNS server said anything, as opposed to one that said that it has no answer.
var errSilent = errors.New("no answer")

// listed returns the answers of a list about a name; none if it is not listed.
func (c *client) listed(ctx context.Context, name string) ([]netip.Addr, error) {
	c.mu.Lock()
	have, ok := c.cache[name]
	c.mu.Unlock()
	if ok && time.Now().Before(have.until) {
		return have.answers, nil
	}
	if _, can := dns.IsDomainName(name); !can || len(name) > maxName {
		return nil, nil // DNS can't have it, so nobody lists it; a link may be of any length
	}
	answers, ttl, err := c.ask(ctx, name)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.cache) >= c.limit {
		c.forget()
	}
	c.cache[name] = cached{answers, time.Now().Add(min(max(ttl, shortest), longest))}
	return answers, nil
}

// forget makes room: what is too old goes, or else a tenth, whichever comes.
func (c *client) forget() {
	now := time.Now()
	for name, e := range c.cache {
		if now.After(e.until) {
			delete(c.cache, name)
		}
	}
	for name := range c.cache {
		if len(c.cache) <= c.limit*9/10 {
			return
		}
		delete(c.cache, name)
	}
}

// ask asks the servers one after the other. If nobody says anything they are all asked once more, because datagrams get lost.
func (c *client) ask(ctx context.Context, name string) (answers []netip.Addr, ttl time.Duration, err error) {
	if len(c.servers) == 0 {
		return nil, 0, errors.New("there is no DNS server to ask")
	}
	var refused, silent error
	for try := 0; try < 2 && refused == nil && ctx.Err() == nil; try++ {
		for _, server := range c.servers {
			r, err := c.exchange(ctx, server, name)
			switch {
			case err != nil:
				silent = fmt.Errorf("%w: %w", errSilent, err)
				continue
			case r.Rcode == dns.RcodeNameError:
				return nil, negativeTTL(r), nil
			case r.Rcode == dns.RcodeSuccess:
				return answersOf(r)
			}
			refused = fmt.Errorf("%s answers %s", server, dns.RcodeToString[r.Rcode])
		}
	}
	switch {
	case refused != nil:
		return nil, 0, refused
	case silent == nil:
		silent = fmt.Errorf("%w: %w", errSilent, context.Cause(ctx))
	}
	return nil, 0, silent
}

func (c *client) exchange(ctx context.Context, server, name string) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), dns.TypeA)
	q.SetEdns0(1232, false)
	r, _, err := c.udp.ExchangeContext(ctx, q, server)
	if err == nil && r.Truncated {
		r, _, err = c.tcp.ExchangeContext(ctx, q, server)
	}
	if err != nil {
		return nil, err
	}
	if len(r.Question) != 1 || !strings.EqualFold(r.Question[0].Name, q.Question[0].Name) || r.Question[0].Qtype != dns.TypeA {
		return nil, fmt.Errorf("%s answers another question", server)
	}
	return r, nil
}

// answersOf returns the A records in 127.0.0.0/8; others are a list that went away, or a
// resolver that lies about names which do not exist.
func answersOf(r *dns.Msg) (answers []netip.Addr, ttl time.Duration, err error) {
	const most = 20
	ttl = longest
	for _, rr := range r.Answer {
		a, ok := rr.(*dns.A)
		if !ok || len(answers) >= most {
			continue
		}
		addr, ok := netip.AddrFromSlice(a.A.To4())
		switch {
		case !ok || addr.As4()[0] != 127:
			return nil, 0, fmt.Errorf("the answer %s is not in 127.0.0.0/8", a.A)
		case addr.As4()[1] == 255 && addr.As4()[2] == 255: // "you may not ask me so"
			return nil, 0, fmt.Errorf("the list refuses to answer (%s)", addr)
		}
		answers = append(answers, addr)
		ttl = min(ttl, time.Duration(a.Hdr.Ttl)*time.Second)
	}
	if len(answers) == 0 {
		ttl = negativeTTL(r)
	}
	return answers, ttl, nil
}

// negativeTTL is how long a "no" is true (RFC 2308 section 5).
func negativeTTL(r *dns.Msg) time.Duration {
	for _, rr := range r.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return time.Duration(min(soa.Minttl, soa.Hdr.Ttl)) * time.Second
		}
	}
	return time.Minute
}

// How often lists are tested, and how soon again when one of them gave no answer.
const (
	testEvery = 10 * time.Minute
	testAgain = 10 * time.Second
)

func (p *plugin) tests() {
	defer p.stopped.Done()
	timer := time.NewTimer(testEvery)
	defer timer.Stop()
	again := testAgain
	for first := true; ; first = false {
		var tried sync.WaitGroup
		var unknown atomic.Bool
		for _, l := range p.lists {
			tried.Add(1)
			go func() {
				defer tried.Done()
				if !p.tryList(l) {
					unknown.Store(true)
				}
			}()
		}
		done := make(chan struct{})
		go func() {
			tried.Wait()
			close(done)
		}()
		select {
		case <-done:
		case <-p.stop: // it has two seconds to end, DNS may take longer
			return
		}
		if first {
			close(p.tested)
		}
		if unknown.Load() {
			timer.Reset(again)
			again = min(2*again, testEvery)
		} else {
			timer.Reset(testEvery)
			again = testAgain
		}
		select {
		case <-timer.C:
		case <-p.stop:
			return
		}
	}
}

// tryList asks a list for what no list may have (RFC 5782 section 5): one that has it lists the world,
// which is how lists die. It reports whether there was an answer; without one the list is as good as it was before.
func (p *plugin) tryList(l *list) bool {
	if !l.test {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.settings.Timeout)
	defer cancel()
	never := "1.0.0.127."
	if l.of == ofDomains {
		never = "invalid."
	}
	answers, _, err := p.dns.ask(ctx, never+l.zone)
	if err != nil {
		return false
	}
	broken := len(answers) > 0
	if was := l.broken.Swap(broken); was != broken {
		fmt.Printf("list %s: lists everything: %v\n", l.zone, broken)
	}
	return true
}

// status tells an administrator how the lists are.
func (p *plugin) status(e *sdk.Event) sdk.Verdict {
	var v sdk.Verdict
	say := func(format string, args ...any) {
		v.Reasons = append(v.Reasons, sdk.Reason{Symbol: "DNSBL", Text: fmt.Sprintf(format, args...)})
	}
	if e == nil || len(e.Words) != 1 || e.Words[0] != "status" {
		say("expected: status")
		return v
	}
	for _, l := range p.lists {
		state := "in use"
		if l.broken.Load() {
			state = errBroken.Error()
		}
		say("%s %s", l.zone, state)
	}
	if len(p.lists) == 0 {
		say("no list is configured")
	}
	return v
}
