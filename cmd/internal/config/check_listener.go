package config

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/sluicemail/sluice/pipeline/listen"
)

func (c *Config) checkListeners() {
	names := slices.Sorted(maps.Keys(c.Listener))
	if len(names) == 0 {
		c.src.warnf(keys("listener"), "there is none, so nothing can come in; expected at least one [listener.NAME] with protocol and address")
	}
	for _, name := range names {
		l := c.Listener[name]
		if !validName(name) {
			c.src.errorf(keys("listener", name), "is not a name, expected letters, digits, - and _")
		}
		if l.Protocol == "" {
			if !c.src.isBad("listener", name, "protocol") {
				c.src.errorf(keys("listener", name), "has no protocol, expected smtp, submission, lmtp, imap, pop3 or admin")
			}
			continue
		}
		c.checkAddress(name, l)
		c.checkLogin(name, l)
		c.checkAdmin(name, l)
		c.checkListenerPipeline(name, l)
		if err := l.Validate(); err != nil {
			c.src.refuse(keys("listener", name), err)
		}
		c.checkNetworks(name, l)
		c.checkProxies(name, l)
	}
	c.checkClashes(names)
}

func (c *Config) checkAddress(name string, l *Listener) {
	at := keys("listener", name, "address")
	if l.Address == "" {
		if !c.src.isBad(at...) {
			c.src.errorf(keys("listener", name), "has no address, expected one such as \"127.0.0.1:2525\"")
		}
		return
	}
	host, port, err := net.SplitHostPort(l.Address)
	if err != nil {
		c.src.errorf(at, "%q is not an address, expected \"host:port\" such as \"127.0.0.1:2525\" or \"[::]:25\"", l.Address)
		return
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		c.src.errorf(at, "%q is not a port, expected 0 to 65535", port)
	}
	if host != "" && host != "localhost" {
		if _, err := netip.ParseAddr(host); err != nil {
			c.src.errorf(at, "%q is not an IP address; a listener needs one of this machine's, or none for all of them", host)
		}
	}
	if l.Protocol == "lmtp" && n == 25 {
		c.src.errorf(at, "LMTP must not use port 25 (RFC 2033 section 5); expected another port, such as 24")
	}
	if l.Protocol == "lmtp" && !l.IsLoopback() {
		c.src.warnf(at, "LMTP knows no login: whoever reaches this port can deliver to every mailbox; expected a loopback address or a firewall")
	}
}

// checkLogin looks at the ways of proving who one is.
func (c *Config) checkLogin(name string, l *Listener) {
	at := keys("listener", name, "allow_plaintext_login")
	switch l.Protocol {
	case "submission", "imap", "pop3":
		if l.AllowPlain && !l.IsLoopback() {
			c.src.warnf(at, "passwords will cross the network in the clear; true only makes sense on a loopback address")
		}
		if l.TLS == "none" && !l.AllowPlain {
			c.src.errorf(keys("listener", name, "tls"), "\"none\" leaves nobody a way to log in; expected starttls or implicit, or allow_plaintext_login = true on loopback")
		}
	default:
		if l.AllowPlain {
			c.src.errorf(at, "has no meaning for %s, which offers no login; expected it on submission, imap or pop3", l.Protocol)
		}
	}
}

// checkAdmin keeps metrics, which nobody logs in for, on this machine.
func (c *Config) checkAdmin(name string, l *Listener) {
	at := keys("listener", name, "allow_admin_from_network")
	switch {
	case l.Protocol != "admin":
		if l.AllowAdmin {
			c.src.errorf(at, "has no meaning for %s; expected it on a listener with protocol = \"admin\"", l.Protocol)
		}
		return
	case l.Address == "": // has been said
	case !l.IsLoopback() && !l.AllowAdmin:
		c.src.errorf(keys("listener", name, "address"), "%q can be reached from other machines, and admin knows no login; expected a loopback address such as \"127.0.0.1:9090\", or allow_admin_from_network = true", l.Address)
	case !l.IsLoopback():
		c.src.warnf(at, "whoever reaches %s can read the metrics; expected a firewall in front of it", l.Address)
	}
	if l.TLS != "none" {
		c.src.errorf(keys("listener", name, "tls"), "%q has no meaning for admin, which speaks HTTP without TLS; expected none, or a proxy in front of it", l.TLS)
	}
}

