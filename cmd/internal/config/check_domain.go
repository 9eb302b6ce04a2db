package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"github.com/sluicemail/sluice/pipeline/route"
)

// domainName returns a domain in the form that it has in DNS: A-labels, lower case (RFC 5890).
func domainName(name string) (string, error) {
	name = strings.TrimSuffix(name, ".")
	if name == "" {
		return "", errors.New("a domain is missing")
	}
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return "", fmt.Errorf("%q is an address, not a domain", name)
	}
	ascii, err := idna.Lookup.ToASCII(name)
	if err != nil {
		return "", fmt.Errorf("%q is not a domain", name)
	}
	if len(ascii) > 253 {
		return "", fmt.Errorf("%q is longer than a domain may be", name[:40]+"...")
	}
	for _, label := range strings.Split(ascii, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" ||
			strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return "", fmt.Errorf("%q is not a domain", name)
		}
	}
	return ascii, nil
}

// localPart checks a local part as a person writes one: a dot-atom (RFC 5321 section 4.1.2, RFC 6531). It returns it in
// lower case, because local parts compare without case (RULES A10).
func localPart(text string) (string, error) {
	if text == "" || len(text) > 64 || !utf8.ValidString(text) || strings.HasPrefix(text, ".") ||
		strings.HasSuffix(text, ".") || strings.Contains(text, "..") {
		return "", fmt.Errorf("%q is not the local part of an address", text)
	}
	for _, r := range text {
		if r < utf8.RuneSelf && (unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune(`()<>[]:;@\,"`, r)) {
			return "", fmt.Errorf("%q is not the local part of an address", text)
		}
	}
	return strings.ToLower(text), nil
}

// address checks "local@domain" and returns it in its canonical form.
func address(text string) (canonical, domain string, err error) {
	at := strings.LastIndexByte(text, '@')
	if at < 0 {
		return "", "", fmt.Errorf("%q is not an address, expected one such as \"alice@example.test\"", text)
	}
	local, err := localPart(text[:at])
	if err == nil {
		domain, err = domainName(text[at+1:])
	}
	if err != nil {
		return "", "", fmt.Errorf("%q is not an address: %w", text, err)
	}
	return local + "@" + domain, domain, nil
}

// Address checks "local@domain" as a person writes it and returns it in its canonical form; the domain has to be one of
// this file's.
func (c *Config) Address(text string) (string, error) {
	canonical, domain, err := address(text)
	if err != nil {
		return "", err
	}
	if !c.hosts(domain) {
		have := slices.Sorted(maps.Keys(c.Domain))
		return "", fmt.Errorf("%s is not hosted here%s; add [domain.%q] to %s first", domain, didYouMean(domain, have), domain, c.Path)
	}
	return canonical, nil
}

func (c *Config) checkDomains() {
	byName := make(map[string]*Domain, len(c.Domain))
	written := make(map[string]string, len(c.Domain))
	for _, key := range slices.Sorted(maps.Keys(c.Domain)) {
		name, err := domainName(key)
		if err != nil {
			c.src.errorf(keys("domain", key), "%v, expected one such as [domain.\"example.test\"]", err)
			continue
		}
		if other, twice := written[name]; twice {
			c.src.errorf(keys("domain", key), "is the same domain as [domain.%q]", other)
			continue
		}
		byName[name], written[name] = c.Domain[key], key
	}
	c.Domain, c.written = byName, written
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		c.checkDomain(written[name], name, byName[name])
	}
	c.checkPostmaster()
	c.checkLoops(written)
	if len(c.Domain) == 0 && c.servesStrangers() {
		c.src.warnf(keys("domain"), "there is none, so every recipient is refused; expected at least one [domain.\"example.test\"]")
	}
}

func (c *Config) servesStrangers() bool {
	for _, l := range c.Listener {
		if l.Protocol == "smtp" || l.Protocol == "lmtp" {
			return true
		}
	}
	return false
}

func (c *Config) checkDomain(key, name string, d *Domain) {
	if err := d.Validate(); err != nil {
		c.src.refuse(keys("domain", key), err)
	}
	if err := d.DKIM.Validate(); err != nil {
		c.src.refuse(keys("domain", key, "dkim"), err)
	}
	d.Aliases = c.checkAliases(key, name, d.Aliases)
	d.CatchAll = c.checkTargets(keys("domain", key, "catch_all"), d.CatchAll)
}

