// Command sluice is a mail server: every message moves through seven ordered stages, and plugins in processes of their own
// are asked for their opinion on the way.
//
// This package is the wiring: main.go makes the command line, serve.go puts the rooms of the house together, and there
// is one file for each subcommand. While the server runs, the commands talk to it over a socket in data_dir; while it
// does not, they open the store themselves (RULES D5).
//
// Exit status: 0 done, 1 it failed, 2 wrong usage. A mistake gets one line that says what to do next.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/cmd/internal/config"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A write to a pipe that nobody reads is an error like others, and no sudden end: a server whose log is no longer read
	// goes on, and commands clear up. It is caught, not ignored, since plugins would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	code := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// The exit statuses (DESIGN section 7).
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// app is one run of the program: its streams and the flags that all subcommands share.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	configPath string // --config
	json       bool   // --json

	note  string // for stderr, behind the answer: what is to be known about it
	shown int    // items that show has printed
}

// commands lists the subcommands.
func (a *app) commands() []*cobra.Command {
	return []*cobra.Command{
		a.serveCommand(),
		a.demoCommand(),
		a.reloadCommand(),
		a.checkCommand(),
		a.userCommand(),
		a.queueCommand(),
		a.quarantineCommand(),
		a.suppressCommand(),
		a.traceCommand(),
		a.routeCommand(),
		a.dkimCommand(),
		a.pluginCommand(),
		a.dnsCommand(),
		a.reportCommand(),
		a.metricsCommand(),
		a.benchCommand(),
		a.versionCommand(),
	}
}

// run executes the command line and returns the exit status. The context ends with SIGINT or SIGTERM.
func (a *app) run(ctx context.Context, args []string) int {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	out := &output{w: a.stdout, stop: stop}
	a.stdout = out
	root := &cobra.Command{
		Use:           "sluice",
		Short:         "a mail server whose every stage you can see, and filter with your own plugins",
		Args:          cobra.ArbitraryArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef("there is no command %q; sluice --help lists them", args[0])
		}
		return cmd.Help()
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().StringVar(&a.configPath, "config", "sluice.toml", "the configuration `file`")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON: an object a line for lists, one object otherwise")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%v; %s --help shows what there is", err, cmd.CommandPath())
	})
	root.AddCommand(a.commands()...)
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	if failed := out.failure(); failed != nil {
		err, a.note = failed, ""
	}
	return a.report(err)
}

// report prints an error and returns the exit status that stands for it.
func (a *app) report(err error) int {
	note := a.note
	if note != "" && (err == nil || errors.Is(err, errSilent)) {
		fmt.Fprintln(a.stderr, "sluice: "+note)
	}
	if err == nil {
		return exitDone
	}
	if note != "" {
		note = " (" + note + ")"
	}
	var problems config.Problems
	switch {
	case errors.As(err, &problems):
		fmt.Fprintln(a.stderr, problems.Error())
	case !errors.Is(err, errSilent) && err.Error() != "":
		fmt.Fprintln(a.stderr, "sluice: "+err.Error()+note)
	}
	var usage *usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

// usageError is a command line that makes no sense: exit status 2.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// errSilent is for a command that failed and has said so itself.
var errSilent = errors.New("failed")

// exactArgs is cobra.ExactArgs with a message that names what is missing.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usagef("%s needs %s; usage: %s", cmd.CommandPath(), names[len(args)], cmd.UseLine())
		case len(args) > len(names):
			return usagef("%s does not take %q; usage: %s", cmd.CommandPath(), args[len(names)], cmd.UseLine())
		}
		return nil
	}
}

// atMost is exactArgs where what is named last may be left out.
func atMost(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		return exactArgs([]string{name}[:min(len(args), 1)]...)(cmd, args)
	}
}

// group makes a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef("there is no command %q; %s --help lists them", cmd.CommandPath()+" "+args[0], cmd.CommandPath())
		}
		return usagef("%s needs a command; %s --help lists them", cmd.CommandPath(), cmd.CommandPath())
	}
	cmd.AddCommand(commands...)
	return cmd
}

// load reads the configuration and prints its warnings.
func (a *app) load() (*config.Config, error) {
	c, err := config.Load(a.configPath, config.Options{Builtins: builtinNames()})
	if err != nil {
		return nil, err
	}
	for _, w := range c.Warnings {
		fmt.Fprintln(a.stderr, w)
	}
	return c, nil
}
