package dnsrecords

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// Site is what the records are made of. Names are A-labels in lower case without a final dot.
type Site struct {
	Domain     string
	Hostname   string
	Addresses  []netip.Addr // of the server, as the world sees it; empty: nobody knows
	Services   []Service    // that clients use
	Keys       []Key        // for DKIM
	Postmaster string       // gets reports
	SmartHost  bool         // mail leaves by somebody else's server
	Certified  string       // what is wrong with the certificate for Hostname, or ""
}

// Service is a listener for clients.
type Service struct {
	Name string // "imaps", "imap", "pop3s", "pop3", "submissions" or "submission"
	Port uint16
}

// Key is a DKIM key with the record that it needs.
type Key struct {
	Name  string // "SELECTOR._domainkey.DOMAIN"
	Text  string
	State string // "active" (mail is signed with it), "next" or "retired"
}

// Need says how bad it is when a record is not there.
type Need string

// The needs.
const (
	Needed      Need = "needed"      // without it mail does not come, or is not believed
	Recommended Need = "recommended" //
)

// Record is one record to publish.
type Record struct {
	Kind  string   `json:"kind"` // "mx", "address", "ptr", "spf", "helo-spf", "dkim", "dmarc", "mta-sts", "tlsrpt" or "srv"
	Name  string   `json:"name"`
	Type  string   `json:"type"`
	Value string   `json:"value"` // as in a zone file, but a TXT's text is not quoted; "" if it is not known
	Need  Need     `json:"need"`
	About []string `json:"about"` // what it is for, a sentence each

	state string // of a DKIM key
	addr  netip.Addr
	port  uint16
}

// Policy is the file that MTA-STS needs beside its record.
type Policy struct {
	URL  string `json:"url"`
	Text string `json:"text"`
}

// Plan is everything that a domain needs.
type Plan struct {
	Site    Site
	Records []Record
	Policy  Policy
	Notes   []string // what has to be done first
}

// Make makes the plan of a site.
func Make(s Site) *Plan {
	p := &Plan{Site: s}
	p.incoming()
	p.outgoing()
	p.transport()
	p.clients()
	return p
}

func (p *Plan) add(r Record) { p.Records = append(p.Records, r) }

func (p *Plan) note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

// incoming: where mail for the domain goes.
func (p *Plan) incoming() {
	s := &p.Site
	p.add(Record{Kind: "mx", Name: s.Domain, Type: "MX", Value: "10 " + s.Hostname + ".", Need: Needed,
		About: []string{"Mail for " + s.Domain + " goes to this server."}})
	about := []string{"The server's address. Once for all of its domains, in the zone that " + s.Hostname + " belongs to."}
	if len(s.Addresses) == 0 {
		p.note("The server's public address is not known here: give it with --address.")
		p.add(Record{Kind: "address", Name: s.Hostname, Type: "A", Need: Needed, About: about})
		return
	}
	for _, a := range s.Addresses {
		kind := "AAAA"
		if a.Is4() {
			kind = "A"
		}
		p.add(Record{Kind: "address", Name: s.Hostname, Type: kind, Value: a.String(), Need: Needed, About: about, addr: a})
		about = nil
	}
	about = []string{"The way back, which many servers ask for before they take mail from us. Whoever gave you the address sets it."}
	for _, a := range s.Addresses {
		p.add(Record{Kind: "ptr", Name: reverse(a), Type: "PTR", Value: s.Hostname + ".", Need: Needed, About: about, addr: a})
		about = nil
	}
}

// outgoing: who may send in the domain's name.
func (p *Plan) outgoing() {
	s := &p.Site
	about := []string{"SPF: mail from " + s.Domain + " comes from the servers in its MX record, and from nobody else (RFC 7208)."}
	if s.SmartHost {
		about = append(about, "Mail leaves by another server ([relay.\"*\"]): add what its operator asks for, such as include:spf.example.net, before -all.")
	}
	p.add(Record{Kind: "spf", Name: s.Domain, Type: "TXT", Value: "v=spf1 mx -all", Need: Needed, About: about})
	if s.Hostname != s.Domain {
		p.add(Record{Kind: "helo-spf", Name: s.Hostname, Type: "TXT", Value: "v=spf1 a -all", Need: Recommended,
			About: []string{"SPF for the server's own name, by which bounces are judged: they have no sender (RFC 7208 section 2.4). Once for all domains."}})
	}
	if len(s.Keys) == 0 {
		p.note("There is no DKIM key for %s yet: `sluice dkim new %s` makes one.", s.Domain, s.Domain)
		p.add(Record{Kind: "dkim", Name: "SELECTOR._domainkey." + s.Domain, Type: "TXT", Need: Needed,
			About: []string{"DKIM: the key with which mail from " + s.Domain + " is signed (RFC 6376)."}})
	}
	for _, k := range s.Keys {
		r := Record{Kind: "dkim", Name: k.Name, Type: "TXT", Value: k.Text, Need: Needed, state: k.State}
		switch k.State {
		case "next":
			r.About = []string{"DKIM: the key that comes next. Publish it before it is activated (RFC 6376)."}
		case "retired":
			r.Need = Recommended
			r.About = []string{"DKIM: a key that signs no more. Keep it until mail that was signed with it has arrived everywhere."}
		default:
			r.About = []string{"DKIM: the key with which mail from " + s.Domain + " is signed (RFC 6376)."}
		}
		p.add(r)
	}
	p.add(Record{Kind: "dmarc", Name: "_dmarc." + s.Domain, Type: "TXT", Value: "v=DMARC1; p=none; rua=mailto:" + p.reports(), Need: Needed, About: []string{
		"DMARC: what others do with mail from " + s.Domain + " that neither SPF nor DKIM vouches for (RFC 7489).",
		"Begin with p=none, read the reports (`sluice report show`), then write p=quarantine or p=reject.",
	}})
}

