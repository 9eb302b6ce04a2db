package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/sdk"
)

func change(kind sdk.ChangeKind, addresses ...string) (list []sdk.Change) {
	for _, a := range addresses {
		if !strings.Contains(a, "@") && a != "" {
			a += "@example.test"
		}
		list = append(list, sdk.Change{Kind: kind, Address: a})
	}
	return list
}

// fates tells how each recipient ended: discard, junk and so on, with a + for those that a plugin added.
func fates(m *Message) string {
	var all []string
	for _, r := range m.Recipients {
		f := strings.TrimSuffix(r.Address, "@example.test") + " " + r.Opinion.Action.String()
		if r.Added != "" {
			f = "+" + f
		}
		all = append(all, f)
	}
	return strings.Join(all, ", ")
}

// TestRecipientsAndSender (DRILLS E6.5): plugins change the envelope in one stage, and another plugin has an
// opinion in the next.
func TestRecipientsAndSender(t *testing.T) {
	add, remove := sdk.AddRecipient, sdk.RemoveRecipient
	for1 := func(to string, action sdk.Action) sdk.RecipientVerdict {
		return sdk.RecipientVerdict{Recipient: to + "@example.test", Action: action}
	}
	verdict := func(action sdk.Action, lists ...[]sdk.Change) sdk.Verdict {
		return sdk.Verdict{Action: action, Changes: slices.Concat(lists...)}
	}
	for _, c := range []struct {
		name         string
		first, later sdk.Verdict
		code         int
		want         string // fates
		lmtp         string // replies of LMTP
	}{
		{"nothing", sdk.Verdict{}, sdk.Verdict{}, 250, "a accept, b accept", "250 250"},
		{"one more", verdict(0, change(add, "c")), sdk.Verdict{}, 250, "a accept, b accept, +c accept", "250 250"},
		{"one twice", verdict(0, change(add, "c", "C", "c")), sdk.Verdict{}, 250, "a accept, b accept, +c accept", "250 250"},
		{"one who is there", verdict(0, change(add, "A")), sdk.Verdict{}, 250, "a accept, b accept", "250 250"},
		{"unknown, remote and full ones", verdict(0, change(add, "nobody", "remote", "full", "c")), sdk.Verdict{}, 250, "a accept, b accept, +c accept", "250 250"},
		{"one who cannot be looked up now", verdict(0, change(add, "later")), sdk.Verdict{}, 451, "", "451 451"},
		{"one less", verdict(0, change(remove, "a")), sdk.Verdict{}, 250, "a discard, b accept", "250 250"},
		{"nobody left", verdict(0, change(remove, "a", "b")), sdk.Verdict{}, 250, "a discard, b discard", "250 250"},
		{"nobody left to be refused", verdict(0, change(remove, "a", "b")), verdict(sdk.Reject), 250, "a discard, b discard", "250 250"},
		{"another instead", verdict(0, change(remove, "a", "b"), change(add, "c")), sdk.Verdict{}, 250, "a discard, b discard, +c accept", "250 250"},
		{"another instead, refused", verdict(0, change(remove, "a", "b"), change(add, "c")), verdict(sdk.Reject), 550, "", "550 550"},
		{"another instead, deferred", verdict(0, change(remove, "a", "b"), change(add, "c")), verdict(sdk.Defer), 451, "", "451 451"},
		{"two instead, one refused", verdict(0, change(remove, "a", "b"), change(add, "c", "d")), sdk.Verdict{Recipients: []sdk.RecipientVerdict{for1("c", sdk.Reject)}}, 250, "a discard, b discard, +c discard, +d accept", "250 250"},
		{"less and back", verdict(0, change(remove, "a"), change(add, "a")), sdk.Verdict{}, 250, "a accept, b accept", "250 250"},
		{"more and away", verdict(0, change(add, "c")), verdict(0, change(remove, "c")), 250, "a accept, b accept, +c discard", "250 250"},
		{"the others refused", verdict(0, change(add, "c")), sdk.Verdict{Recipients: []sdk.RecipientVerdict{for1("a", sdk.Reject), for1("b", sdk.Reject)}}, 550, "", "550 550"},
		{"the one refused", verdict(0, change(add, "c")), sdk.Verdict{Recipients: []sdk.RecipientVerdict{for1("c", sdk.Reject)}}, 250, "a accept, b accept, +c discard", "250 250"},
		{"the one deferred: all wait", verdict(0, change(add, "c")), sdk.Verdict{Recipients: []sdk.RecipientVerdict{for1("c", sdk.Defer)}}, 451, "", "451 451"},
		{"one removed, the other refused", verdict(0, change(remove, "a")), verdict(sdk.Reject), 550, "", "250 550"},
		{"one refused, one removed, one more", verdict(0, change(remove, "a"), change(add, "c")), sdk.Verdict{Recipients: []sdk.RecipientVerdict{for1("b", sdk.Reject)}}, 550, "", "250 550"},
		{"quarantined, and no other door", verdict(sdk.Quarantine, change(add, "c")), sdk.Verdict{}, 250, "a quarantine, b quarantine, +c quarantine", "250 250"},
		{"on behalf of the weakest", sdk.Verdict{Changes: change(add, "c"), Recipients: []sdk.RecipientVerdict{for1("a", sdk.Reject)}}, sdk.Verdict{}, 250, "a reject, b accept, +c accept", "550 250"},
		{"on behalf of one", sdk.Verdict{Recipients: []sdk.RecipientVerdict{{Recipient: "a@example.test", Action: sdk.Junk, Changes: change(add, "c")}}}, sdk.Verdict{}, 250, "a junk, b accept, +c junk", "250 250"},
		{"the null sender", verdict(0, change(sdk.ChangeSender, "")), sdk.Verdict{}, 250, "a accept, b accept", "250 250"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, origin := range []sdk.Origin{sdk.Stranger, sdk.LMTP} {
				first := &changer{plugin: plugin{name: "first", changes: all(), verdict: c.first}}
				later := &changer{plugin: plugin{name: "later", changes: all(), verdict: c.later}}
				b := newBench(t, staged(StageAntiSpam, first), staged(StageAntiVirus, later))
				m := b.message(t, origin, "a@example.test", "b@example.test")
				result := b.Submit(t.Context(), m)
				if origin == sdk.LMTP {
					var codes []string
					for _, r := range result.Each {
						codes = append(codes, fmt.Sprint(r.Code))
					}
					if got := strings.Join(codes, " "); got != c.lmtp {
						t.Errorf("LMTP: %s, want %s", got, c.lmtp)
					}
					continue
				}
				if result.Reply.Code != c.code || result.Committed && fates(m) != c.want {
					t.Errorf("%v: %s, want %d: %s", result.Reply, fates(m), c.code, c.want)
				}
				if m.Trace.Head.Sender != "a@example.net" {
					t.Errorf("the trace forgets the sender: %q", m.Trace.Head.Sender)
				}
				told(t, m, result)
			}
		})
	}
}

