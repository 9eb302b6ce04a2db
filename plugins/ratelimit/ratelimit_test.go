package ratelimit

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

type clock struct {
	*plugin
	t   *testing.T
	at  time.Time
	dir string
}

func start(t *testing.T, config map[string]any) *clock {
	t.Helper()
	c := &clock{t: t, at: time.Unix(1_700_000_000, 0), dir: t.TempDir()}
	c.restart(config)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (c *clock) restart(config map[string]any) {
	c.t.Helper()
	if c.plugin != nil {
		if err := c.Close(); err != nil {
			c.t.Fatal(err)
		}
	}
	c.plugin = New().(*plugin)
	c.now = func() time.Time { return c.at }
	if err := c.Configure(context.Background(), sdk.Settings{Config: config, StateDir: c.dir}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *clock) ask(m *sdk.Message) sdk.Verdict {
	c.t.Helper()
	v, err := c.Ask(context.Background(), m)
	if err != nil {
		c.t.Fatal(err)
	}
	if class := map[sdk.Action]int{sdk.Defer: 4, sdk.Reject: 5}[v.Action]; class > 0 && (v.Reply == nil || v.Reply.Code/100 != class) {
		c.t.Errorf("%v with %+v", v.Action, v.Reply)
	}
	return v
}

func (c *clock) tell(words ...string) string {
	v := c.ask(&sdk.Message{Phase: sdk.PhaseEvent, Event: &sdk.Event{Kind: sdk.EventCommand, Words: words}})
	var lines []string
	for _, r := range v.Reasons {
		lines = append(lines, r.Text)
	}
	return strings.Join(lines, "\n")
}

func login(phase sdk.Phase, who, client string) *sdk.Message {
	return &sdk.Message{Phase: phase, Envelope: sdk.Envelope{
		Origin: sdk.Login, Login: who, ClientAddr: client, Sender: who, Recipients: []sdk.Recipient{{Address: "bob@example.net"}},
	}}
}

func stranger(phase sdk.Phase, client, sender, recipient string) *sdk.Message {
	return &sdk.Message{Phase: phase, Envelope: sdk.Envelope{
		Origin: sdk.Stranger, ClientAddr: client, Sender: sender, Recipients: []sdk.Recipient{{Address: recipient}},
	}}
}

// accepted asks until the answer is not accept, at most limit times.
func (c *clock) accepted(limit int, m func(i int) *sdk.Message) int {
	for i := range limit {
		if c.ask(m(i)).Action != sdk.Accept {
			return i
		}
	}
	return limit
}

func TestLimits(t *testing.T) {
	config := map[string]any{
		"account":   map[string]any{"messages": int64(5), "recipients": int64(7), "per": "1h"},
		"address":   map[string]any{"messages": int64(6), "recipients": int64(0), "per": "1m"},
		"domain":    map[string]any{"messages": int64(4), "per": "1h"},
		"recipient": map[string]any{"messages": int64(3), "per": "1h"},
		"accounts":  map[string]any{"News@example.test": map[string]any{"messages": int64(9), "recipients": int64(0)}},
		"exempt":    []any{"198.51.100.0/24", "boss@example.test", "@lists.example.test"},
	}
	for name, c := range map[string]struct {
		m    func(i int) *sdk.Message
		want int
	}{
		"an account's domain":     {func(int) *sdk.Message { return login(sdk.PhaseSender, "alice@one.test", "192.0.2.1") }, 4}, // its domain's limit
		"an account's recipients": {func(i int) *sdk.Message { return login(sdk.PhaseRecipient, "alice@example.test", "192.0.2.1") }, 3},
		"an account": {func(int) *sdk.Message {
			return withSender(login(sdk.PhaseSender, "alice@example.test", "192.0.2.1"), "")
		}, 5},
		"an account's many recipients": {func(i int) *sdk.Message {
			m := login(sdk.PhaseRecipient, "alice@example.test", "192.0.2.1")
			m.Recipients[0].Address = fmt.Sprint(i, "@example.net")
			return m
		}, 7},
		"an account with its own": {func(int) *sdk.Message {
			return withSender(login(sdk.PhaseSender, "news@EXAMPLE.test", "192.0.2.1"), "")
		}, 9},
		"an exempt account":         {func(int) *sdk.Message { return login(sdk.PhaseSender, "boss@example.test", "192.0.2.1") }, 50},
		"an exempt domain":          {func(int) *sdk.Message { return login(sdk.PhaseSender, "x@lists.example.test", "192.0.2.1") }, 50},
		"a stranger's exempt claim": {func(int) *sdk.Message { return stranger(sdk.PhaseSender, "192.0.2.1", "x@lists.example.test", "") }, 4},
		"an exempt network":         {func(int) *sdk.Message { return stranger(sdk.PhaseSender, "198.51.100.7", "x@example.org", "") }, 50},
		"an address": {func(i int) *sdk.Message {
			return stranger(sdk.PhaseSender, "192.0.2.1", fmt.Sprint("x@", i, ".example"), "")
		}, 6},
		"a /64": {func(i int) *sdk.Message {
			return stranger(sdk.PhaseSender, fmt.Sprintf("2001:db8::%x", i), fmt.Sprint("x@", i, ".example"), "")
		}, 6},
		"a domain": {func(i int) *sdk.Message {
			return stranger(sdk.PhaseSender, fmt.Sprint("10.0.0.", i), "x@Example.org", "")
		}, 4},
		"a recipient from anywhere": {func(i int) *sdk.Message {
			return stranger(sdk.PhaseRecipient, fmt.Sprint("10.0.0.", i), fmt.Sprint("x@", i, ".example"), "victim@example.test")
		}, 3},
		"the null sender": {func(i int) *sdk.Message { return stranger(sdk.PhaseSender, fmt.Sprint("10.0.0.", i), "", "") }, 50},
		"generated": {func(i int) *sdk.Message {
			m := login(sdk.PhaseSender, "alice@example.test", "192.0.2.1")
			m.Origin = sdk.Generated
			return m
		}, 50},
	} {
		if got := start(t, config).accepted(50, c.m); got != c.want {
			t.Errorf("%s: %d went through, want %d", name, got, c.want)
		}
	}
}

func withSender(m *sdk.Message, sender string) *sdk.Message { m.Sender = sender; return m }

// TestRate: who keeps to the rate is never locked out, however often he tries in between.
func TestRate(t *testing.T) {
	c := start(t, map[string]any{"account": map[string]any{"messages": int64(60), "per": "1h"}, "hijack": map[string]any{"networks": int64(0)}})
	ask := func(int) *sdk.Message { return login(sdk.PhaseSender, "alice@example.test", "192.0.2.1") }
	if got := c.accepted(100, ask); got != 60 {
		t.Fatalf("%d at once", got)
	}
	through := 0
	for range 3600 { // a try each second for an hour
		c.at = c.at.Add(time.Second)
		if c.ask(ask(0)).Action == sdk.Accept {
			through++
		}
		if through == 30 && c.at.Second() == 0 {
			c.restart(map[string]any{"account": map[string]any{"messages": int64(60), "per": "1h"}, "hijack": map[string]any{"networks": int64(0)}})
		}
	}
	if through < 59 || through > 60 {
		t.Errorf("%d in the hour after, want 60", through)
	}
	c.at = c.at.Add(-48 * time.Hour) // a clock that goes back
	if got := c.accepted(100, ask); got > 60 {
		t.Errorf("%d after the clock went back", got)
	}
}

func TestOver(t *testing.T) {
	c := start(t, map[string]any{"over": "reject", "account": map[string]any{"messages": int64(1), "per": "1h"}})
	c.ask(login(sdk.PhaseSender, "alice@example.test", "192.0.2.1"))
	v := c.ask(login(sdk.PhaseSender, "alice@example.test", "192.0.2.1"))
	if v.Action != sdk.Reject || v.Reasons[0].Symbol != "RATELIMIT_ACCOUNT" {
		t.Errorf("%+v", v)
	}
}

// TestHijacked: each sign of a hijacked account holds its mail, tells the administrator, and ends by
// hand, also over a restart.
func TestHijacked(t *testing.T) {
	config := map[string]any{"hijack": map[string]any{"recipients": int64(20), "networks": int64(3), "failures": int64(5), "per": "1h"}}
	alice := "alice@example.test"
	for name, c := range map[string]struct {
		m    func(i int) *sdk.Message
		most int // without a hold
	}{
		"recipients": {func(int) *sdk.Message { return login(sdk.PhaseRecipient, alice, "192.0.2.1") }, 20},
		"networks":   {func(i int) *sdk.Message { return login(sdk.PhaseSender, alice, fmt.Sprintf("10.%d.0.1", i)) }, 3},
		"failures": {func(i int) *sdk.Message {
			m := login(sdk.PhaseEvent, alice, "192.0.2.1")
			m.Event = &sdk.Event{Kind: []sdk.EventKind{sdk.EventBounced, sdk.EventRefused}[i%2]}
			return m
		}, 5},
	} {
		p := start(t, config)
		for i := range c.most {
			p.ask(c.m(i))
		}
		if v := p.ask(login(sdk.PhaseContent, alice, "192.0.2.1")); v.Action != sdk.Accept {
			t.Fatalf("%s: held early: %+v", name, v)
		}
		p.ask(c.m(c.most))
		p.restart(config)
		v := p.ask(login(sdk.PhaseContent, "Alice@example.test", "192.0.2.1"))
		if v.Action != sdk.Quarantine || len(v.Alerts) != 1 || v.Alerts[0].Key != "account "+alice {
			t.Fatalf("%s: not held: %+v", name, v)
		}
		if v := p.ask(login(sdk.PhaseContent, "bob@example.test", "192.0.2.1")); v.Action != sdk.Accept {
			t.Errorf("%s: a neighbour is held too: %+v", name, v)
		}
		if got := p.tell("held"); !strings.HasPrefix(got, alice+" since ") {
			t.Error(got)
		}
		if got := p.tell("release", alice); !strings.Contains(got, "is released") {
			t.Error(got)
		}
		p.restart(config)
		if v := p.ask(login(sdk.PhaseContent, alice, "192.0.2.1")); v.Action != sdk.Accept {
			t.Errorf("%s: still held: %+v", name, v)
		}
	}
}

// TestSlowSigns: what is spread over longer than the time is no sign.
func TestSlowSigns(t *testing.T) {
	c := start(t, map[string]any{"hijack": map[string]any{"recipients": int64(20), "networks": int64(3), "per": "1h"}, "account": map[string]any{"per": "1h"}})
	for i := range 200 {
		c.at = c.at.Add(5 * time.Minute)
		c.ask(login(sdk.PhaseRecipient, "alice@example.test", "192.0.2.1"))
		c.ask(login(sdk.PhaseSender, "alice@example.test", fmt.Sprintf("10.%d.0.1", i/8)))
	}
	if got := c.tell("held"); got != "no account is held" {
		t.Error(got)
	}
}

func TestByHand(t *testing.T) {
	c := start(t, map[string]any{"hijack": map[string]any{"action": "reject"}})
	if got := c.tell("hold", "Alice@example.test"); !strings.Contains(got, "alice@example.test is held") {
		t.Error(got)
	}
	if v := c.ask(login(sdk.PhaseContent, "alice@example.test", "192.0.2.1")); v.Action != sdk.Reject {
		t.Errorf("%+v", v)
	}
	if got := c.tell("release", "nobody@example.test"); !strings.Contains(got, "was not held") {
		t.Error(got)
	}
	for _, words := range [][]string{{}, {"hold"}, {"stats", "x"}} {
		if got := c.tell(words...); got != usage {
			t.Errorf("%v: %s", words, got)
		}
	}
	c.at = c.at.Add(1000 * time.Hour)
	c.sweep()
	if got := c.tell("held"); !strings.HasPrefix(got, "alice@example.test") {
		t.Errorf("the sweep ended a hold: %s", got)
	}
}

func TestConfigureComplains(t *testing.T) {
	for key, value := range map[string]any{
		"account": map[string]any{"messages": int64(-1)}, "address": map[string]any{"per": "0s"}, "over": "junk",
		"hijack": map[string]any{"per": "1s"}, "exempt": []any{"nobody"}, "acount": map[string]any{},
		"recipient": map[string]any{"recipients": int64(5)}, "max_entries": int64(1),
		"accounts": map[string]any{"a@b": map[string]any{"per": "1ms"}}, "accounts.a@b.mesages": map[string]any{"a@b": map[string]any{"mesages": int64(1)}},
		"accounts.news": map[string]any{"news": map[string]any{}}, "accounts.a@b.messages": map[string]any{"a@b": map[string]any{"messages": "x"}},
		"accounts.a@b": map[string]any{"a@b": map[string]any{"messages": int64(-1)}},
	} {
		expected := key
		key, _, _ = strings.Cut(key, ".")
		p := New().(*plugin)
		err := p.Configure(context.Background(), sdk.Settings{Config: map[string]any{key: value}, StateDir: t.TempDir()})
		if err == nil || !strings.HasPrefix(err.Error(), expected) {
			t.Errorf("%s = %v: %v", key, value, err)
			_ = p.Close()
		}
	}
}

func BenchmarkSender(b *testing.B) {
	p := New().(*plugin)
	if err := p.Configure(context.Background(), sdk.Settings{StateDir: b.TempDir()}); err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	for i := range b.N {
		m := stranger(sdk.PhaseSender, fmt.Sprintf("10.%d.%d.1", i>>8&255, i&255), "a@example.org", "")
		if _, err := p.Ask(context.Background(), m); err != nil {
			b.Fatal(err)
		}
	}
}

// TestOwnLimits: what an account's own limit leaves out is the general one, and who may write to many is not held for doing so.
func TestOwnLimits(t *testing.T) {
	c := start(t, map[string]any{
		"account": map[string]any{"messages": int64(5), "recipients": int64(7)},
		"accounts": map[string]any{
			"news@example.test": map[string]any{"recipients": int64(0)}, "many@example.test": map[string]any{"recipients": int64(40)},
			"sales@example.test": map[string]any{"messages": int64(9)},
		},
		"hijack": map[string]any{"recipients": int64(6), "networks": int64(0)},
	})
	for who, want := range map[string]struct {
		messages, recipients int
		held                 bool
	}{
		"news@example.test": {5, 50, false}, "Many@example.test": {5, 40, false}, "sales@example.test": {9, 7, true}, "alice@example.test": {5, 7, true},
	} {
		messages := c.accepted(50, func(int) *sdk.Message { return login(sdk.PhaseSender, who, "192.0.2.1") })
		recipients := c.accepted(50, func(i int) *sdk.Message {
			m := login(sdk.PhaseRecipient, who, "192.0.2.1")
			m.Recipients[0].Address = fmt.Sprint(i, "@example.net")
			return m
		})
		held := c.ask(login(sdk.PhaseContent, who, "192.0.2.1")).Action != sdk.Accept
		if messages != want.messages || recipients != want.recipients || held != want.held {
			t.Errorf("%s: %d messages, %d recipients, held %v; want %+v", who, messages, recipients, held, want)
		}
	}
}

// TestAtOnce: questions at one moment do not slip through between the look and the count.
func TestAtOnce(t *testing.T) {
	c := start(t, map[string]any{"address": map[string]any{"messages": int64(10)}})
	var through atomic.Int64
	var asked sync.WaitGroup
	for i := range 200 {
		asked.Add(1)
		go func() {
			defer asked.Done()
			v, err := c.Ask(context.Background(), stranger(sdk.PhaseSender, "192.0.2.1", fmt.Sprint("x@", i, ".example"), ""))
			if err == nil && v.Action == sdk.Accept {
				through.Add(1)
			}
		}()
	}
	asked.Wait()
	if n := through.Load(); n != 10 {
		t.Errorf("%d went through, want 10", n)
	}
}

// TestEvasions: other spellings of one sender or recipient are one.
func TestEvasions(t *testing.T) {
	config := map[string]any{"domain": map[string]any{"messages": int64(4)}, "recipient": map[string]any{"messages": int64(3)}}
	got := start(t, config).accepted(20, func(i int) *sdk.Message {
		return stranger(sdk.PhaseSender, "192.0.2.1", fmt.Sprintf("\"%d@%d\"@evil.example", i, i), "")
	})
	if got != 4 {
		t.Errorf("quoted local parts: %d", got)
	}
	got = start(t, config).accepted(20, func(i int) *sdk.Message {
		m := stranger(sdk.PhaseRecipient, "192.0.2.1", "x@example.org", fmt.Sprintf("alice+%d@example.test", i))
		m.Recipients[0].Accounts = []string{"alice@example.test"}
		return m
	})
	if got != 3 {
		t.Errorf("subaddresses: %d", got)
	}
}

// TestClockGoesBack: a full bucket leaks again, as from now.
func TestClockGoesBack(t *testing.T) {
	c := start(t, map[string]any{"address": map[string]any{"messages": int64(6), "per": "1m"}})
	m := stranger(sdk.PhaseSender, "192.0.2.1", "x@example.org", "")
	for range 7 {
		c.ask(m)
	}
	c.at = c.at.Add(-24 * time.Hour)
	c.ask(m)
	c.at = c.at.Add(time.Minute)
	if v := c.ask(m); v.Action != sdk.Accept {
		t.Errorf("still full: %+v", v)
	}
}

// TestHeldThoughExempt: an administrator's hold is obeyed whoever is not counted.
func TestHeldThoughExempt(t *testing.T) {
	c := start(t, map[string]any{"exempt": []any{"alice@example.test"}})
	c.tell("hold", "alice@example.test")
	if v := c.ask(login(sdk.PhaseContent, "alice@example.test", "192.0.2.1")); v.Action != sdk.Quarantine {
		t.Errorf("%+v", v)
	}
}

// TestSweepIsBounded: names that are made up do not fill the disk.
func TestSweepIsBounded(t *testing.T) {
	c := start(t, map[string]any{"domain": map[string]any{"messages": int64(2), "per": "31d"}, "max_entries": int64(1000)})
	for i := range 1500 {
		c.ask(stranger(sdk.PhaseSender, "192.0.2.1", fmt.Sprint("x@", i, ".example"), ""))
	}
	c.sweep()
	left := 0
	if err := c.buckets.Each(func(string, []byte) bool { left++; return true }); err != nil || left > 1000 {
		t.Errorf("%d counts are left, %v", left, err)
	}
}
