package ratelimit

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// maxNetworks is how many networks of an account are remembered.
const maxNetworks = 32

// account is what is known about one account.
type account struct {
	Name       string               `json:"name"`
	Held       bool                 `json:"held,omitempty"`
	Since      time.Time            `json:"since,omitzero"`
	Why        string               `json:"why,omitempty"`
	Recipients window               `json:"recipients"`
	Failures   window               `json:"failures"`
	Networks   map[string]time.Time `json:"networks,omitempty"` // when each was last seen
}

// window counts what happened in two halves of a time that follow each other, so that what
// is older than the time counts for nothing and no list of moments is kept.
type window struct {
	Start   time.Time `json:"start,omitzero"` // of the newer half
	Older   int       `json:"older,omitempty"`
	Newer   int       `json:"newer,omitempty"`
	Updated time.Time `json:"updated,omitzero"`
}

// add counts one and returns how many there were in the last per.
func (w *window) add(now time.Time, per time.Duration) int {
	half := per / 2
	switch {
	case now.Sub(w.Start) >= per || now.Before(w.Start):
		*w = window{Start: now}
	case now.Sub(w.Start) >= half:
		w.Start, w.Older, w.Newer = w.Start.Add(half), w.Newer, 0
	}
	w.Newer++
	w.Updated = now
	return w.Older + w.Newer
}

func readAccount(raw []byte) account {
	var a account
	if json.Unmarshal(raw, &a) != nil {
		return account{}
	}
	return a
}

// last is when the account was last heard of.
func (a *account) last() time.Time {
	last := a.Recipients.Updated
	if a.Failures.Updated.After(last) {
		last = a.Failures.Updated
	}
	for _, at := range a.Networks {
		if at.After(last) {
			last = at
		}
	}
	return last
}

func (p *plugin) account(name string) (account, error) {
	raw, err := p.accounts.Get(strings.ToLower(name))
	return readAccount(raw), err
}

// change lets do change an account, and makes a new hold durable at once.
func (p *plugin) change(name string, do func(*account)) (account, error) {
	var a account
	was := false
	err := p.accounts.Update(strings.ToLower(name), func(old []byte) []byte {
		a = readAccount(old)
		a.Name, was = strings.ToLower(name), a.Held
		do(&a)
		raw, err := json.Marshal(&a)
		if err != nil { // it holds nothing that JSON cannot
			return old
		}
		return raw
	})
	if err == nil && a.Held != was {
		err = p.accounts.Sync()
	}
	return a, err
}

func (a *account) hold(now time.Time, format string, args ...any) {
	if !a.Held {
		a.Held, a.Since, a.Why = true, now, fmt.Sprintf(format, args...)
	}
}

// seen notes from where an account sends.
func (p *plugin) seen(m *sdk.Message) error {
	limit := p.settings.Hijack.Networks
	client, err := netip.ParseAddr(m.ClientAddr)
	if limit == 0 || err != nil {
		return nil
	}
	now, from := p.now(), network(client, 16, 32).String()
	_, err = p.change(m.Login, func(a *account) {
		for n, at := range a.Networks {
			if now.Sub(at) > p.settings.Hijack.Per || at.Sub(now) > time.Minute { // the clock went back
				delete(a.Networks, n)
			}
		}
		if a.Networks == nil {
			a.Networks = make(map[string]time.Time)
		}
		if _, known := a.Networks[from]; known || len(a.Networks) < maxNetworks {
			a.Networks[from] = now
		}
		if len(a.Networks) > limit {
			a.hold(now, "it sent from %d networks within %s", len(a.Networks), p.settings.Hijack.Per)
		}
	})
	return err
}

// wroteTo counts a recipient of an account.
func (p *plugin) wroteTo(login string) error {
	limit := p.settings.Hijack.Recipients
	if limit == 0 || p.settings.accounts[strings.ToLower(login)].recipients {
		return nil
	}
	_, err := p.change(login, func(a *account) {
		if n := a.Recipients.add(p.now(), p.settings.Hijack.Per); n > limit {
			a.hold(p.now(), "it wrote to %d recipients within %s", n, p.settings.Hijack.Per)
		}
	})
	return err
}

// failed counts a message of an account that was refused or bounced.
func (p *plugin) failed(login string) error {
	limit := p.settings.Hijack.Failures
	if limit == 0 {
		return nil
	}
	_, err := p.change(login, func(a *account) {
		if n := a.Failures.add(p.now(), p.settings.Hijack.Per); n > limit {
			a.hold(p.now(), "%d of its messages were refused or bounced within %s", n, p.settings.Hijack.Per)
		}
	})
	return err
}

const usage = "expected: held | stats | hold ACCOUNT | release ACCOUNT"

// event takes note of failures, and does what an administrator wants.
func (p *plugin) event(m *sdk.Message) (sdk.Verdict, error) {
	switch e := m.Event; {
	case e == nil:
		return sdk.Verdict{}, nil
	case e.Kind == sdk.EventRefused || e.Kind == sdk.EventBounced:
		if m.Login == "" || p.exempt.holds(m) {
			return sdk.Verdict{}, nil
		}
		return sdk.Verdict{}, p.failed(m.Login)
	case e.Kind == sdk.EventCommand:
		return p.command(e.Words)
	}
	return sdk.Verdict{}, nil
}

func say(lines ...string) sdk.Verdict {
	var v sdk.Verdict
	for _, line := range lines {
		v.Reasons = append(v.Reasons, sdk.Reason{Symbol: "RATELIMIT", Text: line})
	}
	return v
}

func (p *plugin) command(words []string) (sdk.Verdict, error) {
	switch {
	case slices.Equal(words, []string{"held"}):
		return p.held()
	case slices.Equal(words, []string{"stats"}):
		return p.stats()
	case len(words) == 2 && words[0] == "hold":
		if !strings.Contains(words[1], "@") {
			return say(usage + "; an ACCOUNT is an address"), nil
		}
		a, err := p.change(words[1], func(a *account) { a.hold(p.now(), "an administrator holds it") })
		return say(fmt.Sprintf("%s is held: %s", a.Name, a.Why)), err
	case len(words) == 2 && words[0] == "release":
		was := false
		a, err := p.change(words[1], func(a *account) {
			was = a.Held
			*a = account{Name: a.Name} // what made it look hijacked does not do so again
		})
		if err == nil && !was {
			return say(a.Name + " was not held"), nil
		}
		return say(a.Name + " is released; what was held stays in quarantine until it is released there"), err
	}
	return say(usage), nil
}

// maxListed is how many held accounts are shown.
const maxListed = 400

func (p *plugin) held() (sdk.Verdict, error) {
	var lines []string
	err := p.accounts.Each(func(_ string, raw []byte) bool {
		if a := readAccount(raw); a.Held {
			lines = append(lines, fmt.Sprintf("%s since %s: %s", a.Name, a.Since.UTC().Format(time.RFC3339), a.Why))
		}
		return len(lines) < maxListed
	})
	if len(lines) == 0 {
		lines = []string{"no account is held"}
	}
	return say(lines...), err
}

func (p *plugin) stats() (sdk.Verdict, error) {
	buckets, accounts := 0, 0
	err := p.buckets.Each(func(string, []byte) bool { buckets++; return true })
	if err == nil {
		err = p.accounts.Each(func(string, []byte) bool { accounts++; return true })
	}
	return say(fmt.Sprintf("%d counts, %d accounts seen lately", buckets, accounts)), err
}
