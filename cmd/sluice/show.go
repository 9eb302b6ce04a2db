package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/mime"
)

type queueShowRequest struct {
	ID     string `json:"id"`
	Header bool   `json:"header,omitempty"`
}

// shownItem is one message of the queue, and its header where that was asked for.
type shownItem struct {
	queue.Item
	Headers []shownHeader `json:"headers,omitempty"` // one for each version
}

// shownHeader is the header as some recipients get it.
type shownHeader struct {
	To     []string `json:"to"`
	Header string   `json:"header"`         // with CRLF, as it is but for what is no UTF-8
	More   bool     `json:"more,omitempty"` // it is longer than maxShown
}

// maxShown bounds the header of a version that is shown, in octets; a whole header may have a MiB.
const maxShown = 64 << 10

func queueShowOperation() operation {
	return operation{"queue/show", typedDesk(func(ctx context.Context, d *desk, r queueShowRequest, emit func(any) error) error {
		id, err := queueID(r.ID)
		if err != nil {
			return err
		}
		item, err := d.queue.Show(ctx, id)
		if err != nil {
			return notShown(id, err)
		}
		shown := shownItem{Item: item}
		if r.Header {
			if shown.Headers, err = headersOf(ctx, d.queue, id); err != nil {
				return notShown(id, err)
			}
		}
		return emit(shown)
	})}
}

func queueID(text string) (storage.ID, error) {
	id, err := storage.ParseID(text)
	if err != nil {
		return id, fmt.Errorf("%q is not a queue ID; sluice queue list shows them", text)
	}
	return id, nil
}

func notShown(id storage.ID, err error) error {
	return fmt.Errorf("show %s: %w; sluice trace %s tells where it went", id, err, id)
}

func headersOf(ctx context.Context, q *queue.Queue, id storage.ID) ([]shownHeader, error) {
	versions, err := q.Versions(ctx, id)
	if err != nil {
		return nil, err
	}
	var list []shownHeader
	for _, v := range versions {
		c, err := q.Open(ctx, id, v)
		if err != nil {
			return nil, err
		}
		text := make([]byte, min(c.Size(), maxShown))
		n, err := c.ReadAt(text, 0)
		closeErr := c.Close()
		if err != nil && err != io.EOF {
			return nil, err
		}
		if closeErr != nil {
			return nil, closeErr
		}
		end := mime.HeaderEnd(text[:n])
		list = append(list, shownHeader{To: v.To, Header: string(text[:end]), More: end == n && int64(n) < c.Size()})
	}
	return list, nil
}

type queueRawRequest struct {
	ID string `json:"id"`
	To string `json:"to,omitempty"`
}

// rawPiece is some octets of a message, in order.
type rawPiece struct {
	Octets []byte `json:"octets"`
}

// queueRawOperation hands out the octets of a message as a recipient gets them.
func queueRawOperation() operation {
	return operation{"queue/raw", typedDesk(func(ctx context.Context, d *desk, r queueRawRequest, emit func(any) error) error {
		id, err := queueID(r.ID)
		if err != nil {
			return err
		}
		versions, err := d.queue.Versions(ctx, id)
		if err != nil {
			return notShown(id, err)
		}
		if r.To != "" {
			versions = slices.DeleteFunc(versions, func(v queue.Version) bool {
				return !slices.ContainsFunc(v.To, func(to string) bool { return strings.EqualFold(to, r.To) })
			})
		}
		switch len(versions) {
		case 0:
			return fmt.Errorf("%s has no recipient %s; sluice queue show %s lists them", id, r.To, id)
		case 1:
		default:
			return fmt.Errorf("the recipients of %s get %d different versions; choose one with --to ADDRESS, sluice queue show %s --header lists them",
				id, len(versions), id)
		}
		c, err := d.queue.Open(ctx, id, versions[0])
		if err != nil {
			return notShown(id, err)
		}
		defer c.Close()
		buf := make([]byte, 256<<10)
		for in := c.Reader(); ; {
			n, err := io.ReadFull(in, buf)
			if n > 0 {
				if err := emit(rawPiece{buf[:n]}); err != nil {
					return err
				}
			}
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				return nil
			}
			if err != nil {
				return fmt.Errorf("read %s: %w", id, err)
			}
		}
	})}
}

// showCommand is `sluice queue show` and `sluice quarantine show`.
func (a *app) showCommand(group, short string) *cobra.Command {
	var request queueShowRequest
	raw, to := false, ""
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: short,
		Long: "Show one message: its envelope, and what each recipient waits for. With --header also its header, once for each version where\n" +
			"plugins have changed it for some recipients; what could harm a terminal is replaced by '?'. With --raw nothing but the octets\n" +
			"of the whole message as they would be delivered, for a file or another program.",
		Example: "  sluice " + group + " show 06H03TY7J705RHB2 --header\n  sluice " + group + " show 06H03TY7J705RHB2 --raw > message.eml",
		Args:    exactArgs("a queue ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case raw && (request.Header || a.json):
				return usagef("--raw goes neither with --header nor with --json: it is the octets and nothing else")
			case !raw && to != "":
				return usagef("--to chooses a version for --raw; usage: %s", cmd.UseLine())
			case raw:
				return a.showRaw(cmd.Context(), queueRawRequest{args[0], strings.Trim(to, "<>")})
			}
			request.ID = args[0]
			return show(cmd.Context(), a, queueShowOperation(), request, printShown)
		},
	}
	cmd.Flags().BoolVar(&request.Header, "header", false, "with its header, at most 64 KiB of it")
	cmd.Flags().BoolVar(&raw, "raw", false, "the octets of the message alone")
	cmd.Flags().StringVar(&to, "to", "", "with --raw: as this `ADDRESS` gets it")
	return cmd
}

func (a *app) showRaw(ctx context.Context, r queueRawRequest) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	return a.perform(ctx, c, queueRawOperation(), r, func(raw json.RawMessage) error {
		var piece rawPiece
		if err := json.Unmarshal(raw, &piece); err != nil {
			return fmt.Errorf("read the answer to queue/raw: %w", err)
		}
		_, err := a.stdout.Write(piece.Octets)
		return err
	})
}

func printShown(w io.Writer, s shownItem) {
	printItem(w, s.Item)
	for _, h := range s.Headers {
		fmt.Fprintln(w)
		if len(s.Headers) > 1 {
			fmt.Fprintf(w, "for <%s>:\n", strings.Join(h.To, ">, <"))
		}
		text := strings.ReplaceAll(strings.TrimRight(h.Header, "\r\n"), "\r\n", "\n")
		fmt.Fprintln(w, strings.ReplaceAll(text, "\t", "        "))
		if h.More {
			fmt.Fprintf(w, "and more than these %d octets; --raw has all of it\n", len(h.Header))
		}
	}
}
