package deliver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/deliver/mx"
	"github.com/sluicemail/sluice/pipeline/units"
)

// Config is [pipeline.NAME.deliver].
type Config struct {
	TLS            string         `toml:"tls" oneof:"opportunistic require verify dane none" doc:"how mail is protected on its way to other servers, unless their domain asks for more: opportunistic (where it is offered), require (any certificate), verify (a valid one), dane or none"`
	DANE           bool           `toml:"dane" doc:"certificates are held against TLSA records, where DNSSEC vouches for them (needs [dns] trust_ad)"`
	MTASTS         bool           `toml:"mta_sts" doc:"MTA-STS policies of domains are fetched and obeyed"`
	Families       string         `toml:"families" oneof:"any ip4 ip6 prefer_ip4 prefer_ip6" doc:"kinds of address to connect to: any (IPv6 first), ip4, ip6, prefer_ip4 or prefer_ip6"`
	Source         []string       `toml:"source" doc:"our addresses to connect from, the first of the right kind; empty: the system chooses"`
	Port           int            `toml:"port" doc:"of servers found by MX; other values than 25 are for tests"`
	AllowPrivate   []string       `toml:"allow_private" doc:"networks, as \"192.168.0.0/16\", that addresses from DNS may be in although they are private or loopback"`
	Assume8Bit     bool           `toml:"assume_8bit" doc:"send 8-bit content as it is to servers that do not offer 8BITMIME; false: it is returned to the sender"`
	ConnectTimeout units.Duration `toml:"connect_timeout" doc:"for one connection to one address"`
	Timeout        units.Duration `toml:"timeout" doc:"for one attempt in all: looking up, connecting, sending; large messages get a second more for each 64 KB, and the answer to what was sent has ten minutes of its own"`
	MaxRecipients  int            `toml:"max_recipients" doc:"recipients of one transaction; more follow in another on the same connection"`
	MaxMessages    int            `toml:"max_messages" doc:"transactions of one connection"`
	Keep           units.Duration `toml:"keep" doc:"how long a connection is kept for the next message; 0: not at all"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		TLS: "opportunistic", DANE: true, MTASTS: true, Families: string(mx.Any), Source: []string{}, Port: 25, AllowPrivate: []string{},
		ConnectTimeout: units.Of(30 * time.Second), Timeout: units.Of(10 * time.Minute),
		MaxRecipients: 100, MaxMessages: 100, Keep: units.Of(5 * time.Second),
	}
}

// Destination is what [destination."example.net"] overrides of Config for a domain. The zero value overrides nothing.
type Destination struct {
	TLS           string `toml:"tls" doc:"opportunistic, require, verify, dane or none; empty: as [pipeline.X.deliver]"`
	MaxRecipients int    `toml:"max_recipients" doc:"recipients of one transaction; 0: as [pipeline.X.deliver]"`
	MaxMessages   int    `toml:"max_messages" doc:"transactions of one connection; 0: as [pipeline.X.deliver]"`
	Families      string `toml:"families" doc:"kinds of address to connect to; empty: as [pipeline.X.deliver]"`
}

var (
	levels   = []string{"opportunistic", "require", "verify", "dane", "none"}
	families = []string{string(mx.Any), string(mx.IP4), string(mx.IP6), string(mx.PreferIP4), string(mx.PreferIP6)}
)

// most bounds what is merely a number: a typing error is not a policy.
const most = 100_000

// Validate returns all problems as joined *pipeline.FieldError.
func (c *Config) Validate() error {
	var p problems
	p.word("tls", c.TLS, levels)
	p.word("families", c.Families, families)
	if c.Port < 1 || c.Port > 65535 {
		p.add("port", fmt.Sprintf("is %d, expected 1 to 65535", c.Port))
	}
	for _, s := range c.Source {
		if a, err := netip.ParseAddr(s); err != nil || a.Zone() != "" {
			p.add("source", fmt.Sprintf("%q is not an address, expected one as \"192.0.2.1\"", s))
		}
	}
	for _, s := range c.AllowPrivate {
		if n, err := netip.ParsePrefix(s); err != nil {
			p.add("allow_private", fmt.Sprintf("%q is not a network, expected one as \"192.168.0.0/16\"", s))
		} else if n.Bits() == 0 {
			p.add("allow_private", fmt.Sprintf("%q is everything, expected the networks that are meant", s))
		}
	}
	p.least("connect_timeout", c.ConnectTimeout, time.Second)
	p.least("timeout", c.Timeout, time.Second)
	if c.ConnectTimeout.Std() > c.Timeout.Std() {
		p.add("connect_timeout", c.ConnectTimeout.String()+" is longer than timeout = "+c.Timeout.String())
	}
	p.number("max_recipients", c.MaxRecipients, 1)
	p.number("max_messages", c.MaxMessages, 1)
	if k := c.Keep.Std(); k < 0 || k > 5*time.Minute { // RFC 5321 section 4.5.3.2.7: servers wait five minutes
		p.add("keep", c.Keep.String()+" is no time to wait, expected 0 to 5m")
	}
	return errors.Join(p...)
}

// Validate returns all problems as joined *pipeline.FieldError.
func (d *Destination) Validate() error {
	var p problems
	if d.TLS != "" {
		p.word("tls", d.TLS, levels)
	}
	if d.Families != "" {
		p.word("families", d.Families, families)
	}
	p.number("max_recipients", d.MaxRecipients, 0)
	p.number("max_messages", d.MaxMessages, 0)
	return errors.Join(p...)
}

// over lays d over the pipeline's configuration.
func (d *Destination) over(c *Config) {
	if d.TLS != "" {
		c.TLS = d.TLS
	}
	if d.Families != "" {
		c.Families = d.Families
	}
	if d.MaxRecipients > 0 {
		c.MaxRecipients = d.MaxRecipients
	}
	if d.MaxMessages > 0 {
		c.MaxMessages = d.MaxMessages
	}
}

// rules returns which addresses may be connected to. What Validate would refuse allows nothing.
func (c *Config) rules(own func(netip.AddrPort) bool) mx.Rules {
	r := mx.Rules{Families: mx.Families(c.Families), Own: own}
	for _, s := range c.AllowPrivate {
		if n, err := netip.ParsePrefix(s); err == nil {
			r.Allow = append(r.Allow, n)
		}
	}
	return r
}

// source returns the address to connect from to addr; invalid: the system chooses.
func (c *Config) source(addr netip.Addr) netip.Addr {
	for _, s := range c.Source {
		if a, err := netip.ParseAddr(s); err == nil && a.Unmap().Is4() == addr.Unmap().Is4() {
			return a.Unmap()
		}
	}
	return netip.Addr{}
}

type problems []error

func (p *problems) add(key, problem string) {
	*p = append(*p, &pipeline.FieldError{Key: key, Problem: problem})
}

func (p *problems) word(key, value string, words []string) {
	if !slices.Contains(words, value) {
		p.add(key, fmt.Sprintf("%q is not known, expected one of %v", value, words))
	}
}

func (p *problems) number(key string, value, least int) {
	if value < least || value > most {
		p.add(key, fmt.Sprintf("is %d, expected %d to %d", value, least, most))
	}
}

func (p *problems) least(key string, value units.Duration, least time.Duration) {
	if value.Std() < least {
		p.add(key, value.String()+" is too short, expected at least "+least.String())
	}
}
