package sdk

import (
	"errors"
	"sort"
)

// Settings is the plugin's table in the configuration and its place on disk.
type Settings struct {
	Config   map[string]any // [plugin.NAME.config]: string, int64, float64, bool, time.Time, []any, map[string]any
	StateDir string         // a directory of the plugin's own that survives restarts
	Dir      string         // the configuration's directory: what relative paths in Config are relative to
	Lanes    int            // the most questions that the host will ask at a time

	// CheckOnly asks for complaints about Config alone, as sluice check does, perhaps beside a server that runs this plugin.
	// Configure reads and validates as always, and returns before it opens or locks anything, listens, connects, sends or
	// learns. StateDir is then an empty directory that is removed afterwards. Only plugins whose manifest has CheckOnly
	// are asked so; nothing else follows.
	CheckOnly bool
}

// SettingError is a complaint about one key of Settings.Config; the core shows it
// with the file and line of that key.
type SettingError struct {
	Key     string // path below [plugin.NAME.config], dotted
	Problem string // what is wrong and what was expected
}

func (e *SettingError) Error() string { return e.Key + ": " + e.Problem }

// Unready is an error of Configure that the administrator cannot mend in the file: another process holds the state, the disk is
// full, the state is damaged. The host says so and tries the start again, after 100 ms at first and up to a minute later; until it
// succeeds on_crash decides about mail. (Any other error of Configure is a complaint about the settings, and the plugin is not
// started again before they change.)
type Unready struct {
	Err error
}

func (e *Unready) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Unready) Unwrap() error { return e.Err }

// NoSettings is the Configure of a plugin that has no settings: it complains about
// every key that is set.
func NoSettings(s Settings) error {
	keys := make([]string, 0, len(s.Config))
	for key := range s.Config {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	var problems []error
	for _, key := range keys {
		problems = append(problems, &SettingError{Key: key, Problem: "unknown key; this plugin has no settings"})
	}
	return errors.Join(problems...)
}
