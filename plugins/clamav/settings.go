package clamav

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sluicemail/sluice/plugins/internal/dial"
	"github.com/sluicemail/sluice/plugins/internal/plain"
	"github.com/sluicemail/sluice/sdk"
)

// Settings is [plugin.clamav.config].
type Settings struct {
	Address     string                `config:"address"`      // "unix:/path" or "tcp:host:port"
	Connections int                   `config:"connections"`  // to clamd at a time; its MaxThreads is the sense of it
	MaxSize     sdk.Octets            `config:"max_size"`     // not more than clamd's StreamMaxLength
	Larger      string                `config:"larger"`       // what happens to larger messages: first, skip or fail
	Actions     map[string]sdk.Action `config:"actions"`      // prefix of a name = action, in place of on_infected
	DatabaseAge time.Duration         `config:"database_age"` // older ones are told to the administrator; 0: never
}

// The values of Settings.Larger.
const (
	largerFirst = "first" // send the first MaxSize octets
	largerSkip  = "skip"  // do not scan, and say so
	largerFail  = "fail"  // on_failure decides
)

func defaults() Settings {
	return Settings{
		Address: "unix:/run/clamav/clamd.ctl", Connections: 10, MaxSize: 25 << 20, Larger: largerFirst,
		Actions:     map[string]sdk.Action{"Heuristics.Limits.Exceeded": sdk.Quarantine, "Heuristics.Encrypted": sdk.Quarantine, "PUA.": sdk.Quarantine},
		DatabaseAge: 7 * 24 * time.Hour,
	}
}

func (s *Settings) check() error {
	var problems []error
	bad := func(key, format string, args ...any) {
		problems = append(problems, &sdk.SettingError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	if s.Connections < 1 || s.Connections > 1000 {
		bad("connections", "%d, expected 1 to 1000", s.Connections)
	}
	if s.MaxSize < 1<<10 {
		bad("max_size", "%d, expected at least 1KB", s.MaxSize)
	}
	if s.Larger != largerFirst && s.Larger != largerSkip && s.Larger != largerFail {
		bad("larger", "%q, expected first, skip or fail", s.Larger)
	}
	for prefix := range s.Actions {
		if prefix == "" {
			bad("actions", "an empty name, expected how a name begins, such as \"PUA.\"")
		}
	}
	if s.DatabaseAge < 0 {
		bad("database_age", "%s, expected 0 or more", s.DatabaseAge)
	}
	return errors.Join(problems...)
}

// actionFor returns the action of the longest prefix of a name that is listed.
func (s *Settings) actionFor(virus string) (action sdk.Action, ok bool) {
	longest := -1
	for prefix, a := range s.Actions {
		if len(prefix) > longest && strings.HasPrefix(virus, prefix) {
			longest, action, ok = len(prefix), a, true
		}
	}
	return action, ok
}

// askAge is how often clamd is asked for its database's age.
const askAge = 10 * time.Minute

// databaseAlert returns an alert if the database is too old; it asks clamd now and then.
func (p *plugin) databaseAlert(ctx context.Context) *sdk.Alert {
	if p.settings.DatabaseAge == 0 {
		return nil
	}
	p.mu.Lock()
	now := p.now()
	if now.Sub(p.asked) < askAge {
		defer p.mu.Unlock()
		return p.alert
	}
	p.asked = now
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	line, err := p.version(ctx)
	if err != nil {
		return nil // the scan that just went well is what counts
	}
	made, ok := databaseTime(line)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alert = nil
	if ok && now.Sub(made) > p.settings.DatabaseAge {
		p.alert = &sdk.Alert{
			Key:  "database",
			Text: fmt.Sprintf("ClamAV's database is of %s, older than %s: it does not know newer viruses (is freshclam running?)", made.Format("2006-01-02"), p.settings.DatabaseAge),
		}
	}
	return p.alert
}

// version asks clamd for its version and that of its database.
func (p *plugin) version(ctx context.Context) (line string, err error) {
	err = p.pool.Do(ctx, nil, func(c *dial.Conn) error {
		if _, err := io.WriteString(c, "zVERSION\x00"); err != nil {
			return fmt.Errorf("send to clamd: %w", err)
		}
		line, err = readAnswer(c)
		return err
	})
	return plain.Line(line, 200), err
}

// databaseTime reads "ClamAV 1.4.6/27800/Fri Nov 21 09:30:00 2026"; without a database of its own
// makers the last two are missing.
func databaseTime(line string) (time.Time, bool) {
	parts := strings.SplitN(line, "/", 3)
	if len(parts) != 3 {
		return time.Time{}, false
	}
	made, err := time.Parse(time.ANSIC, strings.TrimSpace(parts[2]))
	return made, err == nil
}

// command answers `sluice plugin tell clamav version`.
func (p *plugin) command(ctx context.Context, e *sdk.Event) (sdk.Verdict, error) {
	say := func(text string) sdk.Verdict {
		return sdk.Verdict{Reasons: []sdk.Reason{{Symbol: "CLAMAV", Text: text}}}
	}
	if e == nil || len(e.Words) != 1 || e.Words[0] != "version" {
		return say("expected: version"), nil
	}
	line, err := p.version(ctx)
	if err != nil {
		return sdk.Verdict{}, err
	}
	return say(line), nil
}