// told holds that each recipient's end is in the trace or in its hops.
func told(t *testing.T, m *Message, result Result) {
	t.Helper()
	for _, r := range m.Recipients {
		if result.Committed && r.Removed != "" && (len(r.Hops) != 1 || r.Hops[0].Kind != HopDiscard || !strings.Contains(r.Hops[0].Why, "removed by plugin")) {
			t.Errorf("%s was removed and has hops %+v", r.Address, r.Hops)
		}
		if r.Added != "" && !slices.Contains(m.Trace.Head.Recipients, r.Address) {
			t.Errorf("the trace cannot be found by %s", r.Address)
		}
	}
}

// TestChangesOfOneStageAreSeenByTheNext: sender, recipients and fields; and the deferral of a
// recipient is remembered under the sender whom the peer will name again.
func TestChangesOfOneStageAreSeenByTheNext(t *testing.T) {
	first := &changer{plugin: plugin{name: "first", changes: all(), verdict: sdk.Verdict{Changes: slices.Concat(
		change(sdk.ChangeSender, "bounces@example.net"), change(sdk.RemoveRecipient, "a"), change(sdk.AddRecipient, "c"),
	)}}}
	same := &changer{plugin: plugin{name: "same", verdict: sdk.Verdict{}}}
	later := &changer{plugin: plugin{name: "later", changes: all(), verdict: sdk.Verdict{
		Recipients: []sdk.RecipientVerdict{{Recipient: "b@example.test", Action: sdk.Defer}},
	}}}
	b := newBench(t, staged(StageAntiSpam, first, same), staged(StageAntiVirus, later))
	m := b.message(t, sdk.Stranger, "a@example.test", "b@example.test", "d@example.test")
	result := b.Submit(t.Context(), m)
	if want := "<a@example.net> a@example.test b@example.test d@example.test\n"; !strings.HasPrefix(same.saw[0], want) {
		t.Errorf("in the same stage: %.80q", same.saw)
	}
	if want := "<bounces@example.net> b@example.test d@example.test c@example.test\n"; len(later.saw) != 1 || !strings.HasPrefix(later.saw[0], want) {
		t.Errorf("in the next stage: %.80q", later.saw)
	}
	if result.Reply.Code != 451 || m.Sender != "bounces@example.net" {
		t.Errorf("%v, sender %s", result.Reply, m.Sender)
	}
	again := &Message{Origin: sdk.Stranger, Peer: &Peer{}, Sender: "a@example.net"}
	if reply := b.Recipient(t.Context(), again, "b@example.test", RecipientParams{}); reply != ReplyNotNow {
		t.Errorf("on the next attempt: %v", reply)
	}
	if reply := b.Recipient(t.Context(), again, "d@example.test", RecipientParams{}); !reply.OK() {
		t.Errorf("on the next attempt: %v", reply)
	}
}

