package config

// checkReports looks at [reports], and brings its addresses into canonical form.
func (c *Config) checkReports() {
	at := keys("reports")
	if err := c.Reports.Validate(); err != nil {
		c.src.refuse(at, err)
		return
	}
	if c.Reports.From != "" {
		canonical, domain, err := address(c.Reports.From)
		switch {
		case err != nil:
			c.src.errorf(keys("reports", "from"), "%v", err)
		case !c.hosts(domain):
			// Receivers believe no report that is not signed by the domain in From (RFC 8460 section 3, RFC 7489 section 7.2.1.1).
			c.src.errorf(keys("reports", "from"), "%q is at another server, expected an address in a domain of this file, whose key signs the reports", c.Reports.From)
		default:
			c.Reports.From = canonical
		}
		return
	}
	if (c.Reports.DMARC || c.Reports.TLS) && c.Postmaster == "" {
		c.src.errorf(keys("reports", "from"), "is missing, and so is postmaster; expected an address in a domain of this file")
	}
}

// ReportsFrom is the address in From of reports, or "".
func (c *Config) ReportsFrom() string {
	if c.Reports.From != "" {
		return c.Reports.From
	}
	return c.Postmaster
}
