package route

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

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
				"self": {"self@example.test"}, "away": {"x@elsewhere.test"}, "half": {"nobody@example.test", "bob@example.test"},
				"dead": {"nobody@example.test"}, "detail+kept": {"bob@example.test"}, "many": many,
			},
			SendAs: map[string]AddressList{"alice": {"press@elsewhere.test"}},
		},
		"catch.test":       {CatchAll: AddressList{"bob@example.test"}, Subaddress: "-"},
		"b\u00fccher.test": {},
	}
	tb, err := NewTable(domains, "postmaster@example.test", people{
		"alice@example.test", "Bob@example.test", "carol@example.test", "x@catch.test", "leser@b\u00fccher.test", "leser@xn--bcher-kva.test",
	})
	if err != nil {
		t.Fatal(err)
	}
	return tb
}

// TestResolve holds the order of RULES A10.
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
		{"away@example.test", "", ErrRemote},
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
		found, err := tb.Resolve(context.Background(), c.address)
		var got []string
		for _, a := range found {
			got = append(got, a.Address)
		}
		if !errors.Is(err, c.err) || strings.Join(got, " ") != c.want {
			t.Errorf("%q: %v, %v; want %q, %v", c.address, got, err, c.want, c.err)
		}
	}
}

func TestOwns(t *testing.T) {
	tb := table(t)
	alice, _ := tb.accounts.Lookup(context.Background(), "alice@example.test")
	alice.SendAs = []string{"sales@example.test"}
	for address, want := range map[string]bool{
		"alice@example.test": true, "Alice+x@example.test": true, "team@example.test": true, "postmaster@example.test": true,
		"press@elsewhere.test": true, "SALES@example.test": true,
		"bob@example.test": false, "bob+alice@example.test": false, "alice@elsewhere.test": false, "": false, "self@example.test": false,
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

func TestCheckFindsLoopsAndRemoteTargets(t *testing.T) {
	problems := table(t).Check()
	var keys []string
	for k := range problems {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	want := `domain."example.test".aliases.a domain."example.test".aliases.away domain."example.test".aliases.b domain."example.test".aliases.self`
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
