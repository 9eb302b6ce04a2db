package config

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sluicemail/sluice/pipeline/units"
)

// check looks at everything that one key alone cannot show to be wrong, and at the values of the tables that belong to
// no room. It fills in what follows from the rest: the hostname, a plugin that is named without a table.
func (c *Config) check(o Options) {
	c.checkTop(o)
	c.checkDomains()
	c.checkListeners()
	c.checkPipelines()
	c.checkPlugins(o.Builtins)
	c.checkReports()
	c.checkRelays()
	c.checkForward()
	c.checkDestinations()
	c.checkDANE()
}

func (c *Config) checkTop(o Options) {
	s := c.src
	if !s.isSet("hostname") || c.Hostname == "" && !s.isBad("hostname") {
		name, err := o.Machine()
		if err != nil || name == "" {
			s.errorf(keys("hostname"), "is missing, and the machine has no name; expected a full name such as \"mx.example.test\"")
			return
		}
		c.Hostname = name
	}
	name, err := domainName(c.Hostname)
	switch {
	case s.isBad("hostname"):
	case err != nil:
		s.errorf(keys("hostname"), "%v, expected a full name such as \"mx.example.test\"", err)
	case !strings.Contains(name, "."):
		s.warnf(keys("hostname"), "%q is not a full name; other servers may refuse our mail; expected one such as \"mx.example.test\"", c.Hostname)
	}
	if err == nil {
		c.Hostname = name
	}
	if c.DataDir == "" {
		s.errorf(keys("data_dir"), "is empty, expected a directory")
	}
	if c.MaxBuffered < units.MB {
		s.errorf(keys("max_buffered"), "%s is too little, expected 1MB or more", c.MaxBuffered)
	}
	if (c.TLS.Certificate == "") != (c.TLS.Key == "") {
		s.errorf(keys("tls"), "has a certificate or a key alone, expected both, or neither for one that is made in data_dir")
	}
	for i, server := range c.DNS.Servers {
		if addr, err := netip.ParseAddr(server); err == nil { // an address alone: port 53
			c.DNS.Servers[i] = netip.AddrPortFrom(addr, 53).String()
		}
	}
	if err := c.DNS.Validate(); err != nil {
		s.refuse(keys("dns"), err)
	}
	if err := c.Storage.Validate(); err != nil {
		s.refuse(keys("storage"), err)
	}
	if err := c.Login.Validate(); err != nil {
		s.refuse(keys("login"), err)
	}
	c.checkSharedAddresses()
	if at := keys("alerts", "after"); !s.isBad(at...) && (c.Alerts.After.Std() < time.Second || c.Alerts.After.Std() > time.Hour) {
		s.errorf(at, "%s, expected 1s to 1h", c.Alerts.After)
	}
}

func keys(names ...string) []string { return names }

func (c *Config) checkPipelines() {
	used := map[string]bool{"inbound": true, "outbound": true}
	strangers := map[string]string{} // pipeline -> an smtp listener that leads to it
	for _, name := range slices.Sorted(maps.Keys(c.Listener)) {
		l := c.Listener[name]
		used[l.Pipeline] = true
		if l.Protocol == "smtp" {
			strangers[l.Pipeline] = name
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Pipeline)) {
		p := c.Pipeline[name]
		if !validName(name) {
			c.src.errorf(keys("pipeline", name), "is not a name, expected letters, digits, - and _")
		}
		if !used[name] {
			c.src.warnf(keys("pipeline", name), "is used by no listener")
		}
		if l, ok := strangers[name]; ok && p.Mixed == "bounce" {
			c.src.errorf(keys("pipeline", name, "mixed"),
				"\"bounce\" would send bounces to forged senders, because strangers come in by listener.%s; expected quarantine or reject", l)
		}
		if at := keys("pipeline", name, "deadline"); !c.src.isBad(at...) && (p.Deadline.Std() < time.Second || p.Deadline.Std() > 10*time.Minute) {
			c.src.errorf(at, "%s, expected 1s to 10m: the peer waits meanwhile, and gives up after that (RFC 5321 section 4.5.3.2.6)", p.Deadline)
		}
		c.validateStages(name, p)
	}
}

// validName reports whether a listener's or pipeline's name can stand in logs and on the command line as it is.
func validName(name string) bool {
	return name != "" && len(name) <= 64 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}

// IsLoopback reports whether a listener's address can be reached from this machine only.
func (l *Listener) IsLoopback() bool {
	host, _, err := net.SplitHostPort(l.Address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