// reports is the address that reports go to.
func (p *Plan) reports() string {
	if p.Site.Postmaster != "" {
		return p.Site.Postmaster
	}
	return "postmaster@" + p.Site.Domain
}

// transport: mail shall come encrypted.
func (p *Plan) transport() {
	s := &p.Site
	text := "version: STSv1\r\nmode: testing\r\nmx: " + s.Hostname + "\r\nmax_age: 604800\r\n"
	sum := sha256.Sum256([]byte(text))
	p.Policy = Policy{URL: "https://mta-sts." + s.Domain + "/.well-known/mta-sts.txt", Text: text}
	about := []string{
		"MTA-STS: mail for " + s.Domain + " comes encrypted, to the servers named in a file at",
		p.Policy.URL + " (see below; RFC 8461). Change the id whenever the file changes.",
	}
	if s.Certified != "" {
		about = append(about, "Not before the server has a certificate that others believe: its certificate "+s.Certified+".")
	}
	p.add(Record{Kind: "mta-sts", Name: "_mta-sts." + s.Domain, Type: "TXT", Value: "v=STSv1; id=" + hex.EncodeToString(sum[:10]), Need: Recommended, About: about})
	p.add(Record{Kind: "tlsrpt", Name: "_smtp._tls." + s.Domain, Type: "TXT", Value: "v=TLSRPTv1; rua=mailto:" + p.reports(), Need: Recommended,
		About: []string{"TLSRPT: who is told once a day how encryption to this server went (RFC 8460)."}})
}

// clients: where mail programs find their servers.
func (p *Plan) clients() {
	about := []string{"Where mail programs find their servers when a person enters an address (RFC 6186, RFC 8314)."}
	for _, service := range p.Site.Services {
		p.add(Record{Kind: "srv", Name: "_" + service.Name + "._tcp." + p.Site.Domain, Type: "SRV",
			Value: fmt.Sprintf("0 1 %d %s.", service.Port, p.Site.Hostname), Need: Recommended, About: about, port: service.Port})
		about = nil
	}
}

// reverse is an address's name in the reverse tree (RFC 1035 section 3.5, RFC 3596 section 2.5).
func reverse(a netip.Addr) string {
	var b strings.Builder
	if a.Is4() {
		four := a.As4()
		for i := 3; i >= 0; i-- {
			fmt.Fprintf(&b, "%d.", four[i])
		}
		return b.String() + "in-addr.arpa"
	}
	six := a.As16()
	for i := 15; i >= 0; i-- {
		fmt.Fprintf(&b, "%x.%x.", six[i]&15, six[i]>>4)
	}
	return b.String() + "ip6.arpa"
}

const ttl = 3600

// Zone is the record as a line of a zone file, or as a comment if its value is not known.
func (r *Record) Zone() string {
	value := r.Value
	switch {
	case value == "":
		return fmt.Sprintf("; %s. %d IN %s ...", r.Name, ttl, r.Type)
	case r.Type == "TXT":
		value = quoted(value)
	}
	return fmt.Sprintf("%s. %d IN %s %s", r.Name, ttl, r.Type, value)
}

// quoted writes a text in strings of at most 255 octets (RFC 1035 section 3.3.14).
func quoted(text string) string {
	var parts []string
	for len(text) > 250 {
		parts, text = append(parts, text[:250]), text[250:]
	}
	parts = append(parts, text)
	for i, part := range parts {
		parts[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(part) + `"`
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return "( " + strings.Join(parts, " ") + " )"
}

// Text is the whole plan as the text of a zone file.
func (p *Plan) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "; What DNS has to say about %s. `sluice dns %s --check` compares.\n", p.Site.Domain, p.Site.Domain)
	for _, note := range p.Notes {
		fmt.Fprintf(&b, "; TO DO: %s\n", note)
	}
	for i := range p.Records {
		r := &p.Records[i]
		if len(r.About) > 0 {
			b.WriteString("\n")
		}
		for j, line := range r.About {
			if j == 0 && r.Need == Recommended {
				line = "(recommended) " + line
			}
			fmt.Fprintf(&b, "; %s\n", line)
		}
		b.WriteString(r.Zone() + "\n")
	}
	fmt.Fprintf(&b, "\n; (with MTA-STS) mta-sts.%s leads to a web server with a certificate for that name, which serves this file at\n; %s\n", p.Site.Domain, p.Policy.URL)
	fmt.Fprintf(&b, "; Write mode: enforce, and a new id, when TLS reports show no failures.\n")
	for _, line := range strings.Split(strings.TrimSuffix(p.Policy.Text, "\r\n"), "\r\n") {
		fmt.Fprintf(&b, ";     %s\n", line)
	}
	return b.String()
}
