package queue

import (
	"errors"
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
}

// DefaultConfig returns the defaults of DESIGN section 6.
func DefaultConfig() Config {
	return Config{
		Retry: units.Of(15 * time.Minute), RetryMax: units.Of(2 * time.Hour),
		WarnAfter: units.Of(4 * time.Hour), GiveUpAfter: units.Of(5 * 24 * time.Hour),
	}
}

// Validate reports times that can't be kept.
func (c *Config) Validate() error {
	var problems []error
	bad := func(key, problem string) {
		problems = append(problems, &pipeline.FieldError{Key: key, Problem: problem})
	}
	if c.Retry.Std() < time.Second {
		bad("retry", c.Retry.String()+" is too short, expected at least 1s")
	}
	if c.RetryMax.Std() < c.Retry.Std() {
		bad("retry_max", c.RetryMax.String()+" is shorter than retry = "+c.Retry.String())
	}
	if c.WarnAfter.Std() < 0 {
		bad("warn_after", "is negative, expected a duration, or 0 for off")
	}
	if c.GiveUpAfter.Std() < time.Minute {
		bad("give_up_after", c.GiveUpAfter.String()+" is too short, expected at least 1m")
	}
	return errors.Join(problems...)
}

// wait returns how long to wait after the attempt of that number (1 is the
// first), before jitter.
func (c *Config) wait(attempts int) time.Duration {
	d := c.Retry.Std()
	for range min(attempts-1, 64) {
		if d >= c.RetryMax.Std() {
			break
		}
		d += d / 2
	}
	return min(d, c.RetryMax.Std())
}
