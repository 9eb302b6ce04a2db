package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/route"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/kv/pebble"
)

// This file turns tables of the configuration into what the rooms take.

// openStore opens the store of a configuration; the caller holds its lock. fatal
// is called when the engine can't go on, and must not return.
func openStore(ctx context.Context, c *config.Config, logger *slog.Logger, fatal func(error)) (*storage.Store, error) {
	return storage.Open(ctx, storeOptions(c, logger, fatal))
}

func storeOptions(c *config.Config, logger *slog.Logger, fatal func(error)) storage.Options {
	return storage.Options{
		Dir:    c.DataDir,
		Config: c.Storage,
		Login:  c.Login,
		Budget: blob.NewBudget(c.MaxBuffered.Int64()),
		Logger: logger,
		Pebble: pebble.Options{
			MinFree: c.MinFree.Int64(),
			Ballast: filepath.Join(c.DataDir, "ballast"),
			Fatal:   fatal,
		},
	}
}

// newTable returns where addresses go.
func newTable(ctx context.Context, c *config.Config, store *storage.Store) (*route.Table, error) {
	key, err := loopKey(ctx, store)
	if err != nil {
		return nil, err
	}
	o := route.Options{
		Hostname: c.Hostname, Domains: make(map[string]route.Domain, len(c.Domain)), Relays: make(map[string]route.Relay, len(c.Relay)),
		Forward: c.Forward, Postmaster: c.Postmaster, Accounts: store.Accounts(), LoopKey: key,
	}
	for name, d := range c.Domain {
		o.Domains[name] = d.Domain
	}
	for name, r := range c.Relay {
		o.Relays[name] = r.Relay
	}
	return route.NewTable(o)
}

// loopKey returns the secret by which forwarded mail is known when it comes back; the first one who asks makes it.
func loopKey(ctx context.Context, store *storage.Store) ([]byte, error) {
	const form, size = 1, 32
	name := []byte("system/loop")
	key, err := store.KV().Get(ctx, name)
	if err == nil && len(key) == 1+size && key[0] == form {
		return key[1:], nil
	}
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return nil, fmt.Errorf("read the key of forwarded mail: %w", err)
	}
	key = make([]byte, size)
	_, _ = rand.Read(key) // it never fails
	var b kv.Batch
	b.Set(name, append([]byte{form}, key...))
	if _, err := store.KV().Apply(ctx, &b); err != nil {
		return nil, fmt.Errorf("keep the key of forwarded mail: %w", err)
	}
	return key, nil
}

func queueSettings(c *config.Config) map[string]queue.Config {
	settings := make(map[string]queue.Config, len(c.Pipeline))
	for name, p := range c.Pipeline {
		settings[name] = p.Queue
	}
	return settings
}

// pluginNames returns the plugins that pipelines ask and those with a table, in
// order.
func pluginNames(c *config.Config) []string {
	var names []string
	for name := range c.Plugin {
		names = append(names, name)
	}
	for _, p := range c.Pipeline {
		names = append(names, p.AntiSpam.Plugins...)
		names = append(names, p.AntiVirus.Plugins...)
		names = append(names, p.Route.Plugins...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// pluginConfig returns the table of a plugin; one named without a table is the
// builtin of that name (RULES D1).
func pluginConfig(c *config.Config, name string) pluginhost.Config {
	if pc, ok := c.Plugin[name]; ok {
		return *pc
	}
	pc := pluginhost.DefaultConfig()
	pc.Name, pc.Builtin = name, name
	return pc
}

func pluginConfigs(c *config.Config) []pluginhost.Config {
	var list []pluginhost.Config
	for _, name := range pluginNames(c) {
		if pc := pluginConfig(c, name); pc.Mode != pluginhost.Off {
			list = append(list, pc)
		}
	}
	return list
}

func newHost(c *config.Config, logger *slog.Logger, alert func(string, sdk.Alert)) (*pluginhost.Host, error) {
	dir, err := filepath.Abs(filepath.Dir(c.Path))
	if err != nil {
		return nil, fmt.Errorf("find the configuration's directory: %w", err)
	}
	as, err := pluginIdentity(c)
	if err != nil {
		return nil, err
	}
	return pluginhost.New(pluginhost.Options{
		User: as, ShadowMemory: c.Shadow.Int64(),
		Version: version, Dir: dir, StateDir: filepath.Join(c.DataDir, "plugin"), Builtins: builtinNames(), Logger: logger, Alert: alert,
	}), nil
}
