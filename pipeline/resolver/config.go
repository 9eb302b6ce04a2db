package resolver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/units"
)

// Config is the table [dns].
type Config struct {
	// Servers are recursive resolvers, "address:port", asked in this order; empty: those of /etc/resolv.conf.
	Servers []string `toml:"servers"`

	// Timeout is how long one server has for one answer.
	Timeout units.Duration `toml:"timeout"`

	// Deadline is how long one look-up may take, with its repetitions and CNAMEs.
	Deadline units.Duration `toml:"deadline"`

	// CacheEntries and CacheSize bound the cache, whichever is reached first; 0 entries: no cache.
	CacheEntries int        `toml:"cache_entries"`
	CacheSize    units.Size `toml:"cache_size"`

	// MaxTTL is the longest that an answer is believed, whatever its zone says; NegativeTTL the longest that the
	// absence of a name is.
	MaxTTL      units.Duration `toml:"max_ttl"`
	NegativeTTL units.Duration `toml:"negative_ttl"`

	// TrustAD says that the servers validate DNSSEC and that nobody is between them and us, so that their word for it
	// (the AD bit) can be taken: unbound on this machine, for one. Without it there is no DANE.
	TrustAD bool `toml:"trust_ad"`
}

// DefaultConfig is what holds for keys that are not written.
func DefaultConfig() Config {
	return Config{
		Servers:      []string{},
		Timeout:      units.Of(2 * time.Second),
		Deadline:     units.Of(10 * time.Second),
		CacheEntries: 50_000,
		CacheSize:    16 << 20,
		MaxTTL:       units.Of(24 * time.Hour),
		NegativeTTL:  units.Of(15 * time.Minute),
	}
}

const maxServers = 8

// Validate reports every problem at once, as *pipeline.FieldError joined.
func (c *Config) Validate() error {
	var problems []error
	add := func(key, format string, args ...any) {
		problems = append(problems, &pipeline.FieldError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	if len(c.Servers) > maxServers {
		add("servers", "has %d servers, expected at most %d", len(c.Servers), maxServers)
	}
	for _, s := range c.Servers {
		if _, err := netip.ParseAddrPort(s); err != nil {
			add("servers", "%q is not a server, expected \"address:port\", such as \"192.0.2.1:53\" or \"[2001:db8::1]:53\"", s)
		}
	}
	if d := c.Timeout.Std(); d < 10*time.Millisecond || d > time.Minute {
		add("timeout", "is %s, expected 10ms to 1m", c.Timeout)
	}
	if d := c.Deadline.Std(); d < c.Timeout.Std() || d > 5*time.Minute {
		add("deadline", "is %s, expected at least the timeout of %s and at most 5m", c.Deadline, c.Timeout)
	}
	if c.CacheEntries < 0 || c.CacheEntries > 10_000_000 {
		add("cache_entries", "is %d, expected 0 to 10000000", c.CacheEntries)
	}
	if c.CacheSize < 0 || c.CacheSize > 4<<30 {
		add("cache_size", "is %s, expected 0 to 4GB", c.CacheSize)
	}
	for key, d := range map[string]units.Duration{"max_ttl": c.MaxTTL, "negative_ttl": c.NegativeTTL} {
		if d.Std() < 0 || d.Std() > 7*24*time.Hour {
			add(key, "is %s, expected 0s to 7d", d)
		}
	}
	return errors.Join(problems...)
}

// servers returns the addresses to ask: the configured ones, or the system's.
func (c *Config) servers(resolvConf string) ([]string, error) {
	if len(c.Servers) > 0 {
		return c.Servers, nil
	}
	if resolvConf == "" {
		resolvConf = "/etc/resolv.conf"
	}
	system, err := dns.ClientConfigFromFile(resolvConf)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the system's DNS servers: %w", err)
	}
	var found []string
	if system != nil {
		for _, host := range system.Servers[:min(len(system.Servers), maxServers)] {
			if _, err := netip.ParseAddr(host); err == nil {
				found = append(found, net.JoinHostPort(host, system.Port))
			}
		}
	}
	if len(found) == 0 { // as resolv.conf(5) has it: the one on this machine
		found = []string{net.JoinHostPort("127.0.0.1", strconv.Itoa(53))}
	}
	return found, nil
}