// TestTooManyRecipients: a verdict that makes more recipients than a message may have is a failure
// and changes nothing (DRILLS E6.5).
func TestTooManyRecipients(t *testing.T) {
	many := func(n int) (list []sdk.Change) {
		for i := range n {
			list = append(list, change(sdk.AddRecipient, fmt.Sprint("r", i))...)
		}
		return list
	}
	for _, c := range []struct {
		changes []sdk.Change
		code    int
		n       int
	}{
		{many(98), 250, 100},
		{many(99), 451, 2},
		{many(10_000), 451, 2},
		{append(change(sdk.RemoveRecipient, "a"), many(99)...), 250, 101},
		{append(many(99), change(sdk.ChangeSender, "x@example.net")...), 451, 2},
	} {
		p := &changer{plugin: plugin{name: "p", changes: all(), verdict: sdk.Verdict{Changes: c.changes}}}
		b := newBench(t, staged(StageAntiSpam, p))
		m := b.message(t, sdk.Stranger, "a@example.test", "b@example.test")
		result := b.Submit(t.Context(), m)
		if result.Reply.Code != c.code || len(m.Recipients) != c.n || c.code == 451 && (m.Sender != "a@example.net" || strings.Contains(strings.Join(events(m), " "), "add recipient")) {
			t.Errorf("%d changes: %v, %d recipients, want %d, %d", len(c.changes), result.Reply, len(m.Recipients), c.code, c.n)
		}
	}
	first := &changer{plugin: plugin{name: "first", changes: all(), verdict: sdk.Verdict{Changes: many(98)}}}
	second := &changer{plugin: plugin{name: "second", changes: all(), verdict: sdk.Verdict{Changes: change(sdk.AddRecipient, "one")}}}
	b := newBench(t, staged(StageAntiSpam, first, second))
	m := b.message(t, sdk.Stranger, "a@example.test", "b@example.test")
	if result := b.Submit(t.Context(), m); result.Reply.Code != 451 || len(m.Recipients) != 100 {
		t.Errorf("two plugins: %v, %d recipients", result.Reply, len(m.Recipients))
	}
}

func TestValidAddress(t *testing.T) {
	for address, want := range map[string]bool{
		"a@b": true, "a.b+c@example.test": true, `"a b"@example.test`: true, `"a\"b"@example.test`: true, "\u00fc@b\u00fccher.test": true,
		"a@[192.0.2.1]": true, "a@[IPv6:2001:db8::1]": true, "a'b@x-y.test": true,
		"": false, "a": false, "@b": false, "a@": false, "a b@c": false, "a@b c": false, "<a@b>": false, "a..b@c": false, ".a@b": false, "a.@b": false,
		`"a@b`: false, `"a"b"@c`: false, `"a\"@b`: false, "a@-b": false, "a@b-": false, "a@b..c": false, "a@[300.1.1.1]": false, "a@[2001:db8::1]": false,
		"a@[IPv6:192.0.2.1]": false, "a\r\n@b": false, "a@b\x00": false, "a\xff@b": false, "a\u200b@b": false, "a,b@c": false, "a@b_c": false,
		strings.Repeat("x", 65) + "@b": false, "a@" + strings.Repeat("x", 64): false, "a@" + strings.Repeat("x.", 130) + "x": false,
	} {
		if got := ValidAddress(address); got != want {
			t.Errorf("%q: %v", address, got)
		}
	}
}

// FuzzValidAddress: what passes has nothing in it that could end a command's line or path.
func FuzzValidAddress(f *testing.F) {
	for _, s := range []string{"a@b", `"a b\""@c.test`, "a@[IPv6:::1]", "\u00fc@\u00fc"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !ValidAddress(s) {
			return
		}
		if len(s) > 254 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("%q passes", s)
		}
		at := strings.LastIndexByte(s, '@')
		if strings.ContainsAny(s[at:], "<>\" \t") || s[0] != '"' && strings.ContainsAny(s[:at], "<>\" @") {
			t.Errorf("%q passes", s)
		}
	})
}

