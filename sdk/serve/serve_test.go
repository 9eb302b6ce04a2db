package serve

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

func TestMain(m *testing.M) {
	if os.Getenv("SLUICE_TEST_PLUGIN") == "1" {
		Main(&plugin{})
		return
	}
	os.Exit(m.Run())
}

// plugin does what the sender's address says.
type plugin struct {
	manifest sdk.Manifest // what it adds to the usual one
	special  func(ctx context.Context, m *sdk.Message) (sdk.Verdict, error)
	settings sdk.Settings
	closed   atomic.Int32
	running  atomic.Int32
	ended    chan error // what ctx said in the end
	release  chan struct{}
}

func (p *plugin) Describe() sdk.Manifest {
	return sdk.Manifest{
		Name: "test", Version: "1", Phases: []sdk.Phase{sdk.PhaseContent}, Want: sdk.WantAll,
		Parsed: p.manifest.Parsed, Events: p.manifest.Events, CheckOnly: p.manifest.CheckOnly,
	}
}

func (p *plugin) Close() error {
	if p.running.Load() > 0 {
		return errors.New("closed while Ask runs")
	}
	p.closed.Add(1)
	if name := os.Getenv("SLUICE_TEST_CLOSED"); name != "" {
		return os.WriteFile(name, []byte("closed\n"), 0o600)
	}
	return nil
}

func (p *plugin) Configure(_ context.Context, s sdk.Settings) error {
	p.settings = s
	switch s.Config["mode"] {
	case "settings":
		return errors.Join(&sdk.SettingError{Key: "a.b", Problem: "no"}, errors.Join(&sdk.SettingError{Key: "c", Problem: "nor that"}))
	case "plain":
		return errors.New("the licence is gone")
	case "unready":
		return fmt.Errorf("open the state: %w", &sdk.Unready{Err: errors.New("the disk is full")})
	}
	return nil
}

func (p *plugin) Ask(ctx context.Context, m *sdk.Message) (sdk.Verdict, error) {
	p.running.Add(1)
	defer p.running.Add(-1)
	switch m.Sender {
	case "special":
		return p.special(ctx, m)
	case "panic":
		panic("now")
	case "early":
		return sdk.Verdict{Score: 7}, nil
	case "wait":
		<-ctx.Done()
		p.ended <- ctx.Err()
		return sdk.Verdict{}, ctx.Err()
	case "slow":
		<-ctx.Done()
		time.Sleep(50 * time.Millisecond)
		return sdk.Verdict{}, ctx.Err()
	case "deaf":
		<-p.release
		return sdk.Verdict{}, nil
	case "long error":
		return sdk.Verdict{}, errors.New(strings.Repeat("x\r\n", 5000) + "\xff")
	}
	n, err := io.Copy(io.Discard, m.Content)
	return sdk.Verdict{Score: float64(n)}, err
}

type client struct {
	t *testing.T
	wire.PluginClient
	conn   *grpc.ClientConn
	direct string // socket of direct lanes, for a test that wants those
}

// bothWays runs a test with lanes of gRPC and with direct ones.
func bothWays(t *testing.T, test func(t *testing.T, start func(*testing.T, *plugin, uint32) *client)) {
	t.Run("gRPC", func(t *testing.T) { test(t, start) })
	t.Run("direct", func(t *testing.T) {
		test(t, func(t *testing.T, p *plugin, lanes uint32) *client {
			c := start(t, p, lanes)
			d, err := c.Describe(t.Context(), &wire.DescribeRequest{})
			if err != nil || d.GetLaneSocket() == "" {
				t.Fatalf("no direct lanes: %v %v", d, err)
			}
			c.direct = d.GetLaneSocket()
			return c
		})
	})
}

