package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/route"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
)

// verb is a subcommand that does something to entries of the queue.
type verb struct {
	group, name string
	verb        queue.Verb
	short       string
	long        string // examples
	done        string // what is said afterwards
	states      string // whom it concerns, for a message without such recipients
}

var verbs = []verb{
	{"queue", "hold", queue.Hold, "do not try messages again until they are released",
		"  sluice queue hold --domain example.net\n  sluice queue hold --from 'newsletter@*' --dry-run", "held", "queued"},
	{"queue", "release", queue.Release, "try held messages again",
		"  sluice queue release 01JZ4Q0V8XKQW3D5\n  sluice queue release --all", "released", "held"},
	{"queue", "retry", queue.Retry, "try messages now, also those whose next hop is suspended",
		"  sluice queue retry --next-hop mx1.example.net\n  sluice queue retry --reason 'connection refused'", "tried again", "queued"},
	{"queue", "remove", queue.Remove, "remove messages from the queue; nobody is told",
		"  sluice queue remove --from '<>' --older-than 2d --dry-run\n  sluice queue remove --from '<>' --older-than 2d", "removed", "queued or held"},
	{"queue", "bounce", queue.Bounce, "let messages fail now; the sender is told, as of any failure",
		"  sluice queue bounce --to '*@exampel.net' --text 'there is no such domain; did you mean example.net?'", "bounced", "queued or held"},
	{"queue", "reroute", queue.Reroute, "let messages leave by another next hop",
		"  sluice queue reroute --domain example.net --via smtp://backup.example.net:25\n" +
			"  sluice queue reroute --all --via default", "rerouted", "on its way to another server"},
	{"quarantine", "release", queue.ReleaseQuarantined, "deliver messages that are in quarantine",
		"  sluice quarantine release --reason 'score 7' --newer-than 1d", "released", "in quarantine"},
	{"quarantine", "remove", queue.RemoveQuarantined, "remove messages from quarantine, for good; nobody is told",
		"  sluice quarantine remove --older-than 30d", "removed", "in quarantine"},
}

// handRequest is what a verb is asked to do.
type handRequest struct {
	IDs    []string     `json:"ids,omitempty"`
	Filter queue.Filter `json:"filter"`
	All    bool         `json:"all,omitempty"`
	After  string       `json:"after,omitempty"`
	DryRun bool         `json:"dry_run,omitempty"`
	Via    string       `json:"via,omitempty"`
	Text   string       `json:"text,omitempty"`
	Force  bool         `json:"force,omitempty"`
	Each   bool         `json:"each,omitempty"` // each message is wanted, not only those that made trouble
}

// single reports whether it is about one message, of which there is nothing to count.
func (r *handRequest) single() bool { return len(r.IDs) == 1 && r.Filter.Empty() && !r.DryRun }

// handItem is what a verb has done to one message.
type handItem struct {
	ID         string `json:"id"`
	Action     string `json:"action"`
	Recipients int    `json:"recipients"` // how many it concerned
	Problem    string `json:"problem,omitempty"`
}

// handSummary is the last object of an answer.
type handSummary struct {
	Action     string `json:"action"`
	DryRun     bool   `json:"dry_run"`
	Messages   int    `json:"messages"`
	Recipients int    `json:"recipients"`
	Busy       int    `json:"busy"`
	Failed     int    `json:"failed"`
	Last       string `json:"last,omitempty"` // --after goes on behind it
}

// handAnswer is one item of an answer: one of them.
type handAnswer struct {
	Item     *handItem    `json:"item,omitempty"`
	Progress *handSummary `json:"progress,omitempty"`
	Summary  *handSummary `json:"summary,omitempty"`
}

func (v verb) operation() operation {
	return operation{v.group + "/" + v.name, typedDesk(func(ctx context.Context, d *desk, r handRequest, emit func(any) error) error {
		o, err := v.order(d, &r)
		if err != nil {
			return err
		}
		if r.single() {
			n, err := d.queue.Perform(ctx, o.IDs[0], &o.Task)
			if err != nil {
				return v.problem(o.IDs[0], err)
			}
			return emit(handAnswer{Item: &handItem{ID: r.IDs[0], Action: v.done, Recipients: n}})
		}
		return v.many(ctx, d, o, &r, emit)
	})}
}

