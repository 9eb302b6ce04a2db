package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/sdk"
)

// replies are verdicts with replies that the core will not use; the opinions count.
func replies() map[string]sdk.Verdict {
	return map[string]sdk.Verdict{
		"reply-class":   {Action: sdk.Reject, Reply: &sdk.Reply{Code: 451, Text: "later"}},
		"reply-class4":  {Action: sdk.Defer, Reply: &sdk.Reply{Code: 550, Text: "never"}},
		"reply-250":     {Action: sdk.Reject, Reply: &sdk.Reply{Code: 250, Text: "fine"}},
		"reply-line":    {Action: sdk.Reject, Reply: &sdk.Reply{Code: 550, Text: "a\r\n250 b"}},
		"reply-class-x": {Action: sdk.Reject, Reply: &sdk.Reply{Code: 550, Enhanced: "4.7.1", Text: "no"}},
	}
}

// verdicts are what the test plugin answers by name.
func verdicts() map[string]sdk.Verdict {
	forBob := func(r sdk.RecipientVerdict) sdk.Verdict {
		r.Recipient = "bob@example.test"
		return sdk.Verdict{Recipients: []sdk.RecipientVerdict{r}}
	}
	return map[string]sdk.Verdict{
		"nan":          {Score: math.NaN()},
		"infinite":     {Score: math.Inf(-1)},
		"nan-reason":   {Reasons: []sdk.Reason{{Symbol: "X", Score: math.NaN()}}},
		"action":       {Action: 17},
		"change-kind":  {Changes: []sdk.Change{{Kind: 9, Name: "X-A"}}},
		"change-name":  {Changes: []sdk.Change{{Kind: sdk.AddField, Name: "X A"}}},
		"change-empty": {Changes: []sdk.Change{{Kind: sdk.AddField}}},
		"change-crlf":  {Changes: []sdk.Change{{Kind: sdk.AddField, Name: "X-A", Value: "a\r\nBcc: x"}}},
		"symbol":       {Reasons: []sdk.Reason{{Symbol: "A\nB"}}},
		"detection":    {Detections: []string{strings.Repeat("x", 500)}},
		"tags":         {Tags: map[string]string{"a": "\x00"}},
		"stranger":     {Recipients: []sdk.RecipientVerdict{{Recipient: "eve@example.test"}}},
		"twice":        {Recipients: []sdk.RecipientVerdict{{Recipient: "bob@example.test"}, {Recipient: "bob@example.test"}}},
		"bob-nan":      forBob(sdk.RecipientVerdict{Score: math.NaN()}),
		"bob-action":   forBob(sdk.RecipientVerdict{Action: 6}),
		"bob-change":   forBob(sdk.RecipientVerdict{Changes: []sdk.Change{{Kind: sdk.AddField, Name: "X:A"}}}),
		"good": {
			Action: sdk.Quarantine, Score: -1.5, Reasons: []sdk.Reason{{Symbol: "A", Score: -1.5, Text: "ä"}},
			Detections: []string{"D"}, Tags: map[string]string{"k": "v"},
			Changes: []sdk.Change{{Kind: sdk.AddField, Name: "X-A", Value: "b"}, {Kind: sdk.RemoveField, Name: "X-B", Index: -1}},
			Recipients: []sdk.RecipientVerdict{{
				Recipient: "bob@example.test", Action: sdk.Reject, Score: 2,
				Reply: &sdk.Reply{Code: 550, Enhanced: "5.7.1", Text: "no"},
			}},
		},
	}
}