// TestFoldInvariants goes through every combination of two recipients that the peer named, each
// removed or not, and one that a plugin added, or none.
func TestFoldInvariants(t *testing.T) {
	const none = sdk.Reject + 1
	for n := range 12 * 12 * 7 * 3 * 2 {
		pick := func(of int) (k int) {
			k, n = n%of, n/of
			return k
		}
		a, b, c := pick(12), pick(12), sdk.Action(pick(7))
		mixed := []Mixed{MixedQuarantine, MixedReject, MixedBounce}[pick(3)]
		origin := []sdk.Origin{sdk.Trusted, sdk.LMTP}[pick(2)]
		m := message(origin, sdk.Action(a%6), sdk.Action(b%6))
		for i, k := range []int{a, b} {
			if k >= 6 {
				m.Recipients[i].Removed = "p"
			}
		}
		if c != none {
			added := message(origin, sdk.Accept, sdk.Accept, c).Recipients[2]
			added.Added = "p"
			m.Recipients = append(m.Recipients, added)
		}
		before := fmt.Sprintf("%s %s %s", origin, mixed, fates(m))
		d := fold(m, mixed)
		commits, who := d.Commits(), m.deciding()
		rejects := 0
		for _, r := range who {
			if r.Opinion.Action == sdk.Reject {
				rejects++
			}
		}
		waits := slices.ContainsFunc(who, func(r *Recipient) bool { return r.Opinion.Action == sdk.Defer }) || c == sdk.Defer
		if origin == sdk.LMTP {
			if len(d.Each) != 2 {
				t.Errorf("%s: %d replies", before, len(d.Each))
			}
			if commits && c == sdk.Defer {
				t.Errorf("%s: committed while an added one waits", before)
			}
		} else {
			want := 0
			switch {
			case rejects > 0 && rejects == len(who):
				want = 5
			case waits:
				want = 4
			case rejects > 0 && mixed == MixedReject:
				want = 5
			}
			if d.Reply.Code/100 != want {
				t.Errorf("%s: %v, want %dxx", before, d.Reply, want)
			}
		}
		if !commits {
			continue
		}
		land(m, mixed)
		for i, r := range m.Recipients {
			foreign := r.Removed != "" || r.Added != ""
			for _, h := range r.Hops {
				if r.Removed != "" && h.Kind != HopDiscard || foreign && h.Kind == HopBounce || r.Added != "" && c == sdk.Reject && h.Kind != HopDiscard {
					t.Errorf("%s: recipient %d has hop %s", before, i, h.Kind)
				}
			}
			if refused := i < len(d.Each) && d.Each[i].Code != 0; len(r.Hops) == 0 != refused {
				t.Errorf("%s: recipient %d was told %v and has hops %v", before, i, refused, r.Hops)
			}
		}
	}
}

// TestInstead: whom a recipient replaces whom a plugin has added. One who was added beside others replaces nobody.
func TestInstead(t *testing.T) {
	add, remove := sdk.AddRecipient, sdk.RemoveRecipient
	for1 := func(to string, changes ...[]sdk.Change) sdk.Verdict {
		return sdk.Verdict{Recipients: []sdk.RecipientVerdict{{Recipient: to + "@example.test", Changes: slices.Concat(changes...)}}}
	}
	for _, c := range []struct {
		name         string
		first, later sdk.Verdict
		want         string
	}{
		{"beside", sdk.Verdict{Changes: change(add, "c")}, sdk.Verdict{}, "c:"},
		{"in place of all", sdk.Verdict{Changes: slices.Concat(change(add, "c"), change(remove, "a", "b"))}, sdk.Verdict{}, "c: a b"},
		{"in place of one, on behalf of both", sdk.Verdict{Changes: slices.Concat(change(remove, "a"), change(add, "c"))}, sdk.Verdict{}, "c:"},
		{"in place of one", for1("a", change(remove, "a"), change(add, "c")), sdk.Verdict{}, "c: a"},
		{"by two plugins", for1("a", change(remove, "a"), change(add, "c")), for1("c", change(remove, "c"), change(add, "d")), "c: a d: a"},
		{"removed later", for1("a", change(add, "c")), for1("a", change(remove, "a")), "c: a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			first := &changer{plugin: plugin{name: "first", changes: all(), verdict: c.first}}
			later := &changer{plugin: plugin{name: "later", changes: all(), verdict: c.later}}
			b := newBench(t, staged(StageAntiSpam, first), staged(StageAntiVirus, later))
			m := b.message(t, sdk.Login, "a@example.test", "b@example.test")
			b.Submit(t.Context(), m)
			var got []string
			for _, r := range m.Recipients {
				if r.Added == "" {
					if len(r.Instead()) > 0 {
						t.Errorf("%s replaces %v", r.Address, r.Instead())
					}
					continue
				}
				got = append(got, strings.TrimSuffix(r.Address, "@example.test")+":")
				for _, named := range r.Instead() {
					got = append(got, strings.TrimSuffix(named.Address, "@example.test"))
				}
			}
			if text := strings.Join(got, " "); text != c.want {
				t.Errorf("%q, want %q", text, c.want)
			}
		})
	}
}
