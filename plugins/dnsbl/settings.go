package dnsbl

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicemail/sluice/sdk"
)

// List is one table of [plugin.dnsbl.config.addresses] or [plugin.dnsbl.config.domains].
type List struct {
	Weight  float64            `config:"weight"`  // of an answer that Answers does not have; 0: it does not count
	Answers map[string]float64 `config:"answers"` // "127.0.0.2" or "127.0.0.8/29" = weight
	Refuse  bool               `config:"refuse"`  // refuse what is listed with a weight that is not negative
	Text    string             `config:"text"`    // of that reply; {what} and {zone} are replaced
	Symbol  string             `config:"symbol"`  // of the reason; default from the zone
	Test    bool               `config:"test"`    // by the entries of RFC 5782 section 5
}

// Settings is [plugin.dnsbl.config].
type Settings struct {
	Servers      []string                  `config:"servers"`   // "address:port"; empty: the system's
	Timeout      time.Duration             `config:"timeout"`   // for all lists together
	Addresses    map[string]map[string]any `config:"addresses"` // zone = List, asked about clients
	Domains      map[string]map[string]any `config:"domains"`   // zone = List, asked about domains
	Exempt       []string                  `config:"exempt"`    // domains that are never asked about
	Private      bool                      `config:"private"`   // ask about private addresses too
	CacheEntries int                       `config:"cache_entries"`

	addresses, domains map[string]List
}

func defaults() Settings {
	return Settings{Timeout: 3 * time.Second, CacheEntries: 50000}
}

const defaultText = "{what} is listed by {zone}"

// check reads the lists too: each has defaults of its own.
func (s *Settings) check() error {
	var problems []error
	bad := func(key, format string, args ...any) {
		problems = append(problems, &sdk.SettingError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	for i, server := range s.Servers {
		if _, err := netip.ParseAddrPort(server); err != nil {
			bad(fmt.Sprintf("servers[%d]", i+1), "%q, expected an address and a port such as \"127.0.0.1:53\"", server)
		}
	}
	if s.Timeout < 100*time.Millisecond || s.Timeout > time.Minute {
		bad("timeout", "%s, expected 100ms to 1m", s.Timeout)
	}
	if s.CacheEntries < 100 {
		bad("cache_entries", "%d, expected at least 100", s.CacheEntries)
	}
	for i, d := range s.Exempt {
		r, ok := registered(d)
		if !ok || r != strings.ToLower(strings.Trim(d, ".")) && strings.Contains(d, ".") && isASCII(d) {
			bad(fmt.Sprintf("exempt[%d]", i+1), "%q, expected a registered domain such as \"example.org\": domains are asked about without what is below them", d)
			continue
		}
		s.Exempt[i] = r
	}
	var err error
	s.addresses, err = decodeLists("addresses", s.Addresses)
	problems = append(problems, err)
	s.domains, err = decodeLists("domains", s.Domains)
	problems = append(problems, err)
	return errors.Join(problems...)
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > 0x7e })
}

func decodeLists(key string, tables map[string]map[string]any) (map[string]List, error) {
	lists := make(map[string]List, len(tables))
	var problems []error
	for zone, table := range tables {
		l := List{Weight: 1, Text: defaultText, Symbol: symbolOf(zone), Test: true}
		at := key + "." + zone
		problems = append(problems, below(at, sdk.Settings{Config: table}.Decode(&l)), l.check(at, zone))
		lists[zone] = l
	}
	return lists, errors.Join(problems...)
}

