package account

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/sluicemail/sluice/pipeline/units"
)

// Config is the table [login].
type Config struct {
	// CacheAddresses is how many addresses, of accounts and of nobody, are kept in memory.
	CacheAddresses int `toml:"cache_addresses"`
	// HashWait is how long a login waits for its turn to be verified before it is answered with a temporary failure.
	HashWait units.Duration `toml:"hash_wait"`
	// Remember is how long a verified login needs no new hash.
	Remember units.Duration `toml:"remember"`
	// Remembered is how many verified logins are kept in memory.
	Remembered int `toml:"remembered"`
	// SCRAMIterations is what new passwords cost a client that logs in by SCRAM-SHA-256.
	SCRAMIterations int `toml:"scram_iterations"`
	// Trusted are webmails and proxies whose address many people share: their wrong passwords are not counted for the
	// address, and slow an account down without end instead of refusing it.
	Trusted []netip.Prefix `toml:"trusted"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		CacheAddresses: 20000, HashWait: units.Of(10 * time.Second), Remember: units.Of(10 * time.Minute),
		Remembered: 20000, SCRAMIterations: 10000,
	}
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
	check(c.CacheAddresses >= 1 && c.CacheAddresses <= 1<<22, "cache_addresses", "expected 1 to 4194304, not %d", c.CacheAddresses)
	check(c.HashWait.Std() > 0 && c.HashWait.Std() <= time.Minute, "hash_wait", "expected more than 0 and at most 1m")
	check(c.Remember.Std() <= time.Hour, "remember", "expected at most 1h")
	check(c.Remembered >= 1 && c.Remembered <= 1<<22, "remembered", "expected 1 to 4194304, not %d", c.Remembered)
	// RFC 7677 section 4: at least 4096.
	check(c.SCRAMIterations >= 4096 && c.SCRAMIterations <= 1<<20, "scram_iterations", "expected 4096 to 1048576, not %d", c.SCRAMIterations)
	for _, p := range c.Trusted {
		check(p.IsValid(), "trusted", "an empty network, expected an address or a network")
		check(!p.IsValid() || p.Bits() > 0, "trusted", "%s is everybody: nothing would hold back who guesses", p)
	}
	return errors.Join(all...)
}
