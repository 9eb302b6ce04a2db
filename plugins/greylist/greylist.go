// Package greylist is the shipped plugin that asks unknown senders to come again
// (RFC 6647): a mail server does, most spam programs do not.
//
// A triplet is the client's network, the sender and the recipient. The first RCPT of a
// triplet is answered 451 until Settings.Delay has passed; who comes back between then
// and Settings.MaxWait is let through, and his network and triplet are remembered for
// Settings.Keep. A network that came back often enough is not asked again at all.
//
// Mail of logged-in users, of trusted hosts and by LMTP is never greylisted, nor are
// clients, senders and recipients of the lists of exceptions, nor with Settings.MinScore
// clients that nothing speaks against so far. State is in the plugin's directory and
// survives restarts; kill -9 may lose the last second of it, which costs a sender another
// wait. Keys are hashes: the state does not tell who wrote to whom.
//
// `sluice plugin tell greylist ...`: stats; release ADDRESS (a client, network or
// sender that may come at once from now on); forget ADDRESS.
//
// Failures: a state file that cannot be opened, or is damaged, keeps the plugin from starting, and the start is tried again; an error
// of the open one is an error answer. on_failure decides (in anti-spam by default: let through).
package greylist

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/sluicemail/sluice/plugins/internal/table"
	"github.com/sluicemail/sluice/sdk"
)

// Settings is [plugin.greylist.config].
type Settings struct {
	Delay            time.Duration `config:"delay"`             // how long a new triplet waits
	MaxWait          time.Duration `config:"max_wait"`          // a retry later than this is a new one
	Keep             time.Duration `config:"keep"`              // how long a triplet that came back is known
	AutoAllow        int           `config:"auto_allow"`        // a network with so many triplets that came back is let through; 0: never
	MinScore         float64       `config:"min_score"`         // only clients with at least so many spam points are asked to wait; 0: all
	Prefix4          int           `config:"prefix4"`           // IPv4 addresses with equal first bits are one client
	Prefix6          int           `config:"prefix6"`           // the same for IPv6
	ExemptClients    []string      `config:"exempt_clients"`    // addresses, networks, and names or ".domain" of verified reverse names
	ExemptSenders    []string      `config:"exempt_senders"`    // addresses or "@domain"
	ExemptRecipients []string      `config:"exempt_recipients"` // addresses or "@domain"
	MaxEntries       int           `config:"max_entries"`       // above it the oldest go, triplets that never came back first
	Text             string        `config:"text"`              // of the reply
}

func defaults() Settings {
	return Settings{
		Delay: 5 * time.Minute, MaxWait: 48 * time.Hour, Keep: 35 * 24 * time.Hour, AutoAllow: 5,
		Prefix4: 24, Prefix6: 64, MaxEntries: 1_000_000, Text: "Greylisted, please try again later",
	}
}

func (s *Settings) check() error {
	var problems []error
	bad := func(key, format string, args ...any) {
		problems = append(problems, &sdk.SettingError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	if s.Delay < time.Second || s.Delay > 12*time.Hour {
		bad("delay", "%s, expected 1s to 12h", s.Delay)
	}
	if s.MaxWait <= s.Delay {
		bad("max_wait", "%s, expected more than delay", s.MaxWait)
	}
	if s.Keep < s.MaxWait {
		bad("keep", "%s, expected at least max_wait", s.Keep)
	}
	if s.AutoAllow < 0 {
		bad("auto_allow", "%d, expected 0 or more", s.AutoAllow)
	}
	if s.Prefix4 < 8 || s.Prefix4 > 32 {
		bad("prefix4", "%d, expected 8 to 32", s.Prefix4)
	}
	if s.Prefix6 < 16 || s.Prefix6 > 128 {
		bad("prefix6", "%d, expected 16 to 128", s.Prefix6)
	}
	if s.MaxEntries < 1000 {
		bad("max_entries", "%d, expected at least 1000", s.MaxEntries)
	}
	return errors.Join(problems...)
}

type plugin struct {
	now      func() time.Time
	settings Settings
	exempt   exceptions
	state    *table.Table
	stop     chan struct{}
	full     chan struct{} // many entries are new: sweep now
	stopped  sync.WaitGroup
	counts   counts
}

// New returns the plugin.
func New() sdk.Plugin {
	return &plugin{now: time.Now, stop: make(chan struct{}), full: make(chan struct{}, 1)}
}

// Describe implements sdk.Plugin. It holds its state file for itself, so there is no overlap.
func (p *plugin) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "greylist", Version: "1", Phases: []sdk.Phase{sdk.PhaseRecipient},
		Events: []sdk.EventKind{sdk.EventCommand}, Want: sdk.WantNone, CheckOnly: true,
	}
}