// check looks at one list, whose table is at that key.
func (l *List) check(at, zone string) error {
	var problems []error
	bad := func(key, format string, args ...any) {
		problems = append(problems, &sdk.SettingError{Key: key, Problem: fmt.Sprintf(format, args...)})
	}
	if _, ok := dns.IsDomainName(zone); !ok || len(zone) > 180 || !strings.Contains(zone, ".") || strings.ContainsFunc(zone, notInZone) {
		bad(at, "%q is no domain name", zone)
	}
	counts := l.Weight != 0
	for pattern, weight := range l.Answers {
		counts = counts || weight != 0
		if _, err := parsePattern(pattern); err != nil {
			bad(at+".answers."+pattern, "expected an address or network in 127.0.0.0/8")
		}
	}
	if !counts {
		bad(at+".weight", "0, and no answer has another: the list would neither count nor refuse anything")
	}
	if l.Symbol == "" || len(l.Symbol) > 100 || strings.ContainsFunc(l.Symbol, func(r rune) bool { return r <= ' ' || r > '~' }) {
		bad(at+".symbol", "%q, expected a word in ASCII of at most 100 octets", l.Symbol)
	}
	return errors.Join(problems...)
}

// notInZone reports whether a character has no place in the name of a list.
func notInZone(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r)
}

// below puts the path of a table in front of the keys of complaints.
func below(path string, err error) error {
	many, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	var out []error
	for _, e := range many.Unwrap() {
		var setting *sdk.SettingError
		if errors.As(e, &setting) {
			e = &sdk.SettingError{Key: path + "." + setting.Key, Problem: setting.Problem}
		}
		out = append(out, e)
	}
	return errors.Join(out...)
}

func symbolOf(zone string) string {
	return "DNSBL_" + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(zone))
}

func parsePattern(s string) (netip.Prefix, error) {
	n, err := netip.ParsePrefix(s)
	if err != nil {
		var a netip.Addr
		if a, err = netip.ParseAddr(s); err != nil {
			return n, err
		}
		n = netip.PrefixFrom(a, a.BitLen())
	}
	if !n.Addr().Is4() || n.Addr().As4()[0] != 127 {
		return n, fmt.Errorf("%s is not in 127.0.0.0/8", s)
	}
	return n.Masked(), nil
}

// kind is what a list is about.
type kind int

const (
	ofAddresses kind = iota
	ofDomains
)

// list is one list at work.
type list struct {
	of       kind
	zone     string
	symbol   string
	text     string
	refuse   bool
	test     bool
	other    float64   // weight of an answer that is in no pattern
	patterns []pattern // the narrowest first
	broken   atomic.Bool
}

type pattern struct {
	answers netip.Prefix
	weight  float64
}

func (s *Settings) lists() []*list {
	var out []*list
	for _, of := range []kind{ofAddresses, ofDomains} {
		tables := s.addresses
		if of == ofDomains {
			tables = s.domains
		}
		for zone, t := range tables {
			l := &list{
				of: of, zone: strings.TrimSuffix(zone, ".") + ".", symbol: t.Symbol, text: t.Text, refuse: t.Refuse, test: t.Test, other: t.Weight,
			}
			for p, w := range t.Answers {
				n, _ := parsePattern(p) // was checked
				l.patterns = append(l.patterns, pattern{n, w})
			}
			sort.Slice(l.patterns, func(i, k int) bool { return l.patterns[i].answers.Bits() > l.patterns[k].answers.Bits() })
			out = append(out, l)
		}
	}
	sort.Slice(out, func(i, k int) bool { return out[i].zone < out[k].zone })
	return out
}

// weight returns what an answer counts, and false for one that does not, as the administrator says.
func (l *list) weight(answer netip.Addr) (float64, bool) {
	for _, p := range l.patterns {
		if p.answers.Contains(answer) {
			return p.weight, p.weight != 0
		}
	}
	return l.other, l.other != 0
}

// refuses reports whether an answer says "you may not ask me", as 127.0.0.1 does at URIBL, SURBL and others: an administrator whose list
// means something else by it says what, in answers.
func (l *list) refuses(answer netip.Addr) bool {
	named := slices.ContainsFunc(l.patterns, func(p pattern) bool { return p.answers.Contains(answer) })
	return answer == netip.AddrFrom4([4]byte{127, 0, 0, 1}) && !named
}

func (l *list) reply(s subject) *sdk.Reply {
	text := strings.NewReplacer("{what}", s.name, "{zone}", strings.TrimSuffix(l.zone, ".")).Replace(l.text)
	return &sdk.Reply{Code: 554, Enhanced: "5.7.1", Text: text}
}
