package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/cmd/internal/datadir"
	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/plugins"
	"github.com/sluicemail/sluice/sdk"
)

// This file is what `sluice check` does about plugins: it starts each one, lets it look at its settings, and ends it. It makes and
// changes nothing in data_dir, and may do so beside the running server (pluginhost.Check).

// checkedPlugins is what was found out about the plugins of a configuration, without canaries, by name. nil: they were not started.
type checkedPlugins map[string]pluginhost.Checked

// checkPlugins checks the plugins of which nothing bad is known already.
func (a *app) checkPlugins(ctx context.Context, c *config.Config, known config.Problems) (checkedPlugins, config.Problems, error) {
	found := checkedPlugins{}
	var list []pluginhost.Config
	for _, pc := range pluginConfigs(c) {
		if !slices.ContainsFunc(known, func(p config.Problem) bool { return !p.Warning && strings.HasPrefix(p.Key, "plugin."+pc.Name+".") }) {
			list = append(list, pc)
		}
	}
	if len(list) == 0 {
		return found, nil, nil
	}
	dir, err := filepath.Abs(filepath.Dir(c.Path))
	if err != nil {
		return nil, nil, fmt.Errorf("find the configuration's directory: %w", err)
	}
	as, stranger, err := checkIdentity(c)
	if err != nil {
		problem := c.Warning(err.Error()+"; --no-plugins leaves plugins out", identityKey(c))
		problem.Warning = false
		return found, config.Problems{problem}, nil
	}
	said := a.sayLater(fmt.Sprintf("starting %d plugins", len(list)))
	checked, err := pluginhost.Check(ctx, pluginhost.Options{Version: version, Dir: dir, Builtins: builtinNames(), User: as}, list)
	said()
	if err != nil {
		return nil, nil, fmt.Errorf("check the plugins (--no-plugins leaves them out): %w", err)
	}
	var problems config.Problems
	if stranger != "" {
		problems = append(problems, c.Warning(fmt.Sprintf("plugins were tried as %s, and the server starts them as %s: what only one of the two may read "+
			"makes a difference, so a plugin that did not start is a warning here; root sees what the server would see: sudo sluice check",
			userName(os.Geteuid()), stranger), identityKey(c)))
	}
	for _, p := range checked {
		if !p.Canary {
			found[p.Plugin] = p
		}
		if p.Err != nil {
			problems = append(problems, startProblems(c, p.Err, stranger != "")...)
		}
		problems = append(problems, neverAsked(c, &p)...)
	}
	return found, problems, nil
}

// startProblems gives what is wrong with a plugin its place. What somebody else than the server's user saw is certain only where it is about a
// key of the plugin's settings.
func startProblems(c *config.Config, err *pluginhost.StartError, doubtful bool) config.Problems {
	var list config.Problems
	if !errors.As(c.PluginProblems(err), &list) {
		list = config.Problems{{File: c.Path, Key: "plugin." + err.Plugin, Text: err.Err.Error()}}
	}
	var setting *sdk.SettingError
	for i := range list {
		list[i].Warning = doubtful && !errors.As(err, &setting)
	}
	return list
}

// neverAsked reports the stages that name a plugin and ask only in phases of which it knows nothing. A plugin that is told events alone may stand
// anywhere.
func neverAsked(c *config.Config, p *pluginhost.Checked) config.Problems {
	if !slices.ContainsFunc(p.Manifest.Phases, func(phase sdk.Phase) bool { return phase != sdk.PhaseEvent }) {
		return nil
	}
	var list config.Problems
	for _, name := range sortedKeys(c.Pipeline) {
		lists := c.Pipeline[name].PluginLists()
		for _, stage := range sortedKeys(lists) {
			if !slices.Contains(lists[stage], p.Plugin) {
				continue
			}
			if asks := phasesOf(stage); !slices.ContainsFunc(p.Manifest.Phases, func(phase sdk.Phase) bool { return slices.Contains(asks, phase) }) {
				who, key := p.Plugin, []string{"pipeline", name, stage, "plugins"}
				if p.Canary {
					who, key = "the canary", []string{"plugin", p.Plugin, "canary"}
				}
				problem := c.Warning(fmt.Sprintf("%s would never be asked in %s, which asks about %s: it takes part in %s", who, stage, phaseList(asks),
					phaseList(p.Manifest.Phases)), key...)
				problem.Warning = false
				list = append(list, problem)
			}
		}
	}
	return list
}

// phasesOf lists the phases in which a stage asks its plugins (RULES C6).
func phasesOf(stage string) []sdk.Phase {
	switch stage {
	case pipeline.StageRoute:
		return []sdk.Phase{sdk.PhaseRoute}
	case pipeline.StageAntiSpam:
		return []sdk.Phase{sdk.PhaseConnect, sdk.PhaseSender, sdk.PhaseRecipient, sdk.PhaseContent}
	}
	return []sdk.Phase{sdk.PhaseContent}
}

