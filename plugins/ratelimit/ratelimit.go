// Package ratelimit is the shipped plugin that bounds how much anybody sends: messages
// and recipients for each account, client address, sender domain and recipient; and
// that holds the mail of an account which looks hijacked.
//
// A limit is a bucket that leaks: N per time means that N may come at once, and then N/time
// one after the other; nothing is added for what was refused, so a sender that keeps to
// the rate is never locked out. Messages are counted at MAIL, recipients at RCPT.
//
// An account looks hijacked when in one Hijack.Per it writes to more recipients, from
// more networks, or has more mail refused or bounced, than its table says. Then it is held:
// its messages go to quarantine, where nothing is lost and nothing goes out, the
// administrator gets an alert, and `sluice plugin tell ratelimit release ACCOUNT` ends it. The hold
// survives restarts.
//
// `sluice plugin tell ratelimit ...`: held; hold ACCOUNT; release ACCOUNT; stats.
//
// State is in the plugin's directory; kill -9 may lose the last second of counting, never a
// hold. A state file that cannot be opened, or is damaged, keeps the plugin from starting, and the start is tried again; an error of the
// open one is an error answer; on_failure decides.
package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemail/sluice/plugins/internal/table"
	"github.com/sluicemail/sluice/sdk"
)

// Limit is how much may come in how long. 0 messages or recipients is no limit.
type Limit struct {
	Messages   int           `config:"messages"`
	Recipients int           `config:"recipients"`
	Per        time.Duration `config:"per"`
}

// Hijack is when an account is held. 0 is never for that cause.
type Hijack struct {
	Recipients int           `config:"recipients"` // written to
	Networks   int           `config:"networks"`   // /16 of IPv4, /32 of IPv6, written from
	Failures   int           `config:"failures"`   // messages refused after their content, or bounced
	Per        time.Duration `config:"per"`        // in which all of these are counted
	Action     sdk.Action    `config:"action"`     // quarantine, defer or reject: what happens to its mail
}

// Settings is [plugin.ratelimit.config].
type Settings struct {
	Account    Limit                     `config:"account"`     // who logged in
	Address    Limit                     `config:"address"`     // client address, or its /64; strangers only
	Domain     Limit                     `config:"domain"`      // domain of MAIL FROM
	Recipient  Limit                     `config:"recipient"`   // one recipient; its messages come from all the world
	Accounts   map[string]map[string]any `config:"accounts"`    // account = limit; what it leaves out is the general one's
	Exempt     []string                  `config:"exempt"`      // addresses and networks of clients, accounts, "@domain" of senders
	Over       sdk.Action                `config:"over"`        // defer or reject
	MaxEntries int                       `config:"max_entries"` // counts that are kept; above it those go that are empty soonest
	Hijack     Hijack                    `config:"hijack"`

	accounts map[string]ownLimit // small letters
}

// ownLimit is an account's.
type ownLimit struct {
	Limit
	recipients bool // Limit.Recipients is its own: who may write to so many doesn't look hijacked by that
}

func defaults() Settings {
	return Settings{
		Account: Limit{Messages: 300, Recipients: 1500, Per: time.Hour},
		Address: Limit{Messages: 1000, Recipients: 5000, Per: time.Hour},
		Domain:  Limit{Per: time.Hour}, Recipient: Limit{Per: time.Hour}, Over: sdk.Defer, MaxEntries: 1_000_000,
		Hijack: Hijack{Recipients: 1000, Networks: 6, Failures: 50, Per: time.Hour, Action: sdk.Quarantine},
	}
}

