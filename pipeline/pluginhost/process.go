package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	hclog "github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	gprunner "github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// Flow-control windows towards the plugin's answers; fixed ones spare the pings
// that estimate one.
const (
	answerWindow = 256 << 10
	connWindow   = 4 << 20
	maxAnswer    = 1 << 20 // octets of one answer
)

// process is one run of a plugin.
type process struct {
	runner   *runner
	log      *slog.Logger
	conn     *grpc.ClientConn
	client   wire.PluginClient
	manifest sdk.Manifest
	started  time.Time

	ctx    context.Context // of everything in this process; ends with it
	cancel context.CancelFunc
	gone   sync.WaitGroup // goroutines of this process

	free  chan *lane // slots that nobody uses
	lanes int
	lost  atomic.Int32 // slots whose handler may still be running

	moves    atomic.Uint64 // frames that went either way
	answered atomic.Uint64 // questions that were answered
	resets   atomic.Int32  // lanes reset since the last answer

	mu     sync.Mutex
	ended  bool   // no more questions
	reason string // why we killed it; "" if it died by itself
	alone  bool   // one question was in it when it died by itself
}

// launch says how a process is to be started.
type launch struct {
	config   *Config
	options  *Options
	threads  *starter
	log      *slog.Logger
	stateDir string
	dir      string // working directory, the configuration's
}

// badSettings is a start error that will not go away by itself.
type badSettings struct{ err error }

func (e *badSettings) Error() string { return e.err.Error() }
func (e *badSettings) Unwrap() error { return e.err }

// start runs the program through handshake, Describe and Configure.
func (l *launch) start(ctx context.Context) (*process, error) {
	ctx, cancel := context.WithTimeout(ctx, l.options.StartTimeout)
	defer cancel()
	spec, err := l.spec()
	if err != nil {
		return nil, err
	}
	out := newOutput(l.log)
	var started atomic.Pointer[runner]
	client := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig: goplugin.HandshakeConfig{
			ProtocolVersion: wire.ProtocolVersion, MagicCookieKey: wire.CookieKey, MagicCookieValue: wire.CookieValue,
		},
		VersionedPlugins: map[int]goplugin.PluginSet{wire.ProtocolVersion: {}},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		StartTimeout:     l.options.StartTimeout,
		SkipHostEnv:      true,
		Logger:           hclog.NewNullLogger(),
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: l.options.RunDir},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, socketDir string) (gprunner.Runner, error) {
			wrapped, err := spec.command(l, cmd.Env, socketDir)
			if err != nil {
				return nil, errors.Join(err, os.RemoveAll(socketDir))
			}
			started.Store(newRunner(wrapped, socketDir, l.threads, out))
			return started.Load(), nil
		},
	})
	address, err := startWithin(ctx, client, func() {
		if run := started.Load(); run != nil {
			_ = run.Kill(ctx)
		}
	})
	run := started.Load()
	if err != nil {
		return nil, startError(err, run, out)
	}
	p := &process{runner: run, log: l.log.With("pid", run.pid), started: time.Now()}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	if err := p.connect(ctx, address, l); err != nil {
		p.kill("start failed")
		run.waitDead()
		p.end()
		return nil, startError(err, run, out)
	}
	run.beforeTold(p.noteDeath)
	p.gone.Add(3)
	go p.watchDeath()
	go p.carryOutput(out)
	go p.watchHealth(l.options.HealthEvery, l.options.HealthTimeout)
	return p, nil
}

// startWithin waits for the handshake, or for the end of ctx.
func startWithin(ctx context.Context, client *goplugin.Client, kill func()) (net.Addr, error) {
	type result struct {
		address net.Addr
		err     error
	}
	done := make(chan result, 1)
	go func() {
		address, err := client.Start()
		done <- result{address, err}
	}()
	select {
	case r := <-done:
		return r.address, r.err
	case <-ctx.Done():
		kill()
		select { // the handshake ends with the process
		case <-done:
		case <-time.After(5 * time.Second):
		}
		return nil, fmt.Errorf("handshake: %w", context.Cause(ctx))
	}
}

// startError says in one line what went wrong, with the plugin's last words.
func startError(err error, run *runner, out *output) error {
	if run != nil {
		_ = run.Kill(context.Background())
		run.waitDead()
	}
	text := printable(strings.ReplaceAll(err.Error(), "\n", " "))
	if len(text) > 400 {
		text = text[:400] + " ..."
	}
	if last := out.lastWords(); last != "" {
		text += "; its last words: " + last
	}
	var bad *badSettings
	if errors.As(err, &bad) {
		return err
	}
	return errors.New(text)
}

func (p *process) connect(ctx context.Context, address net.Addr, l *launch) error {
	conn, err := grpc.NewClient("passthrough:plugin",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", address.String())
		}),
		grpc.WithInitialWindowSize(answerWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithIdleTimeout(0),
		grpc.WithMaxHeaderListSize(16<<10),
	)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	p.conn, p.client = conn, wire.NewPluginClient(conn)
	described, err := p.client.Describe(ctx, &wire.DescribeRequest{HostVersion: l.options.Version})
	if err != nil {
		return fmt.Errorf("describe: %w", err)
	}
	if p.manifest, err = wire.FromManifest(described); err == nil {
		err = checkManifest(&p.manifest)
	}
	if err != nil {
		return &badSettings{fmt.Errorf("describe: %w", err)}
	}
	p.lanes = l.config.Lanes
	if p.manifest.MaxLanes > 0 {
		p.lanes = min(p.lanes, p.manifest.MaxLanes)
	}
	if err := p.configure(ctx, l); err != nil {
		return err
	}
	p.free = make(chan *lane, p.lanes)
	for range p.lanes {
		p.free <- newLane(p)
	}
	return nil
}

