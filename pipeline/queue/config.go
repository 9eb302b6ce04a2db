package queue

import (
	"errors"
	"fmt"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/units"
)

// Config is [pipeline.NAME.queue].
type Config struct {
	Retry       units.Duration `toml:"retry" doc:"wait before the second attempt; each further wait is 1.5 times as long, within 10%"`
	RetryMax    units.Duration `toml:"retry_max" doc:"longest wait between two attempts"`
	WarnAfter   units.Duration `toml:"warn_after" doc:"tell the sender that the message is late; 0 is off"`
	GiveUpAfter units.Duration `toml:"give_up_after" doc:"tell the sender that the message failed, and stop trying"`
	Connections int            `toml:"connections" doc:"most connections at once to one next hop"`
	Rate        Rate           `toml:"rate" doc:"most messages to one next hop, such as \"100/m\" (s, m, h or d); \"\" is no limit"`
}

// DefaultConfig returns the defaults of DESIGN section 6.
func DefaultConfig() Config {
	return Config{
		Retry: units.Of(15 * time.Minute), RetryMax: units.Of(2 * time.Hour),
		WarnAfter: units.Of(4 * time.Hour), GiveUpAfter: units.Of(5 * 24 * time.Hour), Connections: 20,
	}
}

// Destination is what [destination."example.net"] says in place of the pipeline's Config; the zero value
// changes nothing.
type Destination struct {
	Connections int            `toml:"connections" doc:"most connections at once to its next hop; 0: as in [pipeline.X.queue]"`
	Rate        Rate           `toml:"rate" doc:"most messages to its next hop, such as \"100/m\" (s, m, h or d)"`
	Retry       units.Duration `toml:"retry" doc:"wait before the second attempt; 0: as in [pipeline.X.queue]"`
	RetryMax    units.Duration `toml:"retry_max" doc:"longest wait between two attempts; 0: as in [pipeline.X.queue]"`
	WarnAfter   units.Duration `toml:"warn_after" doc:"tell the sender that the message is late; 0: as in [pipeline.X.queue]"`
	GiveUpAfter units.Duration `toml:"give_up_after" doc:"stop trying; 0: as in [pipeline.X.queue]"`
	Windows     []string       `toml:"windows" doc:"hours of the server's clock in which it may be tried, such as [\"22:00-06:00\"]; empty: always"`
}

// Limits are [queue]: what all pipelines share.
type Limits struct {
	Connections int `toml:"connections" doc:"most connections to other servers at once"`
	Memory      int `toml:"memory" doc:"most recipients on their way to other servers that are held in memory; the others wait on disk"`

	SuppressAfter int            `toml:"suppress_after" doc:"after so many messages to which a server answered that there is no such user, nothing is sent to that address any more; 0 is off"`
	SuppressFor   units.Duration `toml:"suppress_for" doc:"how long; sluice suppress shows and changes the list"`
}

// DefaultLimits returns the defaults.
func DefaultLimits() Limits {
	return Limits{Connections: 500, Memory: 50_000, SuppressAfter: 2, SuppressFor: units.Of(30 * 24 * time.Hour)}
}

// problems collects what is wrong with a table.
type problems []error

func (p *problems) bad(key, format string, args ...any) {
	*p = append(*p, &pipeline.FieldError{Key: key, Problem: fmt.Sprintf(format, args...)})
}

// Validate reports times that can't be kept.
func (c *Config) Validate() error {
	var p problems
	if c.Retry.Std() < time.Second {
		p.bad("retry", "%s is too short, expected at least 1s", c.Retry)
	}
	if c.RetryMax.Std() < c.Retry.Std() {
		p.bad("retry_max", "%s is shorter than retry = %s", c.RetryMax, c.Retry)
	}
	if c.WarnAfter.Std() < 0 {
		p.bad("warn_after", "is negative, expected a duration, or 0 for off")
	}
	if c.GiveUpAfter.Std() < time.Minute {
		p.bad("give_up_after", "%s is too short, expected at least 1m", c.GiveUpAfter)
	}
	if c.Connections < 1 || c.Connections > 10_000 {
		p.bad("connections", "is %d, expected 1 to 10000", c.Connections)
	}
	p.rate(c.Rate)
	return errors.Join(p...)
}

// Validate reports what can't be kept.
func (d *Destination) Validate() error {
	var p problems
	if d.Connections < 0 || d.Connections > 10_000 {
		p.bad("connections", "is %d, expected 1 to 10000, or 0 for that of the pipeline", d.Connections)
	}
	p.rate(d.Rate)
	for _, t := range []struct {
		key   string
		value units.Duration
		least time.Duration
	}{{"retry", d.Retry, time.Second}, {"retry_max", d.RetryMax, time.Second}, {"warn_after", d.WarnAfter, 0}, {"give_up_after", d.GiveUpAfter, time.Minute}} {
		if t.value != 0 && t.value.Std() < t.least {
			p.bad(t.key, "%s is too short, expected at least %s", t.value, t.least)
		}
	}
	if d.Retry != 0 && d.RetryMax != 0 && d.RetryMax < d.Retry {
		p.bad("retry_max", "%s is shorter than retry = %s", d.RetryMax, d.Retry)
	}
	for _, w := range d.Windows {
		if _, err := parseHours(w); err != nil {
			p.bad("windows", "%v", err)
		}
	}
	return errors.Join(p...)
}

// Validate reports what can't be kept.
func (l *Limits) Validate() error {
	var p problems
	if l.Connections < 4 || l.Connections > 100_000 {
		p.bad("connections", "is %d, expected 4 to 100000", l.Connections)
	}
	if l.Memory < 1000 {
		p.bad("memory", "is %d, expected at least 1000", l.Memory)
	}
	if l.SuppressAfter < 0 || l.SuppressAfter > 1000 {
		p.bad("suppress_after", "is %d, expected 1 to 1000, or 0 for off", l.SuppressAfter)
	}
	if l.SuppressAfter > 0 && l.SuppressFor.Std() < time.Hour {
		p.bad("suppress_for", "%s is too short, expected at least 1h", l.SuppressFor)
	}
	return errors.Join(p...)
}

func (p *problems) rate(r Rate) {
	if _, err := r.PerSecond(); err != nil {
		p.bad("rate", "%v", err)
	}
}
