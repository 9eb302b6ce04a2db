package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// Options are the same for all plugins of a host. The zero value of each works, but for
// Logger.
type Options struct {
	Logger   *slog.Logger
	Version  string           // of this program, told to plugins
	Dir      string           // the configuration's directory: what relative paths are relative to
	StateDir string           // each plugin's own directory is made below it; "" gives none
	RunDir   string           // for sockets, short: a socket's path has 107 octets at most; "" is the system's
	Builtins []string         // names that `builtin` may have
	User     *Identity        // whom plugins run as; nil: the server's own user. Needs root, or CAP_SETUID, CAP_SETGID, CAP_KILL and CAP_CHOWN
	Now      func() time.Time // for the age of suspects

	StartTimeout  time.Duration // handshake, Describe and Configure together; 10 s
	HealthEvery   time.Duration // 5 s
	HealthTimeout time.Duration // 2 s
	StopTimeout   time.Duration // between the request to end and SIGKILL; 2 s

	// Linger is how long a plugin that a reload replaced or removed goes on after its last question, for messages
	// that began before; 60 s, which is how long a message has by default.
	Linger time.Duration

	ShadowMemory int64 // content that is kept for questions of shadow mode, all together; 16 MiB

	// Alert hears of what the administrator should know soon: a breaker that opened, a canary that was given up. It
	// must not wait. nil: the log alone.
	Alert func(plugin string, a sdk.Alert)

	groups *cgroups // of tests; nil: what the system has delegated
}