// order reads a request.
func (v verb) order(d *desk, r *handRequest) (*queue.Order, error) {
	o := &queue.Order{
		Task:   queue.Task{Verb: v.verb, RouteOf: d.routeOf, Text: plain(r.Text), Force: r.Force},
		Filter: r.Filter, DryRun: r.DryRun,
	}
	for _, text := range r.IDs {
		id, err := storage.ParseID(text)
		if err != nil {
			return nil, fmt.Errorf("%q is not a queue ID; sluice %s list shows them", text, v.group)
		}
		o.IDs = append(o.IDs, id)
	}
	if r.After != "" {
		id, err := storage.ParseID(r.After)
		if err != nil {
			return nil, fmt.Errorf("--after: %q is not a queue ID", r.After)
		}
		o.After = id
	}
	if len(o.IDs) == 0 && r.Filter.Empty() && !r.All {
		return nil, errors.New("neither a message nor a filter was named")
	}
	via, err := viaOf(r.Via)
	if err != nil {
		return nil, err
	}
	o.Via = via
	return o, r.Filter.Validate()
}

// viaOf reads --via.
func viaOf(text string) (string, error) {
	switch text {
	case "", "default":
		return "", nil
	case pipeline.ViaMX:
		return text, nil
	}
	via, err := route.Via(text)
	if err != nil {
		return "", fmt.Errorf("--via %w, \"mx\", or \"default\"", err)
	}
	return via, nil
}

// problem puts an error into words.
func (v verb) problem(id storage.ID, err error) error {
	switch {
	case errors.Is(err, queue.ErrNotFound):
		return fmt.Errorf("%w; sluice trace %s tells where it went", err, id)
	case errors.Is(err, queue.ErrNothing):
		return fmt.Errorf("%s has no recipient that is %s; sluice queue show %s", id, v.states, id)
	case errors.Is(err, queue.ErrBusy):
		return fmt.Errorf("%w; try again in a moment", err)
	}
	return err
}

// many does it to many messages, and says now and again how far it is.
func (v verb) many(ctx context.Context, d *desk, o *queue.Order, r *handRequest, emit func(any) error) error {
	const often = 500 * time.Millisecond
	said := time.Now()
	summary := func(t queue.Tally) *handSummary {
		s := &handSummary{
			Action: v.done, DryRun: r.DryRun, Messages: t.Messages, Recipients: t.Recipients, Busy: t.Busy, Failed: t.Failed,
		}
		if t.Last != (storage.ID{}) {
			s.Last = t.Last.String()
		}
		return s
	}
	o.Each = func(s queue.Step) error {
		item := handItem{ID: s.ID.String(), Action: v.done, Recipients: s.Recipients}
		if s.Err != nil {
			item.Action, item.Problem = "none", v.problem(s.ID, s.Err).Error()
		} else if !r.Each {
			return nil
		}
		return emit(handAnswer{Item: &item})
	}
	o.Progress = func(t queue.Tally) error {
		if time.Since(said) < often {
			return nil
		}
		said = time.Now()
		return emit(handAnswer{Progress: summary(t)})
	}
	tally, err := d.queue.Many(ctx, o)
	if err != nil {
		return err
	}
	return emit(handAnswer{Summary: summary(tally)})
}

// routeOf is hops for one message.
func (d *desk) routeOf(id storage.ID) queue.Route {
	return func(ctx context.Context, address string) ([]pipeline.Hop, error) { return d.hops(ctx, id, address) }
}

// hops says where a queued message goes for an address now, as route would. An address at another server that its origin
// may not write to was added by a plugin, and is a forward (route.Stage.Target).
func (d *desk) hops(ctx context.Context, id storage.ID, address string) ([]pipeline.Hop, error) {
	item, err := queue.Show(ctx, d.store.KV(), id)
	if err != nil {
		return nil, err
	}
	table := d.table()
	way, err := table.Resolve(ctx, route.Asked{Address: address, Origin: sdk.Origin(item.Origin), Sender: item.Sender})
	if errors.Is(err, route.ErrNotHosted) {
		way, err = table.ResolveTargets(ctx, "", []string{address})
	}
	if err != nil {
		return nil, err
	}
	return table.Hops(item.Sender, way.Targets), nil
}

func (a *app) verbCommands(group string) []*cobra.Command {
	var list []*cobra.Command
	for _, v := range verbs {
		if v.group == group {
			list = append(list, a.verbCommand(v))
		}
	}
	return list
}

