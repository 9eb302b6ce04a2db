package storage

import (
	"errors"
	"fmt"

	"github.com/sluicemail/sluice/pipeline/units"
)

// Config is the table [storage].
type Config struct {
	// CacheAccounts is how many accounts that nobody uses right now are kept in memory.
	CacheAccounts int `toml:"cache_accounts"`
	// CacheSize is how many octets the state of all accounts in memory may take before idle ones are dropped.
	CacheSize units.Size `toml:"cache_size"`
	// MaxMailboxes is how many mailboxes an account may have.
	MaxMailboxes int `toml:"max_mailboxes"`
	// InlineLimit is the size up to which content is kept inside the engine; larger content is a file.
	InlineLimit units.Size `toml:"inline_limit"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{CacheAccounts: 4096, CacheSize: 64 << 20, MaxMailboxes: 2000, InlineLimit: 64 << 10}
}

// FieldError is a problem with one key of a Config.
type FieldError struct {
	Key     string // below the room's table, dotted
	Problem string
}

func (e *FieldError) Error() string { return e.Key + ": " + e.Problem }

// Validate returns every problem as a *FieldError, joined, or nil.
func (c *Config) Validate() error {
	var all []error
	check := func(ok bool, key, format string, args ...any) {
		if !ok {
			all = append(all, &FieldError{Key: key, Problem: fmt.Sprintf(format, args...)})
		}
	}
	check(c.CacheAccounts >= 1 && c.CacheAccounts <= 1<<20, "cache_accounts", "expected 1 to 1048576, not %d", c.CacheAccounts)
	check(c.CacheSize >= 1<<20, "cache_size", "expected at least 1MB")
	check(c.MaxMailboxes >= 6 && c.MaxMailboxes <= 10000, "max_mailboxes", "expected 6 to 10000, not %d", c.MaxMailboxes)
	check(c.InlineLimit >= 0 && c.InlineLimit <= 512<<10, "inline_limit", "expected at most 512KB")
	return errors.Join(all...)
}
