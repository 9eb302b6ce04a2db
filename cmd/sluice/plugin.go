package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/cmd/internal/control"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/plugins"
	"github.com/sluicemail/sluice/sdk/serve"
)

func (a *app) pluginCommand() *cobra.Command {
	run := &cobra.Command{
		Use:   "run NAME",
		Short: "be a plugin of this program; the server starts it so",
		Long:  "Be a plugin of this program: " + strings.Join(builtinNames(), ", ") + ".",
		Args:  exactArgs("the name of a plugin"),
		RunE: func(_ *cobra.Command, args []string) error {
			plugin, ok := plugins.Builtins()[args[0]]
			if !ok {
				return usagef("there is no plugin %q in this program, expected %s", args[0], strings.Join(builtinNames(), " or "))
			}
			tunePluginMemory()
			serve.Main(plugin())
			return nil
		},
	}
	exec := &cobra.Command{
		Use:    "exec NAME",
		Short:  "become a plugin without the server's privileges; the server starts it so (RULES C4)",
		Hidden: true,
		Args:   cobra.ArbitraryArgs,
		RunE: func(*cobra.Command, []string) error {
			if pluginhost.Exec(a.stderr) == exitUsage {
				return &usageError{} // it has said why
			}
			return errSilent
		},
	}
	return group("plugin", "look at plugins, and run those in this program", a.pluginListCommand(), a.pluginTellCommand(), a.pluginNewCommand(), a.pluginCheckCommand(), a.pluginAskCommand(), run, exec)
}

func builtinNames() []string { return slices.Sorted(maps.Keys(plugins.Builtins())) }

func (a *app) pluginListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list the plugins: who asks them, and how they fare while the server runs",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load()
			if err != nil {
				return err
			}
			items, running, err := pluginItems(cmd.Context(), c)
			if err != nil {
				return err
			}
			if a.json {
				for _, item := range items {
					if err := json.NewEncoder(a.stdout).Encode(item); err != nil {
						return err
					}
				}
				return nil
			}
			return printPlugins(a.stdout, items, running)
		},
	}
}

// pluginItem is a plugin as `sluice plugin list` shows it: what the configuration says, and what the server does.
type pluginItem struct {
	pluginhost.State
	Builtin string   `json:"builtin,omitempty"`
	Command []string `json:"command,omitempty"`
	AskedBy []string `json:"asked_by"` // "inbound.anti-spam"
}

func pluginItems(ctx context.Context, c *config.Config) (items []pluginItem, running bool, err error) {
	states := make(map[string]pluginhost.State)
	err = control.NewClient(c.DataDir).Call(ctx, "plugin/list", struct{}{}, func(raw json.RawMessage) error {
		var s pluginhost.State
		if err := json.Unmarshal(raw, &s); err != nil {
			return fmt.Errorf("read the answer to plugin/list: %w", err)
		}
		states[s.Name] = s
		return nil
	})
	if err != nil && !errors.Is(err, control.ErrNotRunning) {
		return nil, false, err
	}
	running = err == nil
	by := askedBy(c)
	for _, name := range slices.Sorted(maps.Keys(c.Plugin)) {
		p := c.Plugin[name]
		item := pluginItem{State: states[name], Builtin: p.Builtin, Command: p.Command, AskedBy: by[name]}
		if item.Name == "" {
			item.Name, item.Mode, item.State.State = name, p.Mode, "not running"
		}
		items = append(items, item)
	}
	return items, running, nil
}

// askedBy lists for each plugin the pipelines and stages that ask it.
func askedBy(c *config.Config) map[string][]string {
	out := make(map[string][]string)
	for _, name := range slices.Sorted(maps.Keys(c.Pipeline)) {
		lists := c.Pipeline[name].PluginLists()
		for _, stage := range slices.Sorted(maps.Keys(lists)) {
			for _, plugin := range lists[stage] {
				out[plugin] = append(out[plugin], name+"."+stage)
			}
		}
	}
	return out
}

func printPlugins(w io.Writer, items []pluginItem, running bool) error {
	if len(items) == 0 {
		fmt.Fprintf(w, "no plugin is configured; name one in a stage, such as [pipeline.inbound.anti-virus] plugins = [\"eicar\"]\n")
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tSTATE\tMODE\tVERSION\tPID\tRESTARTS\tIN FLIGHT\tASKED\tFAILED\tP50\tP99\tBREAKER\tASKED BY")
	for _, p := range items {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", p.Name, p.State.State, p.Mode, dash(p.Version),
			dash(number(p.PID)), p.Restarts, p.InFlight, p.Asked, dash(failures(p.State)), short(p.P50), short(p.P99), dash(p.Breaker),
			dash(strings.Join(p.AskedBy, ", ")))
		if c := p.Canary; c != nil {
			failed := ""
			if c.Failed > 0 {
				failed = fmt.Sprint(c.Failed)
			}
			fmt.Fprintf(table, "%s.canary\t%s\t%g%%\t%s\t%s\t\t\t%d\t%s\t%s\t%s\t\t\n", p.Name, c.State, 100*c.Share, dash(c.Version),
				dash(number(c.PID)), c.Asked, dash(failed), short(c.P50), short(c.P99))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, p := range items {
		for _, note := range notes(p.State) {
			fmt.Fprintf(w, "%s: %s\n", p.Name, note)
		}
	}
	if !running {
		fmt.Fprintln(w, "the server is not running")
	}
	return nil
}

// failures lists failures by kind: "2 crash, 5 timeout".
func failures(s pluginhost.State) string {
	var list []string
	for _, kind := range slices.Sorted(maps.Keys(s.Failures)) {
		list = append(list, fmt.Sprintf("%d %s", s.Failures[kind], kind))
	}
	return strings.Join(list, ", ")
}

// notes are what is out of the ordinary about a plugin, in words.
func notes(s pluginhost.State) []string {
	var list []string
	add := func(on bool, format string, args ...any) {
		if on {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	add(s.Breaker == "open", "is not waited for in phase %s; %d questions were not asked", strings.Join(s.Phases, ", "), s.Skipped)
	add(s.Lost > 0, "%d of %d lanes are lost", s.Lost, s.Lanes)
	add(s.Suspects > 0, "%d messages are suspected of having killed it", s.Suspects)
	add(s.Dropped+s.Failed > 0, "%d events told, %d dropped, %d failed", s.Told, s.Dropped, s.Failed)
	add(s.Leaving > 0, "%d processes of former configurations still have messages", s.Leaving)
	if s.Canary != nil {
		add(s.Canary.Why != "", "canary %s: %s", s.Canary.State, s.Canary.Why)
	}
	add(s.Why != "", "%s", s.Why)
	return list
}

func short(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return d.Round(10 * time.Microsecond).String()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}