func (a *app) verbCommand(v verb) *cobra.Command {
	var f filterFlags
	var r handRequest
	cmd := &cobra.Command{
		Use:     v.name + " {ID... | FILTERS | --all}",
		Short:   v.short,
		Long:    v.short + "." + filterHelp,
		Example: v.long,
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.ready(); err != nil {
				return err
			}
			if len(args) == 0 && f.Empty() && !f.all {
				return usagef("%s needs a queue ID, a filter such as --domain example.net, or --all; sluice %s list shows what there is", cmd.CommandPath(), v.group)
			}
			if len(args) > 0 && (!f.Empty() || f.all) {
				return usagef("%s takes queue IDs, or filters, or --all", cmd.CommandPath())
			}
			if v.verb == queue.Reroute && r.Via == "" {
				return usagef("%s needs --via smtp://host:port, lmtp://host:port, mx or default", cmd.CommandPath())
			}
			if _, err := viaOf(r.Via); err != nil {
				return usagef("%s: %v", cmd.CommandPath(), err)
			}
			r.IDs, r.Filter, r.All, r.Each = args, f.Filter, f.all, a.json
			return a.byHand(cmd.Context(), v, &r)
		},
	}
	f.add(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&f.all, "all", false, "everything")
	flags.BoolVar(&r.DryRun, "dry-run", false, "only count; nothing is changed")
	flags.StringVar(&r.After, "after", "", "go on behind this `ID`, after an interruption")
	switch v.verb {
	case queue.Reroute:
		flags.StringVar(&r.Via, "via", "", "the next `HOP`: smtp://host:port, lmtp://host:port, lmtp:///path, mx (its MX records), default (what the configuration says)")
	case queue.Bounce:
		flags.StringVar(&r.Text, "text", "", "`TEXT` for the sender: why")
	case queue.Retry, queue.Release:
		flags.BoolVar(&r.Force, "force", false, "take the addresses off the suppression list first")
	}
	return cmd
}

// byHand runs a verb and shows what it has done.
func (a *app) byHand(ctx context.Context, v verb, r *handRequest) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	shown := handShown{app: a}
	if f, ok := a.stderr.(*os.File); ok {
		shown.terminal = isTerminal(f)
	}
	err = a.perform(ctx, c, v.operation(), r, func(raw json.RawMessage) error {
		var answer handAnswer
		if err := json.Unmarshal(raw, &answer); err != nil {
			return fmt.Errorf("read the answer to %s: %w", v.name, err)
		}
		return shown.show(&answer)
	})
	shown.clear()
	if err != nil && ctx.Err() != nil && shown.last != nil && shown.last.Last != "" {
		return fmt.Errorf("stopped after %d messages were %s; go on with --after %s", shown.last.Messages, v.done, shown.last.Last)
	}
	if err == nil && shown.trouble > 0 {
		return errSilent
	}
	return err
}

// handShown shows an answer.
type handShown struct {
	*app
	terminal bool
	line     bool // a line of progress stands there
	last     *handSummary
	trouble  int
}

func (s *handShown) show(answer *handAnswer) error {
	switch {
	case answer.Progress != nil:
		s.last = answer.Progress
		if s.terminal {
			s.line = true
			fmt.Fprintf(s.stderr, "\r%d messages %s so far", s.last.Messages, s.last.Action)
		}
		return nil
	case s.json && answer.Item != nil:
		return json.NewEncoder(s.stdout).Encode(answer.Item)
	case s.json && answer.Summary != nil:
		s.trouble = answer.Summary.Busy + answer.Summary.Failed
		return json.NewEncoder(s.stdout).Encode(answer.Summary)
	}
	s.clear()
	if item := answer.Item; item != nil {
		if item.Problem != "" {
			fmt.Fprintf(s.stderr, "sluice: %s: %s\n", item.ID, plain(item.Problem))
			return nil
		}
		_, err := fmt.Fprintf(s.stdout, "%s is %s for %d recipients\n", item.ID, item.Action, item.Recipients)
		return err
	}
	if sum := answer.Summary; sum != nil {
		s.trouble = sum.Busy + sum.Failed
		verb := "were"
		if sum.DryRun {
			verb = "would be"
		}
		fmt.Fprintf(s.stdout, "%d messages (%d recipients) %s %s", sum.Messages, sum.Recipients, verb, sum.Action)
		if sum.Busy > 0 {
			fmt.Fprintf(s.stdout, "; %d were being delivered, try again in a moment", sum.Busy)
		}
		if sum.Failed > 0 {
			fmt.Fprintf(s.stdout, "; %d failed", sum.Failed)
		}
		fmt.Fprintln(s.stdout)
	}
	return nil
}

// clear removes a line of progress.
func (s *handShown) clear() {
	if s.line {
		s.line = false
		fmt.Fprint(s.stderr, "\r\x1b[K")
	}
}
