package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicemail/sluice/pipeline"
)

// Relay is [relay."DOMAIN"]: a fixed next hop. It says where, never who may (RULES D2).
type Relay struct {
	Protocol string   `toml:"protocol" oneof:"smtp lmtp" doc:"smtp, or lmtp (RFC 2033) to another store"`
	Hosts    []string `toml:"hosts" doc:"\"name:port\", port 25 if left out, or \"unix:/path\" for lmtp; tried in order, without an MX look-up"`
	TLS      string   `toml:"tls" oneof:"opportunistic require verify none implicit" doc:"opportunistic, require (any certificate), verify (a valid one), none or implicit"`
	Username string   `toml:"username" doc:"to log in with; empty: no login"`
	Password string   `toml:"password" sluice:"secret" doc:"\"@FILE\" or \"$NAME\" keeps it out of this file"`
}

// DefaultRelay returns a relay as an otherwise empty table means it.
func DefaultRelay() Relay { return Relay{Protocol: "smtp", TLS: "opportunistic"} }

const maxHosts = 20

// Validate returns all problems as joined *pipeline.FieldError, and brings hosts into the form in which they are used.
func (r *Relay) Validate() error {
	var problems []error
	bad := func(key, format string, args ...any) {
		problems = append(problems, &pipeline.FieldError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	lmtp := r.Protocol == "lmtp"
	if n := len(r.Hosts); n == 0 || n > maxHosts {
		bad("hosts", "has %d entries, expected 1 to %d such as \"smtp.example.net:587\"", n, maxHosts)
	}
	here := true // nobody can listen on the way
	for i, h := range r.Hosts {
		canonical, local, err := host(h, lmtp, r.TLS == "implicit")
		if err != nil {
			bad("hosts", "%v", err)
			continue
		}
		if slices.Contains(r.Hosts[:i], canonical) {
			bad("hosts", "has %q twice", h)
		}
		r.Hosts[i] = canonical
		here = here && local
		if strings.HasPrefix(canonical, "unix:") && r.TLS != "none" && r.TLS != "opportunistic" {
			bad("tls", "%q does not go with %q, expected \"none\"", r.TLS, h)
		}
	}
	switch {
	case (r.Username == "") != (r.Password == ""):
		bad("username", "and password go together, expected both or neither")
	case r.Username != "" && lmtp:
		bad("username", "does not go with lmtp, which other stores offer without a login; expected none")
	case len(r.Username) > 255 || len(r.Password) > 1024 || strings.ContainsAny(r.Username+r.Password, "\x00\r\n"):
		bad("username", "or password is too long, or has a line break in it")
	case r.Username != "" && !here && (r.TLS == "none" || r.TLS == "opportunistic"):
		bad("tls", "%q would show the password to whoever is on the way, expected \"verify\", \"require\" or \"implicit\"", r.TLS)
	}
	return errors.Join(problems...)
}

// host brings an entry of hosts into the form "name:port" or "unix:/path". here says that it is on this machine.
func host(text string, lmtp, implicit bool) (canonical string, here bool, err error) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		switch {
		case !lmtp:
			return "", false, fmt.Errorf("%q is a socket, which goes with protocol = \"lmtp\" only", text)
		case !strings.HasPrefix(path, "/") || len(path) > 107 || strings.ContainsAny(path, "\x00\r\n"): // of sun_path, unix(7)
			return "", false, fmt.Errorf("%q is no socket, expected \"unix:/path\" with at most 107 octets of path", text)
		}
		return text, true, nil
	}
	name, port := text, ""
	if addr, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		name = addr.Unmap().String()
	} else if strings.Contains(text, ":") {
		if name, port, err = net.SplitHostPort(text); err != nil {
			return "", false, fmt.Errorf("%q is no host, expected one such as \"smtp.example.net:587\"", text)
		}
	}
	if port == "" {
		switch {
		case lmtp:
			return "", false, fmt.Errorf("%q has no port, and LMTP has none of its own; expected one such as %q", text, name+":24")
		case implicit:
			return "", false, fmt.Errorf("%q has no port, and 25 is not for implicit TLS; expected one such as %q", text, name+":465")
		}
		port = "25"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
		return "", false, fmt.Errorf("%q has no port from 1 to 65535", text)
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		if addr.Zone() != "" {
			return "", false, fmt.Errorf("%q has a zone, which is not supported", text)
		}
		addr = addr.Unmap()
		return net.JoinHostPort(addr.String(), port), addr.IsLoopback(), nil
	}
	folded, err := foldDomain(name)
	if err != nil || !hostName(folded) {
		return "", false, fmt.Errorf("%q is no host, expected one such as \"smtp.example.net:587\"", text)
	}
	return folded + ":" + port, folded == "localhost", nil
}

