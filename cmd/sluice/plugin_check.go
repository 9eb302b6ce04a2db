package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/cmd/internal/conformance"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
)

// pluginCheckFlags are the flags of `sluice plugin check`.
type pluginCheckFlags struct {
	builtin, name string
	read          []string
	quick         bool
	limit         time.Duration
}

func (a *app) pluginCheckCommand() *cobra.Command {
	var f pluginCheckFlags
	cmd := &cobra.Command{
		Use:   "check [COMMAND [ARG...]]",
		Short: "find out whether a plugin keeps the promises of the protocol",
		Long: `Find out whether a plugin keeps the promises of the protocol (sdk/PROTOCOL.md).

The plugin is started as the server would start it, and treated as no server would: it is asked about empty messages and 50 MB, about
10,000 recipients and parts within parts; its questions are cancelled in the middle, its lanes are reset, its process is
killed. There is a line for each check; a failed one says what was sent, expected and seen, and where the protocol says so.

  sluice plugin check ./scanner                          a program without settings
  sluice plugin check --config plugin.toml               the plugin of a file with a table [plugin.NAME], settings and all
  sluice plugin check --config sluice.toml --name spam   one of several
  sluice plugin check --read . -- node scanner.js        a command with arguments, which may read its directory
  sluice plugin check --builtin gtube                    a plugin of this program

Exit status: 0 all is well, 1 a check failed or could not be tried, 2 wrong usage.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return a.pluginCheck(cmd, f, args) },
	}
	cmd.Flags().StringVar(&f.builtin, "builtin", "", "check the plugin of this program with that `name`")
	cmd.Flags().StringVar(&f.name, "name", "", "which `plugin` of the file that --config names")
	cmd.Flags().StringArrayVar(&f.read, "read", nil, "a `path` that the plugin may read beside its own and the system's; again for more")
	cmd.Flags().BoolVar(&f.quick, "quick", false, "smaller messages: a few seconds less")
	cmd.Flags().DurationVar(&f.limit, "limit", time.Minute, "how long all checks may take together")
	cmd.Flags().SetInterspersed(false) // what follows COMMAND is the command's
	return cmd
}

func (a *app) pluginCheck(cmd *cobra.Command, f pluginCheckFlags, args []string) error {
	if f.limit < time.Second {
		return usagef("--limit %s is too short, expected a second or more", f.limit)
	}
	table, dir, err := a.pluginToCheck(cmd, f, args)
	if err != nil {
		return err
	}
	printer := conformance.Printer{W: a.stdout}
	report := printer.Result
	if a.json {
		report = func(r conformance.Result) { _ = json.NewEncoder(a.stdout).Encode(r) }
	}
	sum, err := conformance.Run(cmd.Context(), conformance.Options{Plugin: table, Dir: dir, Quick: f.quick, Limit: f.limit, Report: report})
	if err != nil {
		return err
	}
	printer.Flush()
	if a.json {
		err = json.NewEncoder(a.stdout).Encode(sum)
	} else {
		_, err = fmt.Fprintln(a.stdout, sum)
	}
	if sum.Failed > 0 || sum.Untried > 0 {
		return errSilent
	}
	return err
}

// pluginToCheck puts the plugin's table together from the file, if one is named, and the command line. Beside it comes the
// directory that relative paths are relative to.
func (a *app) pluginToCheck(cmd *cobra.Command, f pluginCheckFlags, args []string) (*pluginhost.Config, string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, "", fmt.Errorf("find the working directory: %w", err)
	}
	table := pluginhost.DefaultConfig()
	table.Name = "checked"
	if cmd.Flags().Changed("config") {
		c, err := config.LoadPlugins(a.configPath, config.Options{Builtins: builtinNames()})
		if err != nil {
			return nil, "", err
		}
		name, err := whichPlugin(c, f, args)
		if err != nil {
			return nil, "", err
		}
		table = *c.Plugin[name]
		if dir, err = filepath.Abs(filepath.Dir(a.configPath)); err != nil {
			return nil, "", fmt.Errorf("find the directory of %s: %w", a.configPath, err)
		}
	} else if f.name != "" {
		return nil, "", usagef("--name says which plugin of a file: name the file with --config")
	}
	switch {
	case len(args) > 0 && f.builtin != "":
		return nil, "", usagef("a command and --builtin are both given, expected one of them")
	case len(args) > 0:
		table.Command, table.Builtin, table.SHA256 = args, "", ""
		if dir, err = os.Getwd(); err != nil {
			return nil, "", fmt.Errorf("find the working directory: %w", err)
		}
	case f.builtin != "":
		table.Command, table.Builtin = nil, f.builtin
	}
	for _, path := range f.read {
		if path, err = filepath.Abs(path); err != nil {
			return nil, "", fmt.Errorf("find %s: %w", path, err)
		}
		table.Read = append(table.Read, path)
	}
	if len(table.Command) == 0 && table.Builtin == "" {
		return nil, "", usagef("%s needs a COMMAND, --builtin NAME, or --config FILE with a table [plugin.NAME]", cmd.CommandPath())
	}
	if err := table.Validate(builtinNames()); err != nil {
		return nil, "", usagef("%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return &table, dir, nil
}

// whichPlugin chooses a table of a file: the one that was named, the only one, or the one of a builtin or a program of that name.
func whichPlugin(c *config.Config, f pluginCheckFlags, args []string) (string, error) {
	names := slices.Sorted(maps.Keys(c.Plugin))
	try := []string{f.name, f.builtin}
	if len(args) > 0 {
		try = append(try, filepath.Base(args[0]))
	}
	for i, name := range try {
		if _, ok := c.Plugin[name]; ok {
			return name, nil
		}
		if i == 0 && name != "" {
			return "", usagef("there is no table [plugin.%s] in %s, expected %s", name, c.Path, strings.Join(names, " or "))
		}
	}
	if len(names) == 1 {
		return names[0], nil
	}
	return "", usagef("%s has %d plugins: choose with --name %s", c.Path, len(names), strings.Join(names, " or "))
}