// checkNetworks says what the rules of package listen leave to the administrator's judgement.
func (c *Config) checkNetworks(name string, l *Listener) {
	at := keys("listener", name, "trusted")
	if len(l.Trusted) > 0 && l.Protocol != "smtp" {
		c.src.errorf(at, "has no meaning for %s; expected it on a listener with protocol = \"smtp\"", l.Protocol)
	}
	if c.src.isBad(at...) {
		return
	}
	for _, network := range l.PublicTrusted() {
		c.src.warnf(at, "%s is public: all of its hosts may relay through this server", network)
	}
}

func (c *Config) checkListenerPipeline(name string, l *Listener) {
	at := keys("listener", name, "pipeline")
	switch l.Protocol {
	case "smtp", "submission", "lmtp":
		if l.Pipeline == "" {
			l.Pipeline = DefaultListener(l.Protocol).Pipeline
		}
		if _, ok := c.Pipeline[l.Pipeline]; ok {
			return
		}
		have := slices.Sorted(maps.Keys(c.Pipeline))
		c.src.errorf(at, "there is no pipeline %q, expected %s or a table [pipeline.%s.receive]%s",
			l.Pipeline, list(have), l.Pipeline, didYouMean(l.Pipeline, have))
	default:
		if l.Pipeline != "" {
			c.src.errorf(at, "has no meaning for %s, through which no mail comes in", l.Protocol)
		}
	}
}

// checkProxies refuses to believe the world: a stranger who may send a PROXY header may claim an address in trusted, and
// relay. Package listen refuses everybody at once; here the same bound holds as for trusted.
func (c *Config) checkProxies(name string, l *Listener) {
	at := keys("listener", name, "proxy_from")
	if c.src.isBad(at...) {
		return
	}
	for _, network := range (&listen.Config{Trusted: l.ProxyFrom}).PublicTrusted() {
		if widest := widestPublic(network); network.Bits() < widest {
			c.src.errorf(at, "%s is a public network wider than /%d: whoever is in it could claim any client address; expected your own proxies", network, widest)
		}
	}
}

// widestPublic is the shortest prefix of a public network that can still be one's own (RULES D3).
func widestPublic(network netip.Prefix) int {
	if network.Addr().Unmap().Is4() {
		return 24
	}
	return 48
}

// checkSharedAddresses keeps guessers from being trusted: the bound is the one of a listener's trusted.
func (c *Config) checkSharedAddresses() {
	at := keys("login", "trusted")
	for _, network := range (&listen.Config{Trusted: c.Login.Trusted}).PublicTrusted() {
		if widest := widestPublic(network); network.Bits() >= widest {
			c.src.warnf(at, "%s is public: whoever is in it may guess passwords for longer than others", network)
		} else if network.Bits() > 0 { // everybody: the room has said so
			c.src.errorf(at, "%s is a public network wider than /%d: whoever is in it could guess passwords for longer than others; expected your own webmails", network, widest)
		}
	}
}

// checkClashes finds listeners that cannot both have their port.
func (c *Config) checkClashes(names []string) {
	for i, name := range names {
		host, port, err := net.SplitHostPort(c.Listener[name].Address)
		if err != nil || port == "0" {
			continue
		}
		for _, other := range names[:i] {
			otherHost, otherPort, err := net.SplitHostPort(c.Listener[other].Address)
			if err != nil || port != otherPort || !overlap(host, otherHost) {
				continue
			}
			first, second := other, name
			if c.src.line(keys("listener", other, "address")) > c.src.line(keys("listener", name, "address")) {
				first, second = name, other
			}
			c.src.errorf(keys("listener", second, "address"), "port %s is taken by listener.%s already; expected a port or an address of its own", port, first)
		}
	}
}

func overlap(a, b string) bool {
	wildcard := func(host string) bool { return host == "" || host == "0.0.0.0" || host == "::" }
	if wildcard(a) || wildcard(b) {
		return true
	}
	if a == "localhost" {
		a = "127.0.0.1"
	}
	if b == "localhost" {
		b = "127.0.0.1"
	}
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	return errX == nil && errY == nil && x.Unmap() == y.Unmap()
}
