// Package sdktest runs a plugin in its author's tests through the real protocol: the frames of
// sdk/PROTOCOL.md on a unix socket, one lane after the other, as the server would send them.
//
//	func TestSpam(t *testing.T) {
//		p := sdktest.Start(t, scanner{}, nil)
//		v, err := p.Ask(sdktest.Mail("From: a@example.org\n\nbuy now\n"))
//		...
//	}
//
// The plugin runs in the test's process, so a crash of the plugin is a crash of the test.
package sdktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
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

// Plugin is a plugin under test.
type Plugin struct {
	Manifest sdk.Manifest
	StateDir string

	t      testing.TB
	client wire.PluginClient
}

// Mail returns a question about a message from a stranger to one local recipient. Line feeds of the
// text become CRLF.
func Mail(text string) *sdk.Message {
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\n", "\r\n")
	return &sdk.Message{
		Envelope: sdk.Envelope{
			ID: "TEST", Origin: sdk.Stranger, Received: time.Now(), Listener: "mx",
			ClientAddr: "192.0.2.1", ClientName: "mail.example.org", Helo: "mail.example.org", TLS: "TLS 1.3",
			Sender:     "sender@example.org",
			Recipients: []sdk.Recipient{{Address: "alice@example.test", Accounts: []string{"alice@example.test"}}},
		},
		Size: int64(len(text)), Content: strings.NewReader(text),
	}
}

// Start describes and configures a plugin and stops it when the test ends. Complaints about the
// settings fail the test; to test those use Configure.
func Start(t testing.TB, p sdk.Plugin, config map[string]any) *Plugin {
	t.Helper()
	started := dial(t, p)
	if err := started.configure(config); err != nil {
		t.Fatalf("configure: %v", err)
	}
	return started
}

// Configure describes a plugin and returns its complaints about the settings: *sdk.SettingError,
// joined, or nil.
func Configure(t testing.TB, p sdk.Plugin, config map[string]any) error {
	t.Helper()
	return dial(t, p).configure(config)
}

func dial(t testing.TB, p sdk.Plugin) *Plugin {
	t.Helper()
	dir, err := os.MkdirTemp("", "sdktest") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve.Serve(ctx, l, p) }()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		_ = os.RemoveAll(dir)
	})
	started := &Plugin{t: t, client: wire.NewPluginClient(conn), StateDir: filepath.Join(dir, "state")}
	if err := os.Mkdir(started.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := started.client.Describe(t.Context(), &wire.DescribeRequest{HostVersion: "sdktest"})
	if err != nil {
		t.Fatalf("describe: %v", err)
	}
	if started.Manifest, err = wire.FromManifest(d); err != nil {
		t.Fatalf("describe: %v", err)
	}
	return started
}

func (p *Plugin) configure(config map[string]any) error {
	table, err := wire.ToTable(config)
	if err != nil {
		return err
	}
	answer, err := p.client.Configure(p.t.Context(), &wire.ConfigureRequest{Config: table, StateDir: p.StateDir, Lanes: 8})
	if err != nil {
		return err
	}
	var problems []error
	for _, e := range answer.GetErrors() {
		problems = append(problems, &sdk.SettingError{Key: e.GetKey(), Problem: e.GetProblem()})
	}
	return errors.Join(problems...)
}

// Ask asks one question on a lane of its own and returns the answer. It checks what the protocol
// demands of the plugin's end: one answer, of the right id, before the deadline.
func (p *Plugin) Ask(m *sdk.Message) (sdk.Verdict, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), Timeout)
	defer cancel()
	stream, err := p.client.Lane(ctx)
	if err != nil {
		return sdk.Verdict{}, err
	}
	if err := p.send(ctx, stream, m); err != nil {
		return sdk.Verdict{}, err
	}
	f, err := stream.Recv()
	if err != nil {
		return sdk.Verdict{}, fmt.Errorf("no answer: %w", err)
	}
	if err := stream.CloseSend(); err != nil {
		return sdk.Verdict{}, err
	}
	if extra, err := stream.Recv(); !errors.Is(err, io.EOF) {
		p.t.Errorf("after the answer came %v, %v, expected the end of the lane", extra, err)
	}
	a := f.GetAnswer()
	if a.GetId() != 1 {
		p.t.Errorf("the answer has id %d, expected 1", a.GetId())
	}
	if e := a.GetError(); e != nil {
		return sdk.Verdict{}, errors.New(e.GetText())
	}
	return wire.FromVerdict(a.GetVerdict())
}

func (p *Plugin) send(ctx context.Context, stream wire.Plugin_LaneClient, m *sdk.Message) error {
	deadline, _ := ctx.Deadline()
	err := stream.Send(&wire.HostFrame{Frame: &wire.HostFrame_Ask{Ask: &wire.Ask{
		Id: 1, Phase: wire.Phase_PHASE_CONTENT, Envelope: wire.ToEnvelope(&m.Envelope),
		Size: m.Size, DeadlineUnixNano: deadline.UnixNano(),
	}}})
	content, readErr := io.ReadAll(m.Content)
	if readErr != nil {
		return readErr
	}
	switch p.Manifest.Want {
	case sdk.WantNone:
		content = nil
	case sdk.WantHeader:
		if i := bytes.Index(content, []byte("\r\n\r\n")); i >= 0 {
			content = content[:i+4]
		}
	}
	for len(content) > 0 && err == nil {
		n := min(len(content), wire.MaxChunk)
		err = stream.Send(&wire.HostFrame{Frame: &wire.HostFrame_Chunk{Chunk: &wire.Chunk{Id: 1, Data: content[:n]}}})
		content = content[n:]
	}
	if err == nil {
		err = stream.Send(&wire.HostFrame{Frame: &wire.HostFrame_End{End: &wire.End{Id: 1}}})
	}
	if errors.Is(err, io.EOF) { // the lane ended: Recv says why
		return nil
	}
	return err
}
