package listen

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/units"
)

// Config is what every [listener.NAME] has in common (RULES D3).
type Config struct {
	ProxyFrom                []netip.Prefix `toml:"proxy_from" doc:"peers whose PROXY header (v1 or v2) is required and believed"`
	Trusted                  []netip.Prefix `toml:"trusted" doc:"own hosts and networks that may relay without a login; a public network wider than /24 or /48 is an error"`
	MaxConnections           int            `toml:"max_connections" doc:"connections open at one time"`
	MaxConnectionsPerAddress int            `toml:"max_connections_per_address" doc:"connections open at one time from one client address, or IPv6 /64; loopback and trusted are exempt"`
	IdleTimeout              units.Duration `toml:"idle_timeout" doc:"how long a client may say nothing; left at its default, imap waits 30m and pop3 10m, as their RFCs ask"`
	MaxSession               units.Duration `toml:"max_session" doc:"how long one connection may last"`
	MaxCommands              int            `toml:"max_commands" doc:"commands on one connection"`
}

const defaultIdle = 5 * time.Minute

// DefaultConfig returns the defaults of RULES D3.
func DefaultConfig() Config {
	return Config{
		MaxConnections:           20000,
		MaxConnectionsPerAddress: 100,
		IdleTimeout:              units.Of(defaultIdle),
		MaxSession:               units.Of(2 * time.Hour),
		MaxCommands:              10000,
	}
}

// Idle returns how long a client of the protocol may say nothing. RFC 3501 section 5.4 wants 30 minutes at least for
// IMAP, RFC 1939 section 3 wants 10 for POP3; so the common default gives way to them, a value written down does not.
func (c Config) Idle(protocol string) time.Duration {
	if c.IdleTimeout.Std() == defaultIdle {
		switch protocol {
		case "imap":
			return 30 * time.Minute
		case "pop3":
			return 10 * time.Minute
		}
	}
	return c.IdleTimeout.Std()
}

// Validate returns all problems as joined *pipeline.FieldError.
func (c *Config) Validate() error {
	var errs []error
	add := func(key, format string, args ...any) {
		errs = append(errs, &pipeline.FieldError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	for _, p := range c.Trusted {
		if !p.IsValid() {
			add("trusted", "an empty network, expected an address or a network")
			continue
		}
		if least := narrowest(p.Addr()); !private(p) && p.Bits() < least {
			add("trusted", "%s is a public network wider than /%d: whoever is in it could relay through this server without a login", p, least)
		}
	}
	for _, p := range c.ProxyFrom {
		if !p.IsValid() {
			add("proxy_from", "an empty network, expected an address or a network")
		} else if p.Bits() == 0 {
			add("proxy_from", "%s is everybody: whoever connects could claim any address", p)
		}
	}
	if c.MaxConnections < 1 {
		add("max_connections", "is %d, expected at least 1", c.MaxConnections)
	}
	if c.MaxConnectionsPerAddress < 1 {
		add("max_connections_per_address", "is %d, expected at least 1", c.MaxConnectionsPerAddress)
	}
	if c.IdleTimeout.Std() < time.Second {
		add("idle_timeout", "is %s, expected at least 1s", c.IdleTimeout)
	}
	if c.MaxSession.Std() < time.Second {
		add("max_session", "is %s, expected at least 1s", c.MaxSession)
	}
	if c.MaxCommands < 1 {
		add("max_commands", "is %d, expected at least 1", c.MaxCommands)
	}
	return errors.Join(errs...)
}

// PublicTrusted returns the trusted networks that are neither private nor loopback, for `sluice check` to list.
func (c *Config) PublicTrusted() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range c.Trusted {
		if p.IsValid() && !private(p) {
			out = append(out, p)
		}
	}
	return out
}

// narrowest is the shortest prefix length that a public trusted network may have.
func narrowest(a netip.Addr) int {
	if a.Unmap().Is4() {
		return 24
	}
	return 48
}

// The networks whose addresses no stranger can have: RFC 1918, 6598, 4193, 3927, 4291, loopback.
var privateNetworks = [...]netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("fc00::/7"),
	netip.MustParsePrefix("fe80::/10"),
}

// private reports whether the whole of p lies within one of the private networks.
func private(p netip.Prefix) bool {
	for _, n := range privateNetworks {
		if p.Bits() >= n.Bits() && n.Contains(p.Addr()) {
			return true
		}
	}
	return false
}
