package config

import (
	"maps"
	"slices"
)

// checkNotYet reports what can be written but is not in force in this version, so that nobody relies on it.
func (c *Config) checkNotYet() {
	for _, name := range slices.Sorted(maps.Keys(c.Relay)) {
		c.src.errorf(keys("relay", name), "mail does not leave this server yet: delivery to other servers comes with a later version; expected no [relay] table")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Domain)) {
		d := c.Domain[name]
		if d.Accept == "relay" {
			c.src.errorf(keys("domain", name, "accept"), "\"relay\" needs delivery to other servers, which comes with a later version; expected \"local\"")
		}
	}
	if c.Forward.SRSDomain != "" || len(c.Forward.SRSSecrets) > 0 {
		c.src.warnf(keys("forward"), "is not in force yet: nothing is forwarded to other servers in this version")
	}
}
