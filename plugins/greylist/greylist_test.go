package greylist

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// clock is a plugin with a clock of the test's own.
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

func rcpt(client, sender, recipient string) *sdk.Message {
	return &sdk.Message{Phase: sdk.PhaseRecipient, Envelope: sdk.Envelope{
		Origin: sdk.Stranger, ClientAddr: client, ClientName: "mail.example.org", Sender: sender,
		Recipients: []sdk.Recipient{{Address: recipient}},
	}}
}

func (c *clock) ask(m *sdk.Message) sdk.Action {
	c.t.Helper()
	v, err := c.Ask(context.Background(), m)
	if err != nil {
		c.t.Fatal(err)
	}
	if (v.Action == sdk.Defer) != (v.Reply != nil && v.Reply.Code == 451) {
		c.t.Errorf("%v with %+v", v.Action, v.Reply)
	}
	return v.Action
}

func (c *clock) tell(words ...string) string {
	c.t.Helper()
	v, err := c.Ask(context.Background(), &sdk.Message{
		Phase: sdk.PhaseEvent, Event: &sdk.Event{Kind: sdk.EventCommand, Words: words},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	var lines []string
	for _, r := range v.Reasons {
		lines = append(lines, r.Text)
	}
	return strings.Join(lines, "\n")
}

// TestTriplet follows one triplet through its life.
func TestTriplet(t *testing.T) {
	c := start(t, map[string]any{"delay": "5m", "max_wait": "1h", "keep": "10d", "auto_allow": int64(0)})
	m := rcpt("192.0.2.1", "a@example.org", "alice@example.test")
	for i, step := range []struct {
		wait time.Duration // before
		want sdk.Action
		why  string
	}{
		{0, sdk.Defer, "new"},
		{4 * time.Minute, sdk.Defer, "too early"},
		{59 * time.Second, sdk.Defer, "a second too early"},
		{time.Second, sdk.Accept, "came back"},
		{0, sdk.Accept, "known"},
		{10 * 24 * time.Hour, sdk.Accept, "known to the last moment"},
		{10*24*time.Hour + time.Second, sdk.Defer, "forgotten"},
		{time.Hour + time.Second, sdk.Defer, "came too late: new again"},
		{5 * time.Minute, sdk.Accept, "came back again"},
	} {
		c.at = c.at.Add(step.wait)
		if got := c.ask(m); got != step.want {
			t.Errorf("step %d (%s): %v, want %v", i+1, step.why, got, step.want)
		}
	}
}

func TestWhoIsTheSame(t *testing.T) {
	first := rcpt("192.0.2.1", "list-bounces-123=x@example.org", "alice@example.test")
	for name, c := range map[string]struct {
		m    *sdk.Message
		same bool
	}{
		"the same":          {first, true},
		"same network":      {rcpt("192.0.2.200", "list-bounces-123=x@example.org", "alice@example.test"), true},
		"other number":      {rcpt("192.0.2.1", "list-bounces-4711=x@EXAMPLE.org", "Alice@example.test"), true},
		"mapped address":    {rcpt("::ffff:192.0.2.1", "list-bounces-123=x@example.org", "alice@example.test"), true},
		"other network":     {rcpt("192.0.3.1", "list-bounces-123=x@example.org", "alice@example.test"), false},
		"other sender":      {rcpt("192.0.2.1", "list-bounces-123=y@example.org", "alice@example.test"), false},
		"other recipient":   {rcpt("192.0.2.1", "list-bounces-123=x@example.org", "bob@example.test"), false},
		"the null sender":   {rcpt("192.0.2.1", "", "alice@example.test"), false},
		"shifted separator": {rcpt("192.0.2.1", "list-bounces-123=x@example.orgalice", "@example.test"), false},
	} {
		p := start(t, nil)
		p.ask(first)
		p.at = p.at.Add(6 * time.Minute)
		if got := p.ask(c.m) == sdk.Accept; got != c.same {
			t.Errorf("%s: let through %v, want %v", name, got, c.same)
		}
	}
}

func TestSteady(t *testing.T) {
	for in, want := range map[string]string{
		"prvs=1234abcdef=bob@example.org":   "bob@example.org",
		"b1-20251121-99@news.example.org":   "b#-#-#@news.example.org",
		"bob+tag@Example.org":               "bob@example.org",
		"":                                  "",
		"no-domain":                         "no-domain",
		"srs0=hh=tt=example.net=u@fwd.test": "srs#=hh=tt=example.net=u@fwd.test",
	} {
		if got := steady(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestExceptions(t *testing.T) {
	config := map[string]any{
		"exempt_clients": []any{"198.51.100.0/24", "2001:db8::1", ".example.com", "good.example.net", "Dot.example.net."},
		"exempt_senders": []any{"Boss@example.org", "@bank.example"}, "exempt_recipients": []any{"abuse@example.test"},
		"min_score": 1.0,
	}
	c := start(t, config)
	with := func(change func(*sdk.Message)) *sdk.Message {
		m := rcpt("192.0.2.1", "a@example.org", "alice@example.test")
		m.Score = 1
		change(m)
		return m
	}
	for name, x := range map[string]struct {
		m    *sdk.Message
		want sdk.Action
	}{
		"none":             {with(func(*sdk.Message) {}), sdk.Defer},
		"network":          {with(func(m *sdk.Message) { m.ClientAddr = "198.51.100.7" }), sdk.Accept},
		"IPv6":             {with(func(m *sdk.Message) { m.ClientAddr = "2001:db8::1" }), sdk.Accept},
		"IPv6 beside":      {with(func(m *sdk.Message) { m.ClientAddr = "2001:db8::2" }), sdk.Defer},
		"name":             {with(func(m *sdk.Message) { m.ClientName = "Good.Example.NET." }), sdk.Accept},
		"name with a dot":  {with(func(m *sdk.Message) { m.ClientName = "dot.example.net" }), sdk.Accept},
		"below a domain":   {with(func(m *sdk.Message) { m.ClientName = "a.b.example.com" }), sdk.Accept},
		"a longer name":    {with(func(m *sdk.Message) { m.ClientName = "evilexample.com" }), sdk.Defer},
		"no name":          {with(func(m *sdk.Message) { m.ClientName = "" }), sdk.Defer},
		"sender":           {with(func(m *sdk.Message) { m.Sender = "boss@EXAMPLE.org" }), sdk.Accept},
		"sender's domain":  {with(func(m *sdk.Message) { m.Sender = "x@bank.example" }), sdk.Accept},
		"sender's subtree": {with(func(m *sdk.Message) { m.Sender = "x@evil.bank.example" }), sdk.Defer},
		"recipient":        {with(func(m *sdk.Message) { m.Recipients[0].Address = "ABUSE@example.test" }), sdk.Accept},
		"login":            {with(func(m *sdk.Message) { m.Origin = sdk.Login }), sdk.Accept},
		"trusted":          {with(func(m *sdk.Message) { m.Origin = sdk.Trusted }), sdk.Accept},
		"no points":        {with(func(m *sdk.Message) { m.Score = 0.9 }), sdk.Accept},
		"loopback":         {with(func(m *sdk.Message) { m.ClientAddr = "127.0.0.1" }), sdk.Accept},
	} {
		if got := c.ask(x.m); got != x.want {
			t.Errorf("%s: %v, want %v", name, got, x.want)
		}
	}
}

// TestAutoAllow: a network whose triplets came back is not asked again, whoever it writes for.
func TestAutoAllow(t *testing.T) {
	c := start(t, map[string]any{"auto_allow": int64(3)})
	for i := range 3 {
		m := rcpt("192.0.2.1", fmt.Sprint("user", string(rune('a'+i)), "@example.org"), "alice@example.test")
		if c.ask(m) != sdk.Defer {
			t.Fatalf("triplet %d went through", i+1)
		}
		c.at = c.at.Add(6 * time.Minute)
		if c.ask(m) != sdk.Accept {
			t.Fatalf("triplet %d does not go through", i+1)
		}
	}
	if got := c.ask(rcpt("192.0.2.77", "new@example.org", "bob@example.test")); got != sdk.Accept {
		t.Errorf("a network that came back three times: %v", got)
	}
	if got := c.ask(rcpt("192.0.9.77", "new@example.org", "bob@example.test")); got != sdk.Defer {
		t.Errorf("another network: %v", got)
	}
	if answer := c.tell("forget", "192.0.2.5"); !strings.Contains(answer, "forgotten") {
		t.Error(answer)
	}
	if got := c.ask(rcpt("192.0.2.77", "new2@other.example", "bob@example.test")); got != sdk.Defer {
		t.Errorf("a forgotten network: %v", got)
	}
}

func TestReleaseByHandSurvivesRestart(t *testing.T) {
	c := start(t, nil)
	m := rcpt("192.0.2.1", "a@example.org", "alice@example.test")
	c.ask(m)
	c.restart(nil)
	c.at = c.at.Add(6 * time.Minute)
	if got := c.ask(m); got != sdk.Accept {
		t.Errorf("after a restart a triplet that waited is %v", got)
	}
	for word, m := range map[string]*sdk.Message{
		"198.51.100.9":   rcpt("198.51.100.200", "x@one.example", "bob@example.test"),
		"y@two.example":  rcpt("203.0.113.1", "y@two.example", "bob@example.test"),
		"@three.example": rcpt("203.0.113.1", "z@three.example", "bob@example.test"),
	} {
		if answer := c.tell("release", word); !strings.Contains(answer, "does not wait") {
			t.Error(answer)
		}
		c.restart(nil)
		if got := c.ask(m); got != sdk.Accept {
			t.Errorf("%s was released: %v", word, got)
		}
	}
	if got := c.tell("stats"); !strings.Contains(got, "1 came again, 1 networks known, 3 released") {
		t.Error(got)
	}
	for _, words := range [][]string{{}, {"dance"}, {"release"}, {"stats", "now"}} {
		if got := c.tell(words...); got != usage {
			t.Errorf("%v: %s", words, got)
		}
	}
}

func TestSweepKeepsWhatIsWorthMore(t *testing.T) {
	c := start(t, map[string]any{"max_entries": int64(1000), "auto_allow": int64(0)})
	known := rcpt("192.0.2.1", "known@example.org", "alice@example.test")
	c.ask(known)
	c.at = c.at.Add(6 * time.Minute)
	c.ask(known)
	for i := range 1500 {
		c.ask(rcpt(fmt.Sprintf("10.%d.%d.1", i/250, i%250), "spam@example.org", "alice@example.test"))
	}
	c.at = c.at.Add(2 * time.Hour)
	c.sweep()
	left := 0
	if err := c.state.Each(func(string, []byte) bool { left++; return true }); err != nil {
		t.Fatal(err)
	}
	if left > 1000 {
		t.Errorf("%d entries are left", left)
	}
	if got := c.ask(known); got != sdk.Accept {
		t.Errorf("who came back is %v after the sweep", got)
	}
}

func TestConfigureComplains(t *testing.T) {
	for key, value := range map[string]any{
		"delay": "0s", "max_wait": "1m", "keep": "1h", "auto_allow": int64(-1), "prefix4": int64(33), "prefix6": int64(0),
		"max_entries": int64(1), "dealy": "5m", "exempt_clients": []any{"a b"}, "exempt_senders": []any{"nobody"},
	} {
		p := New().(*plugin)
		err := p.Configure(context.Background(), sdk.Settings{Config: map[string]any{key: value}, StateDir: t.TempDir()})
		if err == nil || !strings.HasPrefix(err.Error(), key) {
			t.Errorf("%s = %v: %v", key, value, err)
			_ = p.Close()
		}
	}
}

// TestMistypedExceptions: what can never be met is told, each with its place in the list.
func TestMistypedExceptions(t *testing.T) {
	for key, list := range map[string][]any{
		"exempt_clients": {
			"192.0.2.256", "192.0.2", "192.0.2.0-24", "192.0.2.0/33", "*.example.com", "..", ".", "", "..example.com", "a..example", "a b", "x@example.com",
			"[192.0.2.1]", "2001:db8:::1",
		},
		"exempt_senders": {"nobody", "@", "a@", ""}, "exempt_recipients": {"example.com"},
	} {
		p := New().(*plugin)
		err := p.Configure(context.Background(), sdk.Settings{Config: map[string]any{key: list}, CheckOnly: true})
		for i, word := range list {
			if want := fmt.Sprintf("%s[%d]: %q, expected", key, i+1, word); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v\nhas no %s", err, want)
			}
		}
	}
	p := New().(*plugin)
	good := []any{"localhost", "_mx.example.com", ".xn--bcher-kva.example", "mail-1.4u.example", "1.2.3.4.in-addr.arpa"}
	if err := p.Configure(context.Background(), sdk.Settings{Config: map[string]any{"exempt_clients": good}, CheckOnly: true}); err != nil {
		t.Error(err)
	}
}

func BenchmarkAsk(b *testing.B) {
	p := New().(*plugin)
	if err := p.Configure(context.Background(), sdk.Settings{StateDir: b.TempDir()}); err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	for i := range b.N {
		m := rcpt(fmt.Sprintf("10.%d.%d.1", i>>8&255, i&255), "a@example.org", "alice@example.test")
		if _, err := p.Ask(context.Background(), m); err != nil {
			b.Fatal(err)
		}
	}
}

// TestClockGoesBack: who has been asked to wait does not wait for the clock to catch up.
func TestClockGoesBack(t *testing.T) {
	c := start(t, nil)
	m := rcpt("192.0.2.1", "a@example.org", "alice@example.test")
	c.ask(m)
	c.at = c.at.Add(-30 * 24 * time.Hour)
	if got := c.ask(m); got != sdk.Defer {
		t.Errorf("%v", got)
	}
	c.at = c.at.Add(6 * time.Minute)
	if got := c.ask(m); got != sdk.Accept {
		t.Errorf("%v after the wait", got)
	}
}

// TestReleaseIsExact: what an administrator names is what is released, or he is told why not.
func TestReleaseIsExact(t *testing.T) {
	c := start(t, nil)
	for _, word := range []string{"@", ""} {
		if got := c.tell("release", word); got != usage {
			t.Errorf("%q: %s", word, got)
		}
	}
	if got := c.ask(rcpt("192.0.2.1", "", "alice@example.test")); got != sdk.Defer {
		t.Errorf("the null sender was released: %v", got)
	}
	if got := c.tell("release", "198.51.0.0/16"); !strings.Contains(got, "wider") {
		t.Error(got)
	}
}

// TestSweepBoundsThoseThatCameBack: a flood that comes back does not fill the disk for a month.
func TestSweepBoundsThoseThatCameBack(t *testing.T) {
	c := start(t, map[string]any{"max_entries": int64(1000), "auto_allow": int64(0)})
	for range 2 {
		for i := range 1500 {
			c.ask(rcpt(fmt.Sprintf("10.%d.%d.1", i/250, i%250), "spam@example.org", "alice@example.test"))
		}
		c.at = c.at.Add(6 * time.Minute)
	}
	c.tell("release", "partner.example")
	c.at = c.at.Add(24 * time.Hour)
	c.sweep()
	left := 0
	if err := c.state.Each(func(string, []byte) bool { left++; return true }); err != nil {
		t.Fatal(err)
	}
	if left > 1000 {
		t.Errorf("%d entries are left", left)
	}
	if got := c.ask(rcpt("203.0.113.1", "x@partner.example", "alice@example.test")); got != sdk.Accept {
		t.Errorf("what was released waits: %v", got)
	}
}