// Configure implements sdk.Plugin.
func (p *plugin) Configure(_ context.Context, s sdk.Settings) error {
	p.settings = defaults()
	decoding := s.Decode(&p.settings)
	var err error
	p.exempt, err = newExceptions(&p.settings)
	if err = errors.Join(decoding, p.settings.check(), err); err != nil || s.CheckOnly {
		return err
	}
	if p.state, err = table.Open(s.StateDir, "greylist"); err != nil {
		return &sdk.Unready{Err: err}
	}
	p.stopped.Add(1)
	go p.sweeps()
	return nil
}

// Close implements io.Closer: what was seen is on disk when it returns.
func (p *plugin) Close() error {
	if p.state == nil {
		return nil
	}
	close(p.stop)
	p.stopped.Wait()
	return p.state.Close()
}

// Ask implements sdk.Plugin.
func (p *plugin) Ask(_ context.Context, m *sdk.Message) (sdk.Verdict, error) {
	if m.Phase == sdk.PhaseEvent {
		return p.command(m.Event)
	}
	if m.Phase != sdk.PhaseRecipient || m.Origin != sdk.Stranger || len(m.Recipients) == 0 || m.Score < p.settings.MinScore {
		return sdk.Verdict{}, nil
	}
	client, err := netip.ParseAddr(m.ClientAddr)
	if err != nil || client.Unmap().IsLoopback() || p.exempt.holds(m, client) {
		return sdk.Verdict{}, nil
	}
	network := p.network(client)
	if allowed, err := p.allowed(network, m.Sender); err != nil || allowed {
		return sdk.Verdict{}, err
	}
	wait, late, err := p.see(tripletKey(network, m.Sender, m.Recipients[0].Address))
	switch {
	case err != nil:
		return sdk.Verdict{}, err
	case wait > 0:
		p.counts.deferred.Add(1)
		return sdk.Verdict{
			Action:  sdk.Defer,
			Reply:   &sdk.Reply{Code: 451, Enhanced: "4.7.1", Text: p.settings.Text},
			Reasons: []sdk.Reason{{Symbol: "GREYLIST", Text: fmt.Sprintf("a new sender, to be let in after %s more", wait.Round(time.Second))}},
		}, nil
	case late:
		p.counts.passed.Add(1)
		return sdk.Verdict{Reasons: []sdk.Reason{{Symbol: "GREYLIST_PASSED", Text: "the sender came again"}}}, p.cameBack(network)
	}
	return sdk.Verdict{}, nil
}

func (p *plugin) network(client netip.Addr) netip.Prefix {
	client = client.Unmap().WithZone("")
	bits := p.settings.Prefix6
	if client.Is4() {
		bits = p.settings.Prefix4
	}
	network, _ := client.Prefix(bits) // the number of bits was checked
	return network
}

// see takes note of a triplet. wait is how long it still has to wait; first says that it has waited for
// the first time.
func (p *plugin) see(key string) (wait time.Duration, first bool, err error) {
	now := p.now()
	err = p.state.Update(key, func(old []byte) []byte {
		e, known := decode(old)
		switch {
		case !known || p.expired(e, now):
			wait = p.settings.Delay
			p.grown()
			return entry{kind: kindWaiting, first: now, last: now}.encode()
		case e.kind == kindWaiting && e.first.After(now): // the clock went back: nobody waits longer for that
			wait = p.settings.Delay
			return entry{kind: kindWaiting, first: now, last: now}.encode()
		case e.kind == kindWaiting && now.Before(e.first.Add(p.settings.Delay)):
			wait = e.first.Add(p.settings.Delay).Sub(now)
			return old
		}
		first = e.kind == kindWaiting
		return entry{kind: kindPassed, first: e.first, last: now}.encode()
	})
	return wait, first, err
}

