package queue

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/sdk"
)

func TestLike(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "", true}, {"", "anything", true},
		{"a", "a", true}, {"a", "A", true}, {"a", "", false}, {"a", "ab", false}, {"ab", "a", false},
		{"*", "", true}, {"*", "x", true}, {"**", "x", true}, {"?", "", false}, {"?", "x", true}, {"?", "xy", false},
		{"*@example.net", "Bob@Example.NET", true}, {"*@example.net", "bob@example.net.evil", false}, {"*@example.net", "bob@sub.example.net", false},
		{"*.example.net", "example.net", false}, {"*.example.net", "a.b.example.net", true},
		{"a*b*c", "aXbXbXc", true}, {"a*b*c", "aXcXb", false}, {"a*b*c", "abc", true},
		{"j?rg@*", "jörg@example.net", true}, {"*ö*", "JÖRG", true}, {"?*?", "x", false}, {"?*?", "xy", true},
		{"bo[b]@*", "bob@example.net", false}, {"a.c", "abc", false}, // nothing else is special
	} {
		if got := like(c.pattern, c.text); got != c.want {
			t.Errorf("like(%q, %q) = %t", c.pattern, c.text, got)
		}
	}
	begin := time.Now() // an exponential comparison would not end
	if like(strings.Repeat("*a", 400)+"b", strings.Repeat("a", 10_000)) {
		t.Error("a long one is not like that")
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestFilter(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	e := Entry{Origin: sdk.Login, Pipeline: "outbound", Received: now.Add(-2 * time.Hour), Sender: "Alice@Example.test", Size: 5000}
	r := Recipient{
		Address: "team@example.test", Hop: pipeline.Hop{Kind: pipeline.HopRemote, Address: "Bob@xn--bcher-kva.example"},
		Attempts: 3, Next: now, Last: "450 4.2.1 Mailbox is Busy",
	}
	null, here, kept, fixed, held := e, r, r, r, r
	null.Sender = ""
	here.Hop = pipeline.Hop{Kind: pipeline.HopMailbox, Address: "bob@example.test"}
	kept.Hop = pipeline.Hop{Kind: pipeline.HopQuarantine, Why: "score 7"}
	kept.Last = ""
	fixed.Hop.Via = "smtp://127.0.0.1:26"
	held.Next = time.Time{}
	place := func(h *pipeline.Hop) string {
		switch {
		case h.Kind == pipeline.HopMailbox:
			return localHop
		case h.Via != "":
			return "127.0.0.1:26"
		}
		return "mx1.example.net,mx2.example.net"
	}
	for _, c := range []struct {
		name string
		f    Filter
		e    *Entry
		r    *Recipient
		want bool
	}{
		{"nothing said", Filter{}, &e, &r, true},
		{"sender", Filter{From: "ALICE@*"}, &e, &r, true},
		{"another sender", Filter{From: "bob@*"}, &e, &r, false},
		{"null sender", Filter{From: "<>"}, &null, &r, true},
		{"no null sender", Filter{From: "<>"}, &e, &r, false},
		{"null sender is like nothing", Filter{From: "?*"}, &null, &r, false},
		{"recipient as given", Filter{To: "team@*"}, &e, &r, true},
		{"recipient as it leaves", Filter{To: "bob@*"}, &e, &r, true},
		{"another recipient", Filter{To: "carol@*"}, &e, &r, false},
		{"domain", Filter{Domain: "xn--bcher-kva.example"}, &e, &r, true},
		{"domain as people write it", Filter{Domain: "BÜCHER.example"}, &e, &r, true},
		{"domains below", Filter{Domain: "*.example"}, &e, &r, true},
		{"domain of the alias", Filter{Domain: "example.test"}, &e, &r, false},
		{"domain of a mailbox", Filter{Domain: "example.test"}, &e, &here, true},
		{"next hop", Filter{NextHop: "mx2.example.net"}, &e, &r, true},
		{"whole next hop", Filter{NextHop: "mx1.example.net,mx2.*"}, &e, &r, true},
		{"another next hop", Filter{NextHop: "mx3.example.net"}, &e, &r, false},
		{"fixed next hop", Filter{NextHop: "smtp://127.0.0.1:26"}, &e, &fixed, true},
		{"its host", Filter{NextHop: "127.0.0.1"}, &e, &fixed, true},
		{"local", Filter{NextHop: "local"}, &e, &here, true},
		{"older", Filter{OlderThan: time.Hour}, &e, &r, true},
		{"not older", Filter{OlderThan: 2 * time.Hour}, &e, &r, false},
		{"newer", Filter{NewerThan: 3 * time.Hour}, &e, &r, true},
		{"not newer", Filter{NewerThan: 2 * time.Hour}, &e, &r, false},
		{"queued", Filter{State: "queued"}, &e, &r, true},
		{"not held", Filter{State: "held"}, &e, &r, false},
		{"held", Filter{State: "held"}, &e, &held, true},
		{"quarantined", Filter{State: "quarantined"}, &e, &kept, true},
		{"pipeline", Filter{Pipeline: "out*"}, &e, &r, true},
		{"another pipeline", Filter{Pipeline: "in*"}, &e, &r, false},
		{"origin", Filter{Origin: "login"}, &e, &r, true},
		{"another origin", Filter{Origin: "stranger"}, &e, &r, false},
		{"larger", Filter{SizeOver: 4999}, &e, &r, true},
		{"not larger", Filter{SizeOver: 5000}, &e, &r, false},
		{"more attempts", Filter{Attempts: 2}, &e, &r, true},
		{"not more attempts", Filter{Attempts: 3}, &e, &r, false},
		{"reason", Filter{Reason: "mailbox is busy"}, &e, &r, true},
		{"pattern of the reason", Filter{Reason: "450*busy"}, &e, &r, true},
		{"pattern of a part", Filter{Reason: "mailbox*"}, &e, &r, false},
		{"reason of the quarantine", Filter{Reason: "SCORE"}, &e, &kept, true},
		{"all of it", Filter{From: "alice@*", To: "bob@*", State: "queued", Attempts: 1}, &e, &r, true},
		{"one is wrong", Filter{From: "alice@*", To: "bob@*", State: "queued", Attempts: 5}, &e, &r, false},
	} {
		if err := c.f.Validate(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		s := c.f.sieve(now, place)
		if got := s.entry(c.e) && s.recipient(c.r); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

func TestFilterValidate(t *testing.T) {
	for _, f := range []Filter{
		{State: "lost"}, {Origin: "me"}, {OlderThan: -1}, {NewerThan: -1}, {SizeOver: -1}, {Attempts: -1},
		{From: strings.Repeat("*", maxPattern+1)}, {Reason: "\xff"},
	} {
		if f.Validate() == nil || f.Empty() {
			t.Errorf("%+v is taken", f)
		}
	}
}

func TestFollowing(t *testing.T) {
	for from, want := range map[[10]byte][10]byte{
		{9: 1}:          {9: 2},
		{8: 1, 9: 0xff}: {8: 2},
		{0: 7, 9: 0xfe}: {0: 7, 9: 0xff},
		{}:              {},
		{1: 1, 8: 0xff}: {1: 1, 8: 0xff, 9: 1},
	} {
		if got := following(from); [10]byte(got) != want {
			t.Errorf("following(%x) = %x", from, got)
		}
	}
}

func FuzzLike(f *testing.F) {
	for _, seed := range [][2]string{{"*a?b*", "xaybz"}, {"?", "ö"}, {"", ""}, {"**", "*"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > 50 || len(text) > 200 {
			return
		}
		got := like(strings.ToLower(pattern), text)
		plain := !strings.ContainsAny(pattern, "*?")
		if plain && pattern != "" && got != (strings.ToLower(pattern) == strings.ToLower(text)) {
			t.Errorf("like(%q, %q) = %t", pattern, text, got)
		}
		if got && !like("*"+strings.ToLower(pattern)+"*", "x"+text+"x") && pattern != "" {
			t.Errorf("%q is like %q, but not inside of more", text, pattern)
		}
	})
}
