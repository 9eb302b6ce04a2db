package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// change is one plugin that a Reload adds or replaces.
type change struct {
	old   *Plugin // nil: there was none of that name
	fresh *Plugin
	err   error
}

// Reload makes configs the configuration in force, or fails and changes nothing. Plugins whose table and program files are
// the same keep running, unless they had refused their settings. The others are replaced:
//
//   - with overlap (Manifest.Overlap of both versions) the new process starts beside the old one. The old one goes on for messages
//     that began with it, until it was not asked for Options.Linger, then ends;
//   - without, the old one answers what it was asked and ends, then the new one starts. Questions wait meanwhile, within their deadline;
//   - what is in no table any more ends like an old version; whoever asks it after that is put off (Busy). If it comes back before, it takes the
//     place of the one that is leaving, by the same rules.
//
// Before anything else, each new version for which an old one would have to end first is checked in a process of its own, as Check
// does: a mistake in a table, or a program that does not start, then disturbs nobody.
//
// If one new version does not start or refuses its settings, all new ones are ended and the old ones go on, those that
// were stopped already in a new process. The error then joins *StartErrors. Plugin returns the new ones once Reload has returned nil.
func (h *Host) Reload(ctx context.Context, configs []Config) error {
	h.reloading.Lock()
	defer h.reloading.Unlock()
	if h.stop == nil || h.stopped {
		return errors.New("reload plugins: the host does not run")
	}
	if err := h.validate(configs); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-h.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	kept, changes, removed := h.compare(configs)
	if err := h.checkChanges(ctx, changes); err != nil {
		return err
	}
	if err := h.startNew(ctx, changes); err != nil {
		h.undo(changes)
		return err
	}
	h.commit(kept, changes, removed)
	return nil
}

// compare says what is to be done. A plugin whose program was replaced by another file is replaced as well.
func (h *Host) compare(configs []Config) (kept []*Plugin, changes []*change, removed []*Plugin) {
	named := make(map[string]bool, len(configs))
	for _, c := range configs {
		named[c.Name] = true
		old := h.Plugin(c.Name)
		if old != nil && reflect.DeepEqual(old.config, c) && !old.outdated() {
			kept = append(kept, old)
			continue
		}
		changes = append(changes, &change{old: old, fresh: newPlugin(h, c)})
	}
	for _, p := range h.list() {
		if !named[p.name] {
			removed = append(removed, p)
		}
	}
	return kept, changes, removed
}

// outdated reports whether an unchanged table asks for a new process all the same.
func (p *Plugin) outdated() bool {
	if p.config.Mode == Off {
		return false
	}
	p.mu.Lock()
	state, files := p.state, p.files
	p.mu.Unlock()
	if state == stateFailed {
		return true
	}
	l := p.launch("")
	if _, err := l.spec(); err != nil {
		return false // nothing better is there
	}
	if files != "" && files != l.files {
		return true
	}
	return p.canary != nil && (p.canary.isStopped() || p.canary.plugin.Load().outdated())
}

func (c *canary) isStopped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopped
}

// checkChanges lets new versions that may not start beside the old one look at their settings while that still runs.
func (h *Host) checkChanges(ctx context.Context, changes []*change) error {
	var list []Config
	for _, c := range changes {
		if !c.beside() {
			list = append(list, c.fresh.config)
		}
	}
	var problems []error
	for _, found := range h.checkAll(ctx, list) {
		if found.Err != nil {
			problems = append(problems, found.Err)
		}
	}
	return errors.Join(problems...)
}

// beside reports whether it is certain that the new version can start while the old one runs. Another program may say in its
// manifest that it cannot.
func (c *change) beside() bool {
	if c.old == nil || c.old.config.Mode == Off || c.fresh.config.Mode == Off {
		return true
	}
	c.old.mu.Lock()
	ready, overlap := c.old.state == stateReady, c.old.manifest.Overlap
	c.old.mu.Unlock()
	a, b := &c.old.config, &c.fresh.config
	return !ready || overlap && a.Builtin == b.Builtin && slices.Equal(a.Command, b.Command) && !c.old.outdated()
}

// startNew starts every new version: those that can run beside the old one first, because they can be taken back
// without anybody noticing.
func (h *Host) startNew(ctx context.Context, changes []*change) error {
	for _, beside := range []bool{true, false} {
		var starting sync.WaitGroup
		for _, c := range changes {
			if c.overlaps() != beside {
				continue
			}
			starting.Go(func() {
				h.meetFormers(c.fresh)
				if !beside {
					c.fresh.replace(ctx, c.old)
				} else {
					c.fresh.old = c.old
					if c.old != nil && c.old.canary != nil && c.fresh.canary != nil { // they share a state directory
						c.fresh.canary.plugin.Load().old = c.old.canary.plugin.Load()
					}
				}
				c.fresh.start()
				c.err = c.fresh.waitFirst(ctx)
			})
		}
		starting.Wait()
		var problems []error
		for _, c := range changes {
			problems = append(problems, c.err)
		}
		if err := errors.Join(problems...); err != nil {
			return err
		}
	}
	return nil
}

// meetFormers tells a new version, and its canary, who has their state directories besides the version that it replaces: a plugin that was
// removed lately, and comes back.
func (h *Host) meetFormers(fresh *Plugin) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for p := range h.leaving {
		if p.name != fresh.name {
			continue
		}
		fresh.formers = append(fresh.formers, p)
		if p.canary != nil && fresh.canary != nil {
			second := fresh.canary.plugin.Load()
			second.formers = append(second.formers, p.canary.plugin.Load())
		}
	}
}

