package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
)

// Builtins are the plugins inside this program, which `sluice plugin run NAME` runs.
func Builtins() []string { return []string{"eicar", "gtube"} }

// validateStages lets each stage look at its own table.
func (c *Config) validateStages(name string, p *Pipeline) {
	for _, stage := range p.stages() {
		if err := stage.validate(); err != nil {
			c.src.refuse(keys("pipeline", name, stage.key), err)
		}
	}
}

// PluginLists returns the plugins that a pipeline names, by stage.
func (p *Pipeline) PluginLists() map[string][]string {
	return map[string][]string{
		pipeline.StageAntiSpam:  p.AntiSpam.Plugins,
		pipeline.StageAntiVirus: p.AntiVirus.Plugins,
		pipeline.StageRoute:     p.Route.Plugins,
	}
}

func (c *Config) checkPlugins(builtins []string) {
	for _, name := range slices.Sorted(maps.Keys(c.Plugin)) {
		c.checkPlugin(name, c.Plugin[name], builtins)
	}
	asked := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(c.Pipeline)) {
		for stage, plugins := range c.Pipeline[name].PluginLists() {
			c.checkPluginList(keys("pipeline", name, stage, "plugins"), plugins, builtins)
			for _, plugin := range plugins {
				asked[plugin] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Plugin)) {
		if !asked[name] && !c.src.failed() {
			c.src.warnf(keys("plugin", name), "is asked by no pipeline, so it is not started; name it in plugins = [...] of a stage")
		}
	}
}

// checkPluginList checks the names in a stage's list. A plugin named without a table is the builtin of that name (RULES
// D1), and gets the table that it would have had.
func (c *Config) checkPluginList(at []string, plugins, builtins []string) {
	for i, plugin := range plugins {
		if slices.Contains(plugins[:i], plugin) {
			c.src.errorf(at, "%q is listed twice", plugin)
			continue
		}
		if _, ok := c.Plugin[plugin]; ok {
			continue
		}
		if slices.Contains(builtins, plugin) {
			if c.Plugin == nil {
				c.Plugin = make(map[string]*pluginhost.Config)
			}
			table := pluginhost.DefaultConfig()
			table.Name, table.Builtin = plugin, plugin
			c.Plugin[plugin] = &table
			continue
		}
		known := append(slices.Sorted(maps.Keys(c.Plugin)), builtins...)
		c.src.errorf(at, "there is no plugin %q, expected a table [plugin.%s] with a command, or one of the builtins %s%s",
			plugin, plugin, list(builtins), didYouMean(plugin, known))
	}
}

func (c *Config) checkPlugin(name string, p *pluginhost.Config, builtins []string) {
	if err := p.Validate(builtins); err != nil {
		c.src.refuse(keys("plugin", name), err)
	}
	if p.Builtin != "" && !slices.Contains(builtins, p.Builtin) {
		c.src.hint(keys("plugin", name, "builtin"), didYouMean(p.Builtin, builtins))
	}
	if len(p.Command) > 0 && strings.Contains(p.Command[0], "/") {
		p.Command[0] = c.src.path(p.Command[0]) // a bare name is looked up in PATH
	}
	for i, name := range p.Read {
		p.Read[i] = c.src.path(name)
	}
	if len(p.Files) > 0 {
		files := make(map[string]string, len(p.Files))
		for name, sum := range p.Files {
			files[c.src.path(name)] = sum
		}
		p.Files = files
	}
}
