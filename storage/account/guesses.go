package account

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/sluicemail/sluice/storage/internal/lru"
)

// The bounds on guessing (RULES B7).
const (
	freePair     = 5  // wrong passwords for one account from one peer that cost nothing
	freePeer     = 20 // wrong passwords from one peer that cost nothing
	slowAttempts = 5  // attempts that wait before the next ones are refused
	firstDelay   = time.Second
	forgetAfter  = 15 * time.Minute // after it, whatever led to a refusal is forgotten, little by little
	pairForgets  = forgetAfter / (freePair + slowAttempts)
	peerForgets  = forgetAfter / (freePeer + slowAttempts)
	maxGuessers  = 50000
	maxSleepers  = 1000
)

// guesses counts wrong passwords. An attempt that is under way may become a failure, so no more of them are let in than
// could fail for nothing: a thousand at once are not a thousand free ones. The others wait until it is known, so that
// somebody who has thirty connections and the right password is not taken for a guesser.
type guesses struct {
	clock    func() time.Time
	logger   *slog.Logger
	trusted  []netip.Prefix
	proofs   int    // how many passwords that worked are remembered
	key      []byte // of what is remembered of passwords; it dies with the process
	sleepers chan struct{}
	tally    tally

	mu     sync.Mutex
	pairs  *lru.Cache[mark, *pairCount]
	peers  *lru.Cache[netip.Addr, *count]
	proven *lru.Cache[mark, *proof] // only a right password makes an entry, so that strangers can push out none
}

func (g *guesses) init() {
	g.key = random(32)
	g.sleepers = make(chan struct{}, maxSleepers)
	g.pairs = lru.New[mark, *pairCount](maxGuessers)
	g.peers = lru.New[netip.Addr, *count](maxGuessers)
	g.proven = lru.New[mark, *proof](g.proofs)
}

// mark stands for what it was made from, as far as this process can tell.
type mark [16]byte

// mark names an account and a peer, and a password for them if there is one.
func (g *guesses) mark(parts ...string) (out mark) {
	h := hmac.New(sha256.New, g.key)
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0}) // neither an address of a peer nor one of an account has it
	}
	copy(out[:], h.Sum(nil))
	return out
}

// attempt is one login that is being verified.
type attempt struct {
	g        *guesses
	address  string     // as it was given
	peer     netip.Addr // as it is counted; the zero value: it is not
	trusted  bool
	who      mark   // the account and the peer
	password mark   // for these
	state    uint64 // of the directory, when the attempt began
	pair     *pairCount
	source   *count // nil: the peer is not counted
	vouched  bool   // let in only because this password worked here before
}

// verdict is what becomes of an attempt.
type verdict struct {
	err     error           // not nil: that
	settled <-chan struct{} // not nil: wait for it and ask again
	delay   time.Duration   // before the password is looked at
	refuses string          // what has just begun to be refused, for the log
}

