package srs

import (
	"errors"
	"strings"
	"testing"
	"time"
)

const secret, other = "a secret of ours", "another of ours!"

func rewriter(t testing.TB, domain string, day int64, secrets ...string) *Rewriter {
	t.Helper()
	r, err := New(domain, secrets, func() time.Time { return time.Unix(day*24*60*60+5, 0) })
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestThere goes through two forwards and back again.
func TestThere(t *testing.T) {
	a, b, c := rewriter(t, "a.test", 20_000, secret), rewriter(t, "b.test", 20_000, other), rewriter(t, "c.test", 20_000, "a third of theirs")
	one, err := a.Forward("Alice", "example.net")
	if err != nil || !strings.HasPrefix(one, "SRS0=") || !strings.HasSuffix(one, "=RA=example.net=Alice") || len(one) != len("SRS0=HHHHHHHH=RA=example.net=Alice") {
		t.Fatalf("%q %v", one, err)
	}
	two, err := b.Forward(one, "a.test")
	if err != nil || !strings.HasPrefix(two, "SRS1=") || !strings.HasSuffix(two, "=a.test="+one[len("SRS0"):]) {
		t.Fatalf("%q %v", two, err)
	}
	three, err := c.Forward(two, "b.test") // b.test is left out of the way back
	if err != nil || !strings.HasSuffix(three, "=a.test="+one[len("SRS0"):]) || len(three) != len(two) {
		t.Fatalf("%q %v", three, err)
	}
	local, domain, err := c.Reverse(three)
	if err != nil || local != one || domain != "a.test" {
		t.Fatalf("%q %q %v", local, domain, err)
	}
	local, domain, err = a.Reverse(local)
	if err != nil || local != "Alice" || domain != "example.net" {
		t.Fatalf("%q %q %v", local, domain, err)
	}
}

// TestReverse: what is taken for ours, and what is not.
func TestReverse(t *testing.T) {
	old, now := rewriter(t, "a.test", 20_000, secret), func(day int64) *Rewriter { return rewriter(t, "a.test", day, other, secret) }
	made, err := old.Forward("bob+x=y", "example.net")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, local string
		day         int64
		want        error
	}{
		{"the older of two secrets", made, 20_000, nil},
		{"in lower case", strings.ToLower(made), 20_000, nil},
		{"in upper case", strings.ToUpper(made), 20_000, nil},
		{"of tomorrow", made, 19_999, nil},
		{"three weeks old", made, 20_021, nil},
		{"older", made, 20_022, ErrExpired},
		{"of the day after tomorrow", made, 19_998, ErrExpired},
		{"much older", made, 20_000 + 1023 - 22, ErrExpired},
		{"another user", strings.Replace(made, "bob", "eve", 1), 20_000, ErrForged},
		{"another domain", strings.Replace(made, "example.net", "victim.test", 1), 20_000, ErrForged},
		{"another day", strings.Replace(made, "=RA=", "=RB=", 1), 20_000, ErrForged},
		{"no hash", "SRS0=" + made[len("SRS0=HHHHHHHH="):], 20_000, ErrForged},
		{"an empty hash", "SRS0==" + made[len("SRS0=HHHHHHHH="):], 20_000, ErrForged},
		{"half a hash", made[:9] + made[13:], 20_000, ErrForged},
		{"made into SRS1", "SRS1" + made[4:], 20_000, ErrForged},
		{"nothing", "SRS0=", 20_000, ErrForged},
		{"no SRS", "alice", 20_000, ErrNotSRS},
		{"no separator", "SRS0", 20_000, ErrNotSRS},
		{"longer than any", "SRS0=" + strings.Repeat("x", 600), 20_000, ErrForged},
	} {
		local, domain, err := now(c.day).Reverse(c.local)
		if !errors.Is(err, c.want) || err == nil && (!strings.EqualFold(local, "bob+x=y") || domain != "example.net") {
			t.Errorf("%s: %q@%q %v, want %v", c.name, local, domain, err, c.want)
		}
	}
	if _, _, err := rewriter(t, "a.test", 20_000, other).Reverse(made); !errors.Is(err, ErrForged) {
		t.Errorf("a secret that was given up: %v", err)
	}
}