func checkManifest(m *sdk.Manifest) error {
	switch {
	case !nameForm.MatchString(m.Name):
		return fmt.Errorf("the plugin calls itself %.80q, expected small letters, digits and hyphens", m.Name)
	case len(m.Version) > 200:
		return errors.New("its version is longer than 200 octets")
	case len(m.Phases) == 0:
		return errors.New("it takes part in no phase that this version knows")
	}
	return nil
}

func (p *process) configure(ctx context.Context, l *launch) error {
	table, err := wire.ToTable(l.config.Config)
	if err != nil {
		return &badSettings{fmt.Errorf("configure: config.%w", err)}
	}
	answer, err := p.client.Configure(ctx, &wire.ConfigureRequest{
		Config: table, StateDir: l.stateDir, Lanes: uint32(p.lanes),
	})
	if err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	if len(answer.GetErrors()) == 0 {
		return nil
	}
	var list []error
	for i, e := range answer.GetErrors() {
		if i == 100 {
			break
		}
		list = append(list, &sdk.SettingError{Key: printable(e.GetKey()), Problem: printable(e.GetProblem())})
	}
	return &badSettings{errors.Join(list...)}
}

// watchDeath ends everything of the process when it ends.
func (p *process) watchDeath() {
	defer p.gone.Done()
	<-p.runner.died
	p.cancel()
}

// noteDeath is called when the process has ended and nobody has been told yet.
func (p *process) noteDeath() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alone = p.reason == "" && p.lanes-len(p.free) == 1 && p.answered.Load() > 0
}

// end releases what a dead process leaves behind and waits for its goroutines.
func (p *process) end() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.cancel()
	if p.conn != nil {
		_ = p.conn.Close()
	}
	p.gone.Wait()
}

// enter counts a question in, unless the process has ended.
func (p *process) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	p.gone.Add(1)
	return true
}

// errNotAsked says that a process died before a question reached it.
var errNotAsked = errors.New("the process ended before it was asked")

// ask asks one question in the time that ctx leaves.
func (p *process) ask(ctx context.Context, q *Question) (sdk.Verdict, error) {
	if !p.enter() {
		return sdk.Verdict{}, errNotAsked
	}
	defer p.gone.Done()
	var l *lane
	select {
	case l = <-p.free:
	default:
		select {
		case l = <-p.free:
		case <-p.ctx.Done():
			return sdk.Verdict{}, errNotAsked
		case <-ctx.Done():
			return sdk.Verdict{}, failf(Busy, "all %d lanes are taken", p.lanes)
		}
	}
	v, err := l.ask(ctx, q)
	if err != nil {
		return sdk.Verdict{}, err
	}
	if err := checkVerdict(&v, q); err != nil {
		return sdk.Verdict{}, &Failure{Invalid, err}
	}
	return v, nil
}

// kill ends the process group at once. Never go-plugin's Kill: that asks first, without a
// deadline, and a stopped plugin doesn't answer (grpc_client.go:105 of v1.8.0).
func (p *process) kill(reason string) {
	p.mu.Lock()
	if p.reason == "" {
		p.reason = reason
	}
	p.mu.Unlock()
	_ = p.runner.Kill(context.Background())
}

// killedFor returns why we killed it, or "".
func (p *process) killedFor() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reason
}

// diedAlone reports whether a question was alone in the process when it died, and
// the process had shown before that it can answer one.
func (p *process) diedAlone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.alone
}

// stop asks the process to end, and ends it if it does not.
func (p *process) stop(ctx context.Context, patience time.Duration) {
	p.mu.Lock()
	if p.reason == "" {
		p.reason = "stopped"
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_ = p.conn.Invoke(ctx, wire.ShutdownMethod, &emptypb.Empty{}, &emptypb.Empty{})
	select {
	case <-p.runner.died:
	case <-ctx.Done():
		p.kill("stopped")
		p.runner.waitDead()
	}
	p.end()
}

// watchHealth asks the health service again and again, with a deadline of its own
// (go-plugin's Ping has none). Three misses while no lane moves are a hang. Whatever the
// plugin answers is a sign of life, UNIMPLEMENTED too.
func (p *process) watchHealth(every, patience time.Duration) {
	defer p.gone.Done()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	health := grpc_health_v1.NewHealthClient(p.conn)
	misses, moves := 0, p.moves.Load()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-ticker.C:
		}
		ctx, cancel := context.WithTimeout(p.ctx, patience)
		_, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: wire.ServiceName})
		cancel()
		code := status.Code(err)
		if now := p.moves.Load(); now != moves || (code != codes.DeadlineExceeded && code != codes.Unavailable) {
			misses, moves = 0, now
			continue
		}
		if misses++; misses >= 3 {
			p.log.Warn("plugin hangs", "why", "three health checks without an answer while no lane moved")
			p.kill("hang")
			return
		}
	}
}

// backoff returns how long to wait before start number n after a death: it doubles
// from 100 ms to a minute, within a fifth.
func backoff(n int) time.Duration {
	d := min(100*time.Millisecond<<min(n, 10), time.Minute)
	return d + time.Duration((rand.Float64()-0.5)*0.4*float64(d))
}

// makeStateDir makes the directory that the plugin may keep things in.
func makeStateDir(base, name string) (string, error) {
	if base == "" {
		return "", nil
	}
	dir := filepath.Join(base, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the state directory of plugin %s: %w", name, err)
	}
	return dir, nil
}
