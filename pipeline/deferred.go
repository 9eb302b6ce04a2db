package pipeline

import (
	"net/netip"
	"strings"
	"sync"
	"time"
)

// deferrals remembers, for an hour, who was deferred while others were not, so
// that on the next attempt that RCPT alone is answered 451 and the others go
// through (RULES A3 b). It is bounded: over the limit the oldest half goes.
type deferrals struct {
	mu      sync.Mutex
	until   map[deferral]time.Time
	limit   int
	forgive time.Duration
}

type deferral struct {
	sender, recipient string
	network           netip.Prefix
}

func newDeferrals() *deferrals {
	return &deferrals{until: make(map[deferral]time.Time), limit: 10_000, forgive: time.Hour}
}

func deferralOf(sender, recipient string, client netip.Addr) deferral {
	bits := 24
	if client.Is6() && !client.Is4In6() {
		bits = 64
	}
	network, _ := client.Unmap().Prefix(bits)
	return deferral{strings.ToLower(sender), strings.ToLower(recipient), network}
}

func (d *deferrals) add(key deferral, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.until) >= d.limit {
		d.shrink(now)
	}
	d.until[key] = now.Add(d.forgive)
}

// shrink drops what has ended, and, if that is not half, what ends first.
func (d *deferrals) shrink(now time.Time) {
	for cutoff := now; len(d.until) > d.limit/2; cutoff = cutoff.Add(d.forgive / 8) {
		for key, until := range d.until {
			if until.Before(cutoff) {
				delete(d.until, key)
			}
		}
		if cutoff.Sub(now) > 2*d.forgive {
			clear(d.until)
		}
	}
}

// take reports whether key is remembered, and forgets it: the recipient is
// answered 451 once for each time it was deferred.
func (d *deferrals) take(key deferral, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.until) == 0 {
		return false
	}
	until, ok := d.until[key]
	if ok {
		delete(d.until, key)
	}
	return ok && now.Before(until)
}
