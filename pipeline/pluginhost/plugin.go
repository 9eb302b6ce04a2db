package pluginhost

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// The states of a plugin.
const (
	stateStarting = "starting"
	stateReady    = "ready"
	stateWaiting  = "waiting" // for its next start
	stateFailed   = "failed"  // its settings are to blame: it is not started again
	stateStopping = "stopping"
	stateOff      = "off"
)

// Plugin is one plugin of a host, over all its processes. Its methods may be called from
// many goroutines.
type Plugin struct {
	name     string
	config   Config
	host     *Host
	log      *slog.Logger
	stats    stats
	suspects *suspects
	cell     cell
	shadows  chan struct{} // questions that nobody waits for

	first   chan struct{} // closed when the first start has succeeded or failed
	started sync.Once

	mu       sync.Mutex
	state    string
	since    time.Time
	process  *process // while ready
	manifest sdk.Manifest
	err      error         // of the last start, or how the last process died
	startErr error         // of the first start
	next     time.Time     // of the next start while waiting
	changed  chan struct{} // closed at each change of the above
	restarts int
}

func newPlugin(h *Host, c Config) *Plugin {
	p := &Plugin{
		name: c.Name, config: c, host: h, log: h.options.Logger.With("plugin", c.Name),
		suspects: newSuspects(h.options.Now), shadows: make(chan struct{}, c.Lanes),
		first: make(chan struct{}), changed: make(chan struct{}), state: stateStarting, since: time.Now(),
	}
	p.cell.plugin, p.cell.turn = p, make(chan struct{}, 1)
	if c.Mode == Off {
		p.state = stateOff
	}
	return p
}

// Name returns the name of its table.
func (p *Plugin) Name() string { return p.name }

// Config returns its table.
func (p *Plugin) Config() Config { return p.config }

// Manifest returns what it last said about itself; zero before its first start.
func (p *Plugin) Manifest() sdk.Manifest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.manifest
}

// Shadow reports whether it is asked for the record only.
func (p *Plugin) Shadow() bool { return p.config.Mode == Shadow }

// set changes the state; change is called under the lock.
func (p *Plugin) set(state string, change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == stateStopping && state != stateStopping {
		state = stateStopping
	}
	p.state, p.since = state, time.Now()
	if change != nil {
		change()
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Plugin) firstError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.startErr
}

// triedOnce tells WaitReady.
func (p *Plugin) triedOnce(err error) {
	p.started.Do(func() {
		p.mu.Lock()
		p.startErr = err
		p.mu.Unlock()
		close(p.first)
	})
}

// run keeps a process running until ctx ends.
func (p *Plugin) run(ctx context.Context) {
	defer p.cell.stop()
	var endings sync.WaitGroup
	defer endings.Wait()
	for deaths := 0; ctx.Err() == nil; deaths++ {
		if deaths > 0 && !p.wait(ctx, backoff(deaths-1)) {
			return
		}
		p.set(stateStarting, nil)
		proc, err := p.launch("").start(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			var bad *badSettings
			if errors.As(err, &bad) {
				p.refused(ctx, bad.err)
				return
			}
			p.log.Error("plugin does not start", "why", err)
			p.set(stateWaiting, func() { p.err = err })
			p.triedOnce(err)
			continue
		}
		p.set(stateReady, func() { p.process, p.manifest, p.err = proc, proc.manifest, nil })
		p.triedOnce(nil)
		p.log.Info("plugin ready", "pid", proc.runner.pid, "version", proc.manifest.Version, "lanes", proc.lanes)
		select {
		case <-proc.runner.died:
		case <-ctx.Done():
			p.set(stateStopping, func() { p.process = nil })
			proc.stop(context.WithoutCancel(ctx), p.host.options.StopTimeout)
			return
		}
		p.died(proc)
		endings.Add(1)
		go func() {
			defer endings.Done()
			proc.end()
		}()
		switch {
		case time.Since(proc.started) > 30*time.Second:
			deaths = 0
		case proc.answered.Load() > 0:
			deaths /= 2
		}
	}
}

func (p *Plugin) died(proc *process) {
	why := proc.killedFor()
	if why == "" {
		why = proc.runner.status
	}
	err := errors.New("the process ended: " + why)
	p.set(stateWaiting, func() {
		p.process, p.err = nil, err
		p.restarts++
		p.next = time.Now().Add(100 * time.Millisecond)
	})
	p.log.Error("plugin died", "pid", proc.runner.pid, "why", why)
}

// refused ends the attempts: the same settings would be refused again.
func (p *Plugin) refused(ctx context.Context, err error) {
	p.log.Error("plugin refuses its settings", "why", err)
	p.set(stateFailed, func() { p.err = err })
	p.triedOnce(err)
	<-ctx.Done()
}

// wait sleeps between two starts.
func (p *Plugin) wait(ctx context.Context, d time.Duration) bool {
	p.set(stateWaiting, func() { p.next = time.Now().Add(d) })
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// launch prepares a start; suffix distinguishes the state directory of a cell.
func (p *Plugin) launch(suffix string) *launch {
	o := &p.host.options
	dir, err := makeStateDir(o.StateDir, p.name+suffix)
	if err != nil {
		p.log.Error("plugin has no state directory", "why", err)
	}
	return &launch{config: &p.config, options: o, threads: p.host.threads, buffers: p.host.buffers, log: p.log, stateDir: dir, dir: o.Dir}
}

// current waits for a running process, as long as one may come within ctx.
func (p *Plugin) current(ctx context.Context) (*process, error) {
	for {
		p.mu.Lock()
		proc, state, err, next, changed := p.process, p.state, p.err, p.next, p.changed
		p.mu.Unlock()
		if err == nil {
			err = errors.New("it did not start in time")
		}
		switch state {
		case stateOff:
			return nil, failf(Error, "the plugin is off")
		case stateStopping:
			return nil, failf(Busy, "the plugin is being stopped")
		case stateFailed:
			return nil, failf(Error, "the plugin refuses its settings: %w", err)
		case stateReady:
			return proc, nil
		case stateWaiting:
			if deadline, ok := ctx.Deadline(); ok && next.After(deadline) {
				return nil, failf(Crash, "the plugin does not run: %w", err)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, failf(Crash, "the plugin does not run: %w", err)
		}
	}
}

// drain refuses new questions and waits for those in flight.
func (p *Plugin) drain(ctx context.Context) bool {
	p.set(stateStopping, nil)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for p.stats.inFlight.Load() > 0 {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (p *Plugin) describe() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := State{
		Name: p.name, State: p.state, Mode: p.config.Mode, Plugin: p.manifest.Name, Version: p.manifest.Version,
		Since: p.since, Restarts: p.restarts, InFlight: p.stats.inFlight.Load(), Asked: p.stats.asked.Load(),
		P50: p.stats.quantile(0.5), P99: p.stats.quantile(0.99), Failures: p.stats.failuresByKind(),
		Suspects: p.suspects.len(),
	}
	if p.process != nil {
		s.PID, s.Lanes, s.Lost = p.process.runner.pid, p.process.lanes, int(p.process.lost.Load())
	}
	if p.err != nil {
		s.Why = p.err.Error()
	}
	return s
}
