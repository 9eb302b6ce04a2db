package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/units"
)

type queueListRequest struct {
	Limit  int          `json:"limit"`
	Filter queue.Filter `json:"filter"`
}

// queueOperations are those of `sluice queue` that change nothing.
func queueOperations() []operation {
	return []operation{queueListOperation(), queueShowOperation(), queueRawOperation(), queueSummaryOperation(), queueSitesOperation()}
}

func queueListOperation() operation {
	return operation{"queue/list", typedDesk(func(ctx context.Context, d *desk, r queueListRequest, emit func(any) error) error {
		n := 0
		return d.queue.Find(ctx, &r.Filter, func(item queue.Item) (bool, error) {
			n++
			return n < r.Limit, emit(item)
		})
	})}
}

func queueSummaryOperation() operation {
	return operation{"queue/summary", typedDesk(func(ctx context.Context, d *desk, r queueListRequest, emit func(any) error) error {
		sum, err := d.queue.Summarize(ctx, &r.Filter)
		if err != nil {
			return err
		}
		return emit(sum)
	})}
}

func queueSitesOperation() operation {
	return operation{"queue/sites", typedDesk(func(_ context.Context, d *desk, _ struct{}, emit func(any) error) error {
		if !d.queue.Started() {
			return errors.New("only a running server knows next hops; start it with sluice serve")
		}
		for _, site := range d.queue.Sites() {
			if err := emit(site); err != nil {
				return err
			}
		}
		return nil
	})}
}

func (a *app) queueCommand() *cobra.Command {
	return group("queue", "look at what waits in the queue, and decide about it by hand",
		append([]*cobra.Command{a.queueListCommand(), a.showCommand("queue", "show one message in the queue"), a.queueSitesCommand()}, a.verbCommands("queue")...)...)
}

func (a *app) queueListCommand() *cobra.Command {
	var f filterFlags
	summary := false
	request := queueListRequest{Limit: 1000}
	list := &cobra.Command{
		Use:   "list",
		Short: "list what waits in the queue, oldest first, or count it",
		Long:  "List what waits in the queue, oldest first." + filterHelp,
		Example: "  sluice queue list --summary\n  sluice queue list --domain '*.example.net' --attempts-over 3\n" +
			"  sluice queue list --state held --from alice@example.test --json",
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.ready(); err != nil {
				return err
			}
			request.Filter = f.Filter
			if summary {
				return show(cmd.Context(), a, queueSummaryOperation(), request, printSummary)
			}
			n := 0
			err := show(cmd.Context(), a, queueListOperation(), request, func(w io.Writer, item queue.Item) {
				n++
				printItem(w, item)
			})
			if err == nil && n == 0 && !a.json {
				fmt.Fprintln(a.stdout, nothingFound("the queue", &f))
			}
			a.noteCut(cmd, request.Limit)
			return err
		},
	}
	f.add(list)
	limitFlag(list, &request.Limit, 0, "at most so many `messages`")
	list.Flags().BoolVar(&summary, "summary", false, "count by next hop, state and reason in place of a list")
	return list
}

// nothingFound says that a list is empty.
func nothingFound(what string, f *filterFlags) string {
	if f.Empty() {
		return what + " is empty"
	}
	return what + " has nothing like that"
}

func (a *app) queueSitesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "sites",
		Short: "list the next hops that the running server knows, and how each is doing",
		Long: "List the next hops that the running server knows. The state is new (never reached), good, slow (it wants less of us),\n" +
			"suspended (nothing is tried until the time shown), recovering, or refuses (it takes no mail at all).",
		Example: "  sluice queue sites\n  sluice queue retry --next-hop mx1.example.net    # now, although it is suspended",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n := 0
			err := show(cmd.Context(), a, queueSitesOperation(), struct{}{}, func(w io.Writer, s queue.Site) {
				n++
				printSite(w, &s)
			})
			if err == nil && n == 0 && !a.json {
				fmt.Fprintln(a.stdout, "no next hop is known at the moment")
			}
			return err
		},
	}
}

func printSite(w io.Writer, s *queue.Site) {
	more := ""
	if s.More {
		more = " and more on disk"
	}
	fmt.Fprintf(w, "%-10s  %s  %d of %d connections, %d waiting%s, %d domains", s.State, s.Key, s.InFlight, s.Limit, s.Waiting, more, s.Domains)
	if !s.Next.IsZero() {
		fmt.Fprintf(w, ", next %s", s.Next.Local().Format(time.DateTime))
	}
	if s.Why != "" {
		fmt.Fprintf(w, ": %s", s.Why)
	}
	fmt.Fprintln(w)
}

func printSummary(w io.Writer, s queue.Summary) {
	fmt.Fprintf(w, "%d messages to %d recipients, %s", s.Messages, s.Recipients, units.Size(s.Octets))
	if !s.Oldest.IsZero() {
		fmt.Fprintf(w, ", the oldest of %s", s.Oldest.Local().Format(time.DateTime))
	}
	fmt.Fprintln(w)
	printCounts(w, "state", s.States)
	printCounts(w, "next hop", s.NextHops)
	printCounts(w, "last outcome", s.Reasons)
}

// printCounts prints the largest counts.
func printCounts(w io.Writer, by string, counts map[string]int) {
	const most = 20
	if len(counts) == 0 {
		return
	}
	keys := make([]string, 0, len(counts))
	for key := range counts {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b)) })
	fmt.Fprintf(w, "by %s:\n", by)
	for _, key := range keys[:min(len(keys), most)] {
		fmt.Fprintf(w, "  %8d  %s\n", counts[key], key)
	}
	if len(keys) > most {
		fmt.Fprintf(w, "            and %d others; --json has them all\n", len(keys)-most)
	}
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
		if r.Added != "" {
			fmt.Fprintf(w, " (added by plugin %s)", r.Added)
		}
		fmt.Fprintln(w)
		if r.Waits != nil {
			fmt.Fprintf(w, "              %s\n", waitText(r.Waits))
		}
	}
}

// waitText says in a line what mail waits for.
func waitText(wait *queue.Wait) string {
	text := "waits for " + waitWords[wait.For]
	if wait.For == queue.WaitEnd {
		text = "is on its way"
	}
	text += ": " + wait.Why
	if wait.NextHop != "" {
		text += " (" + wait.NextHop + ")"
	}
	if !wait.Since.IsZero() {
		text += "; since " + wait.Since.Local().Format(time.DateTime)
	}
	if !wait.Until.IsZero() {
		text += ", until " + wait.Until.Local().Format(time.DateTime)
	}
	if wait.Last != "" {
		text += "; last reply: " + wait.Last
	}
	return text
}

// waitWords are what mail waits for, in words.
var waitWords = map[string]string{
	queue.WaitRelease: "somebody's hand", queue.WaitRetry: "its time", queue.WaitHop: "its next hop", queue.WaitPause: "its next hop",
	queue.WaitHours: "the hours of its destination", queue.WaitRate: "the rate of its destination", queue.WaitConnection: "a connection",
	queue.WaitAddress: "its next hop's name", queue.WaitTurn: "its turn", queue.WaitServer: "the server",
}
