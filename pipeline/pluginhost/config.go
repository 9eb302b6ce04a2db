package pluginhost

import (
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/sdk"
)

// Config is the table [plugin.NAME]. The name is the table's.
type Config struct {
	Name string `toml:"-"`

	Command   []string          `toml:"command"`    // program and arguments; command[0] is relative to the file, or found in PATH
	Builtin   string            `toml:"builtin"`    // a plugin from this program, in place of command
	SHA256    string            `toml:"sha256"`     // of command[0], checked at each start when set
	Files     map[string]string `toml:"files"`      // further files that the plugin reads, with the SHA-256 of each ("" is not checked)
	Timeout   units.Duration    `toml:"timeout"`    // for one question
	Lanes     int               `toml:"lanes"`      // questions at a time; the plugin's own limit holds too
	OnFailure string            `toml:"on_failure"` // accept, junk, quarantine, defer or reject; empty: the stage's default
	OnTimeout string            `toml:"on_timeout"` // empty: as on_failure
	OnCrash   string            `toml:"on_crash"`   // empty: as on_failure
	Mode      string            `toml:"mode"`       // enforce, shadow (asked and recorded, never obeyed) or off
	Memory    units.Size        `toml:"memory"`     // data that the process may hold; 0 is no limit
	Read      []string          `toml:"read"`       // files and directories that it may read beside its own and the system's
	Config    map[string]any    `toml:"config"`     // handed to the plugin

	BreakerFailures int            `toml:"breaker_failures"` // so many failures in a row, and it is not waited for any more; 0: always waited for
	BreakerWait     units.Duration `toml:"breaker_wait"`     // the longest time until it is tried again then

	Canary Canary `toml:"canary"` // another version that is asked about a share of the mail
}

// The modes.
const (
	Enforce = "enforce"
	Shadow  = "shadow"
	Off     = "off"
)

// DefaultConfig returns the defaults of a table.
func DefaultConfig() Config {
	return Config{
		Timeout: units.Of(10 * time.Second), Lanes: 16, Mode: Enforce, Memory: 1 << 30,
		BreakerFailures: 10, BreakerWait: units.Of(30 * time.Second),
	}
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

const maxLanes = 1024

// Validate reports every problem of the table. builtins are the names that
// `builtin` may have.
func (c *Config) Validate(builtins []string) error {
	var problems []error
	report := func(key, format string, args ...any) {
		problems = append(problems, &FieldError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	if !nameForm.MatchString(c.Name) {
		report("", "the name %q, expected small letters, digits and hyphens", c.Name)
	}
	switch {
	case len(c.Command) == 0 && c.Builtin == "":
		report("command", "missing, expected command or builtin")
	case len(c.Command) > 0 && c.Builtin != "":
		report("builtin", "command is set too, expected one of the two")
	case c.Builtin != "" && !slices.Contains(builtins, c.Builtin):
		report("builtin", "unknown builtin %q, expected one of %q", c.Builtin, builtins)
	case c.Builtin == "" && c.Command[0] == "":
		report("command", "the program is empty")
	}
	if c.SHA256 != "" && !isDigest(c.SHA256) {
		report("sha256", "%q, expected 64 hexadecimal digits", c.SHA256)
	}
	for name, digest := range c.Files {
		if digest != "" && !isDigest(digest) {
			report("files."+name, "%q, expected 64 hexadecimal digits", digest)
		}
	}
	if c.Timeout <= 0 || c.Timeout.Std() > time.Hour {
		report("timeout", "%s, expected more than 0 and at most 1h", c.Timeout)
	}
	if c.Lanes < 1 || c.Lanes > maxLanes {
		report("lanes", "%d, expected 1 to %d", c.Lanes, maxLanes)
	}
	for _, policy := range []struct{ key, word string }{
		{"on_failure", c.OnFailure}, {"on_timeout", c.OnTimeout}, {"on_crash", c.OnCrash},
	} {
		if err := checkPolicy(policy.word); err != nil {
			report(policy.key, "%v", err)
		}
	}
	if !slices.Contains([]string{Enforce, Shadow, Off}, c.Mode) {
		report("mode", "%q, expected enforce, shadow or off", c.Mode)
	}
	if c.Memory != 0 && c.Memory < 32<<20 {
		report("memory", "%s, expected 0 or at least 32MB", c.Memory)
	}
	if c.BreakerFailures < 0 || c.BreakerFailures > 1000 {
		report("breaker_failures", "%d, expected 0 (off) to 1000", c.BreakerFailures)
	}
	if c.BreakerWait.Std() < time.Second || c.BreakerWait.Std() > time.Hour {
		report("breaker_wait", "%s, expected 1s to 1h", c.BreakerWait)
	}
	c.Canary.validate(builtins, report)
	return errors.Join(problems...)
}

func isDigest(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32
}

// checkPolicy refuses what is not a failure policy (RULES D1): discarding mail
// because a filter failed is none.
func checkPolicy(word string) error {
	if word == "" {
		return nil
	}
	if action, err := sdk.ParseAction(word); err != nil || action == sdk.Discard {
		return fmt.Errorf("%q, expected accept, junk, quarantine, defer or reject", word)
	}
	return nil
}

// Policy returns what the administrator wants for a failure of a kind, and false
// where the stage's default holds. Busy and Poison have no policy (RULES C2, C3).
func (c *Config) Policy(kind Kind) (sdk.Action, bool) {
	word := c.OnFailure
	switch {
	case kind == Timeout && c.OnTimeout != "":
		word = c.OnTimeout
	case kind == Crash && c.OnCrash != "":
		word = c.OnCrash
	}
	if word == "" {
		return sdk.Accept, false
	}
	action, err := sdk.ParseAction(word)
	return action, err == nil
}