// TestVerdicts: DRILLS E6.1.
func TestVerdicts(t *testing.T) {
	h := newHarness(t, "plain", nil)
	h.ready(t)
	for name, want := range verdicts() {
		v, kind := h.ask(t, message("do: "+name+"\r\n\r\n"))
		if name != "good" {
			if kind != Invalid {
				t.Errorf("%s: %q %+v, expected invalid", name, kind, v)
			}
			continue
		}
		if kind != "" || v.Action != want.Action || v.Score != want.Score || len(v.Changes) != 2 || v.Changes[1] != want.Changes[1] ||
			v.Reasons[0] != want.Reasons[0] || *v.Recipients[0].Reply != *want.Recipients[0].Reply || v.Tags["k"] != "v" {
			t.Errorf("%q %+v, expected %+v", kind, v, want)
		}
	}
	for name, want := range replies() {
		if v, kind := h.ask(t, message("do: "+name+"\r\n\r\n")); kind != "" || v.Action != want.Action || *v.Reply != *want.Reply {
			t.Errorf("%s: %q %+v, expected the opinion with its reply", name, kind, v)
		}
	}
	if _, kind := h.ask(t, message("do: error\r\n\r\n")); kind != Error {
		t.Errorf("%q, expected error", kind)
	}
	if _, kind := h.ask(t, message("do: panic\r\n\r\n")); kind != Error {
		t.Errorf("%q, expected error", kind)
	}
	if s := h.host.States()[0]; s.Restarts != 0 || s.InFlight != 0 || s.Failures[Invalid] != uint64(len(verdicts())-1) || s.P99 == 0 {
		t.Errorf("%+v", s)
	}
	eventually(t, "the panic's stack is in the log", 2*time.Second, func() bool { return strings.Contains(h.log.String(), "at the disco") })
}

// TestContent sends every size around the edges of chunks and buffers, and less where the plugin
// wants less.
func TestContent(t *testing.T) {
	for builtin, want := range map[string]func(size int) int{
		"count":  func(size int) int { return size },
		"header": nil, "none": nil,
	} {
		h := newHarness(t, builtin, nil)
		h.ready(t)
		if want == nil {
			if v, kind := h.ask(t, message("do: x\r\n\r\nbody")); kind != "" || v.Score != 1 {
				t.Errorf("%s: %+v %q", builtin, v, kind)
			}
			continue
		}
		for _, size := range []int{1, 16<<10 - 1, 16 << 10, 16<<10 + 1, 32 << 10, 32<<10 + 1, 256 << 10, 256<<10 + 1, 1 << 20, 5<<20 + 3} {
			if v, kind := h.ask(t, messageOf(bytes.Repeat([]byte{'x'}, size))); kind != "" || v.Score != float64(want(size)) {
				t.Errorf("%s, %d octets: saw %v %q", builtin, size, v.Score, kind)
			}
		}
	}
}

// TestManyRecipients: the envelope may be far larger than the message.
func TestManyRecipients(t *testing.T) {
	h := newHarness(t, "plain", nil)
	h.ready(t)
	q := message("do: x\r\n\r\n")
	for i := range 10000 {
		address := fmt.Sprintf("%s%d@example.test", strings.Repeat("x", 60), i)
		q.Envelope.Recipients = append(q.Envelope.Recipients, sdk.Recipient{Address: address, Accounts: []string{address}})
	}
	for range 3 {
		if v, kind := h.ask(t, q); kind != "" || v.Score != 1 {
			t.Errorf("%+v %q", v, kind)
		}
	}
}

