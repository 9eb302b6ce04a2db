package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/cmd/internal/control"
	"github.com/sluicemail/sluice/cmd/internal/metrics"
)

// metricsRequest asks a running server for its numbers.
type metricsRequest struct {
	Samples bool `json:"samples"` // one by one, else as text
}

func (a *app) metricsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "metrics",
		Short: "print what the running server counts, in the text format of Prometheus or as JSON",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load()
			if err != nil {
				return err
			}
			err = control.NewClient(c.DataDir).Call(cmd.Context(), "metrics", metricsRequest{a.json}, func(raw json.RawMessage) error {
				if a.json {
					_, err := fmt.Fprintf(a.stdout, "%s\n", raw)
					return err
				}
				var text string
				if err := json.Unmarshal(raw, &text); err != nil {
					return fmt.Errorf("read the answer to metrics: %w", err)
				}
				_, err := fmt.Fprint(a.stdout, text)
				return err
			})
			if errors.Is(err, control.ErrNotRunning) {
				return errors.New("the server is not running, and counts only while it does; start it with sluice serve")
			}
			return err
		},
	}
}

// showMetrics answers it.
func showMetrics(_ context.Context, m *metrics.Metrics, r metricsRequest, emit func(any) error) error {
	if !r.Samples {
		var b strings.Builder
		if err := m.WriteText(&b); err != nil {
			return err
		}
		return emit(b.String())
	}
	list, err := m.Samples()
	if err != nil {
		return err
	}
	for _, one := range list {
		if err := emit(one); err != nil {
			return err
		}
	}
	return nil
}