func phaseList(list []sdk.Phase) string {
	words := make([]string, len(list))
	for i, phase := range list {
		words[i] = string(phase)
	}
	return strings.Join(words, ", ")
}

// checkIdentity returns whom the server would run plugins as, nil for this process's own user. If only the server can do that,
// stranger names that user.
func checkIdentity(c *config.Config) (as *pluginhost.Identity, stranger string, err error) {
	name, uid := c.PluginUser, -1
	if name == "" {
		name = c.User
	}
	if name != "" {
		if as, err = pluginhost.LookupIdentity(name); err != nil {
			return nil, "", err
		}
	} else if owner, gid, err := datadir.Owner(c.DataDir); err == nil { // serve becomes the owner
		as = &pluginhost.Identity{Name: userName(owner), UID: owner, GID: gid}
	}
	if as != nil {
		uid = as.UID
	}
	switch {
	case uid < 0 || uid == os.Geteuid():
		return nil, "", nil
	case os.Geteuid() == 0 || mayStartAs():
		return as, "", nil
	}
	return nil, as.Name, nil
}

// identityKey is the key that says who runs plugins.
func identityKey(c *config.Config) string {
	switch {
	case c.PluginUser != "":
		return "plugin_user"
	case c.User != "":
		return "user"
	}
	return "data_dir"
}

// sayLater tells a terminal what takes so long, if it takes long; the function that it returns takes that back.
func (a *app) sayLater(what string) (done func()) {
	if !terminal(a.stderr) {
		return func() {}
	}
	said := make(chan struct{})
	timer := time.AfterFunc(time.Second, func() {
		defer close(said)
		fmt.Fprint(a.stderr, what+" ...")
	})
	return func() {
		if !timer.Stop() {
			<-said
			fmt.Fprint(a.stderr, "\r\x1b[K")
		}
	}
}

type pluginReport struct {
	Name    string   `json:"name"`
	Program string   `json:"program"`
	Lanes   int      `json:"lanes"`
	Memory  string   `json:"memory"`
	SHA256  string   `json:"sha256,omitempty"`
	Checked string   `json:"checked"`           // settings checked, started, not started, off
	Version string   `json:"version,omitempty"` // what it says
	AskedBy []string `json:"asked_by"`
}

func pluginReports(c *config.Config, found checkedPlugins) (list []pluginReport) {
	by := askedBy(c)
	for _, name := range sortedKeys(c.Plugin) {
		p := c.Plugin[name]
		program := strings.Join(p.Command, " ")
		if p.Builtin != "" {
			program = "builtin " + p.Builtin
		}
		memory := "unlimited"
		if p.Memory > 0 {
			memory = p.Memory.String()
		}
		list = append(list, pluginReport{name, program, p.Lanes, memory, p.SHA256, found.state(p), found[name].Manifest.Version, by[name]})
	}
	return list
}

// whenAsked says in which phases a plugin of a stage is asked. What a program of somebody else's announces is known when it was
// started.
func whenAsked(stage string, p *pluginhost.Config, m sdk.Manifest) string {
	phases := phasesOf(stage)
	if builtin, ok := plugins.Builtins()[p.Builtin]; ok {
		m = builtin().Describe()
	}
	switch {
	case m.Name == "" && len(phases) > 1:
		return "what it announces"
	case m.Name == "":
		return phaseList(phases)
	}
	both := slices.DeleteFunc(phases, func(phase sdk.Phase) bool { return !slices.Contains(m.Phases, phase) })
	if len(both) == 0 {
		return "nothing, it is told events"
	}
	return phaseList(both)
}

// runsAs says which users the server and its plugins would be, if started as this command was.
func runsAs(c *config.Config) string {
	server := userName(os.Geteuid())
	if owner, _, err := datadir.Owner(c.DataDir); os.Geteuid() == 0 && c.User != "" {
		server = c.User
	} else if os.Geteuid() == 0 && err == nil {
		server = userName(owner)
	}
	return fmt.Sprintf("the server as %s, plugins as %s", server, or(c.PluginUser, server))
}

func userName(uid int) string {
	name := strconv.Itoa(uid)
	if u, err := user.LookupId(name); err == nil {
		return u.Username
	}
	return name
}

// state says in a word what a check did with a plugin.
func (found checkedPlugins) state(p *pluginhost.Config) string {
	its, ok := found[p.Name]
	switch {
	case p.Mode == pluginhost.Off:
		return "off"
	case !ok:
		return "not started"
	case its.Settings:
		return "settings checked"
	}
	return "started"
}

// printNotes says what a check of the plugins could not find out.
func (r *report) printNotes(p *printer) {
	for _, pl := range r.Plugins {
		if pl.Checked == "started" {
			p.line("  %s was started, and looks at its settings only when the server runs it: it does not say that it can only check them (check_only)", pl.Name)
		}
	}
	if slices.ContainsFunc(r.Plugins, func(pl pluginReport) bool { return pl.Checked == "not started" }) {
		p.line("  plugins were not started (--no-plugins): whether they would, and their settings, are not checked")
	}
}