// TestReadError: our own trouble with the message is an error, and the lane lives on.
func TestReadError(t *testing.T) {
	h := newHarness(t, "count", func(c *Config, _ *Options) { c.Lanes = 1 })
	h.ready(t)
	broken := errors.New("disk on fire")
	for _, size := range []int64{100, 1 << 20} {
		q := message("x")
		q.Size = size
		q.Open = func() (io.Reader, error) { return io.MultiReader(strings.NewReader("abc"), failing{broken}), nil }
		if _, _, err := h.Ask(context.Background(), q); kindOf(err) != Error || !errors.Is(err, broken) {
			t.Errorf("%d: %v", size, err)
		}
		q.Open = func() (io.Reader, error) { return strings.NewReader("short"), nil }
		if _, kind := h.ask(t, q); kind != Error {
			t.Errorf("%d: a message shorter than its size: %q", size, kind)
		}
		q.Open = func() (io.Reader, error) { return nil, broken }
		if _, kind := h.ask(t, q); kind != Error {
			t.Errorf("%d: a message that can't be opened: %q", size, kind)
		}
		if v, kind := h.ask(t, message("four")); kind != "" || v.Score != 4 {
			t.Errorf("%d: afterwards %v %q", size, v.Score, kind)
		}
	}
	if s := h.host.States()[0]; s.Restarts != 0 || s.Lost != 0 {
		t.Errorf("%+v", s)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestSettings(t *testing.T) {
	h := newHarness(t, "plain", func(c *Config, _ *Options) { c.Config = map[string]any{"bad": int64(1), "list": []any{"a", 1.5}} })
	err := h.host.WaitReady(t.Context())
	var start *StartError
	var setting *sdk.SettingError
	if !errors.As(err, &start) || start.Plugin != "t" || !errors.As(err, &setting) || setting.Key != "bad" || !strings.Contains(err.Error(), "worse.still") {
		t.Errorf("%v", err)
	}
	if _, kind := h.ask(t, message("x")); kind != Error {
		t.Errorf("%q", kind)
	}
	if s := h.host.States()[0]; s.State != "failed" || s.Restarts != 0 || s.Why == "" {
		t.Errorf("%+v", s)
	}
}

func TestValidate(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"name":       func(c *Config) { c.Name = "A b" },
		"command":    func(c *Config) { c.Builtin = "" },
		"both":       func(c *Config) { c.Command = []string{"x"} },
		"builtin":    func(c *Config) { c.Builtin = "none" },
		"empty":      func(c *Config) { c.Builtin, c.Command = "", []string{""} },
		"sha256":     func(c *Config) { c.SHA256 = "abc" },
		"files":      func(c *Config) { c.Files = map[string]string{"a": "xyz"} },
		"timeout":    func(c *Config) { c.Timeout = 0 },
		"lanes":      func(c *Config) { c.Lanes = 0 },
		"many lanes": func(c *Config) { c.Lanes = 100000 },
		"on_failure": func(c *Config) { c.OnFailure = "discard" },
		"on_timeout": func(c *Config) { c.OnTimeout = "ignore" },
		"on_crash":   func(c *Config) { c.OnCrash = "Accept" },
		"mode":       func(c *Config) { c.Mode = "on" },
		"memory":     func(c *Config) { c.Memory = 1 },
		"breaker":    func(c *Config) { c.BreakerFailures = -1 },
		"wait":       func(c *Config) { c.BreakerWait = 0 },
		"share":      func(c *Config) { c.Canary = Canary{Builtin: "plain", Share: 0.9} },
		"no share":   func(c *Config) { c.Canary = Canary{Builtin: "plain"} },
		"canary":     func(c *Config) { c.Canary = Canary{Share: 0.1} },
		"canaries":   func(c *Config) { c.Canary = Canary{Share: 0.1, Builtin: "plain", Command: []string{"x"}} },
		"other":      func(c *Config) { c.Canary = Canary{Share: 0.1, Builtin: "none"} },
	} {
		c := DefaultConfig()
		c.Name, c.Builtin = "t", "plain"
		if err := c.Validate([]string{"plain"}); err != nil {
			t.Fatal(err)
		}
		change(&c)
		var field *FieldError
		if err := c.Validate([]string{"plain"}); !errors.As(err, &field) {
			t.Errorf("%s: %v, expected a complaint", name, err)
		}
	}
}

func TestPolicy(t *testing.T) {
	c := Config{OnFailure: "defer", OnTimeout: "junk"}
	for kind, want := range map[Kind]sdk.Action{Error: sdk.Defer, Crash: sdk.Defer, Invalid: sdk.Defer, Timeout: sdk.Junk} {
		if got, ok := c.Policy(kind); !ok || got != want {
			t.Errorf("%s: %s %v", kind, got, ok)
		}
	}
	if _, ok := (&Config{}).Policy(Crash); ok {
		t.Error("a policy out of nothing")
	}
}

// TestStarts (DRILLS E6.6): everything that can go wrong before the first lane has an error that says what.
func TestStarts(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexit 0\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	command := func(words ...string) func(*Config, *Options) {
		return func(c *Config, o *Options) { c.Builtin, c.Command, o.Dir = "", words, dir }
	}
	for name, c := range map[string]struct {
		builtin string
		change  func(*Config, *Options)
		want    string
	}{
		"garbage":      {"garbage", nil, "I like to talk"},
		"exits":        {"exits", nil, "no licence file"},
		"silent":       {"silent", func(_ *Config, o *Options) { o.StartTimeout = 300 * time.Millisecond }, "handshake"},
		"no program":   {"plain", command("./none"), "no such file"},
		"no plugin":    {"plain", command("/bin/true"), "no line on standard output: exit status 0"},
		"script":       {"plain", command("./script"), "no line on standard output: exit status 0"},
		"other cookie": {"plain", command("/bin/echo", "1|1|tcp|127.0.0.1:25|grpc"), "expected a unix socket"},
		"net/rpc":      {"plain", command("/bin/echo", "1|1|unix|/tmp/x|netrpc"), "PLUGIN_UNIX_SOCKET_DIR"},
		"version":      {"plain", command("/bin/echo", "1|99|unix|/tmp/x|grpc"), "ncompatible"},
		"digest": {"plain", func(c *Config, o *Options) {
			command("/bin/true")(c, o)
			c.SHA256 = strings.Repeat("0", 64)
		}, "its SHA-256 is"},
		"files": {"plain", func(c *Config, o *Options) {
			o.Dir = dir
			c.Files = map[string]string{"script": strings.Repeat("0", 64)}
		}, "files.script: its SHA-256 is"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, c.builtin, c.change)
			err := h.host.WaitReady(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, expected %q", err, c.want)
			}
			q := message("x")
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			_, _, err = h.Ask(ctx, q)
			if kind := kindOf(err); kind != Crash && kind != Error {
				t.Errorf("%v, expected crash or error", err)
			}
		})
	}
}