// RelayName brings the name of a [relay] table into canonical form: a domain, ".domain" for its subdomains, or "*".
func RelayName(name string) (string, error) {
	if name == "*" {
		return name, nil
	}
	rest, dot := strings.CutPrefix(name, ".")
	folded, err := foldDomain(rest)
	if err != nil || !hostName(folded) {
		return "", fmt.Errorf("%q is neither a domain, nor \".domain\" for its subdomains, nor \"*\"", name)
	}
	if dot {
		return "." + folded, nil
	}
	return folded, nil
}

// plainPath are the characters that a path may have in a Via: who reads it finds the same path, whether it unescapes or not.
const plainPath = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+~@,="

// Via brings a next hop that somebody decided on by hand, or a plugin, into the form of pipeline.Hop.Via:
// "smtp://host:port", "lmtp://host:port" or "lmtp:///path". There are no credentials in it: they would stand in the queue
// and in traces.
func Via(text string) (string, error) {
	const expected = "expected \"smtp://host:port\", \"lmtp://host:port\" or \"lmtp:///path\""
	u, err := url.Parse(text)
	switch {
	case err != nil || len(text) > 300:
		return "", errors.New("is no next hop, " + expected)
	case u.User != nil:
		return "", errors.New("has credentials in it, which belong into [relay]; " + expected)
	case u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" || u.ForceQuery:
		return "", errors.New("has more than a host, " + expected)
	case u.Scheme == "lmtp" && u.Host == "" && u.Path != "":
		if _, _, err := host("unix:"+u.Path, true, false); err != nil {
			return "", fmt.Errorf("%w; %s", err, expected)
		}
		if strings.Trim(u.Path, plainPath) != "" {
			return "", errors.New("has a path that would have to be escaped, " + expected)
		}
		return "lmtp://" + u.Path, nil
	case u.Scheme != "smtp" && u.Scheme != "lmtp", u.Host == "", u.Path != "" && u.Path != "/":
		return "", errors.New("is no next hop, " + expected)
	}
	canonical, _, err := host(u.Host, u.Scheme == "lmtp", false)
	if err != nil {
		return "", err
	}
	return u.Scheme + "://" + canonical, nil
}

// transports are the [relay] tables by canonical name.
type transports map[string]pipeline.Transport

func newTransports(relays map[string]Relay) (transports, error) {
	t := make(transports, len(relays))
	for name, r := range relays {
		key, err := RelayName(name)
		if err != nil {
			return nil, fmt.Errorf("relay %q: %w", name, err)
		}
		r.Hosts = slices.Clone(r.Hosts)
		if err := r.Validate(); err != nil {
			return nil, fmt.Errorf("relay %q: %w", name, err)
		}
		t[key] = pipeline.Transport{
			Name: "relay." + name, LMTP: r.Protocol == "lmtp", Hosts: r.Hosts, TLS: r.TLS, Username: r.Username, Password: r.Password,
		}
	}
	return t, nil
}

// Transport returns how mail for a domain leaves: by the table of that domain, of the nearest domain above it with a dot in
// front, or "*" (RULES D2). Without one it is the zero Transport: MX. Hosts must not be changed.
func (t *Table) Transport(domain string) pipeline.Transport {
	if len(t.relays) == 0 {
		return pipeline.Transport{}
	}
	if folded, err := foldDomain(domain); err == nil {
		domain = folded
	}
	if found, ok := t.relays[domain]; ok {
		return found
	}
	for rest := domain; ; {
		at := strings.IndexByte(rest, '.')
		if at < 0 {
			return t.relays["*"]
		}
		if found, ok := t.relays[rest[at:]]; ok {
			return found
		}
		rest = rest[at+1:]
	}
}
