// Package sdktest runs a plugin in its author's tests through the real protocol: the frames of
// sdk/PROTOCOL.md on a unix socket, as the server would send them.
//
//	func TestSpam(t *testing.T) {
//		p := sdktest.Start(t, scanner{}, nil)
//		v, err := p.Ask(sdktest.Mail("From: a@example.org\n\nbuy now\n"))
//		...
//	}
//
// Mail, Connect, Sender, Recipient, Route, Event, Learn and Command make questions; change
// their fields as you like. Ask may be called from many goroutines: as many questions as
// Plugin.Lanes are with the plugin at a time, and one event beside them. AskContext ends a
// question early, Restart shows what survives in the state directory.
//
// The plugin runs in the test's process, so a crash of the plugin is a crash of the test. When the
// test ends the plugin is closed, if it is an io.Closer, and an error of that fails the test.
package sdktest

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/serve"
	"github.com/sluicemail/sluice/sdk/wire"
)

// Timeout is the deadline of a question of Ask.
const Timeout = 10 * time.Second

// Setup is how a plugin is started, where Start is not enough.
type Setup struct {
	Config   map[string]any // [plugin.NAME.config]
	StateDir string         // must exist; "": one of the test's own
	Dir      string         // what relative paths in Config are relative to; "": one of the test's own
	Lanes    int            // questions at a time; 0: 8. Never more than the manifest's MaxLanes

	// CheckOnly lets Configure only check the settings, as sluice check does. What the plugin leaves in its state directory
	// then fails the test.
	CheckOnly bool
}

// Plugin is a plugin under test.
type Plugin struct {
	Manifest sdk.Manifest
	StateDir string
	Dir      string
	Lanes    int

	t      testing.TB
	client wire.PluginClient
	stop   func()
	slots  chan struct{} // a question holds one
	events chan struct{} // an event holds it
}

// Start describes and configures a plugin and stops it when the test ends. Complaints about the
// settings fail the test; to test those use Configure.
func Start(t testing.TB, p sdk.Plugin, config map[string]any) *Plugin {
	t.Helper()
	return Setup{Config: config}.Start(t, p)
}

// Start is like the function Start.
func (s Setup) Start(t testing.TB, p sdk.Plugin) *Plugin {
	t.Helper()
	started := s.dial(t, p)
	if err := started.configure(s.Config, false); err != nil {
		t.Fatalf("configure: %v", err)
	}
	return started
}

// Configure describes a plugin and returns its complaints about the settings: *sdk.SettingError,
// joined, or nil.
func Configure(t testing.TB, p sdk.Plugin, config map[string]any) error {
	t.Helper()
	return Setup{Config: config}.Configure(t, p)
}

// Configure is like the function Configure.
func (s Setup) Configure(t testing.TB, p sdk.Plugin) error {
	t.Helper()
	started := s.dial(t, p)
	err := started.configure(s.Config, s.CheckOnly)
	if entries, _ := os.ReadDir(started.StateDir); s.CheckOnly && s.StateDir == "" && len(entries) > 0 {
		t.Errorf("a check of the settings left %s in the state directory", entries[0].Name())
	}
	return err
}

// Stop ends the plugin in order: its questions are cancelled, and it is closed. It is called at
// the end of the test too.
func (p *Plugin) Stop() { p.stop() }

// Restart stops the plugin and starts another in its place, with the same state directory and
// place of relative paths, as after an update or a crash of the server.
func (p *Plugin) Restart(again sdk.Plugin, config map[string]any) *Plugin {
	p.t.Helper()
	p.Stop()
	return Setup{Config: config, StateDir: p.StateDir, Dir: p.Dir, Lanes: p.Lanes}.Start(p.t, again)
}

func (s Setup) dial(t testing.TB, p sdk.Plugin) *Plugin {
	t.Helper()
	started := &Plugin{t: t, StateDir: s.StateDir, Dir: s.Dir, Lanes: s.Lanes}
	if started.StateDir == "" {
		started.StateDir = t.TempDir()
	}
	if started.Dir == "" {
		started.Dir = t.TempDir()
	}
	started.serve(p)
	d, err := started.client.Describe(t.Context(), &wire.DescribeRequest{HostVersion: "sdktest"})
	if err != nil {
		t.Fatalf("describe: %v", err)
	}
	if started.Manifest, err = wire.FromManifest(d); err != nil {
		t.Fatalf("describe: %v", err)
	}
	if started.Lanes <= 0 {
		started.Lanes = 8
	}
	if started.Manifest.MaxLanes > 0 {
		started.Lanes = min(started.Lanes, started.Manifest.MaxLanes)
	}
	started.slots, started.events = make(chan struct{}, started.Lanes), make(chan struct{}, 1)
	return started
}

// serve runs the plugin's end, until Stop or the end of the test.
func (p *Plugin) serve(plugin sdk.Plugin) {
	p.t.Helper()
	dir, err := os.MkdirTemp("", "sdktest") // t.TempDir is too long for a socket
	if err != nil {
		p.t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve.Serve(ctx, l, plugin) }()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		p.t.Fatal(err)
	}
	p.client = wire.NewPluginClient(conn)
	stopped := false
	p.stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = conn.Close()
		cancel()
		if err := <-done; err != nil {
			p.t.Errorf("the end of the plugin: %v", err)
		}
		_ = os.RemoveAll(dir)
	}
	p.t.Cleanup(p.stop)
}

func (p *Plugin) configure(config map[string]any, checkOnly bool) error {
	table, err := wire.ToTable(config)
	if err != nil {
		return err
	}
	answer, err := p.client.Configure(p.t.Context(), &wire.ConfigureRequest{
		Config: table, StateDir: p.StateDir, Dir: p.Dir, Lanes: uint32(p.Lanes), CheckOnly: checkOnly,
	})
	if err != nil {
		return err
	}
	var problems []error
	for _, e := range answer.GetErrors() {
		problems = append(problems, &sdk.SettingError{Key: e.GetKey(), Problem: e.GetProblem()})
	}
	return errors.Join(problems...)
}
