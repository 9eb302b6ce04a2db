package route

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sluicemail/sluice/pipeline"
)

// Config is [pipeline.NAME.route].
type Config struct {
	Plugins []string `toml:"plugins" doc:"names of the plugins that may decide where a message goes, all asked at once; of several routes the first in this order counts"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config { return Config{} }

// Validate has nothing to report: the names are checked where plugins are known.
func (c *Config) Validate() error { return nil }

// Domain is [domain."NAME"]: mail for it is delivered here, or taken in for another server.
type Domain struct {
	Accept     string                 `toml:"accept" oneof:"local relay" doc:"local (delivered here) or relay (a backup MX or a gateway: what has no account or alias here is passed on, by [relay] or by MX, whoever it comes from)"`
	Aliases    map[string]AddressList `toml:"aliases" doc:"local part = address, or list of addresses, to which its mail goes; those at other servers are forwarded; an account comes before an alias of its address, unless that lists the address itself beside others: a copy is kept"`
	CatchAll   AddressList            `toml:"catch_all" doc:"address, or list of addresses, for local parts that nobody has; empty: they are refused"`
	Subaddress string                 `toml:"subaddress" doc:"what divides the mailbox from a detail after it (RFC 5233): user+detail; empty: off"`
	Verify     bool                   `toml:"verify_recipients" doc:"with accept = \"relay\": the next hop is asked about each address at RCPT, and what it does not take is refused; who can't be asked about is taken in"`
	SendAs     map[string]AddressList `toml:"send_as" doc:"account address = further addresses that it may send from"`
}

// The values of Domain.Accept.
const (
	AcceptLocal = "local" // and ""
	AcceptRelay = "relay"
)

// DefaultDomain returns the defaults of a domain's table.
func DefaultDomain() Domain { return Domain{Accept: AcceptLocal, Subaddress: "+"} }

// Validate reports what is wrong with a domain's table by itself; loops are found by Table.Check.
func (d *Domain) Validate() error {
	var problems []error
	bad := func(key, format string, args ...any) {
		problems = append(problems, &pipeline.FieldError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	for local, targets := range d.Aliases {
		if local == "" || strings.ContainsAny(local, "@ \t\r\n<>") {
			bad("aliases."+local, "%q is not a local part, expected what stands before the @", local)
		}
		checkTargets("aliases."+local, targets, bad)
		if len(targets) == 0 {
			bad("aliases."+local, "leads nowhere, expected an address or a list of addresses")
		}
	}
	checkTargets("catch_all", d.CatchAll, bad)
	if d.Accept == AcceptRelay && len(d.CatchAll) > 0 {
		bad("catch_all", "and accept = \"relay\" both say where the rest of the mail goes, expected one of them")
	}
	if d.Verify && d.Accept != AcceptRelay {
		bad("verify_recipients", "is for domains of another server; who has an account or an alias here is known, expected false, or accept = \"relay\"")
	}
	for account, list := range d.SendAs {
		checkTargets("send_as."+account, list, bad)
		for _, may := range list {
			if strings.HasPrefix(may, "*") {
				bad("send_as."+account, "%q: there is no wildcard here, expected whole addresses", may)
			}
		}
	}
	if len(d.Subaddress) > 1 || strings.ContainsAny(d.Subaddress, "@.<> \t") {
		bad("subaddress", "%q can't divide a local part, expected one character such as \"+\" or \"-\", or \"\" for off", d.Subaddress)
	}
	return errors.Join(problems...)
}

func checkTargets(key string, targets AddressList, bad func(string, string, ...any)) {
	const limit = 1000
	if len(targets) > limit {
		bad(key, "has %d addresses, expected at most %d", len(targets), limit)
	}
	for _, t := range targets {
		if _, _, err := split(t); err != nil {
			bad(key, "%q is not an address, expected local-part@domain", t)
		}
	}
}

// AddressList is an address or a list of addresses in TOML; the empty string is
// the empty list.
type AddressList []string

// UnmarshalTOML accepts a string or a list of strings.
func (l *AddressList) UnmarshalTOML(value any) error {
	*l = nil
	switch v := value.(type) {
	case string:
		if v != "" {
			*l = AddressList{v}
		}
		return nil
	case []any:
		for _, item := range v {
			s, ok := item.(string)
			if !ok {
				return fmt.Errorf("a list with %v in it, expected addresses", item)
			}
			*l = append(*l, s)
		}
		return nil
	}
	return fmt.Errorf("%v is neither an address nor a list of addresses", value)
}

// MarshalText writes a list of at most one address as a string, for examples.
func (l AddressList) MarshalText() ([]byte, error) { return []byte(strings.Join(l, ", ")), nil }