func (s *Settings) check() error {
	var problems []error
	bad := func(key, format string, args ...any) {
		problems = append(problems, &sdk.SettingError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	limits := map[string]Limit{"account": s.Account, "address": s.Address, "domain": s.Domain, "recipient": s.Recipient}
	problems = append(problems, s.ownLimits(limits))
	for key, l := range limits {
		if l.Messages < 0 || l.Recipients < 0 {
			bad(key, "a negative limit, expected a number above 0, or 0 for none")
		}
		if l.Per < time.Second || l.Per > 31*24*time.Hour {
			bad(key+".per", "%s, expected 1s to 31d", l.Per)
		}
	}
	if s.Over != sdk.Defer && s.Over != sdk.Reject {
		bad("over", "%s, expected defer or reject", s.Over)
	}
	if s.Recipient.Recipients != 0 {
		bad("recipient.recipients", "%d, which limits nothing: a recipient's limit is messages", s.Recipient.Recipients)
	}
	if s.MaxEntries < 1000 {
		bad("max_entries", "%d, expected at least 1000", s.MaxEntries)
	}
	h := s.Hijack
	if h.Recipients < 0 || h.Networks < 0 || h.Failures < 0 {
		bad("hijack", "a negative number, expected one above 0, or 0 for never")
	}
	if h.Networks >= maxNetworks {
		bad("hijack.networks", "%d, expected less than %d", h.Networks, maxNetworks)
	}
	if h.Per < time.Minute || h.Per > 7*24*time.Hour {
		bad("hijack.per", "%s, expected 1m to 7d", h.Per)
	}
	if h.Action != sdk.Quarantine && h.Action != sdk.Defer && h.Action != sdk.Reject {
		bad("hijack.action", "%s, expected quarantine, defer or reject", h.Action)
	}
	return errors.Join(problems...)
}

// ownLimits reads the limits of accounts, each with the general one as its defaults, and puts them among the limits.
func (s *Settings) ownLimits(limits map[string]Limit) error {
	s.accounts = make(map[string]ownLimit, len(s.Accounts))
	var problems []error
	for name, table := range s.Accounts {
		key := "accounts." + name
		own := ownLimit{Limit: s.Account}
		_, own.recipients = table["recipients"]
		err := sdk.Settings{Config: table}.Decode(&own.Limit)
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range many.Unwrap() {
				var setting *sdk.SettingError
				if errors.As(e, &setting) {
					e = &sdk.SettingError{Key: key + "." + setting.Key, Problem: setting.Problem}
				}
				problems = append(problems, e)
			}
		}
		if at := strings.LastIndexByte(name, '@'); at < 1 || at == len(name)-1 {
			problems = append(problems, &sdk.SettingError{Key: key, Problem: fmt.Sprintf("%q is no account, expected an address", name)})
		}
		if _, twice := s.accounts[strings.ToLower(name)]; twice {
			problems = append(problems, &sdk.SettingError{Key: key, Problem: fmt.Sprintf("%q is there twice", strings.ToLower(name))})
		}
		s.accounts[strings.ToLower(name)] = own
		limits[key] = own.Limit
	}
	return errors.Join(problems...)
}

type plugin struct {
	now      func() time.Time
	settings Settings
	exempt   exemptions
	buckets  *table.Table
	accounts *table.Table
	counting sync.Mutex    // looking whether there is room and taking it are one
	fresh    atomic.Int64  // buckets made since the last sweep
	crowded  chan struct{} // they are many: sweep now
	stop     chan struct{}
	stopped  sync.WaitGroup
}

// New returns the plugin.
func New() sdk.Plugin {
	return &plugin{now: time.Now, stop: make(chan struct{}), crowded: make(chan struct{}, 1)}
}

// Describe implements sdk.Plugin. It holds its state files for itself, so there is no overlap.
func (p *plugin) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "ratelimit", Version: "1", Want: sdk.WantNone,
		Phases: []sdk.Phase{sdk.PhaseSender, sdk.PhaseRecipient, sdk.PhaseContent},
		Events: []sdk.EventKind{sdk.EventRefused, sdk.EventBounced, sdk.EventCommand}, CheckOnly: true,
	}
}

// Configure implements sdk.Plugin.
func (p *plugin) Configure(_ context.Context, s sdk.Settings) error {
	p.settings = defaults()
	decoding := s.Decode(&p.settings)
	var err error
	p.exempt, err = newExemptions(p.settings.Exempt)
	if err = errors.Join(decoding, p.settings.check(), err); err != nil || s.CheckOnly {
		return err
	}
	if p.buckets, err = table.Open(s.StateDir, "buckets"); err != nil {
		return &sdk.Unready{Err: err}
	}
	if p.accounts, err = table.Open(s.StateDir, "accounts"); err != nil {
		return &sdk.Unready{Err: errors.Join(err, p.buckets.Close())}
	}
	p.stopped.Add(1)
	go p.sweeps()
	return nil
}

// Close implements io.Closer.
func (p *plugin) Close() error {
	if p.accounts == nil {
		return nil
	}
	close(p.stop)
	p.stopped.Wait()
	return errors.Join(p.buckets.Close(), p.accounts.Close())
}

// Ask implements sdk.Plugin.
func (p *plugin) Ask(_ context.Context, m *sdk.Message) (sdk.Verdict, error) {
	if m.Phase == sdk.PhaseEvent {
		return p.event(m)
	}
	if m.Phase == sdk.PhaseContent && m.Origin != sdk.Generated {
		return p.content(m) // a hold by hand is for accounts that are not counted, too
	}
	if m.Origin == sdk.Generated || p.exempt.holds(m) {
		return sdk.Verdict{}, nil
	}
	switch m.Phase {
	case sdk.PhaseSender:
		return p.sender(m)
	case sdk.PhaseRecipient:
		return p.recipient(m)
	}
	return sdk.Verdict{}, nil
}

