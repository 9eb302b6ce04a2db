package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/storage"
)

type queueListRequest struct {
	Limit int `json:"limit"`
}

type queueShowRequest struct {
	ID string `json:"id"`
}

func queueListOperation() operation {
	return operation{"queue/list", typed(func(ctx context.Context, s *storage.Store, r queueListRequest, emit func(any) error) error {
		n := 0
		return queue.List(ctx, s.KV(), func(item queue.Item) (bool, error) {
			n++
			return n < r.Limit, emit(item)
		})
	})}
}

func queueShowOperation() operation {
	return operation{"queue/show", typed(func(ctx context.Context, s *storage.Store, r queueShowRequest, emit func(any) error) error {
		id, err := storage.ParseID(r.ID)
		if err != nil {
			return fmt.Errorf("%q is not a queue ID; sluice queue list shows them", r.ID)
		}
		item, err := queue.Show(ctx, s.KV(), id)
		if err != nil {
			return fmt.Errorf("show %s: %w; sluice trace %s tells where it went", id, err, id)
		}
		return emit(item)
	})}
}

func (a *app) queueCommand() *cobra.Command {
	request := queueListRequest{Limit: 1000}
	list := &cobra.Command{
		Use:   "list",
		Short: "list what waits in the queue, oldest first",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n := 0
			err := show(cmd.Context(), a, queueListOperation(), request, func(w io.Writer, item queue.Item) {
				n++
				printItem(w, item)
			})
			if err == nil && n == 0 && !a.json {
				fmt.Fprintln(a.stdout, "the queue is empty")
			}
			return err
		},
	}
	list.Flags().IntVar(&request.Limit, "limit", request.Limit, "at most so many `messages`")
	one := &cobra.Command{
		Use:   "show ID",
		Short: "show one message in the queue",
		Args:  exactArgs("a queue ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return show(cmd.Context(), a, queueShowOperation(), queueShowRequest{args[0]}, printItem)
		},
	}
	return group("queue", "look at what waits in the queue, and decide about it by hand",
		append([]*cobra.Command{list, one}, a.verbCommands("queue")...)...)
}

func printItem(w io.Writer, item queue.Item) {
	if item.Problem != "" {
		fmt.Fprintf(w, "%s  can't be read: %s\n", item.ID, item.Problem)
		return
	}
	fmt.Fprintf(w, "%s  %s  from <%s>  %d octets, %s by %s\n", item.ID, item.Received.Local().Format(time.DateTime),
		item.Sender, item.Size, item.Origin, item.Pipeline)
	for _, r := range item.Recipients {
		fmt.Fprintf(w, "  %-11s <%s> to %s, %d attempts", r.State, r.Address, r.Hop, r.Attempts)
		if !r.Next.IsZero() {
			fmt.Fprintf(w, ", next %s", r.Next.Local().Format(time.DateTime))
		}
		if r.Last != "" {
			fmt.Fprintf(w, ": %s", r.Last)
		}
		if r.Why != "" {
			fmt.Fprintf(w, ": %s", r.Why)
		}
		fmt.Fprintln(w)
	}
}
