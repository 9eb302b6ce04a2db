package pluginhost

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
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
	canary   *canary       // nil: there is none
	role     string        // "", or ".canary": what distinguishes its state directory
	shadows  chan struct{} // questions that nobody waits for
	events   events
	breakers [maxPhase]breaker

	first   chan struct{} // closed when the first start has succeeded or failed
	started sync.Once
	cancel  context.CancelFunc
	done    chan struct{} // closed when it runs no more

	successor atomic.Pointer[Plugin] // who answers in its place, once it does not any more
	asked     atomic.Int64           // when the last question came, in nanoseconds since 1970
	old       *Plugin                // whom it replaces; of the goroutine of run, until the first start
	formers   []*Plugin              // those of its name that former configurations left; likewise

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
	files    string // what the program's files were at the last start
}

func newPlugin(h *Host, c Config) *Plugin {
	p := newRole(h, c, "")
	if c.Canary.Share > 0 && c.Mode != Off {
		p.canary = newCanary(h, c)
	}
	return p
}

func newRole(h *Host, c Config, role string) *Plugin {
	p := &Plugin{
		name: c.Name, config: c, host: h, role: role, log: h.options.Logger.With("plugin", c.Name+role),
		suspects: newSuspects(h.options.Now), shadows: make(chan struct{}, c.Lanes),
		first: make(chan struct{}), changed: make(chan struct{}), done: make(chan struct{}), state: stateStarting, since: time.Now(),
	}
	p.events.wake = make(chan struct{}, 1)
	for i := range p.breakers {
		p.breakers[i] = breaker{limit: c.BreakerFailures, longest: c.BreakerWait.Std(), span: min(breakerSpan, c.Timeout.Std())}
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

// Manifest returns what it last said about itself, or the plugin that a reload put in its place; zero before its first start.
func (p *Plugin) Manifest() sdk.Manifest {
	if next := p.latest(); next != p {
		if m := next.ownManifest(); m.Name != "" { // it may be on its way yet
			return m
		}
	}
	return p.ownManifest()
}

func (p *Plugin) ownManifest() sdk.Manifest {
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

// start begins to run it, until the host stops or finish is called.
func (p *Plugin) start() {
	if p.config.Mode == Off {
		p.cancel = func() {}
		close(p.done)
		return
	}
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(p.host.ctx)
	p.host.running.Go(func() {
		defer close(p.done)
		p.run(ctx)
	})
	if p.canary != nil {
		p.canary.plugin.Load().start()
	}
}

// finish ends it when its questions are answered, or when ctx ends.
func (p *Plugin) finish(ctx context.Context) bool {
	ok := p.drain(ctx)
	if p.canary != nil {
		second := p.canary.plugin.Load()
		second.cancel()
		<-second.done
	}
	p.cancel()
	<-p.done
	return ok
}

// waitFirst waits for the first start.
func (p *Plugin) waitFirst(ctx context.Context) error {
	if p.config.Mode == Off {
		return nil
	}
	select {
	case <-p.first:
		if err := p.firstError(); err != nil {
			return &StartError{Plugin: p.name, Err: err}
		}
	case <-ctx.Done():
		return &StartError{Plugin: p.name, Err: errors.New("it is still starting")}
	}
	if p.canary != nil {
		if err := p.canary.plugin.Load().waitFirst(ctx); err != nil {
			return &StartError{Plugin: p.name, Canary: true, Err: errors.Unwrap(err)}
		}
	}
	return nil
}

// run keeps a process running until ctx ends.
func (p *Plugin) run(ctx context.Context) {
	defer p.cell.stop()
	var endings sync.WaitGroup
	defer endings.Wait()
	endings.Go(func() { p.tellEvents(ctx) })
	for deaths := 0; ctx.Err() == nil; deaths++ {
		if deaths > 0 && !p.wait(ctx, backoff(deaths-1)) {
			return
		}
		p.set(stateStarting, nil)
		l := p.launch("")
		l.described = p.takeOver
		proc, err := l.start(ctx)
		p.noteFiles(l)
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
		endings.Go(proc.end)
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
	dir, err := makeStateDir(o.StateDir, p.name+p.role+suffix, o.User)
	if err != nil {
		p.log.Error("plugin has no state directory", "why", err)
	}
	return &launch{config: &p.config, options: o, groups: p.host.groups, role: p.role + suffix, sockets: p.host.sockets, threads: p.host.threads, buffers: p.host.buffers, log: p.log, stateDir: dir, dir: o.Dir}
}

// current waits for a running process, as long as one may come within ctx.
func (p *Plugin) current(ctx context.Context) (*process, error) {
	for {
		p.mu.Lock()
		proc, state, err, next, changed := p.process, p.state, p.err, p.next, p.changed
		p.mu.Unlock()
		if state == stateReady {
			return proc, nil
		}
		if err == nil {
			err = errors.New("it did not start in time")
		}
		switch state {
		case stateOff:
			return nil, failf(Error, "the plugin is off")
		case stateStopping:
			if p.successor.Load() != nil {
				return nil, errMoved
			}
			return nil, failf(Busy, "the plugin is being stopped")
		case stateFailed:
			return nil, failf(Error, "the plugin refuses its settings: %w", err)
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
