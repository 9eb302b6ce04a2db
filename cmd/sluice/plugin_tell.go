package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/cmd/internal/control"
	"github.com/sluicemail/sluice/pipeline/events"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/sdk"
)

// tellRequest is an administrator's command for a plugin.
type tellRequest struct {
	Name  string   `json:"name"`
	Words []string `json:"words"`
}

// Bounds on what a plugin is told.
const (
	maxTellWords = 1000
	maxTellWord  = 4096 // octets
	tellWait     = time.Minute
)

func (a *app) pluginTellCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "tell NAME WORD...",
		Short: "tell a running plugin something that it understands, and print its answer",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("%s needs the name of a plugin and a word for it; usage: %s", cmd.CommandPath(), cmd.UseLine())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.load()
			if err != nil {
				return err
			}
			err = control.NewClient(c.DataDir).Call(cmd.Context(), "plugin/tell", tellRequest{args[0], args[1:]}, func(raw json.RawMessage) error {
				if a.json {
					_, err := fmt.Fprintf(a.stdout, "%s\n", raw)
					return err
				}
				var r sdk.Reason
				if err := json.Unmarshal(raw, &r); err != nil {
					return fmt.Errorf("read the answer to plugin/tell: %w", err)
				}
				_, err := fmt.Fprintln(a.stdout, r.Text)
				return err
			})
			if errors.Is(err, control.ErrNotRunning) {
				return errors.New("the server is not running, and neither are its plugins; start it with sluice serve")
			}
			return err
		},
	}
}

// tellPlugin asks a plugin and hands its reasons to emit, which are its answer.
func tellPlugin(ctx context.Context, plugins []events.Plugin, states func() []pluginhost.State, raise func(string, sdk.Alert),
	r tellRequest, emit func(any) error,
) error {
	if len(r.Words) == 0 || len(r.Words) > maxTellWords || slices.ContainsFunc(r.Words, func(w string) bool { return len(w) > maxTellWord }) {
		return fmt.Errorf("expected 1 to %d words of at most %d octets", maxTellWords, maxTellWord)
	}
	at := slices.IndexFunc(plugins, func(p events.Plugin) bool { return p.Name() == r.Name })
	if at < 0 {
		names := make([]string, len(plugins))
		for i, p := range plugins {
			names[i] = p.Name()
		}
		if len(names) == 0 {
			return fmt.Errorf("there is no plugin %q; no plugin is configured", r.Name)
		}
		return fmt.Errorf("there is no plugin %q; there are %s", r.Name, strings.Join(names, ", "))
	}
	p := plugins[at]
	for _, s := range states() {
		if s.Name == r.Name && s.State != "ready" {
			why := ""
			if s.Why != "" {
				why = ": " + s.Why
			}
			return fmt.Errorf("plugin %s does not run (%s)%s", r.Name, s.State, why)
		}
	}
	if !slices.Contains(p.Manifest().Events, sdk.EventCommand) {
		return fmt.Errorf("plugin %s takes no commands: its manifest has no event \"command\"", r.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, tellWait)
	defer cancel()
	verdict, _, err := p.Ask(ctx, &pluginhost.Question{
		Phase: sdk.PhaseEvent, Event: &sdk.Event{Kind: sdk.EventCommand, At: time.Now(), Words: r.Words},
	})
	var failure *pluginhost.Failure
	switch {
	case errors.As(err, &failure) && failure.Kind == pluginhost.Error:
		return fmt.Errorf("plugin %s: %w", r.Name, failure.Err) // its own words
	case err != nil:
		return fmt.Errorf("plugin %s did not answer: %w", r.Name, err)
	}
	for _, alert := range verdict.Alerts {
		raise(r.Name, alert)
	}
	for _, reason := range verdict.Reasons {
		if err := emit(reason); err != nil {
			return err
		}
	}
	return nil
}
