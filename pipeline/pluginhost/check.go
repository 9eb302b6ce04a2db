package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/sluicemail/sluice/sdk"
)

// checksAtOnce is how many processes Check has at a time.
const checksAtOnce = 4

// Checked is what Check found out about a plugin, or about its canary.
type Checked struct {
	Plugin   string
	Canary   bool
	Manifest sdk.Manifest // what it says about itself; zero if it could not be started
	Settings bool         // it has looked at its settings. It does so at its start alone if Manifest.CheckOnly is false
	Err      *StartError  // nil: nothing to complain of
}

// Check starts each plugin once as Start would, in the same enclosure and with the same time, lets it describe itself and look
// at its settings, and ends it. Nobody is asked anything. What each says comes in the order of the tables, a canary behind its
// plugin; plugins that are off are left out. The error is about the host or the tables.
//
// It may run beside a server with the same plugins: a plugin has an empty directory in place of its state directory, which nobody makes or
// touches, and one that does not say that its Configure can only check (Manifest.CheckOnly) is not configured. What plugins print is
// thrown away, but for the last words of those that fail.
func Check(ctx context.Context, o Options, configs []Config) ([]Checked, error) {
	o.Logger, o.StateDir = slog.New(slog.DiscardHandler), ""
	h := New(o)
	if err := h.open(ctx, configs); err != nil {
		return nil, err
	}
	list := h.checkAll(ctx, configs)
	return list, errors.Join(context.Cause(ctx), h.Stop(context.WithoutCancel(ctx)))
}

// checkAll checks the plugins of an open host, several at a time.
func (h *Host) checkAll(ctx context.Context, configs []Config) []Checked {
	var versions []Config
	var list []Checked
	for _, c := range configs {
		if c.Mode == Off {
			continue
		}
		versions, list = append(versions, c), append(list, Checked{Plugin: c.Name})
		if c.Canary.Share > 0 {
			versions, list = append(versions, c.Canary.version(c)), append(list, Checked{Plugin: c.Name, Canary: true})
		}
	}
	var checking sync.WaitGroup
	slots := make(chan struct{}, checksAtOnce)
	for i := range list {
		checking.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := h.check(ctx, &versions[i], &list[i]); err != nil {
				list[i].Err = &StartError{Plugin: list[i].Plugin, Canary: list[i].Canary, Err: err}
			}
		})
	}
	checking.Wait()
	return list
}

// check starts one version of a plugin for a check, and ends it.
func (h *Host) check(ctx context.Context, c *Config, found *Checked) error {
	state, err := h.sockets.path()
	if err == nil {
		state, err = os.MkdirTemp(state, "state-*")
	}
	if err != nil {
		return fmt.Errorf("make a directory for the check: %w", err)
	}
	defer os.RemoveAll(state)
	if err := share(state, h.options.User); err != nil {
		return err
	}
	l := &launch{
		config: c, options: &h.options, threads: h.threads, sockets: h.sockets, buffers: h.buffers, groups: h.groups, role: ".check",
		log: slog.New(slog.DiscardHandler), stateDir: state, dir: h.options.Dir, check: true,
		described: func(m *sdk.Manifest) { found.Manifest = *m },
	}
	proc, err := l.start(ctx)
	if err != nil {
		var bad *badSettings
		if errors.As(err, &bad) {
			return bad.err
		}
		return err
	}
	found.Settings = found.Manifest.CheckOnly
	proc.stop(context.WithoutCancel(ctx), h.options.StopTimeout)
	return nil
}
