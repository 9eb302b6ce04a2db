package metrics

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/events"
	"github.com/sluicemail/sluice/pipeline/listen"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/account"
)

// full has something of everything, twice where there can be two.
func full() *Metrics {
	m := New("sluice 1", Sources{
		Plugins: func() []pluginhost.State {
			return []pluginhost.State{
				{Name: "av", State: "ready", Breaker: "open", Asked: 7, Lanes: 8, Failures: map[pluginhost.Kind]uint64{pluginhost.Crash: 2, pluginhost.Error: 1}},
				{Name: "spam", State: "waiting", Restarts: 3, Told: 4, Dropped: 5},
			}
		},
		Queue:     func() (int, bool) { return 12, true },
		Listeners: func() map[string]listen.Stats { return map[string]listen.Stats{"mx": {Open: 3}, "imap": {Refused: 2}} },
		Store:     func() map[string]float64 { return map[string]float64{"free_bytes": 1e9, "syncs_total": 5} },
		Told: func() (map[sdk.EventKind]uint64, uint64) {
			return map[sdk.EventKind]uint64{sdk.EventBounced: 6, sdk.EventDelivered: 1}, 2
		},
		Logins: func() account.Logins {
			return account.Logins{Accepted: 30, Repeated: 4, Delayed: 3, Vouched: 2, Accounts: 1, Addresses: 8}
		},
		Lessons: func() events.Counts { return events.Counts{Learnt: 9, Waiting: map[string]int{"spam": 2, "bayes": 0}} },
		Alerts:  func() (map[string]uint64, uint64) { return map[string]uint64{"": 1, "av": 2}, 0 },
	})
	m.Stage(&pipeline.StageReport{Pipeline: "inbound", Stage: "anti-virus", Action: sdk.Defer, Took: time.Millisecond})
	m.Stage(&pipeline.StageReport{Pipeline: "outbound", Stage: "anti-virus", Action: sdk.Accept, Took: time.Second})
	m.Plugin(&pipeline.PluginReport{Stage: "anti-virus", Phase: sdk.PhaseContent, Plugin: "av", Action: sdk.Defer, Failure: pipeline.FailCrash, Took: time.Second})
	m.Plugin(&pipeline.PluginReport{Stage: "anti-spam", Phase: sdk.PhaseContent, Plugin: "spam", Unscanned: true, Failure: pipeline.FailBusy, Refused: 2})
	m.Recipient(sdk.EventDelivered)
	return m
}

// TestText: what is shown can be read, and holds what was counted.
func TestText(t *testing.T) {
	var b strings.Builder
	if err := full().WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`sluice_stage_messages_total{action="defer",pipeline="inbound",stage="anti-virus"} 1`,
		`sluice_stage_seconds_count{pipeline="outbound",stage="anti-virus"} 1`,
		`sluice_plugin_answers_total{action="defer",phase="content",plugin="av",stage="anti-virus"} 1`,
		`sluice_plugin_failures_total{kind="crash",plugin="av",stage="anti-virus"} 1`,
		`sluice_unscanned_total{plugin="spam",stage="anti-spam"} 1`,
		`sluice_plugin_refused_changes_total{plugin="spam"} 2`,
		`sluice_recipients_total{outcome="delivered"} 1`,
		`sluice_plugin_up{plugin="av"} 1`, `sluice_plugin_up{plugin="spam"} 0`, `sluice_plugin_breaker_open{plugin="av"} 1`,
		`sluice_plugin_failed_total{kind="crash",plugin="av"} 2`, `sluice_plugin_restarts_total{plugin="spam"} 3`,
		`sluice_plugin_events_total{plugin="spam",result="dropped"} 5`,
		`sluice_queue_entries 12`, `sluice_queue_more 1`, `sluice_connections{listener="mx"} 3`,
		`sluice_connections_refused_total{listener="imap"} 2`, `sluice_store_free_bytes 1e+09`, `sluice_store_syncs_total 5`,
		`sluice_events_total{kind="bounced"} 6`, `sluice_events_dropped_total 2`,
		`sluice_logins_total{outcome="accepted"} 30`, `sluice_logins_total{outcome="repeated"} 4`, `sluice_logins_delayed_total 3`,
		`sluice_logins_vouched_total 2`, `sluice_login_refusals_total{of="account"} 1`, `sluice_login_refusals_total{of="address"} 8`,
		`sluice_lessons_total{result="learnt"} 9`, `sluice_lessons_waiting{plugin="spam"} 2`,
		`sluice_alerts_total{plugin=""} 1`, `sluice_alerts_total{plugin="av"} 2`, `sluice_build_info{go="`, `go_goroutines `,
	} {
		if !strings.Contains(b.String(), "\n"+want) {
			t.Errorf("no %s", want)
		}
	}
	if t.Failed() {
		t.Log(b.String())
	}
}

// TestSamples: the same for --json, and the empty server.
func TestSamples(t *testing.T) {
	list, err := full().Samples()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, s := range list {
		found = found || s.Name == "sluice_stage_seconds_sum" && s.Labels["pipeline"] == "outbound" && s.Value == 1
	}
	if !found {
		t.Errorf("no sum of a histogram among %d samples", len(list))
	}
	if list, err := New("v", Sources{}).Samples(); err != nil || len(list) < 10 {
		t.Errorf("%d samples, %v", len(list), err)
	}
}

// TestHTTP: three pages, nothing else, and only to be read.
func TestHTTP(t *testing.T) {
	var broken error
	s := NewServer(full(), func() error { return broken }, slog.New(slog.DiscardHandler))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	ask := func(method, path, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+l.Addr().String()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	for _, c := range []struct {
		method, path string
		broken       error
		code         int
		text         string
	}{
		{"GET", "/metrics", nil, 200, "sluice_queue_entries 12"},
		{"GET", "/livez", nil, 200, "ok"},
		{"GET", "/livez", errors.New("the disk is full"), 200, "ok"},
		{"GET", "/readyz", nil, 200, "ok"},
		{"GET", "/readyz", errors.New("the disk is full"), 503, "the disk is full"},
		{"POST", "/metrics", nil, 405, ""},
		{"GET", "/", nil, 404, ""},
		{"GET", "/debug/pprof/", nil, 404, ""},
		{"GET", "/metrics/../../etc/passwd", nil, 404, ""},
	} {
		broken = c.broken
		if code, text := ask(c.method, c.path, ""); code != c.code || !strings.Contains(text, c.text) {
			t.Errorf("%s %s: %d %.200s", c.method, c.path, code, text)
		}
	}
	if code, _ := ask("GET", "/metrics?"+strings.Repeat("x", 40<<10), ""); code != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("an endless request line: %d", code)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := errors.Join(s.Shutdown(ctx), <-done); err != nil {
		t.Error(err)
	}
}
