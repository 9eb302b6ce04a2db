package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/storage"
)

// traceRequest asks for the traces of the messages that Word finds: a queue ID,
// an address or a Message-ID.
type traceRequest struct {
	Word  string `json:"word"`
	Limit int    `json:"limit"`
}

// tracedStory is a trace, and what is still in the queue of its message.
type tracedStory struct {
	*trace.Story
	Queued []queue.RecipientItem `json:"queued,omitempty"`
}

// maxTraces bounds the messages of one answer.
const maxTraces = 10_000

func traceOperation() operation {
	return operation{"trace", typedDesk(func(ctx context.Context, d *desk, r traceRequest, emit func(any) error) error {
		return findTraces(ctx, d.store, r, func(found any) error {
			story := found.(*trace.Story)
			id, err := storage.ParseID(story.ID)
			if err != nil {
				return emit(tracedStory{Story: story})
			}
			item, err := d.queue.Show(ctx, id)
			if err != nil && !errors.Is(err, queue.ErrNotFound) {
				return err
			}
			return emit(tracedStory{story, item.Recipients})
		})
	})}
}

// findTraces hands the stories to emit.
func findTraces(ctx context.Context, s *storage.Store, r traceRequest, emit func(any) error) error {
	ids, err := tracedIDs(ctx, s, r)
	if err != nil {
		return err
	}
	for _, id := range ids {
		story, err := trace.Get(ctx, s.KV(), id)
		if errors.Is(err, trace.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if err := emit(story); err != nil {
			return err
		}
	}
	return nil
}

func tracedIDs(ctx context.Context, s *storage.Store, r traceRequest) ([]storage.ID, error) {
	limit := min(max(r.Limit, 1), maxTraces)
	if r.Word == "" {
		return trace.Latest(ctx, s.KV(), limit)
	}
	if id, err := storage.ParseID(r.Word); err == nil {
		if _, err := trace.Get(ctx, s.KV(), id); err == nil {
			return []storage.ID{id}, nil
		}
	}
	ids, err := trace.Find(ctx, s.KV(), r.Word, limit)
	if err == nil && len(ids) == 0 {
		err = fmt.Errorf("no message with the ID, address or Message-ID %q; traces are kept for 30 days", r.Word)
	}
	return ids, err
}

const traceLong = `Shows what happened to a message: who was asked, what they said, where it went. A word finds messages by queue ID, by
the address of their sender or of a recipient, or by Message-ID; without one they are the newest.

MS is how many milliseconds it took: a plugin its answer, a stage all that it did, a delivery its attempt. In the lines of
receive and in "queued", with a +, it is the time since MAIL FROM, what the client took for the rest included. --json has it in
nanoseconds, took_ns, and the time of each line's end.`

func (a *app) traceCommand() *cobra.Command {
	request := traceRequest{Limit: 10}
	cmd := &cobra.Command{
		Use:   "trace [ID|ADDRESS|MESSAGE-ID]",
		Short: "show what happened to a message: who was asked, what they said, where it went",
		Long:  traceLong,
		Args:  atMost("a word"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				request.Word = strings.TrimSpace(args[0])
			}
			n := 0
			err := show(cmd.Context(), a, traceOperation(), request, func(w io.Writer, s tracedStory) { n++; printStory(w, s) })
			if err == nil && n == 0 && !a.json {
				_, err = fmt.Fprintln(a.stdout, "there are no traces: no message has come yet")
			}
			return err
		},
	}
	limitFlag(cmd, &request.Limit, maxTraces, "at most so many `messages`, newest first")
	return cmd
}

// printStory prints one message's trace as a table.
func printStory(w io.Writer, s tracedStory) {
	if s.Story == nil {
		return
	}
	fmt.Fprintf(w, "%s  %s  from <%s> to <%s>  %d octets\n", s.ID, s.Received.Local().Format(time.DateTime), s.Sender,
		strings.Join(s.Recipients, ">, <"), s.Size)
	fmt.Fprintf(w, "  %s by listener %s, pipeline %s, from %s\n", s.Origin, orDash(s.Listener), s.Pipeline, client(s.Head))
	t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	fmt.Fprintln(t, "  STAGE\tWHO\tVERDICT\tSCORE\tMS\tWHY")
	for _, e := range s.Events {
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\n", e.Stage, orDash(who(e)), e.Action, score(e), took(&e), because(e))
	}
	if slices.ContainsFunc(s.Events, sinceMail) {
		fmt.Fprintln(t, "  + counted from the beginning, MAIL FROM")
	}
	t.Flush()
	for i := range s.Queued {
		printQueued(w, &s.Queued[i])
	}
	fmt.Fprintln(w)
}

// printQueued says what a recipient waits for whose story has no end yet.
func printQueued(w io.Writer, r *queue.RecipientItem) {
	fmt.Fprintf(w, "  %s: <%s> to %s, %d attempts", r.State, r.Address, r.Hop, r.Attempts)
	if r.Waits != nil {
		fmt.Fprintf(w, ", %s", waitText(r.Waits))
	}
	fmt.Fprintln(w)
}

func client(h trace.Head) string {
	text := orDash(h.Client)
	if h.ClientName != "" {
		text += " (" + h.ClientName + ")"
	}
	if h.Helo != "" {
		text += " helo " + h.Helo
	}
	if h.TLS != "" {
		text += ", " + h.TLS
	}
	if h.Login != "" {
		text += ", logged in as " + h.Login
	}
	return text
}

func who(e trace.Event) string {
	var words []string
	for _, word := range []string{e.Plugin, e.Version, e.Recipient} {
		if word != "" {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}

func score(e trace.Event) string {
	if e.Score == 0 {
		return "-"
	}
	return strconv.FormatFloat(e.Score, 'f', -1, 64)
}

// sinceMail reports whether an event's Took begins with the transaction: there the line is about all of it.
func sinceMail(e trace.Event) bool {
	return e.Plugin == "" && e.Took > 0 && (e.Stage == pipeline.StageReceive || e.Stage == pipeline.StageQueue && e.Action == "queued")
}

func took(e *trace.Event) string {
	if sinceMail(*e) {
		return "+" + millis(e.Took)
	}
	return millis(e.Took)
}

func millis(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000) }

// because puts an event's reasons into one line.
func because(e trace.Event) string {
	var parts []string
	for _, d := range e.Detections {
		parts = append(parts, "found "+d)
	}
	for _, r := range e.Reasons {
		text := r.Symbol
		if r.Score != 0 {
			text += fmt.Sprintf("=%g", r.Score)
		}
		if r.Text != "" {
			text += " (" + r.Text + ")"
		}
		parts = append(parts, text)
	}
	if e.Text != "" {
		parts = append(parts, e.Text)
	}
	parts = append(parts, e.Changes...)
	return strings.Join(parts, "; ")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
