package route

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/account"
)

// people is a directory of fixed accounts.
type people []string

func (p people) Lookup(_ context.Context, address string) (account.Account, error) {
	for i, have := range p {
		if strings.EqualFold(have, address) {
			a := account.Account{Address: have}
			a.ID[0] = byte(i + 1)
			return a, nil
		}
	}
	return account.Account{}, account.ErrUnknown
}

func table(t *testing.T) *Table {
	t.Helper()
	many := make(AddressList, 0, 1)
	many = append(many, "alice@example.test")
	domains := map[string]Domain{
		"example.test": {
			Subaddress: "+",
			Aliases: map[string]AddressList{
				"postmaster": {"alice@example.test"}, "Team": {"alice@example.test", "bob@example.test", "ALICE@EXAMPLE.TEST"},
				"nested": {"team@example.test", "carol@example.test"}, "a": {"b@example.test"}, "b": {"a@example.test"},
				"self": {"self@example.test"}, "round": {"round+about@example.test"}, "away": {"x@elsewhere.test"}, "half": {"nobody@example.test", "bob@example.test"},
				"both": {"X@elsewhere.test", "alice@example.test", "x@ELSEWHERE.test"}, "over": {"team@example.test", "away@example.test"},
				"backed": {"someone@backup.test"}, "quoted": {`"a b"@elsewhere.test`}, "literal": {"x@[192.0.2.1]"},
				"kept": {"Kept@Example.test", "x@elsewhere.test"}, "lists": {"kept@example.test", "bob@example.test"}, "unkept": {"unkept@example.test", "bob@example.test"},
				"lost": {"lost@example.test", "nobody@example.test"}, "ring": {"ring@example.test", "gnir@example.test"}, "gnir": {"ring@example.test"},
				"dead": {"nobody@example.test"}, "detail+kept": {"bob@example.test"}, "many": many,
			},
			SendAs: map[string]AddressList{"alice": {"press@elsewhere.test"}},
		},
		"catch.test":       {CatchAll: AddressList{"bob@example.test"}, Subaddress: "-"},
		"b\u00fccher.test": {},
		"backup.test":      {Accept: AcceptRelay, Subaddress: "+", Aliases: map[string]AddressList{"moved": {"alice@example.test"}}},
		"away.test":        {CatchAll: AddressList{"all@elsewhere.test"}},
	}
	tb, err := NewTable(Options{
		Hostname: "mx.example.test", Domains: domains, Postmaster: "postmaster@example.test", Forward: Forward{"example.test", []string{"0123456789abcdef"}},
		Accounts: people{
			"alice@example.test", "Bob@example.test", "carol@example.test", "kept@example.test", "ring@example.test", "x@catch.test", "leser@b\u00fccher.test", "leser@xn--bcher-kva.test", "split@backup.test",
		},
		Relays: map[string]Relay{
			"backup.test": relay("127.0.0.1:2600"), ".elsewhere.test": relay("sub.example.net"), ".deep.elsewhere.test": relay("deep.example.net"), "*": relay("smart.example.net:587"),
		},
		Now: func() time.Time { return time.Unix(1_800_000_000, 0) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return tb
}

func relay(hosts ...string) Relay {
	r := DefaultRelay()
	r.Hosts = hosts
	return r
}

// told writes targets down: accounts, and "-> address through address".
func told(targets []Target) string {
	var got []string
	for _, t := range targets {
		if t.Remote == "" {
			got = append(got, t.Account.Address)
			continue
		}
		text := "-> " + t.Remote
		if t.Through != "" {
			text += " through " + t.Through
		}
		if t.Via != "" {
			text += " via " + t.Via
		}
		got = append(got, text)
	}
	return strings.Join(got, " ")
}

// TestResolve (DRILLS E2.4) holds the order of RULES A10.
func TestResolve(t *testing.T) {
	cases := []struct {
		address string
		want    string // accounts, divided by blanks
		err     error
	}{
		{"alice@example.test", "alice@example.test", nil},
		{"ALICE@Example.TEST", "alice@example.test", nil},
		{"alice@example.test.", "alice@example.test", nil},
		{`"alice"@example.test`, "alice@example.test", nil},
		{"alice+lists@example.test", "alice@example.test", nil},
		{"alice-lists@example.test", "", ErrNoMailbox},
		{"team@example.test", "alice@example.test Bob@example.test", nil},
		{"team+x@example.test", "alice@example.test Bob@example.test", nil},
		{"nested@example.test", "alice@example.test Bob@example.test carol@example.test", nil},
		{"detail+kept@example.test", "Bob@example.test", nil},
		{"Postmaster", "alice@example.test", nil},
		{"postmaster@example.test", "alice@example.test", nil},
		{"half@example.test", "Bob@example.test", nil},
		{"dead@example.test", "", ErrNoMailbox},
		{"nobody@example.test", "", ErrNoMailbox},
		{"+x@example.test", "", ErrNoMailbox},
		{"a@example.test", "", ErrLoop},
		{"self@example.test", "", ErrLoop},
		{"kept@example.test", "kept@example.test -> x@elsewhere.test through kept@example.test", nil},
		{"KEPT+x@example.test", "kept@example.test -> x@elsewhere.test through kept@example.test", nil},
		{"lists@example.test", "kept@example.test -> x@elsewhere.test through kept@example.test Bob@example.test", nil},
		{"unkept@example.test", "Bob@example.test", nil},
		{"lost@example.test", "", ErrNoMailbox},
		{"ring@example.test", "ring@example.test", nil}, // the other one is refused by Check
		{"gnir@example.test", "", ErrLoop},
		{"round@example.test", "", ErrLoop},
		{"away@example.test", "-> x@elsewhere.test through away@example.test", nil},
		{"away+x@example.test", "-> x@elsewhere.test through away@example.test", nil},
		{"both@example.test", "-> X@elsewhere.test through both@example.test alice@example.test", nil},
		{"over@example.test", "alice@example.test Bob@example.test -> x@elsewhere.test through away@example.test", nil},
		{"quoted@example.test", `-> "a b"@elsewhere.test through quoted@example.test`, nil},
		{"literal@example.test", "", ErrLiteral},
		{"backed@example.test", "-> someone@backup.test through backed@example.test", nil},
		{"Someone+X@Backup.test", "-> Someone+X@backup.test", nil},
		{"split+x@backup.test", "split@backup.test", nil},
		{"moved@backup.test", "alice@example.test", nil},
		{"x@sub.backup.test", "", ErrNotHosted},
		{"Any.Body@away.test", "-> all@elsewhere.test through any.body@away.test", nil},
		{"x@catch.test", "x@catch.test", nil},
		{"x-y@catch.test", "x@catch.test", nil},
		{"whoever@catch.test", "Bob@example.test", nil},
		{"leser@b\u00fccher.test", "leser@xn--bcher-kva.test", nil},
		{"leser@B\u00dcCHER.test", "leser@xn--bcher-kva.test", nil},
		{"alice@elsewhere.test", "", ErrNotHosted},
		{"alice@sub.example.test", "", ErrNotHosted},
		{"alice%elsewhere.test@example.test", "", ErrNoMailbox},
		{"alice@elsewhere.test@example.test", "", ErrNoMailbox},
		{"alice@[127.0.0.1]", "", ErrNotHosted},
		{"alice", "", ErrBadAddress},
		{"@example.test", "", ErrBadAddress},
		{"alice@", "", ErrBadAddress},
		{"", "", ErrBadAddress},
		{strings.Repeat("x", 600) + "@example.test", "", ErrBadAddress},
	}
	tb := table(t)
	for _, c := range cases {
		way, err := tb.Resolve(context.Background(), Asked{Address: c.address, Origin: sdk.Stranger})
		if got := told(way.Targets); !errors.Is(err, c.err) || got != c.want {
			t.Errorf("%q: %v, %v; want %q, %v", c.address, got, err, c.want, c.err)
		}
	}
}

// TestBounds: neither long lists nor lists of lists take more than their time.
func TestBounds(t *testing.T) {
	aliases := map[string]AddressList{"l0": {"carol@example.test"}}
	for i := 1; i < maxDepth; i++ {
		below := fmt.Sprintf("l%d@example.test", i-1)
		aliases[fmt.Sprint("l", i)] = AddressList{below, below, below}
	}
	for i := range maxTargets + 1 {
		aliases["many"] = append(aliases["many"], fmt.Sprintf("x%d@elsewhere.test", i))
	}
	tb, err := NewTable(Options{Domains: map[string]Domain{"example.test": {Aliases: aliases}}, Accounts: people{"carol@example.test"}})
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]error{"l0@example.test": nil, "l5@example.test": nil, "l19@example.test": ErrTooMany, "many@example.test": ErrTooMany} {
		if way, err := tb.Resolve(t.Context(), Asked{Address: address}); !errors.Is(err, want) {
			t.Errorf("%s: %d targets, %v, want %v", address, len(way.Targets), err, want)
		}
	}
}

func TestOwns(t *testing.T) {
	tb := table(t)
	alice, _ := tb.accounts.Lookup(context.Background(), "alice@example.test")
	alice.SendAs = []string{"sales@example.test"}
	for address, want := range map[string]bool{
		"alice@example.test": true, "Alice+x@example.test": true, "team@example.test": true, "postmaster@example.test": true,
		"press@elsewhere.test": true, "SALES@example.test": true, "both@example.test": true, "over+x@example.test": true,
		"bob@example.test": false, "bob+alice@example.test": false, "alice@elsewhere.test": false, "": false, "self@example.test": false,
		"away@example.test": false, "x@elsewhere.test": false, "someone@backup.test": false,
	} {
		if got, err := tb.Owns(context.Background(), alice, address); err != nil || got != want {
			t.Errorf("%q: %v %v", address, got, err)
		}
	}
}

// TestCatchAllIsNoIdentity: who gets the mail for nobody is not everybody.
func TestCatchAllIsNoIdentity(t *testing.T) {
	tb := table(t)
	bob, _ := tb.accounts.Lookup(context.Background(), "bob@example.test")
	for address, want := range map[string]bool{"whoever@catch.test": false, "team@example.test": true, "bob@example.test": true} {
		if got, err := tb.Owns(context.Background(), bob, address); err != nil || got != want {
			t.Errorf("%q: %v %v", address, got, err)
		}
	}
}

// TestCheckFindsLoops: DRILLS E2.4.
func TestCheckFindsLoops(t *testing.T) {
	problems := table(t).Check()
	var keys []string
	for k := range problems {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	want := `domain."example.test".aliases.a domain."example.test".aliases.b domain."example.test".aliases.gnir domain."example.test".aliases.literal domain."example.test".aliases.ring domain."example.test".aliases.round domain."example.test".aliases.self`
	if got := strings.Join(keys, " "); got != want {
		t.Errorf("problems with %s", got)
	}
}

func FuzzSplit(f *testing.F) {
	for _, s := range []string{"a@b", `"a@b"@c.test`, "a@b\u00fccher.test", "a@[::1]", "@", "a@xn--", "a@.", "a@b..c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		local, name, err := split(s)
		if err != nil {
			return
		}
		l2, n2, err := split(local + "@" + name)
		if err != nil || n2 != name || l2 != local {
			t.Errorf("%q: %q %q, again %q %q %v", s, local, name, l2, n2, err)
		}
	})
}
