package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/route"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
)

// verb is a subcommand that does something to one entry of the queue.
type verb struct {
	group, name string
	verb        queue.Verb
	short       string
	done        string // what is said afterwards
	states      string // whom it concerns, for a message without such recipients
}

var verbs = []verb{
	{"queue", "hold", queue.Hold, "do not try a message again until it is released", "held", "queued"},
	{"queue", "release", queue.Release, "try a held message again", "released", "held"},
	{"queue", "retry", queue.Retry, "try a message now", "tried again", "queued"},
	{"queue", "remove", queue.Remove, "remove a message from the queue; nobody is told", "removed", "queued or held"},
	{"quarantine", "release", queue.ReleaseQuarantined, "deliver a message that is in quarantine", "released", "in quarantine"},
	{"quarantine", "remove", queue.RemoveQuarantined, "remove a message from quarantine, for good; nobody is told", "removed", "in quarantine"},
}

// handItem is what a verb has done.
type handItem struct {
	ID         string `json:"id"`
	Action     string `json:"action"`
	Recipients int    `json:"recipients"` // how many it concerned
}

func (v verb) operation() operation {
	return operation{v.group + "/" + v.name, typedDesk(func(ctx context.Context, d *desk, r queueShowRequest, emit func(any) error) error {
		id, err := storage.ParseID(r.ID)
		if err != nil {
			return fmt.Errorf("%q is not a queue ID; sluice %s list shows them", r.ID, v.group)
		}
		n, err := d.queue.Do(ctx, id, v.verb, func(ctx context.Context, address string) ([]pipeline.Hop, error) {
			return d.hops(ctx, id, address)
		})
		switch {
		case errors.Is(err, queue.ErrNotFound):
			return fmt.Errorf("%w; sluice trace %s tells where it went", err, id)
		case errors.Is(err, queue.ErrNothing):
			return fmt.Errorf("%s has no recipient that is %s; sluice queue show %s", id, v.states, id)
		case errors.Is(err, queue.ErrBusy):
			return fmt.Errorf("%w; try again in a moment", err)
		case err != nil:
			return err
		}
		return emit(handItem{id.String(), v.done, n})
	})}
}

// hops says where a queued message goes for an address now. It was accepted, so nobody asks again who may relay.
func (d *desk) hops(ctx context.Context, id storage.ID, address string) ([]pipeline.Hop, error) {
	item, err := queue.Show(ctx, d.store.KV(), id)
	if err != nil {
		return nil, err
	}
	table := d.table()
	way, err := table.Resolve(ctx, route.Asked{Address: address, Origin: sdk.Generated, Sender: item.Sender})
	if err != nil {
		return nil, err
	}
	return table.Hops(item.Sender, way.Targets), nil
}

func (a *app) verbCommands(group string) []*cobra.Command {
	var list []*cobra.Command
	for _, v := range verbs {
		if v.group != group {
			continue
		}
		list = append(list, &cobra.Command{
			Use:   v.name + " ID",
			Short: v.short,
			Args:  exactArgs("a queue ID"),
			RunE: func(cmd *cobra.Command, args []string) error {
				return show(cmd.Context(), a, v.operation(), queueShowRequest{args[0]}, func(w io.Writer, item handItem) {
					fmt.Fprintf(w, "%s is %s for %d recipients\n", item.ID, item.Action, item.Recipients)
				})
			},
		})
	}
	return list
}

func quarantineListOperation() operation {
	return operation{"quarantine/list", typed(func(ctx context.Context, s *storage.Store, r queueListRequest, emit func(any) error) error {
		n := 0
		return queue.Quarantined(ctx, s.KV(), func(item queue.Item) (bool, error) {
			n++
			return n < r.Limit, emit(item)
		})
	})}
}

func (a *app) quarantineCommand() *cobra.Command {
	request := queueListRequest{Limit: 1000}
	list := &cobra.Command{
		Use:   "list",
		Short: "list what is in quarantine, oldest first",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n := 0
			err := show(cmd.Context(), a, quarantineListOperation(), request, func(w io.Writer, item queue.Item) {
				n++
				printItem(w, item)
			})
			if err == nil && n == 0 && !a.json {
				fmt.Fprintln(a.stdout, "the quarantine is empty")
			}
			return err
		},
	}
	list.Flags().IntVar(&request.Limit, "limit", request.Limit, "at most so many `messages`")
	one := &cobra.Command{
		Use:   "show ID",
		Short: "show one message in quarantine, and why it is there",
		Args:  exactArgs("a queue ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return show(cmd.Context(), a, queueShowOperation(), queueShowRequest{args[0]}, printItem)
		},
	}
	return group("quarantine", "look at what is in quarantine, release it or remove it",
		append([]*cobra.Command{list, one}, a.verbCommands("quarantine")...)...)
}
