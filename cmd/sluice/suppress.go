package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/units"
	"github.com/sluicemail/sluice/sdk"
)

type suppressRequest struct {
	Address string        `json:"address,omitempty"`
	Reason  string        `json:"reason,omitempty"`
	For     time.Duration `json:"for,omitempty"`
	Watched bool          `json:"watched,omitempty"`
	Limit   int           `json:"limit,omitempty"`
}

type suppressItem struct {
	Address string `json:"address"`
	Action  string `json:"action"`
}

func suppressOperations() []operation {
	return []operation{suppressListOperation(), suppressAddOperation(), suppressRemoveOperation()}
}

func suppressListOperation() operation {
	return operation{"suppress/list", typedDesk(func(ctx context.Context, d *desk, r suppressRequest, emit func(any) error) error {
		n := 0
		return d.queue.Suppressions(ctx, func(s queue.Suppressed) (bool, error) {
			if s.State == queue.StateWatched && !r.Watched {
				return true, nil
			}
			n++
			return n < r.Limit, emit(s)
		})
	})}
}

func suppressAddOperation() operation {
	return operation{"suppress/add", typedDesk(func(ctx context.Context, d *desk, r suppressRequest, emit func(any) error) error {
		s, err := d.queue.Suppress(ctx, r.Address, strings.Join(strings.Fields(plain(r.Reason)), " "), r.For)
		if err != nil {
			return err
		}
		return emit(suppressItem{s.Address, "suppressed"})
	})}
}

func suppressRemoveOperation() operation {
	return operation{"suppress/remove", typedDesk(func(ctx context.Context, d *desk, r suppressRequest, emit func(any) error) error {
		found, err := d.queue.Lift(ctx, r.Address)
		if err == nil && !found {
			err = fmt.Errorf("%s is not on the suppression list; sluice suppress list shows it", r.Address)
		}
		if err != nil {
			return err
		}
		return emit(suppressItem{r.Address, "removed"})
	})}
}

func (a *app) suppressCommand() *cobra.Command {
	said := func(w io.Writer, i suppressItem) { fmt.Fprintf(w, "%s is %s\n", i.Address, i.Action) }
	remove := &cobra.Command{
		Use:     "remove ADDRESS",
		Short:   "send to an address again; what servers said about it is forgotten",
		Example: "  sluice suppress remove bob@example.net",
		Args:    exactArgs("an address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return show(cmd.Context(), a, suppressRemoveOperation(), suppressRequest{Address: args[0]}, said)
		},
	}
	return group("suppress", "addresses to which nothing is sent any more", a.suppressListCommand(), a.suppressAddCommand(said), remove)
}

func (a *app) suppressListCommand() *cobra.Command {
	r := suppressRequest{Limit: 1000}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list the addresses to which nothing is sent any more, and why",
		Long: "List the addresses to which nothing is sent any more. An address gets there when its server has said for several\n" +
			"messages that there is no such user ([queue] suppress_after), stays for suppress_for, and comes off when a message\n" +
			"reaches it after all. What was added by hand stays until it is removed by hand. The list is for mail of our own people:\n" +
			"what strangers send to an address here that leads elsewhere is not held back.",
		Example: "  sluice suppress list --watched --json",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n := 0
			err := show(cmd.Context(), a, suppressListOperation(), r, func(w io.Writer, s queue.Suppressed) {
				n++
				printSuppressed(w, &s)
			})
			if err == nil && n == 0 && !a.json {
				fmt.Fprintln(a.stdout, "the suppression list is empty")
			}
			a.noteCut(cmd, r.Limit)
			return err
		},
	}
	limitFlag(cmd, &r.Limit, 0, "at most so many `addresses`")
	cmd.Flags().BoolVar(&r.Watched, "watched", false, "also those of which too few answers are known")
	return cmd
}

func (a *app) suppressAddCommand(said func(io.Writer, suppressItem)) *cobra.Command {
	var r suppressRequest
	forTime := ""
	cmd := &cobra.Command{
		Use:     "add ADDRESS",
		Short:   "send nothing to an address any more",
		Example: "  sluice suppress add bob@example.net --reason 'has left, see ticket 7' --for 90d",
		Args:    exactArgs("an address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Address = args[0]
			if forTime != "" {
				d, err := units.ParseDuration(forTime)
				if err != nil {
					return usagef("--for: %v; expected a time such as 90d", err)
				}
				if d <= 0 {
					return usagef("--for: expected a time such as 90d")
				}
				r.For = d.Std()
			}
			return show(cmd.Context(), a, suppressAddOperation(), r, said)
		},
	}
	cmd.Flags().StringVar(&r.Reason, "reason", "", "`TEXT` for senders and for the list: why")
	cmd.Flags().StringVar(&forTime, "for", "", "forget it after this `TIME`: 12h, 90d; without it, it stays")
	return cmd
}

func printSuppressed(w io.Writer, s *queue.Suppressed) {
	by := "by answers"
	if s.ByHand {
		by = "by hand"
	}
	fmt.Fprintf(w, "%s  %s %s since %s", s.Address, s.State, by, s.Since.Local().Format(time.DateTime))
	if !s.Until.IsZero() {
		fmt.Fprintf(w, " until %s", s.Until.Local().Format(time.DateTime))
	}
	if s.Answers > 0 {
		fmt.Fprintf(w, ", %d answers", s.Answers)
	}
	if s.Reason != "" {
		fmt.Fprintf(w, ": %s", s.Reason)
	}
	fmt.Fprintln(w)
}

// listRouter is a router that tells our own people at RCPT already that nothing is sent to an address: then their
// programs show it at once, and there is no report to read.
type listRouter struct {
	pipeline.RecipientRouter
	suppressed func(ctx context.Context, address string) (*queue.Suppressed, error)
}

// Recipient implements pipeline.RecipientRouter.
func (l *listRouter) Recipient(ctx context.Context, m *pipeline.Message, r *pipeline.Recipient) pipeline.Reply {
	reply := l.RecipientRouter.Recipient(ctx, m, r)
	if !reply.OK() || m.Origin != sdk.Login || len(r.Accounts) > 0 {
		return reply
	}
	s, err := l.suppressed(ctx, r.Address)
	if err != nil || s == nil { // what can't be read now is looked at again before the message leaves
		return reply
	}
	return pipeline.Reply{Code: 550, Enhanced: "5.1.1", Text: s.Words()}.Clean()
}
