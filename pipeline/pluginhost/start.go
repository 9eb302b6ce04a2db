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
	"sync/atomic"
	"time"

	hclog "github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	gprunner "github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// launch says how a process is to be started.
type launch struct {
	config   *Config
	options  *Options
	sockets  *runDir
	threads  *starter
	buffers  *pool
	groups   *cgroups
	role     string // ".cell", ".canary"
	log      *slog.Logger
	stateDir string
	dir      string // working directory, the configuration's

	check     bool                // it is to describe itself and to check its settings, no more
	described func(*sdk.Manifest) // called between Describe and Configure; may be nil
	files     string              // what the program's files are, after spec
}

// badSettings is a start error that will not go away by itself.
type badSettings struct{ err error }

func (e *badSettings) Error() string { return e.err.Error() }
func (e *badSettings) Unwrap() error { return e.err }

// offered are the versions of the protocol that a plugin may choose from.
func offered(versions []int) map[int]goplugin.PluginSet {
	sets := make(map[int]goplugin.PluginSet, len(versions))
	for _, v := range versions {
		sets[v] = goplugin.PluginSet{}
	}
	return sets
}

// start runs the program through handshake, Describe and Configure. What the one before takes to end (launch.described) is not
// counted as time of the start.
func (l *launch) start(all context.Context) (*process, error) {
	ctx, cancel := context.WithTimeout(all, l.options.StartTimeout)
	defer cancel()
	spec, err := l.spec()
	if err != nil {
		return nil, err
	}
	sockets, err := l.sockets.path()
	if err != nil {
		return nil, err
	}
	out := newOutput(l.log)
	var started atomic.Pointer[runner]
	client := l.client(spec, sockets, out, &started)
	address, err := startWithin(ctx, client, func() {
		if run := started.Load(); run != nil {
			_ = run.Kill(ctx)
		}
	})
	run := started.Load()
	if err != nil {
		return nil, startError(err, run, out)
	}
	p := &process{runner: run, buffers: l.buffers, log: l.log.With("pid", run.pid), started: time.Now()}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	err = p.connect(ctx, address, l)
	if err == nil {
		if l.described != nil {
			l.described(&p.manifest)
		}
		ctx, cancel := context.WithTimeout(all, l.options.StartTimeout)
		defer cancel()
		err = p.begin(ctx, l)
	}
	if err != nil {
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

// client is go-plugin's, for one process; started is told it.
func (l *launch) client(spec *execSpec, sockets string, out *output, started *atomic.Pointer[runner]) *goplugin.Client {
	return goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig: goplugin.HandshakeConfig{
			ProtocolVersion: wire.ProtocolVersion, MagicCookieKey: wire.CookieKey, MagicCookieValue: wire.CookieValue,
		},
		VersionedPlugins: offered(wire.Versions()),
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		StartTimeout:     l.options.StartTimeout,
		SkipHostEnv:      true,
		Logger:           hclog.NewNullLogger(),
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: sockets},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, socketDir string) (gprunner.Runner, error) {
			wrapped, err := spec.command(l, cmd.Env, socketDir)
			if err != nil {
				return nil, errors.Join(err, os.RemoveAll(socketDir))
			}
			run := newRunner(wrapped, socketDir, l.threads, out)
			if l.groups != nil {
				if run.group, run.groupDir, err = l.groups.make(l.config.Name+l.role, int64(l.config.Memory)); err != nil {
					return nil, errors.Join(err, os.RemoveAll(socketDir))
				}
				wrapped.SysProcAttr.UseCgroupFD, wrapped.SysProcAttr.CgroupFD = true, int(run.groupDir.Fd())
			}
			started.Store(run)
			return started.Load(), nil
		},
	})
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
		if r.err != nil {
			return nil, fmt.Errorf("handshake: %w", r.err)
		}
		return r.address, nil
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
	if run != nil && strings.Contains(text, "Failed to read any lines") { // go-plugin's words, of a process that has ended
		text = "handshake: no line on standard output: " + run.ending()
	}
	if len(text) > 400 {
		text = strings.ToValidUTF8(text[:400], "") + " ..."
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

// connect connects to the process and has it describe itself.
func (p *process) connect(ctx context.Context, address net.Addr, l *launch) error {
	conn, err := grpc.NewClient("passthrough:plugin",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return dialOwn(ctx, address.String())
		}),
		grpc.WithInitialWindowSize(answerWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer), grpc.ForceCodecV2(wire.Codec())),
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
		return fmt.Errorf("describe: %w", callError(err))
	}
	if p.manifest, err = wire.FromManifest(described); err == nil {
		err = checkManifest(&p.manifest)
	}
	if err == nil {
		p.direct, err = p.findSocket(ctx, "lane_socket", described.GetLaneSocket())
	}
	if err == nil {
		p.links.socket, err = p.findSocket(ctx, "shared_socket", described.GetSharedSocket())
	}
	if err != nil {
		return &badSettings{fmt.Errorf("describe: %w", err)}
	}
	return nil
}

