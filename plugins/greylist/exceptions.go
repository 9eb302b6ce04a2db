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
		name := strings.ToLower(strings.TrimSuffix(c, "."))
		if !isHost(strings.TrimPrefix(name, ".")) {
			problems = append(problems, &sdk.SettingError{
				Key:     fmt.Sprintf("exempt_clients[%d]", i+1),
				Problem: fmt.Sprintf("%q, expected an address, a network, a host name, or a domain with a dot in front", c),
			})
			continue
		}
		e.names = append(e.names, name)
	}
	fill := func(key string, list []string, into map[string]bool) {
		for i, a := range list {
			if at := strings.LastIndexByte(a, '@'); at < 0 || at == len(a)-1 {
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

// isHost reports whether something is a host's name as DNS has it: labels of letters, digits, hyphens and underscores, the last of which is
// no number, or a mistyped address would be a name that nobody has (RFC 1123 section 2.1).
func isHost(name string) bool {
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789-") != ""
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
