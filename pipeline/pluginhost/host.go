package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
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
	Now      func() time.Time // for the age of suspects

	StartTimeout  time.Duration // handshake, Describe and Configure together; 10 s
	HealthEvery   time.Duration // 5 s
	HealthTimeout time.Duration // 2 s
	StopTimeout   time.Duration // between the request to end and SIGKILL; 2 s
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

// Host runs the plugins of one configuration. A new configuration gets a new Host; the old one
// is stopped when nobody asks it any more.
type Host struct {
	options Options
	threads *starter
	buffers *pool
	plugins map[string]*Plugin
	stop    context.CancelFunc
	running sync.WaitGroup
}

// New returns a host without plugins.
func New(o Options) *Host {
	o.setDefaults()
	return &Host{options: o, threads: &starter{work: make(chan func())}, buffers: newPool(), plugins: make(map[string]*Plugin)}
}

// StartError says why a plugin does not run. Err may be a *FieldError or hold
// *sdk.SettingError, for lines in the configuration.
type StartError struct {
	Plugin string
	Err    error
}

func (e *StartError) Error() string { return "start plugin " + e.Plugin + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *StartError) Unwrap() error { return e.Err }

// Start begins to run the plugins and returns. It is called once. Its error is about the tables;
// whether a plugin started is WaitReady's to say. The plugins run until Stop, also when ctx ends.
func (h *Host) Start(ctx context.Context, configs []Config) error {
	var problems []error
	for i := range configs {
		c := configs[i]
		if err := c.Validate(h.options.Builtins); err != nil {
			problems = append(problems, &StartError{c.Name, err})
			continue
		}
		if h.plugins[c.Name] != nil {
			problems = append(problems, &StartError{c.Name, errors.New("there are two of that name")})
			continue
		}
		h.plugins[c.Name] = newPlugin(h, c)
	}
	if err := errors.Join(problems...); err != nil {
		h.plugins = make(map[string]*Plugin)
		return err
	}
	dir, err := filepath.Abs(h.options.Dir)
	if err != nil {
		return err
	}
	h.options.Dir = dir
	if h.options.RunDir, err = makeRunDir(h.options.RunDir); err != nil {
		return err
	}
	ctx, h.stop = context.WithCancel(context.WithoutCancel(ctx))
	go h.startProcesses(ctx)
	for _, p := range h.plugins {
		if p.config.Mode == Off {
			continue
		}
		h.running.Add(1)
		go func() {
			defer h.running.Done()
			p.run(ctx)
		}()
	}
	return nil
}

// makeRunDir makes the directory of this host's sockets, and removes those of servers that were
// killed, with the processes that their plugins left.
func makeRunDir(base string) (string, error) {
	left, _ := filepath.Glob(filepath.Join(base, "sluice-run-*-*"))
	for _, dir := range left {
		info, err := os.Lstat(dir)
		owner, ok := uint32(0), false
		if err == nil && info.IsDir() {
			stat, isStat := info.Sys().(*syscall.Stat_t)
			if ok = isStat; ok {
				owner = stat.Uid
			}
		}
		pid, _ := strconv.Atoi(strings.Split(filepath.Base(dir), "-")[2])
		if ok && int(owner) == os.Geteuid() && pid > 0 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			endOrphans(dir)
			_ = os.RemoveAll(dir)
		}
	}
	dir, err := os.MkdirTemp(base, fmt.Sprintf("sluice-run-%d-*", os.Getpid()))
	if err != nil {
		return "", fmt.Errorf("make the directory of the plugins' sockets: %w", err)
	}
	return dir, nil
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
func (h *Host) Plugin(name string) *Plugin { return h.plugins[name] }

// WaitReady waits until the first start of every plugin has succeeded or failed, and
// returns the failures as *StartError, joined. Plugins that failed go on trying, unless their
// settings are to blame.
func (h *Host) WaitReady(ctx context.Context) error {
	var problems []error
	for _, name := range h.names() {
		p := h.plugins[name]
		if p.config.Mode == Off {
			continue
		}
		select {
		case <-p.first:
			if err := p.firstError(); err != nil {
				problems = append(problems, &StartError{name, err})
			}
		case <-ctx.Done():
			problems = append(problems, &StartError{name, errors.New("it is still starting")})
		}
	}
	return errors.Join(problems...)
}

func (h *Host) names() []string {
	names := make([]string, 0, len(h.plugins))
	for name := range h.plugins {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// Stop lets questions in flight finish while ctx lasts, refuses new ones as busy, and ends
// every process. It returns when all are gone.
func (h *Host) Stop(ctx context.Context) error {
	if h.stop == nil {
		return nil
	}
	var drained sync.WaitGroup
	var late sync.Map
	for name, p := range h.plugins {
		drained.Add(1)
		go func() {
			defer drained.Done()
			if !p.drain(ctx) {
				late.Store(name, true)
			}
		}()
	}
	drained.Wait()
	h.stop()
	h.running.Wait()
	_ = os.RemoveAll(h.options.RunDir)
	var problems []error
	for _, name := range h.names() {
		if _, ok := late.Load(name); ok {
			problems = append(problems, fmt.Errorf("stop plugin %s: questions were still in flight", name))
		}
	}
	return errors.Join(problems...)
}

// State is one line of `sluice plugin list`.
type State struct {
	Name     string          `json:"name"`
	State    string          `json:"state"` // starting, ready, waiting, failed, stopping, off
	Mode     string          `json:"mode"`
	Plugin   string          `json:"plugin"` // what it calls itself
	Version  string          `json:"version"`
	PID      int             `json:"pid"`
	Since    time.Time       `json:"since"`
	Restarts int             `json:"restarts"`
	Lanes    int             `json:"lanes"`
	Lost     int             `json:"lanes_lost"`
	InFlight int64           `json:"in_flight"`
	Asked    uint64          `json:"asked"`
	P50      time.Duration   `json:"p50_ns"`
	P99      time.Duration   `json:"p99_ns"`
	Failures map[Kind]uint64 `json:"failures"`
	Suspects int             `json:"suspects"`
	Why      string          `json:"why"` // the last start error or death
}

// States lists the plugins by name.
func (h *Host) States() []State {
	list := make([]State, 0, len(h.plugins))
	for _, name := range h.names() {
		list = append(list, h.plugins[name].describe())
	}
	return list
}