// TestUnready: what the file cannot mend is no complaint about settings: the start is tried again until it succeeds.
func TestUnready(t *testing.T) {
	var lock string
	h := newHarness(t, "plain", func(c *Config, o *Options) {
		lock = filepath.Join(o.StateDir, c.Name, "locked")
		if err := errors.Join(os.Mkdir(filepath.Dir(lock), 0o700), os.WriteFile(lock, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	})
	if err := h.host.WaitReady(t.Context()); err == nil || err.Error() != "start plugin t: configure: open the state: another process holds it" {
		t.Errorf("%v", err)
	}
	limited, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, _, err := h.Ask(limited, message("do: x\r\n\r\n")); kindOf(err) != Crash || !strings.Contains(err.Error(), "another process holds it") {
		t.Errorf("%v", err)
	}
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	if _, kind := h.ask(t, message("do: x\r\n\r\n")); kind != "" {
		t.Errorf("afterwards: %v", kind)
	}
}

// TestDigest (DRILLS E6.6): the right digest lets a program start.
func TestDigest(t *testing.T) {
	h := newHarness(t, "plain", func(c *Config, o *Options) {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		c.Builtin, c.Command = "", []string{exe, "plugin", "run", "plain"}
		c.SHA256 = digestOf(t, exe)
	})
	h.ready(t)
	if _, kind := h.ask(t, message("x")); kind != "" {
		t.Error(kind)
	}
}

// TestOutput (DRILLS E6.6): standard output and error arrive in the log, attributed, bounded, without control
// characters, and nothing of it reaches go-plugin's parser.
func TestOutput(t *testing.T) {
	h := newHarness(t, "flood", nil)
	h.ready(t)
	if _, kind := h.ask(t, message("do: print\r\n\r\n")); kind != "" {
		t.Error(kind)
	}
	if err := h.host.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	log := h.log.String()
	if n := strings.Count(log, "plugin says\""); n < 100 || n > 500 || len(log) > 200<<10 {
		t.Errorf("%d lines, %d octets in the log", n, len(log))
	}
	if !strings.Contains(log, "plugin says too much") || !strings.Contains(log, "plugin=t") || strings.Contains(log, "\x1b") {
		t.Error("the log lacks what it should have")
	}
	quiet := newHarness(t, "plain", nil)
	quiet.ready(t)
	if _, kind := quiet.ask(t, message("do: print\r\n\r\n")); kind != "" {
		t.Error(kind)
	}
	for _, line := range []string{"on stdout", "on stderr"} {
		eventually(t, line+" in the log", time.Second, func() bool { return strings.Contains(quiet.log.String(), line) })
	}
}

// TestEnvironment (DRILLS E6.6): a plugin sees nothing of ours but what it needs.
func TestEnvironment(t *testing.T) {
	t.Setenv("SLUICE_SECRET", "hunter2")
	t.Setenv("TZ", "Europe/Vienna")
	h := newHarness(t, "plain", nil)
	h.ready(t)
	v, kind := h.ask(t, message("do: env\r\n\r\n"))
	env := v.Tags["env"]
	if kind != "" || strings.Contains(env, "hunter2") || strings.Contains(env, execVariable) || !strings.Contains(env, "TZ=Europe/Vienna") {
		t.Errorf("%q %s", kind, env)
	}
}

// TestEnclosure: files of the server are out of reach, where the kernel can do that.
func TestEnclosure(t *testing.T) {
	if landlockABI() < 1 {
		t.Skip("this kernel has no Landlock")
	}
	secret := filepath.Join(t.TempDir(), "key.pem")
	granted := filepath.Join(t.TempDir(), "list")
	for _, name := range []string{secret, granted} {
		if err := os.WriteFile(name, []byte("secret"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h := newHarness(t, "plain", func(c *Config, _ *Options) { c.Read = []string{granted} })
	h.ready(t)
	for name, want := range map[string]string{secret: "0 ", granted: "6 <nil>", "/etc/shadow": "0 ", "/etc/hosts": " <nil>", "/proc/1/environ": "0 "} {
		v, kind := h.ask(t, message("do: read "+name+"\r\n\r\n"))
		if kind != "" || !strings.Contains(v.Reasons[0].Text, want) {
			t.Errorf("%s: %q %+v, expected %q", name, kind, v.Reasons, want)
		}
	}
}

// TestAttack: a hostile plugin can neither signal nor trace the server, nor write where it should not.
func TestAttack(t *testing.T) {
	if landlockABI() < 6 {
		t.Skip("this kernel has no Landlock 6")
	}
	target := filepath.Join(t.TempDir(), "planted")
	h := newHarness(t, "plain", nil)
	h.ready(t)
	v, kind := h.ask(t, message("do: attack "+target+"\r\n\r\n"))
	want := map[string]string{
		"signal": "operation not permitted", "ptrace": "operation not permitted", "own": "<nil> <nil>", "core": "0", "nonew": "true",
		"write": "open " + target + ": permission denied",
	}
	for what, result := range want {
		if v.Tags[what] != result {
			t.Errorf("%s: %q, expected %q (%s)", what, v.Tags[what], result, kind)
		}
	}
	if _, err := os.Stat(target); err == nil {
		t.Error("the file was written")
	}
}

// TestShadow: nobody waits, and too many are dropped.
func TestShadow(t *testing.T) {
	h := newHarness(t, "plain", func(c *Config, _ *Options) { c.Mode, c.Lanes, c.Timeout = Shadow, 1, units.Of(time.Second) })
	h.ready(t)
	outcomes := make(chan Kind, 2)
	record := func(_ sdk.Verdict, _ time.Duration, err error) { outcomes <- kindOf(err) }
	start := time.Now()
	h.Observe(message("do: sleep 200ms\r\n\r\n"), record)
	h.Observe(message("do: x\r\n\r\n"), record)
	if time.Since(start) > 100*time.Millisecond {
		t.Error("Observe waits")
	}
	if first, second := <-outcomes, <-outcomes; first != Busy || second != "" {
		t.Errorf("%q %q, expected the second to be dropped", first, second)
	}
}

// TestShadowMemory: large content is copied as long as the budget of all plugins together has room, and given back.
func TestShadowMemory(t *testing.T) {
	h := newHarness(t, "plain", func(c *Config, o *Options) { c.Mode, o.ShadowMemory = Shadow, 10<<20 })
	slow := append([]byte("do: sleep 200ms\r\n\r\n"), make([]byte, 6<<20)...)
	h.ready(t)
	outcomes := make(chan float64, 3)
	record := func(v sdk.Verdict, _ time.Duration, err error) {
		if kindOf(err) == Busy {
			v.Score = -1
		}
		outcomes <- v.Score
	}
	h.Observe(messageOf(make([]byte, 11<<20)), record)
	if n := <-outcomes; n != -1 {
		t.Errorf("more than the budget: %v", n)
	}
	for range 3 { // again and again: it is given back
		h.Observe(messageOf(slow), record)
		h.Observe(messageOf(slow), record)
		if a, b := <-outcomes, <-outcomes; a != -1 || b != 1 {
			t.Errorf("%v %v, expected the second to be dropped", a, b)
		}
		eventually(t, "the memory is given back", time.Second, func() bool { return h.host.shadow.Load() == 0 })
	}
}

func TestOff(t *testing.T) {
	h := newHarness(t, "exits", func(c *Config, _ *Options) { c.Mode = Off })
	h.ready(t)
	if s := h.host.States()[0]; s.State != "off" || s.PID != 0 {
		t.Errorf("%+v", s)
	}
}
