package main

import (
	"context"
	"fmt"
	"path/filepath"
	"reflect"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/cmd/internal/control"
	"github.com/sluicemail/sluice/pipeline"
)

type reloadRequest struct {
	Path string `json:"path"`
}

func (a *app) reloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "let the running server read its configuration again; a bad file changes nothing",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load() // the problems are shown here, with their lines
			if err != nil {
				return err
			}
			path, err := filepath.Abs(a.configPath)
			if err != nil {
				return err
			}
			return control.NewClient(c.DataDir).Call(cmd.Context(), "reload", reloadRequest{path}, nil)
		},
	}
}

// reload reads the configuration again. Messages on their way end under what they
// began with, the plugins included; what can't change while the server runs is refused as a whole, so
// that what is in force is always one file.
func (s *server) reload(ctx context.Context, path string) error {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	c, err := config.Load(path, config.Options{Builtins: builtinNames()})
	if err != nil {
		return err
	}
	for _, w := range c.Warnings {
		s.logger.Warn("configuration", "why", w)
	}
	if what := s.fixed(c); what != "" {
		return fmt.Errorf("%s has changed, which needs a restart: sluice serve", what)
	}
	table, err := newTable(ctx, c, s.store)
	if err != nil {
		return err
	}
	if err := s.plugins.Reload(ctx, pluginConfigs(c)); err != nil { // the last that may fail
		return fmt.Errorf("the plugins stay as they were: %w", c.PluginProblems(err))
	}
	fresh := make(map[string]*pipeline.Pipeline, len(c.Pipeline))
	verifier := s.newVerifier()
	for name := range c.Pipeline {
		fresh[name] = s.newPipeline(c, name, table, verifier)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, p := range fresh {
		s.pipelines[name].Set(p)
	}
	s.config, s.table, s.settings = c, table, queueSettings(c)
	s.logger.Info("configuration reloaded", "file", path)
	return nil
}

// fixed names what differs and can't change while the server runs.
func (s *server) fixed(c *config.Config) string {
	old := s.config
	same := func(a, b any) bool { return reflect.DeepEqual(a, b) }
	pipelines := func(c *config.Config) map[string]bool {
		names := make(map[string]bool)
		for name := range c.Pipeline {
			names[name] = true
		}
		return names
	}
	receives := func(c *config.Config) map[string]any {
		limits := make(map[string]any)
		for name, p := range c.Pipeline {
			limits[name] = p.Receive
		}
		return limits
	}
	switch {
	case old.Hostname != c.Hostname:
		return "hostname"
	case old.DataDir != c.DataDir || old.User != c.User || old.PluginUser != c.PluginUser:
		return "data_dir, user or plugin_user"
	case old.MaxBuffered != c.MaxBuffered || old.MinFree != c.MinFree || old.Shadow != c.Shadow:
		return "max_buffered, min_free or shadow_memory"
	case !same(old.Storage, c.Storage):
		return "[storage]"
	case !same(old.Login, c.Login):
		return "[login]"
	case !same(old.Log, c.Log):
		return "[log]"
	case !same(old.Alerts, c.Alerts):
		return "[alerts]"
	case !same(old.Queue, c.Queue):
		return "[queue]"
	case !same(old.DNS, c.DNS):
		return "[dns]"
	case !same(old.Listener, c.Listener):
		return "a [listener]"
	case !same(old.TLS, c.TLS):
		return "[tls]"
	case !same(pipelines(old), pipelines(c)):
		return "the list of pipelines"
	case !same(receives(old), receives(c)):
		return "a [pipeline.NAME.receive]"
	}
	return ""
}