// begin counts an attempt, and waits or refuses by what failed before. state is the directory's, so that a password that
// was wrong is looked at again when any account has changed.
func (g *guesses) begin(ctx context.Context, address, password string, peer netip.Addr, state uint64) (*attempt, error) {
	name, err := Canonical(address)
	if err != nil {
		name = address
	}
	a := &attempt{g: g, address: address, state: state, trusted: g.trusts(peer), peer: network(peer)}
	a.who = g.mark(a.peer.String(), name)
	a.password = g.mark(a.peer.String(), name, password)
	if a.trusted {
		a.peer = netip.Addr{}
	}
	for {
		v := g.admit(a)
		if v.refuses != "" {
			g.logger.Warn("logins refused", "action", "refuse", "client", network(peer), "account", clip(address), "of", v.refuses,
				"why", "too many different wrong passwords")
		}
		switch {
		case v.err != nil:
			return nil, v.err
		case v.settled != nil:
			select {
			case <-v.settled:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		case v.delay > 0:
			if err := g.sleep(ctx, v.delay); err != nil {
				a.withdrawn()
				return nil, err
			}
		}
		return a, nil
	}
}

// admit counts a, unless it is refused or has to wait until others are settled.
func (g *guesses) admit(a *attempt) verdict {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.clock()
	pair, seen := g.pairs.Get(a.who)
	if !seen {
		pair = &pairCount{} // kept once it is admitted: a refused peer pushes out nobody
	}
	if pair.isWrong(a.password, a.state) {
		g.tally.Repeated++
		return verdict{err: ErrCredentials} // no hash, and no guess: nothing was learnt
	}
	over, settled := pair.over(now, pairForgets, freePair)
	full := over >= slowAttempts
	if a.trusted && full && pair.pending < slowAttempts {
		over, full = slowAttempts-1, false // whose failures they are is not known, so it is slow for ever but not refused
	}
	var source *count
	var peerFull bool
	if a.peer.IsValid() {
		var ok bool
		if source, ok = g.peers.Get(a.peer); !ok {
			source = &count{}
			g.peers.Put(a.peer, source)
		}
		n, s := source.over(now, peerForgets, freePeer)
		over, peerFull = max(over, n), n >= slowAttempts
		if s != nil {
			settled = s
		}
	}
	switch {
	case over >= 0 && g.vouches(a, now):
		g.tally.Vouched++
		a.vouched = true
		return verdict{}
	case full || peerFull:
		g.tally.Refused++
		return verdict{err: ErrBlocked, refuses: g.say(pair, source, full, peerFull)}
	case settled != nil:
		return verdict{settled: settled}
	}
	a.pair, a.source = pair, source
	if !seen {
		g.pairs.Put(a.who, pair)
	}
	pair.pending++
	if source != nil {
		source.pending++
	}
	if over < 0 {
		return verdict{}
	}
	g.tally.Delayed++
	return verdict{delay: firstDelay << over}
}

// say returns what a line in the log should say is refused; "": it has been said.
func (g *guesses) say(pair *pairCount, source *count, full, peerFull bool) (what string) {
	if full && !pair.told {
		pair.told = true
		g.tally.Accounts++
		what = "this account from this address"
	}
	if peerFull && !source.told {
		source.told = true
		g.tally.Addresses++
		what = "every account from this address, but those that logged in from it before"
	}
	return what
}

// vouches reports whether this password is the one that worked last for this account from this peer: somebody who was
// here before is not held back by what others try. A wrong one may be a guess by them, and so many are compared only.
// g.mu is held.
func (g *guesses) vouches(a *attempt, now time.Time) bool {
	p, ok := g.proven.Get(a.who)
	if !ok || p.guessed.at(now, proofForgets) >= maxProofs {
		return false
	}
	if hmac.Equal(p.password[:], a.password[:]) {
		return true
	}
	p.guessed.add(now, proofForgets)
	return false
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
// guess for ever. So does the account if this password worked before: its owner needs no pardon, and whoever guesses at the same
// address shall not have one each time that the owner looks for mail.
func (a *attempt) succeeded() {
	a.end(func(time.Time) {
		a.g.tally.Accepted++
		p, ok := a.g.proven.Get(a.who)
		if ok && p.password == a.password {
			return
		}
		if !ok {
			p = &proof{}
			a.g.proven.Put(a.who, p)
		}
		p.password = a.password
		if a.pair != nil {
			a.pair.failures = level{}
		}
	})
}

// failed is the end of an attempt with a wrong password. The same one again teaches nobody anything, and is most likely a
// program that has not heard of a new one: it counts once.
func (a *attempt) failed() {
	a.end(func(now time.Time) {
		g := a.g
		g.tally.Rejected++
		if p, ok := g.proven.Get(a.who); ok && p.password == a.password {
			g.proven.Delete(a.who) // it was right until the account got another
		}
		pair, ok := g.pairs.Get(a.who)
		if !ok {
			pair = &pairCount{}
			g.pairs.Put(a.who, pair)
		}
		if pair.wrong(a.password, a.state) {
			return
		}
		pair.failures.add(now, pairForgets)
		if a.peer.IsValid() {
			if source, ok := g.peers.Get(a.peer); ok {
				source.failures.add(now, peerForgets)
			}
		}
	})
}

// withdrawn takes the attempt back: nothing was found out.
func (a *attempt) withdrawn() { a.end(func(time.Time) { a.g.tally.Undecided++ }) }

func (a *attempt) end(note func(now time.Time)) {
	a.g.mu.Lock()
	defer a.g.mu.Unlock()
	note(a.g.clock())
	if a.pair != nil {
		a.pair.settle()
	}
	if a.source != nil {
		a.source.settle()
	}
}

// trusts reports whether a peer speaks for clients of its own.
func (g *guesses) trusts(peer netip.Addr) bool {
	peer = peer.Unmap().WithZone("")
	for _, p := range g.trusted {
		if p.Contains(peer) {
			return true
		}
	}
	return false
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

// clip bounds what a stranger can put into a line of the log.
func clip(s string) string { return s[:min(len(s), 100)] }