func start(t *testing.T, p *plugin, lanes uint32) *client {
	p.ended, p.release = make(chan error, 10), make(chan struct{})
	dir, err := os.MkdirTemp("", "serve")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Serve(ctx, l, p) }()
	conn, err := grpc.NewClient("unix:"+filepath.Join(dir, "s"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(dir)
	})
	c := &client{t: t, PluginClient: wire.NewPluginClient(conn), conn: conn}
	if lanes > 0 {
		if _, err := c.Configure(t.Context(), &wire.ConfigureRequest{Lanes: lanes}); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

type testLane struct {
	t *testing.T
	testStream
	reset context.CancelFunc
}

type testStream interface {
	Send(*wire.HostFrame) error
	Recv() (*wire.PluginFrame, error)
	CloseSend() error
	begins() bool
}

type grpcLane struct{ wire.Plugin_LaneClient }

func (l grpcLane) begins() bool {
	header, err := l.Header()
	return err == nil && header != nil
}

// directLane sends each frame at once: a test may wait for what the plugin does about it.
type directLane struct {
	*wire.HostEnd
	began bool
	err   error
}

func (l *directLane) begins() bool {
	if !l.began {
		l.began, l.err = true, l.Begin()
	}
	return l.err == nil
}

func (l *directLane) Send(f *wire.HostFrame) error { return errors.Join(l.HostEnd.Send(f), l.Flush()) }

func (l *directLane) Recv() (*wire.PluginFrame, error) {
	if !l.begins() {
		return nil, l.err
	}
	return l.HostEnd.Recv()
}

// CloseSend ends the lane: there is no half of it.
func (l *directLane) CloseSend() error {
	l.err, l.began = io.EOF, true
	return l.Close()
}

func (c *client) lane() *testLane {
	if c.direct != "" {
		conn, err := net.Dial("unix", c.direct)
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { _ = conn.Close() })
		return &testLane{c.t, &directLane{HostEnd: wire.NewHostEnd(conn)}, func() { _ = conn.Close() }}
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	s, err := c.Lane(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	return &testLane{c.t, grpcLane{s}, cancel}
}

func (l *testLane) ask(id uint64, sender string) {
	l.frame(&wire.HostFrame{Frame: &wire.HostFrame_Ask{Ask: &wire.Ask{Id: id, Phase: 4, Envelope: &wire.Envelope{Sender: sender}}}})
}

func (l *testLane) chunk(id uint64, n int) {
	l.frame(&wire.HostFrame{Frame: &wire.HostFrame_Chunk{Chunk: &wire.Chunk{Id: id, Data: make([]byte, n)}}})
}

func (l *testLane) end(id uint64) {
	l.frame(&wire.HostFrame{Frame: &wire.HostFrame_End{End: &wire.End{Id: id}}})
}

func (l *testLane) cancel(id uint64) {
	l.frame(&wire.HostFrame{Frame: &wire.HostFrame_Cancel{Cancel: &wire.Cancel{Id: id}}})
}

func (l *testLane) frame(f *wire.HostFrame) {
	l.t.Helper()
	if err := l.Send(f); err != nil {
		l.t.Fatal(err)
	}
}

func (l *testLane) answer(id uint64) *wire.Answer {
	l.t.Helper()
	f, err := l.Recv()
	if err != nil {
		l.t.Fatal(err)
	}
	if f.GetAnswer().GetId() != id {
		l.t.Fatalf("an answer to %d, expected %d", f.GetAnswer().GetId(), id)
	}
	return f.GetAnswer()
}

func (l *testLane) fails(code codes.Code) {
	l.t.Helper()
	for {
		f, err := l.Recv()
		if err == nil && f.GetAnswer().GetError() != nil { // the question that the lane's end cancelled
			continue
		}
		if _, direct := l.testStream.(*directLane); direct && err != nil {
			return // the connection ends, and says no more
		}
		if status.Code(err) != code {
			l.t.Fatalf("%v %v, expected %s", f, err, code)
		}
		return
	}
}

func TestLane(t *testing.T) { bothWays(t, laneDialogue) }

func laneDialogue(t *testing.T, start func(*testing.T, *plugin, uint32) *client) {
	p := &plugin{}
	c := start(t, p, 2)
	l := c.lane()
	// Content; frames of other questions are ignored.
	l.chunk(1, 5)
	l.ask(3, "")
	l.chunk(2, 100)
	l.chunk(3, 10)
	l.cancel(2)
	l.end(2)
	l.chunk(3, 300000)
	l.end(3)
	l.chunk(3, 1)
	if s := l.answer(3).GetVerdict().GetScore(); s != 300010 {
		t.Errorf("the plugin saw %v octets", s)
	}
	// An early answer; the rest is read and thrown away, far beyond any buffer.
	l.ask(4, "early")
	if s := l.answer(4).GetVerdict().GetScore(); s != 7 {
		t.Error(s)
	}
	for range 200 {
		l.chunk(4, wire.MaxChunk)
	}
	l.end(4)
	// A panic is an error answer.
	l.ask(5, "panic")
	l.end(5)
	if text := l.answer(5).GetError().GetText(); !strings.Contains(text, "now") {
		t.Error(text)
	}
	l.ask(6, "long error")
	l.end(6)
	if text := l.answer(6).GetError().GetText(); len(text) > 1100 || strings.ContainsAny(text, "\r\n") {
		t.Errorf("%d octets", len(text))
	}
	// Cancel, before and after End; the lane goes on.
	for id, end := range map[uint64]bool{7: false, 8: true} {
		l.ask(id, "wait")
		if end {
			l.end(id)
		}
		l.cancel(id)
		if !end {
			l.end(id)
		}
		if l.answer(id).GetError() == nil {
			t.Error("no error after Cancel")
		}
		if err := <-p.ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	// Half a message is none.
	l.ask(9, "")
	l.chunk(9, 10)
	l.cancel(9)
	l.end(9)
	if l.answer(9).GetError() == nil {
		t.Error("an opinion about half a message")
	}
	if err := l.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestDeadline(t *testing.T) { bothWays(t, testDeadline) }

func testDeadline(t *testing.T, start func(*testing.T, *plugin, uint32) *client) {
	p := &plugin{}
	l := start(t, p, 1).lane()
	l.frame(&wire.HostFrame{Frame: &wire.HostFrame_Ask{Ask: &wire.Ask{
		Id: 1, Phase: 4, Envelope: &wire.Envelope{Sender: "wait"}, DeadlineUnixNano: time.Now().Add(50 * time.Millisecond).UnixNano(),
	}}})
	l.end(1)
	l.answer(1)
	if err := <-p.ended; !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestProtocolErrors(t *testing.T) {
	c := start(t, &plugin{}, 0)
	l := c.lane()
	l.fails(codes.FailedPrecondition) // before Configure
	if _, err := c.Configure(t.Context(), &wire.ConfigureRequest{Lanes: 4}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Configure(t.Context(), &wire.ConfigureRequest{Lanes: 4}); status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
	l = c.lane()
	l.ask(1, "wait")
	l.ask(2, "wait")
	l.fails(codes.InvalidArgument)
	l = c.lane()
	l.ask(1, "early")
	l.answer(1)
	l.ask(2, "early") // without End
	l.fails(codes.InvalidArgument)
	if _, err := grpc_health_v1.NewHealthClient(c.conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "plugin"}); err != nil {
		t.Error(err)
	}
}

// TestSlots: a reset lane counts until its Ask has returned.
func TestSlots(t *testing.T) { bothWays(t, testSlots) }

func testSlots(t *testing.T, start func(*testing.T, *plugin, uint32) *client) {
	p := &plugin{}
	c := start(t, p, 1)
	l := c.lane()
	l.ask(1, "deaf")
	for p.running.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	c.lane().fails(codes.ResourceExhausted)
	l.reset()
	time.Sleep(20 * time.Millisecond)
	c.lane().fails(codes.ResourceExhausted)
	close(p.release)
	for range 100 {
		again := c.lane()
		if again.begins() {
			again.ask(1, "early")
			again.answer(1)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the slot does not come back")
}

// TestReset: the context ends with the stream, also while the reader waits for the plugin.
func TestReset(t *testing.T) { bothWays(t, testReset) }

func testReset(t *testing.T, start func(*testing.T, *plugin, uint32) *client) {
	p := &plugin{}
	l := start(t, p, 1).lane()
	l.ask(1, "wait")
	for range 5 { // more than may wait: the handler is stuck in feed
		l.chunk(1, wire.MaxChunk)
	}
	for p.running.Load() == 0 { // a reset overtakes what is not sent yet
		time.Sleep(time.Millisecond)
	}
	l.reset()
	select {
	case <-p.ended:
	case <-time.After(2 * time.Second):
		t.Error("the plugin was not told")
	}
}

func TestConfigure(t *testing.T) {
	for mode, want := range map[string]string{"settings": "a.b=no c=nor that", "plain": "=the licence is gone", "unready": "open the state: the disk is full"} {
		c := start(t, &plugin{}, 0)
		table, err := wire.ToTable(map[string]any{"mode": mode})
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Configure(t.Context(), &wire.ConfigureRequest{Config: table})
		var got []string
		for _, e := range r.GetErrors() {
			got = append(got, e.GetKey()+"="+e.GetProblem())
		}
		if mode == "unready" && status.Code(err) == codes.FailedPrecondition { // no complaint: the start is tried again
			got, err = append(got, status.Convert(err).Message()), nil
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %q %v, expected %q", mode, got, err, want)
		}
	}
}

// TestCheckOnly: a check reaches the plugin as one, brings its complaints, opens no lane and closes nothing; a plugin that does
// not say that it knows what a check is, is not configured at all.
func TestCheckOnly(t *testing.T) {
	p := &plugin{manifest: sdk.Manifest{CheckOnly: true}}
	c := start(t, p, 0)
	r, err := c.Configure(t.Context(), &wire.ConfigureRequest{CheckOnly: true})
	if err != nil || len(r.GetErrors()) != 0 || !p.settings.CheckOnly {
		t.Errorf("%v %v, a check: %v", r, err, p.settings.CheckOnly)
	}
	lane, err := c.Lane(t.Context())
	if err == nil {
		_, err = lane.Recv()
	}
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a lane after a check: %v", err)
	}
	table, err := wire.ToTable(map[string]any{"mode": "settings"})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := c.Configure(t.Context(), &wire.ConfigureRequest{Config: table, CheckOnly: true}); err != nil || len(r.GetErrors()) != 2 {
		t.Errorf("%v %v", r, err)
	}
	old := &plugin{settings: sdk.Settings{Dir: "untouched"}}
	if _, err := start(t, old, 0).Configure(t.Context(), &wire.ConfigureRequest{CheckOnly: true}); status.Code(err) != codes.Unimplemented || old.settings.Dir != "untouched" {
		t.Errorf("a plugin that knows no check: %v, %+v", err, old.settings)
	}
}

// TestMainByHand: a plugin that a person starts says what it is.
func TestMainByHand(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"SLUICE_TEST_PLUGIN=1"}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "[plugin.test]") {
		t.Errorf("%v %s", err, out)
	}
}

// TestEnd: the plugin is closed when its host is gone, and when the host asks for the end. (The test
// process is the plugin.)
func TestEnd(t *testing.T) {
	for _, way := range []string{"host gone", "shutdown", "not configured"} {
		dir := t.TempDir()
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{
			"SLUICE_TEST_PLUGIN=1", wire.CookieKey + "=" + wire.CookieValue, wire.WatchStdin + "=1", "PLUGIN_PROTOCOL_VERSIONS=1",
			"PLUGIN_UNIX_SOCKET_DIR=" + dir, "SLUICE_TEST_CLOSED=" + filepath.Join(dir, "closed"),
		}
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(stdout).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		conn, err := grpc.NewClient("unix:"+strings.Split(line, "|")[3], grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		c := &client{t: t, PluginClient: wire.NewPluginClient(conn), conn: conn}
		if way != "not configured" {
			if _, err := c.Configure(t.Context(), &wire.ConfigureRequest{Lanes: 1}); err != nil {
				t.Fatal(err)
			}
			l := c.lane()
			l.ask(1, "slow") // it ends with its context
		}
		time.Sleep(50 * time.Millisecond)
		if way == "shutdown" {
			// The answer is lost when the server stops, which is part of go-plugin.
			_ = conn.Invoke(t.Context(), wire.ShutdownMethod, &emptypb.Empty{}, &emptypb.Empty{})
		} else {
			_ = stdin.Close()
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", way, err)
		}
		_ = conn.Close()
		if _, err := os.Stat(filepath.Join(dir, "closed")); (err == nil) != (way != "not configured") {
			t.Errorf("%s: %v", way, err)
		}
	}
}

// TestHandshake: the line is the first and only thing on standard output, and the end of standard
// input ends the process.
func TestHandshake(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{
		"SLUICE_TEST_PLUGIN=1", wire.CookieKey + "=" + wire.CookieValue, wire.WatchStdin + "=1",
		"PLUGIN_PROTOCOL_VERSIONS=1", "PLUGIN_UNIX_SOCKET_DIR=" + t.TempDir(),
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	_ = stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if line := out.String(); !strings.HasPrefix(line, "1|1|unix|/") || !strings.HasSuffix(line, "|grpc|\n") || strings.Count(line, "\n") != 1 {
		t.Errorf("%q", line)
	}
}