// TestNeverAgain: an address is not taken for a second time when its stamp comes round, and one without a stamp of ours, SRS1,
// has its time too (RULES A9).
func TestNeverAgain(t *testing.T) {
	made, err := rewriter(t, "a.test", 20_000, secret).Forward("bob", "example.net")
	if err != nil {
		t.Fatal(err)
	}
	for _, day := range []int64{20_000 + 1023, 20_000 + 1024, 20_000 + 1030, 20_000 + 2048} {
		if local, domain, err := rewriter(t, "a.test", day, secret).Reverse(made); err == nil {
			t.Errorf("on day %d it is taken again: %q@%q", day, local, domain)
		}
	}
	if made, err = rewriter(t, "a.test", 20_000, other, secret).Forward(made, "b.test"); err != nil {
		t.Fatal(err)
	}
	for day, want := range map[int64]error{
		19_999: nil, 20_000: nil, 20_010: nil, 20_021: nil, 20_028: ErrForged, 20_100: ErrForged, 20_000 + 1024: ErrForged, 19_990: ErrForged,
	} {
		if _, _, err := rewriter(t, "a.test", day, secret, other).Reverse(made); !errors.Is(err, want) {
			t.Errorf("SRS1 on day %d: %v, want %v", day, err, want)
		}
	}
}

// TestForward: what can't be rewritten stays.
func TestForward(t *testing.T) {
	r := rewriter(t, "a.test", 20_000, secret)
	for sender, want := range map[string]error{
		"alice@example.net": nil, "a b@example.net": nil, "\u00fcber@example.net": nil, "srs0@example.net": nil, "SRS1x@example.net": nil,
		"SRS0+abc=XY=d.test=u@b.test": nil, "srs1-x=b.test=-h=XY=d=u@c.test": nil,
		strings.Repeat("x", 64) + "@example.net": nil, strings.Repeat("x", 110) + "@example.net": ErrTooLong,
		"@example.net": ErrSender, "alice@": ErrSender, "alice@EXAMPLE.net": ErrSender, "alice@[192.0.2.1]": ErrSender, "SRS1=x@c.test": ErrSender,
		"a\r\nb@example.net": ErrSender, "\xff@example.net": ErrSender,
	} {
		at := strings.LastIndexByte(sender, '@')
		made, err := r.Forward(sender[:at], sender[at+1:])
		if !errors.Is(err, want) {
			t.Errorf("%q: %q %v, want %v", sender, made, err, want)
		}
	}
}

func FuzzReverse(f *testing.F) {
	r := rewriter(f, "a.test", 20_000, secret)
	for _, s := range []string{"alice", "a=b=c", "SRS0=x=RA=b.test=u", "SRS1=x=b.test==y=RA=c.test=u", "SRS0+x", "srs1-=="} {
		made, _ := r.Forward(s, "example.net")
		f.Add(s)
		f.Add(made)
	}
	f.Fuzz(func(t *testing.T, local string) {
		if original, domain, err := r.Reverse(local); err == nil {
			if _, err := r.Forward(original, domain); errors.Is(err, ErrSender) && !Is(original) {
				t.Errorf("%q led to %q@%q, which is no sender", local, original, domain)
			}
		}
		made, err := r.Forward(local, "example.net")
		if err != nil {
			return
		}
		if len(made) > maxLocal || !Is(made) {
			t.Fatalf("%q was made of %q", made, local)
		}
		original, domain, err := r.Reverse(made)
		switch {
		case marked(local, "SRS1"): // its server is left out
			if err == nil && !marked(original, "SRS0") {
				t.Errorf("%q led to %q@%q", made, original, domain)
			}
		case err != nil, domain != "example.net", original != local && !marked(local, "SRS0"):
			t.Errorf("%q: %q led back to %q@%q, %v", local, made, original, domain, err)
		}
	})
}
