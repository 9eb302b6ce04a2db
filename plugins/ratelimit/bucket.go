package ratelimit

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/sluicemail/sluice/plugins/internal/table"
	"github.com/sluicemail/sluice/sdk"
)

// A bucket's value is its level and when that was, and when it will be empty (to know
// what can go): a float64 and two times in nanoseconds.

func bucketKey(what string, c counted) string {
	sum := sha256.Sum256([]byte(what + "\x00" + c.kind + "\x00" + c.who))
	return string(sum[:16])
}

// level returns how much is in a bucket now.
func level(raw []byte, c counted, now time.Time) float64 {
	if len(raw) != 24 {
		return 0
	}
	was := math.Float64frombits(binary.BigEndian.Uint64(raw))
	at := time.Unix(0, int64(binary.BigEndian.Uint64(raw[8:])))
	leaked := float64(now.Sub(at)) / float64(c.per) * float64(c.limit)
	if leaked < 0 { // the clock went back
		leaked = 0
	}
	if math.IsNaN(was) || was < leaked {
		return 0
	}
	return min(was-leaked, float64(c.limit))
}

// full reports whether one more is too much. When the clock went back, the bucket leaks from now on: it is not
// full until the clock has caught up.
func (p *plugin) full(what string, c counted) (bool, error) {
	if c.limit == 0 {
		return false, nil
	}
	now, key := p.now(), bucketKey(what, c)
	raw, err := p.buckets.Get(key)
	if err == nil && len(raw) == 24 && int64(binary.BigEndian.Uint64(raw[8:])) > now.UnixNano() {
		err = p.buckets.Update(key, func(old []byte) []byte { return bucket(level(old, c, now), c, now) })
	}
	return err == nil && level(raw, c, now)+1 > float64(c.limit)+1e-6, err
}

func (p *plugin) add(what string, c counted) error {
	if c.limit == 0 {
		return nil
	}
	now := p.now()
	return p.buckets.Update(bucketKey(what, c), func(old []byte) []byte {
		if old == nil {
			p.grown()
		}
		return bucket(level(old, c, now)+1, c, now)
	})
}

// bucket is the value of a bucket with that level.
func bucket(level float64, c counted, now time.Time) []byte {
	empty := now.Add(time.Duration(level / float64(c.limit) * float64(c.per)))
	b := binary.BigEndian.AppendUint64(nil, math.Float64bits(level))
	b = binary.BigEndian.AppendUint64(b, uint64(now.UnixNano()))
	return binary.BigEndian.AppendUint64(b, uint64(empty.UnixNano()))
}

// grown asks for a sweep when a flood brings many new buckets between two of them.
func (p *plugin) grown() {
	if p.fresh.Add(1) < int64(p.settings.MaxEntries/4) {
		return
	}
	select {
	case p.crowded <- struct{}{}:
	default:
	}
}

// sweepEvery is how often empty buckets are removed.
const sweepEvery = 10 * time.Minute

func (p *plugin) sweeps() {
	defer p.stopped.Done()
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			p.sweep()
		case <-p.crowded:
			p.sweep()
		case <-p.stop:
			return
		}
	}
}

// sweep removes buckets that are empty, and accounts that nothing was heard of. If too many buckets are
// left, those go that are empty soonest.
func (p *plugin) sweep() {
	p.fresh.Store(0)
	now := p.now()
	emptyAt := func(at time.Time) func(raw []byte) bool {
		return func(raw []byte) bool {
			return len(raw) != 24 || at.UnixNano() > int64(binary.BigEndian.Uint64(raw[16:]))
		}
	}
	left, err := p.buckets.Sweep(p.stop, emptyAt(now))
	for ahead := time.Second; err == nil && left > p.settings.MaxEntries && ahead < 62*24*time.Hour; ahead *= 4 {
		left, err = p.buckets.Sweep(p.stop, emptyAt(now.Add(ahead)))
	}
	if err == nil {
		_, err = p.accounts.Sweep(p.stop, func(raw []byte) bool {
			a := readAccount(raw)
			return !a.Held && now.Sub(a.last()) > p.settings.Hijack.Per
		})
	}
	if err != nil && !errors.Is(err, table.ErrStopped) {
		fmt.Printf("sweep of the counts failed: %v\n", err)
	}
}

// exemptions are who is not counted.
type exemptions struct {
	networks []netip.Prefix
	accounts map[string]bool
	domains  map[string]bool
}

func newExemptions(list []string) (exemptions, error) {
	e := exemptions{accounts: make(map[string]bool), domains: make(map[string]bool)}
	var problems []error
	for i, word := range list {
		word = strings.ToLower(word)
		if a, err := netip.ParseAddr(word); err == nil {
			e.networks = append(e.networks, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
			continue
		}
		if n, err := netip.ParsePrefix(word); err == nil {
			e.networks = append(e.networks, n.Masked())
			continue
		}
		local, domain, ok := strings.Cut(word, "@")
		switch {
		case !ok || domain == "":
			problems = append(problems, &sdk.SettingError{
				Key: fmt.Sprintf("exempt[%d]", i+1), Problem: fmt.Sprintf("%q, expected an address, a network, an account or \"@domain\"", word),
			})
		case local == "":
			e.domains[domain] = true
		default:
			e.accounts[word] = true
		}
	}
	return e, errors.Join(problems...)
}

// holds reports whether a question is about somebody who is not counted. A stranger's
// sender proves nothing, so domains count for logins and trusted hosts alone.
func (e *exemptions) holds(m *sdk.Message) bool {
	if client, err := netip.ParseAddr(m.ClientAddr); err == nil {
		for _, n := range e.networks {
			if n.Contains(client.Unmap()) {
				return true
			}
		}
	}
	if m.Login != "" && e.accounts[strings.ToLower(m.Login)] {
		return true
	}
	domain, ok := domainOf(m.Sender)
	return ok && m.Origin != sdk.Stranger && e.domains[domain]
}

// domainOf returns what stands after the last "@", which a quoted local part may hold too.
func domainOf(address string) (string, bool) {
	at := strings.LastIndexByte(address, '@')
	return strings.ToLower(strings.TrimSuffix(address[at+1:], ".")), at >= 0
}
