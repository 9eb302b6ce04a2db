package config

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/sdk"
)

// Builtins are the plugins inside this program, which `sluice plugin run NAME` runs.
func Builtins() []string {
	return []string{
		"attachments", "bayes", "clamav", "dnsbl", "eicar", "greylist", "gtube", "icap", "milter", "ratelimit", "rspamd", "spamassassin",
	}
}

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

// checkUsers reports users that are none. Whether they exist is for the system that the server runs on: serve says so.
func (c *Config) checkUsers() {
	for _, u := range []struct{ key, name string }{{"user", c.User}, {"plugin_user", c.PluginUser}} {
		switch {
		case u.name == "root" || u.name == "0":
			c.src.errorf(keys(u.key), "%q, expected a user without rights", u.name)
		case strings.ContainsAny(u.name, " :/\t\n"):
			c.src.errorf(keys(u.key), "%q, expected the name of a user", u.name)
		}
	}
	if c.PluginUser != "" && c.PluginUser == c.User {
		c.src.errorf(keys("plugin_user"), "is the same as user, expected another one, or nothing")
	}
}

func (c *Config) checkPlugins(builtins []string) {
	c.checkUsers()
	if n := c.Shadow; (n < 1<<20 || n > 1<<40) && !c.src.isBad("shadow_memory") {
		c.src.errorf(keys("shadow_memory"), "%s, expected 1MB or more", n)
	}
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
			c.src.warnf(keys("plugin", name), "is asked by no pipeline: it is started, and asked about no message; name it in plugins = [...] of a stage")
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
	p.Files = c.absoluteFiles(p.Files)
	if canary := &p.Canary; len(canary.Command) > 0 && strings.Contains(canary.Command[0], "/") {
		canary.Command[0] = c.src.path(canary.Command[0])
	}
	p.Canary.Files = c.absoluteFiles(p.Canary.Files)
	if p.Canary.Builtin != "" && !slices.Contains(builtins, p.Canary.Builtin) {
		c.src.hint(keys("plugin", name, "canary", "builtin"), didYouMean(p.Canary.Builtin, builtins))
	}
}

func (c *Config) absoluteFiles(names map[string]string) map[string]string {
	if len(names) == 0 {
		return names
	}
	files := make(map[string]string, len(names))
	for name, sum := range names {
		files[c.src.path(name)] = sum
	}
	return files
}

// PluginProblems puts what plugins complain about at their start where it stands in the file: err is what pluginhost's WaitReady
// or Reload returned. What is no complaint of a plugin stays as it is.
func (c *Config) PluginProblems(err error) error {
	var problems Problems
	var others []error
	for _, e := range flatten(err, nil) {
		var start *pluginhost.StartError
		if c.src == nil || !errors.As(e, &start) {
			others = append(others, e)
			continue
		}
		for _, cause := range causes(start.Err) {
			problems = append(problems, c.startProblem(start, cause))
		}
	}
	if len(problems) > 0 {
		others = append(others, problems.Sorted())
	}
	return errors.Join(others...)
}

// startProblem gives one cause of a failed start its place. A canary has keys of its own, and others that are the plugin's.
func (c *Config) startProblem(start *pluginhost.StartError, cause error) Problem {
	at, text := keys("plugin", start.Plugin), cause.Error()
	var canary pluginhost.Canary
	if p := c.Plugin[start.Plugin]; p != nil && start.Canary {
		canary = p.Canary
	}
	its := func(own bool) {
		switch {
		case own:
			at = append(at, "canary")
		case start.Canary:
			text = "the canary: " + text
		}
	}
	var field *pluginhost.FieldError
	var setting *sdk.SettingError
	switch {
	case errors.As(cause, &setting):
		key, entry := setting.Key, ""
		if open := strings.LastIndexByte(key, '['); open > 0 && strings.HasSuffix(key, "]") { // of a list
			key, entry = key[:open], "entry "+key[open+1:len(key)-1]+": "
		}
		text = entry + setting.Problem
		its(canary.OwnConfig())
		at = c.src.below(append(at, "config"), key)
	case errors.As(cause, &field):
		text = field.Problem
		its(canary.OwnProgram())
		at = append(at, strings.SplitN(field.Key, ".", 2)...)
	default:
		its(start.Canary)
	}
	return c.src.problem(at, false, oneLine(text))
}

// causes takes errors apart that are joined somewhere inside.
func causes(err error) []error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if joined, ok := e.(interface{ Unwrap() []error }); ok {
			var all []error
			for _, one := range joined.Unwrap() {
				all = append(all, causes(one)...)
			}
			return all
		}
	}
	return []error{err}
}
