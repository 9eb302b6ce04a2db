package account

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"sync"
	"time"

	"github.com/sluicemail/sluice/storage/internal/lru"
)

// The bounds on guessing (RULES B7).
const (
	freePair     = 5  // failures of one account from one peer that cost nothing
	freePeer     = 20 // failures of one peer that cost nothing
	slowAttempts = 5  // attempts that wait before the next ones are refused
	firstDelay   = time.Second
	forgetAfter  = 15 * time.Minute
	maxGuessers  = 50000
	maxSleepers  = 1000
)

// guesses counts failed logins. An attempt that is under way may become a failure, so no more of them are let in than
// could fail for nothing: a thousand at once are not a thousand free ones. The others wait until it is known, so that
// somebody who has thirty connections and the right password is not taken for a guesser.
type guesses struct {
	sleepers chan struct{}

	mu    sync.Mutex
	pairs *lru.Cache[[16]byte, *count]
	peers *lru.Cache[netip.Addr, *count]
}

type count struct {
	failures int
	pending  int // attempts of which nothing is known yet
	last     time.Time
	settled  chan struct{} // closed when one of them is; nil: nobody waits
}

// over says how far beyond the free failures an attempt would be; negative: not at all. Crowded says that it would be if
// all that are under way failed.
func (c *count) over(free int) (over int, crowded bool) {
	switch {
	case c.failures >= free:
		return c.failures + c.pending - free, false
	default:
		return -1, c.failures+c.pending >= free
	}
}

// wait returns what is closed when an attempt has ended. g.mu is held.
func (c *count) wait() <-chan struct{} {
	if c.settled == nil {
		c.settled = make(chan struct{})
	}
	return c.settled
}

func (c *count) begun(now time.Time) {
	c.pending++
	c.last = now
}

func (c *count) ended(failures int) {
	c.pending--
	c.failures += failures
	if c.settled != nil {
		close(c.settled)
		c.settled = nil
	}
}

func (g *guesses) init() {
	g.sleepers = make(chan struct{}, maxSleepers)
	g.pairs = lru.New[[16]byte, *count](maxGuessers)
	g.peers = lru.New[netip.Addr, *count](maxGuessers)
}

// attempt is one login that is being verified.
type attempt struct {
	g    *guesses
	pair *count
	peer *count // nil: the peer is not counted
}

// begin counts an attempt, and waits or refuses by what failed before.
func (g *guesses) begin(ctx context.Context, address string, peer netip.Addr, now time.Time) (*attempt, error) {
	peer = network(peer)
	name, err := Canonical(address)
	if err != nil {
		name = address
	}
	sum := sha256.Sum256([]byte(peer.String() + " " + name))
	for {
		a, over, settled := g.admit([16]byte(sum[:16]), peer, now)
		switch {
		case over >= slowAttempts:
			return nil, ErrBlocked // and does not count: a client with an old password is not locked out for ever
		case a != nil && over < 0:
			return a, nil
		case a != nil:
			if err := g.sleep(ctx, firstDelay<<over); err != nil {
				a.withdrawn()
				return nil, err
			}
			return a, nil
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// admit counts an attempt, unless it is over the limit or, if settled is not nil, has to wait.
func (g *guesses) admit(pair [16]byte, peer netip.Addr, now time.Time) (a *attempt, over int, settled <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a = &attempt{g: g, pair: fresh(g.pairs, pair, now)}
	over, crowded := a.pair.over(freePair)
	if crowded {
		settled = a.pair.wait()
	}
	if peer.IsValid() {
		a.peer = fresh(g.peers, peer, now)
		n, crowded := a.peer.over(freePeer)
		over = max(over, n)
		if crowded {
			settled = a.peer.wait()
		}
	}
	if over >= slowAttempts {
		return nil, over, nil
	}
	if settled != nil {
		return nil, over, settled
	}
	a.pair.begun(now)
	if a.peer != nil {
		a.peer.begun(now)
	}
	return a, over, nil
}

// fresh returns the counter of key, at zero if its last failure is long ago.
func fresh[K comparable](c *lru.Cache[K, *count], key K, now time.Time) *count {
	n, ok := c.Get(key)
	if !ok || now.Sub(n.last) > forgetAfter {
		n = &count{}
		c.Put(key, n)
	}
	return n
}

// sleep holds an attempt back; when too many are held already it is refused.
func (g *guesses) sleep(ctx context.Context, d time.Duration) error {
	select {
	case g.sleepers <- struct{}{}:
		defer func() { <-g.sleepers }()
	default:
		return ErrBlocked
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// succeeded forgets what failed for this account. The peer keeps its count: otherwise an account of its own would let it
// guess for ever.
func (a *attempt) succeeded() {
	a.end(0, func() { a.pair.failures = 0 })
}

// failed is the end of an attempt with a wrong password.
func (a *attempt) failed() { a.end(1, func() {}) }

// withdrawn takes the attempt back: nothing was found out.
func (a *attempt) withdrawn() { a.end(0, func() {}) }

func (a *attempt) end(failures int, also func()) {
	a.g.mu.Lock()
	defer a.g.mu.Unlock()
	also()
	a.pair.ended(failures)
	if a.peer != nil {
		a.peer.ended(failures)
	}
}

// network is what counts as one peer: an IPv4 address, or an IPv6 /64, within which anybody can have as many as they like.
func network(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}
