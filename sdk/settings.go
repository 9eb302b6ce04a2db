package sdk

import (
	"errors"
	"sort"
)

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
