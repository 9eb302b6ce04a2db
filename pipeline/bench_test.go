package pipeline

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/blob"
)

// noop reads the whole message, as a plugin's host would, and has no objection.
type noop struct{ plugin }

func (n *noop) Ask(_ context.Context, q *Question) (sdk.Verdict, error) {
	_ = q.Envelope()
	r, err := q.Content()
	if err != nil {
		return sdk.Verdict{}, err
	}
	var buf [8 << 10]byte
	_, err = r.Section(0, r.Size()).Read(buf[:])
	return sdk.Verdict{}, err
}

type drop struct{}

func (drop) Commit(context.Context, *Message) error { return nil }
func (drop) Refused(context.Context, *Message)      {}

// BenchmarkSubmit is what the pipeline itself costs for a message of 4 KiB, with so many
// plugins in anti-spam that take the whole message.
func BenchmarkSubmit(b *testing.B) {
	blobs, err := blob.Open(vfs.NewMem(), "blob", blob.NewBudget(64<<20), 64<<10, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	text := "From: a@example.net\r\nSubject: x\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 57)
	for _, n := range []int{0, 1, 2, 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var askers []Asker
			for i := range n {
				askers = append(askers, &noop{plugin{name: fmt.Sprint(i)}})
			}
			p := New(Options{
				Name: "inbound", Stages: []Stage{scan(&Panel{Stage: StageAntiSpam, Askers: askers})}, Router: everybody{}, Queue: drop{},
				Deadline: time.Minute, MaxSize: 1 << 20, Logger: slog.New(slog.DiscardHandler), Blobs: blobs,
			})
			ctx := context.Background()
			b.ReportAllocs()
			for b.Loop() {
				sp := blobs.NewSpool()
				_, _ = io.WriteString(sp, text)
				draft, err := sp.Finish()
				if err != nil {
					b.Fatal(err)
				}
				m := &Message{ID: storage.ID{1}, Origin: sdk.Stranger, Peer: &Peer{}, Sender: "a@example.net", Received: time.Now(), Trace: &trace.Trace{}}
				p.Sender(ctx, m)
				p.Recipient(ctx, m, "a@example.test", RecipientParams{})
				m.Recipients[0].Hops = []Hop{{Kind: HopMailbox}}
				if err := m.SetContent(draft); err != nil {
					b.Fatal(err)
				}
				if r := p.Submit(ctx, m); !r.Committed {
					b.Fatal(r.Reply)
				}
			}
		})
	}
}