// checkAliases brings a table of aliases into canonical form.
func (c *Config) checkAliases(key, domain string, aliases map[string]route.AddressList) map[string]route.AddressList {
	out := make(map[string]route.AddressList, len(aliases))
	for _, name := range slices.Sorted(maps.Keys(aliases)) {
		at := keys("domain", key, "aliases", name)
		if c.src.isBad(at...) {
			continue
		}
		local, err := localPart(name)
		if err != nil {
			c.src.errorf(at, "%v, expected what stands before the @", err)
			continue
		}
		if _, twice := out[local]; twice {
			c.src.errorf(at, "is written twice; local parts compare without case")
			continue
		}
		out[local] = c.checkTargets(at, aliases[name])
	}
	return out
}

func (c *Config) checkTargets(at []string, targets route.AddressList) route.AddressList {
	var out route.AddressList
	if c.src.isBad(at...) {
		return nil
	}
	for _, target := range targets {
		canonical, domain, err := address(target)
		if err == nil && !c.hosts(domain) { // the case of a local part is its server's
			canonical = target[:strings.LastIndexByte(target, '@')] + "@" + domain
			if c.forward == nil {
				c.forward = at
			}
		}
		switch {
		case err != nil:
			c.src.errorf(at, "%v", err)
		case slices.Contains(out, canonical):
			c.src.warnf(at, "%q is listed twice", target)
		default:
			out = append(out, canonical)
		}
	}
	return out
}

// hosts reports whether a domain in canonical form is one of ours, also while their table is still being checked.
func (c *Config) hosts(domain string) bool { _, ok := c.Domain[domain]; return ok }

func (c *Config) checkPostmaster() {
	switch {
	case c.Postmaster != "":
		canonical, domain, err := address(c.Postmaster)
		if err != nil {
			c.src.errorf(keys("postmaster"), "%v", err)
		} else if !c.hosts(domain) {
			c.src.errorf(keys("postmaster"), "%q is at another server, expected an address in a domain of this file", c.Postmaster)
		} else {
			c.Postmaster = canonical
		}
	case c.onlyDomain() != "":
		c.Postmaster = "postmaster@" + c.onlyDomain()
	case len(c.Domain) > 1:
		c.src.warnf(keys("postmaster"), "is missing, and there are several domains: mail for <Postmaster> is refused, which RFC 5321 section 4.5.1 forbids; expected an address")
	}
}

// onlyDomain returns the domain whose postmaster <Postmaster> is if nobody else is named: the only one that there is, or the only
// one that is delivered here. One that is passed on has a postmaster at its own server, who is none of this one.
func (c *Config) onlyDomain() string {
	var all, local []string
	for name, d := range c.Domain {
		if all = append(all, name); d.Accept != route.AcceptRelay {
			local = append(local, name)
		}
	}
	switch {
	case len(local) == 1:
		return local[0]
	case len(all) == 1:
		return all[0]
	}
	return ""
}

// checkLoops finds aliases that lead back to themselves.
func (c *Config) checkLoops(written map[string]string) {
	reported := make(map[string]bool)
	for _, domain := range slices.Sorted(maps.Keys(c.Domain)) {
		for _, local := range slices.Sorted(maps.Keys(c.Domain[domain].Aliases)) {
			start := local + "@" + domain
			loop := c.loop(start, start, make(map[string]bool))
			if loop == nil || reported[start] {
				continue
			}
			for _, step := range loop {
				reported[step] = true
			}
			c.src.errorf(keys("domain", written[domain], "aliases", local), "leads back to itself: %s", strings.Join(append(loop, start), " -> "))
		}
	}
}

// loop follows aliases from at and returns the way if it comes back to start. Every address is followed once.
func (c *Config) loop(start, at string, seen map[string]bool) []string {
	seen[at] = true
	targets := c.aliasOf(at)
	for _, next := range targets {
		if next == at && len(targets) > 1 {
			continue // the account of that address gets a copy
		}
		if next == start {
			return []string{at}
		}
		if seen[next] {
			continue // known not to lead to start, or a loop further on, which is reported from there
		}
		if rest := c.loop(start, next, seen); rest != nil {
			return append([]string{at}, rest...)
		}
	}
	return nil
}

// aliasOf returns where an address leads to, with the addresses of other aliases as those have them: without a detail that they
// do not name.
func (c *Config) aliasOf(address string) []string {
	local, domain, _ := strings.Cut(address, "@")
	d, ok := c.Domain[domain]
	if !ok {
		return nil
	}
	var targets []string
	for _, target := range d.Aliases[local] {
		targets = append(targets, c.withoutDetail(target))
	}
	return targets
}

func (c *Config) withoutDetail(address string) string {
	local, domain, _ := strings.Cut(address, "@")
	d, ok := c.Domain[domain]
	if !ok || d.Aliases[local] != nil || d.Subaddress == "" {
		return address
	}
	if base, _, ok := strings.Cut(local, d.Subaddress); ok && d.Aliases[base] != nil {
		return base + "@" + domain
	}
	return address
}
