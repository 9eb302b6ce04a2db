package config

import (
	"path/filepath"
	"reflect"

	"github.com/sluicemail/sluice/pipeline/pluginhost"
)

// LoadPlugins reads nothing but the tables [plugin.NAME] of a file, which need not be a whole configuration: the few lines that
// come with a plugin are enough. Relative paths are relative to the file, as in Load. Of the result only Plugin, Path and
// PluginProblem are of use. The error is Problems where the file was read and is wrong.
func LoadPlugins(name string, o Options) (*Config, error) {
	text, err := read(name)
	if err != nil {
		return nil, err
	}
	o = o.withDefaults()
	s := parse(name, text, o.Env)
	if s.failed() {
		return nil, s.problems
	}
	if abs, err := filepath.Abs(s.dir); err == nil {
		s.dir = abs
	}
	c := &Config{Path: name, src: s, Plugin: make(map[string]*pluginhost.Config)}
	if tables, ok := s.values["plugin"]; ok {
		s.decode(keys("plugin"), tables, reflect.ValueOf(&c.Plugin).Elem(), "")
	}
	for plugin, table := range c.Plugin {
		c.checkPlugin(plugin, table, o.Builtins)
	}
	if len(c.Plugin) == 0 && !s.failed() {
		s.errorf(keys("plugin"), "no plugin here, expected a table [plugin.NAME] with a command")
	}
	s.problems = s.problems.Sorted()
	if s.failed() {
		return nil, s.problems
	}
	return c, nil
}

// PluginsOnly reports whether the file has no other tables than those of plugins.
func (c *Config) PluginsOnly() bool {
	_, ok := c.src.values["plugin"]
	return ok && len(c.src.values) == 1
}