// overlaps reports whether the new version may start while the old one runs. Whether the new one minds is
// found out when it describes itself (takeOver).
func (c *change) overlaps() bool {
	if c.old == nil || c.old.config.Mode == Off || c.fresh.config.Mode == Off {
		return true
	}
	c.old.mu.Lock()
	defer c.old.mu.Unlock()
	return c.old.state != stateReady || c.old.manifest.Overlap
}

// takeOver ends the one before when the new version says that it must be alone. It is called between Describe and
// Configure of the first start.
func (p *Plugin) takeOver(m *sdk.Manifest) {
	old, formers := p.old, p.formers
	p.old, p.formers = nil, nil
	for _, former := range formers {
		if !m.Overlap || !former.ownManifest().Overlap {
			p.replace(p.host.ctx, former)
		}
	}
	if old != nil && !m.Overlap && old.successor.Load() == nil {
		p.replace(p.host.ctx, old)
	}
}

// replace lets an old version finish and end, and takes its questions.
func (p *Plugin) replace(ctx context.Context, old *Plugin) {
	old.successor.Store(p)
	limited, cancel := context.WithTimeout(ctx, old.config.Timeout.Std()+grace)
	defer cancel()
	old.finish(limited)
	p.events.add(old.events.takeAll()...)
}

// undo ends the new versions of a Reload that failed. An old one that has ended already comes back in a new process.
func (h *Host) undo(changes []*change) {
	for _, c := range changes {
		var again *Plugin
		if c.old != nil && c.old.successor.Load() != nil {
			again = newPlugin(h, c.old.config)
			c.fresh.successor.Store(again)
		}
		if c.fresh.cancel != nil { // it was started
			c.fresh.finish(canceled())
		}
		if again == nil {
			c.restoreCanary()
			continue
		}
		again.events.add(c.fresh.events.takeAll()...)
		again.start()
		h.mu.Lock()
		h.plugins[again.name] = again
		h.mu.Unlock()
		again.log.Warn("plugin is back as it was", "why", "its new version does not start")
	}
}

// restoreCanary brings back the canary of an old version that goes on, if the new one's has ended it.
func (c *change) restoreCanary() {
	if c.old == nil || c.old.canary == nil {
		return
	}
	if ended := c.old.canary.plugin.Load(); ended.successor.Load() != nil {
		again := newRole(ended.host, ended.config, ended.role)
		again.start()
		c.old.canary.plugin.Store(again)
	}
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// commit puts the new plugins in force and sends the old ones away.
func (h *Host) commit(kept []*Plugin, changes []*change, removed []*Plugin) {
	plugins := make(map[string]*Plugin, len(kept)+len(changes))
	for _, p := range kept {
		plugins[p.name] = p
	}
	var added, replaced, gone []string
	for _, c := range changes {
		plugins[c.fresh.name] = c.fresh
		if c.old == nil {
			added = append(added, c.fresh.name)
			continue
		}
		replaced = append(replaced, c.fresh.name)
	}
	for _, p := range removed {
		gone = append(gone, p.name)
	}
	h.mu.Lock()
	h.plugins = plugins
	for _, c := range changes {
		if c.old != nil && c.old.successor.Load() == nil {
			h.leave(c.old, c.fresh)
		}
	}
	for _, p := range removed {
		h.leave(p, nil)
	}
	h.mu.Unlock()
	if len(changes)+len(removed) > 0 {
		h.options.Logger.Info("plugins reloaded", "kept", len(kept), "added", strings.Join(added, " "),
			"replaced", strings.Join(replaced, " "), "removed", strings.Join(gone, " "))
	}
}

// leave ends an old version when nobody asks it any more. h.mu is held.
func (h *Host) leave(old, successor *Plugin) {
	h.leaving[old] = true
	h.running.Go(func() {
		quiet := old.quiet(h.ctx, h.options.Linger)
		if successor != nil {
			old.successor.Store(successor)
		}
		limited, cancel := context.WithTimeout(h.ctx, old.config.Timeout.Std()+grace)
		defer cancel()
		old.finish(limited)
		if successor != nil {
			successor.latest().events.add(old.events.takeAll()...)
		}
		h.mu.Lock()
		delete(h.leaving, old)
		h.mu.Unlock()
		old.log.Info("plugin of a former configuration has ended", "why", fmt.Sprintf("not asked for %s", quiet.Round(time.Millisecond)))
	})
}

// quiet waits until nobody has asked for d, and returns for how long nobody has.
func (p *Plugin) quiet(ctx context.Context, d time.Duration) time.Duration {
	p.asked.CompareAndSwap(0, time.Now().UnixNano())
	since := time.Now()
	if last := time.Unix(0, p.asked.Load()); last.After(since) {
		since = last
	}
	for {
		if last := time.Unix(0, p.asked.Load()); last.After(since) {
			since = last
		}
		idle := time.Since(since)
		if idle >= d && p.stats.inFlight.Load() == 0 {
			return idle
		}
		timer := time.NewTimer(max(d-idle, 20*time.Millisecond))
		select {
		case <-timer.C:
		case <-p.done: // a successor needed its place
			timer.Stop()
			return idle
		case <-ctx.Done():
			timer.Stop()
			return idle
		}
	}
}

// noteFiles remembers what was started.
func (p *Plugin) noteFiles(l *launch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.files = l.files
}
