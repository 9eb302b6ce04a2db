package callout

import (
	"net/netip"
	"time"
)

// What one client may have asked: a burst, and one more each second. A server that brings mail for a company of a hundred
// thousand has its recipients verified within a day; who guesses addresses gets no further than without any verifying,
// and the next hop hears little of it.
const (
	burst      = 100
	refill     = time.Second
	maxClients = 10_000
)

// budgets are those of the clients that have spent something: an IPv4 address, or a /64 of IPv6, which one host may have whole.
type budgets struct {
	byClient map[netip.Prefix]*budget
}

// budget is the time from empty to now, a question for each refill in it and at most burst of them.
type budget struct {
	empty time.Time
	told  bool // the log knows that it is spent
}

// spend takes one question from a client's budget. first says that this is the first one that it could not pay.
func (b *budgets) spend(client netip.Addr, now time.Time) (ok, first bool) {
	if !client.IsValid() {
		return true, false
	}
	client = client.Unmap().WithZone("")
	bits := 32
	if client.Is6() {
		bits = 64
	}
	key, err := client.Prefix(bits)
	if err != nil {
		return true, false
	}
	full := now.Add(-burst * refill)
	have := b.byClient[key]
	if have == nil {
		b.makeRoom(full)
		have = &budget{empty: full}
		b.byClient[key] = have
	}
	if have.empty.Before(full) {
		have.empty = full
	}
	if next := have.empty.Add(refill); !next.After(now) {
		have.empty, have.told = next, false
		return true, false
	}
	first = !have.told
	have.told = true
	return false, first
}

// makeRoom forgets who has a full budget again, and if that is not enough a tenth of the others.
func (b *budgets) makeRoom(full time.Time) {
	if b.byClient == nil {
		b.byClient = make(map[netip.Prefix]*budget)
	}
	if len(b.byClient) < maxClients {
		return
	}
	for key, have := range b.byClient {
		if !have.empty.After(full) {
			delete(b.byClient, key)
		}
	}
	for key := range b.byClient {
		if len(b.byClient) <= maxClients*9/10 {
			break
		}
		delete(b.byClient, key)
	}
}
