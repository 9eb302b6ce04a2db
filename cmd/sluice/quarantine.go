package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/pipeline/queue"
)

func quarantineListOperation() operation {
	return operation{"quarantine/list", typedDesk(func(ctx context.Context, d *desk, r queueListRequest, emit func(any) error) error {
		n := 0
		each := func(item queue.Item) (bool, error) {
			n++
			return n < r.Limit, emit(item)
		}
		if r.Filter.Empty() {
			return queue.Quarantined(ctx, d.store.KV(), each)
		}
		r.Filter.State = "quarantined"
		return d.queue.Find(ctx, &r.Filter, each)
	})}
}

func (a *app) quarantineCommand() *cobra.Command {
	var f filterFlags
	request := queueListRequest{Limit: 1000}
	list := &cobra.Command{
		Use:     "list",
		Short:   "list what is in quarantine, oldest first",
		Long:    "List what is in quarantine, oldest first." + filterHelp,
		Example: "  sluice quarantine list --to alice@example.test --newer-than 1d",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.ready(); err != nil {
				return err
			}
			n := 0
			request.Filter = f.Filter
			err := show(cmd.Context(), a, quarantineListOperation(), request, func(w io.Writer, item queue.Item) {
				n++
				printItem(w, item)
			})
			if err == nil && n == 0 && !a.json {
				fmt.Fprintln(a.stdout, nothingFound("the quarantine", &f))
			}
			a.noteCut(cmd, request.Limit)
			return err
		},
	}
	f.add(list)
	limitFlag(list, &request.Limit, 0, "at most so many `messages`")
	one := a.showCommand("quarantine", "show one message in quarantine, and why it is there")
	return group("quarantine", "look at what is in quarantine, release it or remove it",
		append([]*cobra.Command{list, one}, a.verbCommands("quarantine")...)...)
}