func (o *Options) setDefaults() {
	setDuration := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	setDuration(&o.StartTimeout, 10*time.Second)
	setDuration(&o.HealthEvery, 5*time.Second)
	setDuration(&o.HealthTimeout, 2*time.Second)
	setDuration(&o.StopTimeout, 2*time.Second)
	setDuration(&o.Linger, time.Minute)
	if o.ShadowMemory == 0 {
		o.ShadowMemory = 16 << 20
	}
	if o.Alert == nil {
		o.Alert = func(string, sdk.Alert) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Version == "" {
		o.Version = "sluice"
	}
	if o.Dir == "" {
		o.Dir = "."
	}
	if o.RunDir == "" || len(o.RunDir) > 60 {
		o.RunDir = os.TempDir()
	}
}

// Host runs the plugins of a configuration, and of those that follow it (Reload).
type Host struct {
	options Options
	threads *starter
	buffers *pool
	groups  *cgroups // nil: none
	sockets *runDir
	shadow  atomic.Int64 // octets of content that shadow questions hold

	ctx     context.Context // of everything that runs
	stop    context.CancelFunc
	running sync.WaitGroup
	closing chan struct{} // closed when Stop begins

	reloading sync.Mutex // one Reload or Stop at a time
	stopped   bool

	mu      sync.RWMutex
	plugins map[string]*Plugin // those of the configuration in force
	leaving map[*Plugin]bool   // those of former ones that still run
}

// New returns a host without plugins.
func New(o Options) *Host {
	o.setDefaults()
	return &Host{
		options: o, threads: &starter{work: make(chan func())}, buffers: newPool(), closing: make(chan struct{}),
		plugins: make(map[string]*Plugin), leaving: make(map[*Plugin]bool),
	}
}

// StartError says why a plugin does not run. Err may be a *FieldError or hold
// *sdk.SettingError, for lines in the configuration.
type StartError struct {
	Plugin string
	Canary bool // its second version does not
	Err    error
}

func (e *StartError) Error() string {
	if e.Canary {
		return "start the canary of plugin " + e.Plugin + ": " + e.Err.Error()
	}
	return "start plugin " + e.Plugin + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *StartError) Unwrap() error { return e.Err }

// Start begins to run the plugins and returns. It is called once. Its error is about the tables;
// whether a plugin started is WaitReady's to say. The plugins run until Stop, also when ctx ends.
func (h *Host) Start(ctx context.Context, configs []Config) error {
	h.reloading.Lock()
	defer h.reloading.Unlock()
	if err := h.open(ctx, configs); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range configs {
		p := newPlugin(h, c)
		h.plugins[c.Name] = p
		p.start()
	}
	return nil
}

// open makes what processes need: the directory of their sockets, the thread that starts them, their enclosure.
func (h *Host) open(ctx context.Context, configs []Config) error {
	if err := h.validate(configs); err != nil {
		return err
	}
	dir, err := filepath.Abs(h.options.Dir)
	if err != nil {
		return err
	}
	h.options.Dir = dir
	h.sockets = &runDir{base: h.options.RunDir, as: h.options.User}
	h.sockets.clear()
	if _, err := h.sockets.path(); err != nil {
		return err
	}
	h.ctx, h.stop = context.WithCancel(context.WithoutCancel(ctx))
	go h.startProcesses(h.ctx)
	if len(configs) == 0 {
		return nil
	}
	missing := Missing(h.options.User != nil)
	if h.groups = h.options.groups; h.groups == nil {
		if h.groups, err = openCgroups(); err != nil {
			missing = append(missing, noCgroups(err))
		}
	}
	for _, what := range missing {
		h.options.Logger.Info("plugins are less enclosed than they could be", "why", what)
	}
	return nil
}

// validate reports what is wrong with the tables, and names that are there twice.
func (h *Host) validate(configs []Config) error {
	var problems []error
	names := make(map[string]bool, len(configs))
	for i := range configs {
		c := &configs[i]
		if err := c.Validate(h.options.Builtins); err != nil {
			problems = append(problems, &StartError{Plugin: c.Name, Err: err})
		}
		if names[c.Name] {
			problems = append(problems, &StartError{Plugin: c.Name, Err: errors.New("there are two of that name")})
		}
		names[c.Name] = true
	}
	return errors.Join(problems...)
}

// startProcesses is the thread whose end the kernel tells plugins of; it ends after them.
func (h *Host) startProcesses(ctx context.Context) {
	runtime.LockOSThread() // never unlocked: the thread ends with this function
	ended := make(chan struct{})
	go func() {
		<-ctx.Done()
		h.running.Wait()
		close(ended)
	}()
	for {
		select {
		case start := <-h.threads.work:
			start()
		case <-ended:
			return
		}
	}
}

// Plugin returns the plugin of that name, or nil.
func (h *Host) Plugin(name string) *Plugin {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.plugins[name]
}

// WaitReady waits until the first start of every plugin has succeeded or failed, and
// returns the failures as *StartError, joined. Plugins that failed go on trying, unless their
// settings are to blame.
func (h *Host) WaitReady(ctx context.Context) error {
	var problems []error
	for _, p := range h.list() {
		if err := p.waitFirst(ctx); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// list returns the plugins of the configuration in force, by name.
func (h *Host) list() []*Plugin {
	h.mu.RLock()
	defer h.mu.RUnlock()
	list := make([]*Plugin, 0, len(h.plugins))
	for _, name := range slices.Sorted(maps.Keys(h.plugins)) {
		list = append(list, h.plugins[name])
	}
	return list
}

// Stop lets questions in flight finish while ctx lasts, refuses new ones as busy, and ends
// every process. It returns when all are gone. It may be called twice.
func (h *Host) Stop(ctx context.Context) error {
	if h.stop == nil {
		return nil
	}
	h.mu.Lock()
	select {
	case <-h.closing:
	default:
		close(h.closing) // a Reload under way gives up
	}
	h.mu.Unlock()
	h.reloading.Lock()
	defer h.reloading.Unlock()
	h.stopped = true
	all := h.list()
	h.mu.RLock()
	all = slices.AppendSeq(all, maps.Keys(h.leaving))
	h.mu.RUnlock()
	problems := make([]error, len(all))
	var drained sync.WaitGroup
	for i, p := range all {
		drained.Go(func() {
			if !p.drain(ctx) {
				problems[i] = fmt.Errorf("stop plugin %s: questions were still in flight", p.name)
			}
		})
	}
	drained.Wait()
	h.stop()
	h.running.Wait()
	h.sockets.remove()
	return errors.Join(problems...)
}