// grown asks for a sweep when a flood brings many new triplets between two of them.
func (p *plugin) grown() {
	if p.counts.grown.Add(1) < uint64(p.settings.MaxEntries/4) {
		return
	}
	select {
	case p.full <- struct{}{}:
	default:
	}
}

// cameBack counts a triplet that waited for its network.
func (p *plugin) cameBack(network netip.Prefix) error {
	if p.settings.AutoAllow == 0 {
		return nil
	}
	now := p.now()
	return p.state.Update(networkKey(network), func(old []byte) []byte {
		e, known := decode(old)
		if !known || p.expired(e, now) {
			e = entry{kind: kindNetwork, first: now}
		}
		e.last = now
		e.count++
		return e.encode()
	})
}

// allowed reports whether a network came back often enough, or an administrator released
// it or the sender.
func (p *plugin) allowed(network netip.Prefix, sender string) (bool, error) {
	now := p.now()
	for _, key := range []string{networkKey(network), releasedKey(network.String()), releasedKey(sender), releasedKey(domainOf(sender))} {
		raw, err := p.state.Get(key)
		if err != nil {
			return false, err
		}
		e, known := decode(raw)
		if known && !p.expired(e, now) && (e.kind == kindReleased || p.settings.AutoAllow > 0 && int(e.count) >= p.settings.AutoAllow) {
			return true, nil
		}
	}
	return false, nil
}

func (p *plugin) expired(e entry, now time.Time) bool {
	switch e.kind {
	case kindWaiting:
		return now.After(e.first.Add(p.settings.MaxWait))
	case kindReleased:
		return false
	}
	return now.After(e.last.Add(p.settings.Keep))
}

// The kinds of entry.
const (
	kindWaiting  = 1 // a triplet that has not come back yet
	kindPassed   = 2 // a triplet that has
	kindNetwork  = 3 // a network, with how often it came back
	kindReleased = 4 // by an administrator
)

// entry is a value of the table: kind, count, first and last in seconds.
type entry struct {
	kind        byte
	count       uint32
	first, last time.Time
}

func (e entry) encode() []byte {
	b := binary.BigEndian.AppendUint32([]byte{e.kind}, e.count)
	b = binary.BigEndian.AppendUint64(b, uint64(e.first.Unix()))
	return binary.BigEndian.AppendUint64(b, uint64(e.last.Unix()))
}

// decode reads what encode wrote; what is no entry is unknown.
func decode(b []byte) (entry, bool) {
	if len(b) != 21 {
		return entry{}, false
	}
	at := func(i int) time.Time { return time.Unix(int64(binary.BigEndian.Uint64(b[i:])), 0) }
	return entry{kind: b[0], count: binary.BigEndian.Uint32(b[1:]), first: at(5), last: at(13)}, true
}

func hashed(kind string, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return kind + string(sum[:16])
}

func tripletKey(network netip.Prefix, sender, recipient string) string {
	return hashed("t", network.String(), steady(sender), strings.ToLower(recipient))
}

func networkKey(network netip.Prefix) string { return hashed("n", network.String()) }

func releasedKey(what string) string { return hashed("r", strings.ToLower(what)) }

// steady returns the part of a sender that stays the same when a mailing list or a
// bounce-address scheme writes each mail another one: no digits, no BATV tag
// ("prvs=1234abcdef=user"), no detail after "+".
func steady(sender string) string {
	local, domain := sender, ""
	if at := strings.LastIndexByte(sender, '@'); at >= 0 {
		local, domain = sender[:at], sender[at:]
	}
	if tagged, ok := strings.CutPrefix(local, "prvs="); ok {
		if _, rest, ok := strings.Cut(tagged, "="); ok {
			local = rest
		}
	}
	local, _, _ = strings.Cut(local, "+")
	local = strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return '#'
		}
		return r
	}, local)
	for strings.Contains(local, "##") {
		local = strings.ReplaceAll(local, "##", "#")
	}
	return strings.ToLower(local + domain)
}

func domainOf(address string) string {
	return address[strings.LastIndexByte(address, '@')+1:]
}