// sender counts a message.
func (p *plugin) sender(m *sdk.Message) (sdk.Verdict, error) {
	if m.Login != "" {
		if err := p.seen(m); err != nil {
			return sdk.Verdict{}, err
		}
	}
	return p.count("messages", p.counted(m, func(l Limit) int { return l.Messages }))
}

// recipient counts a recipient.
func (p *plugin) recipient(m *sdk.Message) (sdk.Verdict, error) {
	if len(m.Recipients) == 0 {
		return sdk.Verdict{}, nil
	}
	list := p.counted(m, func(l Limit) int { return l.Recipients })
	to := m.Recipients[0].Address
	if accounts := m.Recipients[0].Accounts; len(accounts) == 1 { // whatever stands after "+", or before a catch-all's domain
		to = accounts[0]
	}
	list = append(list, counted{"recipient", strings.ToLower(to), p.settings.Recipient.Messages, p.settings.Recipient.Per})
	v, err := p.count("recipients", list)
	if err != nil || v.Action != sdk.Accept || m.Login == "" {
		return v, err
	}
	return v, p.wroteTo(m.Login)
}

// counted is one bucket that a question goes into.
type counted struct {
	kind, who string
	limit     int
	per       time.Duration
}

func (p *plugin) counted(m *sdk.Message, limit func(Limit) int) []counted {
	s := &p.settings
	var list []counted
	if m.Login != "" {
		login := strings.ToLower(m.Login)
		l := s.Account
		if own, ok := s.accounts[login]; ok {
			l = own.Limit
		}
		list = append(list, counted{"account", login, limit(l), l.Per})
	}
	if client, err := netip.ParseAddr(m.ClientAddr); err == nil && m.Origin == sdk.Stranger {
		list = append(list, counted{"address", network(client, 32, 64).String(), limit(s.Address), s.Address.Per})
	}
	if domain, ok := domainOf(m.Sender); ok {
		list = append(list, counted{"domain", domain, limit(s.Domain), s.Domain.Per})
	}
	return list
}

// network returns the network of that many bits in which the address is.
func network(a netip.Addr, bits4, bits6 int) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := bits6
	if a.Is4() {
		bits = bits4
	}
	n, _ := a.Prefix(bits) // both are valid
	return n
}

// count puts one into each bucket, unless one of them is full: then into none.
func (p *plugin) count(what string, list []counted) (sdk.Verdict, error) {
	p.counting.Lock()
	defer p.counting.Unlock()
	for _, c := range list {
		full, err := p.full(what, c)
		if err != nil {
			return sdk.Verdict{}, err
		}
		if full {
			return p.over(what, c), nil
		}
	}
	for _, c := range list {
		if err := p.add(what, c); err != nil {
			return sdk.Verdict{}, err
		}
	}
	return sdk.Verdict{}, nil
}

func (p *plugin) over(what string, c counted) sdk.Verdict {
	v := sdk.Verdict{
		Action: p.settings.Over,
		Reply:  &sdk.Reply{Code: 451, Enhanced: "4.7.1", Text: "Too many " + what + ", please try again later"},
		Reasons: []sdk.Reason{{
			Symbol: "RATELIMIT_" + strings.ToUpper(c.kind),
			Text:   fmt.Sprintf("more than %d %s in %s for %s %s", c.limit, what, c.per, c.kind, c.who),
		}},
	}
	if v.Action == sdk.Reject {
		v.Reply.Code, v.Reply.Enhanced, v.Reply.Text = 550, "5.7.1", "Too many "+what
	}
	return v
}

// content holds the mail of a held account.
func (p *plugin) content(m *sdk.Message) (sdk.Verdict, error) {
	if m.Login == "" {
		return sdk.Verdict{}, nil
	}
	a, err := p.account(m.Login)
	if err != nil || !a.Held {
		return sdk.Verdict{}, err
	}
	v := sdk.Verdict{
		Action:  p.settings.Hijack.Action,
		Reasons: []sdk.Reason{{Symbol: "RATELIMIT_HELD", Text: "the account is held: " + a.Why}},
		Alerts: []sdk.Alert{{
			Key: "account " + strings.ToLower(m.Login),
			Text: fmt.Sprintf("The account %s looks hijacked: %s. Its mail is held (%s) since %s. Change its password, look at what it sent, then: sluice plugin tell ratelimit release %s",
				m.Login, a.Why, p.settings.Hijack.Action, a.Since.UTC().Format(time.RFC3339), m.Login),
		}},
	}
	switch v.Action {
	case sdk.Defer:
		v.Reply = &sdk.Reply{Code: 451, Enhanced: "4.7.1", Text: "This account is held, please ask your administrator"}
	case sdk.Reject:
		v.Reply = &sdk.Reply{Code: 550, Enhanced: "5.7.1", Text: "This account is held, please ask your administrator"}
	}
	return v, nil
}
