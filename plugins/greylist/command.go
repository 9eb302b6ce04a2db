package greylist

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sluicemail/sluice/plugins/internal/table"
	"github.com/sluicemail/sluice/sdk"
)

// counts are since the start.
type counts struct {
	deferred, passed atomic.Uint64
	grown            atomic.Uint64 // new triplets since the last sweep
}

const usage = "expected: stats | release CLIENT-ADDRESS|NETWORK|SENDER|DOMAIN | forget CLIENT-ADDRESS|NETWORK|SENDER|DOMAIN"

// command does what an administrator wants (`sluice plugin tell greylist WORD...`).
func (p *plugin) command(e *sdk.Event) (sdk.Verdict, error) {
	if e == nil || e.Kind != sdk.EventCommand || len(e.Words) == 0 {
		return say(usage), nil
	}
	switch words := e.Words; {
	case words[0] == "stats" && len(words) == 1:
		return p.stats()
	case words[0] == "release" && len(words) == 2:
		return p.release(words[1])
	case words[0] == "forget" && len(words) == 2:
		return p.forget(words[1])
	}
	return say(usage), nil
}

func say(lines ...string) sdk.Verdict {
	var v sdk.Verdict
	for _, line := range lines {
		v.Reasons = append(v.Reasons, sdk.Reason{Symbol: "GREYLIST", Text: line})
	}
	return v
}

func (p *plugin) stats() (sdk.Verdict, error) {
	var n [kindReleased + 1]int
	err := p.state.Each(func(_ string, value []byte) bool {
		if e, ok := decode(value); ok && int(e.kind) < len(n) {
			n[e.kind]++
		}
		return true
	})
	if err != nil {
		return sdk.Verdict{}, err
	}
	return say(
		fmt.Sprintf("%d waiting, %d came again, %d networks known, %d released by hand", n[kindWaiting], n[kindPassed], n[kindNetwork], n[kindReleased]),
		fmt.Sprintf("since the start: %d asked to wait, %d came again", p.counts.deferred.Load(), p.counts.passed.Load()),
	), nil
}

// target returns the key of what was named, and how it reads. A network wider than what counts as one
// client has no key.
func (p *plugin) target(word string) (key, name string, err error) {
	if address, err := netip.ParseAddr(word); err == nil {
		name = p.network(address).String()
		return releasedKey(name), name, nil
	}
	if network, err := netip.ParsePrefix(word); err == nil {
		own := p.network(network.Addr())
		if network.Bits() < own.Bits() {
			return "", "", fmt.Errorf("%s is wider than a client's network here, /%d: name it in exempt_clients", network, own.Bits())
		}
		return releasedKey(own.String()), own.String(), nil
	}
	name = strings.ToLower(strings.TrimPrefix(word, "@"))
	if name == "" { // the null sender's key
		return "", "", errors.New(usage)
	}
	return releasedKey(name), name, nil
}

func (p *plugin) release(word string) (sdk.Verdict, error) {
	key, name, err := p.target(word)
	if err != nil {
		return say(err.Error()), nil
	}
	now := p.now()
	if err := p.state.Update(key, func([]byte) []byte { return entry{kind: kindReleased, first: now, last: now}.encode() }); err != nil {
		return sdk.Verdict{}, err
	}
	if err := p.state.Sync(); err != nil { // the administrator is told when it is on disk
		return sdk.Verdict{}, err
	}
	return say(name + " does not wait any more"), nil
}

func (p *plugin) forget(word string) (sdk.Verdict, error) {
	key, name, err := p.target(word)
	if err != nil {
		return say(err.Error()), nil
	}
	known := false
	for _, k := range []string{key, p.networkKeyOf(word)} {
		if k == "" {
			continue
		}
		if err := p.state.Update(k, func(old []byte) []byte { known = known || old != nil; return nil }); err != nil {
			return sdk.Verdict{}, err
		}
	}
	if err := p.state.Sync(); err != nil {
		return sdk.Verdict{}, err
	}
	if !known {
		return say(name + " was not known"), nil
	}
	return say(name + " is forgotten: new senders of it wait again"), nil
}

func (p *plugin) networkKeyOf(word string) string {
	if network, err := parseNetwork(word); err == nil {
		return networkKey(p.network(network.Addr()))
	}
	return ""
}

// sweepEvery is how often what has expired is removed.
const sweepEvery = 10 * time.Minute

func (p *plugin) sweeps() {
	defer p.stopped.Done()
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			p.sweep()
		case <-p.full:
			p.sweep()
		case <-p.stop:
			return
		}
	}
}

// sweep removes what has expired. If too much is left, triplets that wait go earlier, in
// halves of their time, and then those that came back, which are worth more.
func (p *plugin) sweep() {
	p.counts.grown.Store(0)
	now := p.now()
	left, err := p.state.Sweep(p.stop, func(value []byte) bool {
		e, ok := decode(value)
		return !ok || p.expired(e, now)
	})
	for wait := p.settings.MaxWait / 2; err == nil && left > p.settings.MaxEntries && wait > time.Minute; wait /= 2 {
		left, err = p.state.Sweep(p.stop, func(value []byte) bool {
			e, ok := decode(value)
			return !ok || e.kind == kindWaiting && now.After(e.first.Add(wait))
		})
	}
	for keep := p.settings.Keep / 2; err == nil && left > p.settings.MaxEntries && keep > time.Minute; keep /= 2 {
		left, err = p.state.Sweep(p.stop, func(value []byte) bool {
			e, ok := decode(value)
			return !ok || e.kind != kindReleased && now.After(e.last.Add(keep))
		})
	}
	if err != nil && !errors.Is(err, table.ErrStopped) {
		fmt.Printf("sweep of the greylist failed: %v\n", err)
	}
}
