package authenticate

import (
	"fmt"
	"strings"
	"testing"
)

// TestSPFCost (DRILLS E4.1): what records ask for, one message costs a bounded number of questions, those with a TTL of zero too,
// and the messages behind it in a session none where it is longer.
func TestSPFCost(t *testing.T) {
	const most = 10*11 + 10 + 5 // ten terms, each an MX with ten hosts; their records; and our own, iprev's and DMARC's
	hosts := func(name string, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "%s TTL MX %d h%d.%s\nh%d.%s TTL A 198.51.100.%d\n", name, i, i, name, i, name, i%250+1)
		}
		return b.String()
	}
	chain := func(n int, term string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "i%d.cost.test. TTL TXT \"v=spf1 %s include:i%d.cost.test -all\"\n", i, term, i+1)
		}
		return b.String()
	}
	var many strings.Builder
	for i := range 100 {
		fmt.Fprintf(&many, "mx:m%d.cost.test ", i)
	}
	text := `"` + strings.Join(strings.SplitAfter(strings.TrimSpace(many.String()), "9.cost.test "), `" "`) + `"`
	for name, zone := range map[string]string{
		"a chain of includes":   "cost.test. TTL TXT \"v=spf1 include:i0.cost.test -all\"\n" + chain(40, "mx:cost.test") + hosts("cost.test.", 10),
		"more hosts than may":   "cost.test. TTL TXT \"v=spf1 mx -all\"\n" + hosts("cost.test.", 200),
		"a hundred terms":       "cost.test. TTL TXT \"v=spf1 \" " + text + " \" -all\"\n" + hosts("m0.cost.test.", 10),
		"itself":                "cost.test. TTL TXT \"v=spf1 include:cost.test redirect=cost.test\"\n",
		"names that grow":       "cost.test. TTL TXT \"v=spf1 exists:%{s}.%{s}.%{s}.%{s}.%{l}.%{d}.%{h}.%{i}.cost.test exists:%{S}%{S}%{S}%{S}.%{d2}.cost.test -all\"\n",
		"labels that are none":  "cost.test. TTL TXT \"v=spf1 exists:" + strings.Repeat("%{l}", 60) + ".%{d} include:%{l1r-}.%{v}.%{p} ?all\"\n",
		"many names of us":      "cost.test. TTL TXT \"v=spf1 ptr ptr:x.test ptr:y.test -all\"\n" + pointers(60),
		"a redirect to its own": "cost.test. TTL TXT \"v=spf1 redirect=%{d}\"\n",
	} {
		for _, ttl := range []string{"0", "300"} {
			f := newFixture(t, strings.ReplaceAll(zone, " TTL ", " "+ttl+" "))
			before := 0
			for n := range 3 {
				m := f.message(strings.Repeat("l", 60)+"@cost.test", "From: a@cost.test\nSubject: x\n\nbody\n")
				m.Peer.Helo = strings.Repeat("h.", 100) + "cost.test"
				f.process(m)
				asked := f.zone.Queries() - before
				before = f.zone.Queries()
				if asked > most || asked == 0 && n == 0 {
					t.Errorf("%s, TTL %s, message %d: %d questions, want at most %d", name, ttl, n, asked, most)
				}
				if ttl != "0" && n > 0 && asked > 0 {
					t.Errorf("%s, message %d: %d questions again", name, n, asked)
				}
				if got := field(t, m); strings.Contains(got, "spf=pass") || len(got) > 2000 {
					t.Errorf("%s: %s", name, got)
				}
			}
		}
	}
}

// pointers gives the client many names.
func pointers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "10.2.0.192.in-addr.arpa. TTL PTR p%d.cost.test.\np%d.cost.test. TTL A 192.0.2.99\n", i, i)
	}
	return b.String()
}
