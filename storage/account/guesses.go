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

// guesses counts failed logins. An attempt counts as a failure from its beginning, so that a thousand at once are not a
// thousand free ones.
type guesses struct {
	sleepers chan struct{}

	mu    sync.Mutex
	pairs *lru.Cache[[16]byte, *count]
	peers *lru.Cache[netip.Addr, *count]
}

type count struct {
	failures int
	last     time.Time
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
	g.mu.Lock()
	a := &attempt{g: g, pair: fresh(g.pairs, [16]byte(sum[:16]), now)}
	over := a.pair.failures - freePair
	if peer.IsValid() {
		a.peer = fresh(g.peers, peer, now)
		over = max(over, a.peer.failures-freePeer)
	}
	if over >= slowAttempts {
		g.mu.Unlock()
		return nil, ErrBlocked // and does not count: a client with an old password is not locked out for ever
	}
	a.add(1)
	a.pair.last = now
	if a.peer != nil {
		a.peer.last = now
	}
	g.mu.Unlock()
	if over < 0 {
		return a, nil
	}
	if err := g.sleep(ctx, firstDelay<<over); err != nil {
		a.withdrawn()
		return nil, err
	}
	return a, nil
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

// add changes both counters. g.mu is held.
func (a *attempt) add(n int) {
	a.pair.failures = max(a.pair.failures+n, 0)
	if a.peer != nil {
		a.peer.failures = max(a.peer.failures+n, 0)
	}
}

// succeeded forgets what failed for this account. The peer keeps its count, less this attempt: otherwise an account of its
// own would let it guess for ever.
func (a *attempt) succeeded() {
	a.g.mu.Lock()
	defer a.g.mu.Unlock()
	a.add(-1)
	a.pair.failures = 0
}

// withdrawn takes the attempt back: nothing was found out.
func (a *attempt) withdrawn() {
	a.g.mu.Lock()
	defer a.g.mu.Unlock()
	a.add(-1)
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
