package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/pipeline/events"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/sdk"
)

// commanded is a plugin that takes commands.
type commanded struct {
	manifest sdk.Manifest
	err      error
}

func (c *commanded) Name() string              { return c.manifest.Name }
func (c *commanded) Manifest() sdk.Manifest    { return c.manifest }
func (c *commanded) Tell(*pluginhost.Question) {}

func (c *commanded) Ask(ctx context.Context, q *pluginhost.Question) (sdk.Verdict, time.Duration, error) {
	if _, ok := ctx.Deadline(); !ok {
		return sdk.Verdict{}, 0, errors.New("asked without a deadline")
	}
	return sdk.Verdict{Reasons: []sdk.Reason{{Symbol: "S", Text: fmt.Sprint(q.Phase, q.Event.Kind, q.Event.Words)}}, Alerts: []sdk.Alert{{Key: "k"}}}, 0, c.err
}

// TestTellPlugin: who can't be told says why.
func TestTellPlugin(t *testing.T) {
	commands := []sdk.EventKind{sdk.EventCommand}
	fails := func(kind pluginhost.Kind) error {
		return &pluginhost.Failure{Kind: kind, Err: errors.New("no such list")}
	}
	list := []events.Plugin{
		&commanded{manifest: sdk.Manifest{Name: "good", Events: commands}},
		&commanded{manifest: sdk.Manifest{Name: "deaf", Events: []sdk.EventKind{sdk.EventDelivered}}},
		&commanded{manifest: sdk.Manifest{Name: "down", Events: commands}},
		&commanded{manifest: sdk.Manifest{Name: "refuses", Events: commands}, err: fails(pluginhost.Error)},
		&commanded{manifest: sdk.Manifest{Name: "slow", Events: commands}, err: fails(pluginhost.Timeout)},
	}
	states := func() []pluginhost.State {
		return []pluginhost.State{{Name: "good", State: "ready"}, {Name: "down", State: "waiting", Why: "exit status 3"}}
	}
	raised := 0
	raise := func(plugin string, _ sdk.Alert) { raised++ }
	for _, c := range []struct {
		name    string
		words   []string
		answer  string
		problem string
	}{
		{"good", []string{"a", "b"}, "eventcommand [a b]", ""},
		{"good", nil, "", "expected 1 to 1000 words"},
		{"good", []string{strings.Repeat("x", 5000)}, "", "at most 4096 octets"},
		{"god", []string{"a"}, "", `there is no plugin "god"; there are good, deaf, down`},
		{"deaf", []string{"a"}, "", `its manifest has no event "command"`},
		{"down", []string{"a"}, "", "plugin down does not run (waiting): exit status 3"},
		{"refuses", []string{"a"}, "", "plugin refuses: no such list"},
		{"slow", []string{"a"}, "", "plugin slow did not answer: timeout"},
	} {
		got := ""
		err := tellPlugin(t.Context(), list, states, raise, tellRequest{c.name, c.words}, func(item any) error {
			got += item.(sdk.Reason).Text
			return nil
		})
		if got != c.answer || (err == nil) != (c.problem == "") || err != nil && !strings.Contains(err.Error(), c.problem) {
			t.Errorf("%s %.20q: %q %v", c.name, c.words, got, err)
		}
	}
	if raised != 1 {
		t.Errorf("%d alerts", raised)
	}
	err := tellPlugin(t.Context(), nil, states, nil, tellRequest{"x", []string{"a"}}, nil)
	if err == nil || !strings.Contains(err.Error(), "no plugin is configured") {
		t.Error(err)
	}
}

// TestWithoutServer: what only a running server knows says so.
func TestWithoutServer(t *testing.T) {
	path := writeConfig(t, testConfig)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"metrics"}, exitFailed, "sluice serve"},
		{[]string{"metrics", "extra"}, exitUsage, "does not take"},
		{[]string{"plugin", "tell", "own", "a"}, exitFailed, "sluice serve"},
		{[]string{"plugin", "tell", "own"}, exitUsage, "a word for it"},
	} {
		code, out, problem := sluice(t, "", append(c.args, "--config", path)...)
		if code != c.code || out != "" || !strings.Contains(problem, c.want) {
			t.Errorf("%q: %d %q %q", c.args, code, out, problem)
		}
	}
}

// TestCheckAdmin: check says that nobody logs in for the metrics.
func TestCheckAdmin(t *testing.T) {
	path := writeConfig(t, testConfig+"[listener.numbers]\nprotocol = \"admin\"\naddress = \"127.0.0.1:0\"\n")
	code, out, problem := sluice(t, "", "check", "--no-plugins", "--config", path)
	if code != exitDone || !strings.Contains(out, "login none") || strings.Contains(strings.SplitAfter(out, "numbers")[1], "under TLS only") {
		t.Errorf("%d %s %s", code, out, problem)
	}
}

// BenchmarkEventNobodyWants is what a delivery pays for events when no plugin is configured.
func BenchmarkEventNobodyWants(b *testing.B) {
	s := &server{config: config.Default(), plugins: pluginhost.New(pluginhost.Options{Logger: slog.New(slog.DiscardHandler)})}
	sink := events.NewSink(events.SinkOptions{Plugins: s.livePlugins})
	b.ReportAllocs()
	for b.Loop() {
		if sink.Wants(sdk.EventDelivered) {
			b.Fatal("somebody wants it")
		}
	}
}
