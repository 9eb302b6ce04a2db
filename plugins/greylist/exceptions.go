package greylist

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/sluicemail/sluice/sdk"
)

// exceptions are who is never asked to wait.
type exceptions struct {
	networks   []netip.Prefix
	names      []string // of clients, small letters; with a dot in front: and what is below
	senders    map[string]bool
	recipients map[string]bool
}

func newExceptions(s *Settings) (exceptions, error) {
	e := exceptions{senders: make(map[string]bool), recipients: make(map[string]bool)}
	var problems []error
	for i, c := range s.ExemptClients {
		if network, err := parseNetwork(c); err == nil {
			e.networks = append(e.networks, network)
			continue
		}
		if strings.ContainsAny(c, "/: @") || c == "" || c == "." {
			problems = append(problems, &sdk.SettingError{
				Key:     fmt.Sprintf("exempt_clients[%d]", i+1),
				Problem: fmt.Sprintf("%q, expected an address, a network, a host name, or a domain with a dot in front", c),
			})
			continue
		}
		e.names = append(e.names, strings.ToLower(c))
	}
	fill := func(key string, list []string, into map[string]bool) {
		for i, a := range list {
			if !strings.Contains(a, "@") {
				problems = append(problems, &sdk.SettingError{
					Key: fmt.Sprintf("%s[%d]", key, i+1), Problem: fmt.Sprintf("%q, expected an address or \"@domain\"", a),
				})
			}
			into[strings.ToLower(a)] = true
		}
	}
	fill("exempt_senders", s.ExemptSenders, e.senders)
	fill("exempt_recipients", s.ExemptRecipients, e.recipients)
	return e, errors.Join(problems...)
}

func parseNetwork(s string) (netip.Prefix, error) {
	if address, err := netip.ParseAddr(s); err == nil {
		address = address.Unmap()
		return netip.PrefixFrom(address, address.BitLen()), nil
	}
	network, err := netip.ParsePrefix(s)
	return network.Masked(), err
}

// holds reports whether the question is about somebody who never waits. A name counts
// only if it was verified both ways (RFC 8601 section 3), which ClientName is.
func (e *exceptions) holds(m *sdk.Message, client netip.Addr) bool {
	for _, n := range e.networks {
		if n.Contains(client.Unmap()) {
			return true
		}
	}
	name := strings.ToLower(strings.TrimSuffix(m.ClientName, "."))
	for _, n := range e.names {
		if name != "" && (name == n || n[0] == '.' && strings.HasSuffix(name, n)) {
			return true
		}
	}
	return listed(e.senders, m.Sender) || listed(e.recipients, m.Recipients[0].Address)
}

func listed(list map[string]bool, address string) bool {
	address = strings.ToLower(address)
	return address != "" && (list[address] || list["@"+domainOf(address)])
}