// begin configures the plugin and makes its lanes.
func (p *process) begin(ctx context.Context, l *launch) error {
	p.lanes = l.config.Lanes
	if p.manifest.MaxLanes > 0 {
		p.lanes = min(p.lanes, p.manifest.MaxLanes)
	}
	if l.check && !p.manifest.CheckOnly {
		return nil
	}
	if err := p.configure(ctx, l); err != nil || l.check {
		return err
	}
	p.free.size, p.free.warm = p.lanes, p.direct != ""
	for i := range p.lanes {
		l := newLane(p, &p.free)
		l.index = i
		p.all = append(p.all, l)
		p.free.put(l)
	}
	if len(p.manifest.Events) > 0 {
		p.events.size = 1
		l := newLane(p, &p.events)
		l.extra = true
		p.events.put(l)
	}
	p.link()
	return nil
}

// callError says plainly what became of a call that got no answer.
func callError(err error) error {
	switch status.Code(err) {
	case codes.DeadlineExceeded:
		return errors.New("no answer in time")
	case codes.Unavailable:
		return errors.New("the process ended, or closed its socket, instead of an answer")
	case codes.FailedPrecondition: // sdk.Unready: the plugin's own words
		return errors.New(status.Convert(err).Message())
	}
	return err
}

func checkManifest(m *sdk.Manifest) error {
	switch {
	case !nameForm.MatchString(m.Name):
		return fmt.Errorf("the plugin calls itself %.80q, expected small letters, digits and hyphens", m.Name)
	case len(m.Version) > 200 || printable(m.Version) != m.Version: // people read it in a terminal
		return errors.New("its version is longer than 200 octets or has characters that cannot be printed")
	case len(m.Phases) == 0 && len(m.Events) == 0:
		return errors.New("it takes part in no phase that this version knows, and takes no events")
	}
	return nil
}

func (p *process) configure(ctx context.Context, l *launch) error {
	table, err := wire.ToTable(l.config.Config)
	if err != nil {
		return &badSettings{fmt.Errorf("configure: config.%w", err)}
	}
	answer, err := p.client.Configure(ctx, &wire.ConfigureRequest{
		Config: table, StateDir: l.stateDir, Lanes: uint32(p.lanes), Dir: l.dir, CheckOnly: l.check,
	})
	if err != nil {
		return fmt.Errorf("configure: %w", callError(err))
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

// backoff returns how long to wait before start number n after a death: it doubles
// from 100 ms to a minute, within a fifth.
func backoff(n int) time.Duration {
	d := min(100*time.Millisecond<<min(n, 10), time.Minute)
	return d + time.Duration((rand.Float64()-0.5)*0.4*float64(d))
}

// makeStateDir makes the directory that the plugin may keep things in.
func makeStateDir(base, name string, as *Identity) (string, error) {
	if base == "" {
		return "", nil
	}
	dir := filepath.Join(base, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the state directory of plugin %s: %w", name, err)
	}
	if err := shareAll(dir, as); err != nil {
		return "", fmt.Errorf("make the state directory of plugin %s: %w", name, err)
	}
	return dir, nil
}
