package spamassassin

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/sluicemail/sluice/plugins/internal/dial"
	"github.com/sluicemail/sluice/plugins/internal/plain"
	"github.com/sluicemail/sluice/sdk"
)

// maxHeld bounds a message that is asked about for several users, in octets.
const maxHeld = 8 << 20

// settings is [plugin.NAME.config]; README.md says what each key means.
type settings struct {
	Address      string        `config:"address"`
	User         string        `config:"user"`
	PerRecipient bool          `config:"per_recipient"`
	MaxUsers     int           `config:"max_users"`
	Timeout      time.Duration `config:"timeout"`
	MaxSize      sdk.Octets    `config:"max_size"`
	Scale        float64       `config:"scale"`
	OnSpam       sdk.Action    `config:"on_spam"`
	Learn        bool          `config:"learn"`
	Fields       bool          `config:"fields"`
}

// configure reads the settings; the error joins a *sdk.SettingError for each problem.
func configure(s sdk.Settings) (settings, dial.Address, error) {
	set := settings{Address: "tcp:127.0.0.1:783", MaxUsers: 10, MaxSize: 500 << 10, Scale: 1, OnSpam: sdk.Junk}
	problems := []error{s.Decode(&set)}
	bad := func(key, format string, args ...any) {
		problems = append(problems, &sdk.SettingError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	at, err := dial.Parse("address", set.Address, s.Dir)
	problems = append(problems, err)
	if plain.Value(set.User) != set.User {
		bad("user", "has control characters, or space around it")
	}
	if set.MaxUsers < 1 || set.MaxUsers > 100 {
		bad("max_users", "%d, expected 1 to 100", set.MaxUsers)
	}
	if set.PerRecipient && (set.MaxSize == 0 || set.MaxSize > maxHeld) {
		bad("max_size", "%d with per_recipient, which holds a message in memory; expected 1 to %d", set.MaxSize, maxHeld)
	}
	if set.Timeout < 0 {
		bad("timeout", "%v, expected 0 (the question's time) or more", set.Timeout)
	}
	if !(set.Scale > 0) || math.IsInf(set.Scale, 0) || set.Scale > 1000 {
		bad("scale", "%v, expected more than 0 and at most 1000", set.Scale)
	}
	return set, at, errors.Join(problems...)
}

// user is somebody whose preferences count, and for which recipients.
type user struct {
	name       string
	recipients []string
}

// users returns for whom spamd is asked about a message: at least one, and one alone unless
// per_recipient is set and the recipients are some but not too many.
func (s *settings) users(m *sdk.Message) []user {
	if !s.PerRecipient {
		return []user{{name: s.User}}
	}
	var out []user
	index := make(map[string]int)
	for i := range m.Recipients {
		r := &m.Recipients[i]
		name := r.Address
		if len(r.Accounts) == 1 {
			name = r.Accounts[0]
		}
		at, ok := index[name]
		if !ok {
			if len(out) == s.MaxUsers {
				return []user{{name: s.User}}
			}
			at = len(out)
			index[name] = at
			out = append(out, user{name: name})
		}
		out[at].recipients = append(out[at].recipients, r.Address)
	}
	if len(out) == 0 {
		return []user{{name: s.User}}
	}
	return out
}
