package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/dsn"
	"github.com/sluicemail/sluice/pipeline/queue"
)

// notifier makes the notices of the queue: dsn writes them, and the author sees to
// their way.
type notifier struct {
	author
	hostname   string
	postmaster func() string
}

// Notice implements queue.Notifier.
func (n *notifier) Notice(ctx context.Context, notice *queue.Notice) (*pipeline.Message, string, error) {
	m := n.message(notice.Entry.Pipeline, notice.Entry.Sender, time.Now())
	why, err := n.finish(ctx, m, func(w io.Writer) error { return n.write(ctx, w, m, notice) })
	switch {
	case errors.Is(err, dsn.ErrAddress), errors.Is(err, dsn.ErrNullSender), errors.Is(err, dsn.ErrNotWanted):
		return nil, err.Error(), nil // trying again would not help
	case err != nil:
		return nil, "", fmt.Errorf("write the notice about %s: %w", notice.Entry.ID, err)
	case why != "":
		return nil, why, nil
	}
	return m, "", nil
}

// write writes the notice, and says in m's envelope what it needs of its way.
func (n *notifier) write(ctx context.Context, w io.Writer, m *pipeline.Message, notice *queue.Notice) error {
	report := n.report(m, notice)
	original, err := n.store.OpenContent(ctx, notice.Entry.Content, notice.About[0].Recipient.Variant, nil)
	if err != nil {
		return fmt.Errorf("open the original: %w", err)
	}
	defer original.Close()
	report.Original, report.OriginalSize = original, original.Size()
	params, err := dsn.Write(w, report)
	if err != nil {
		return err
	}
	m.Params.SMTPUTF8 = params.SMTPUTF8
	if params.EightBit {
		m.Params.Body = "8BITMIME"
	}
	return nil
}

func (n *notifier) report(m *pipeline.Message, notice *queue.Notice) *dsn.Report {
	e := notice.Entry
	var told []dsn.Recipient
	for _, about := range notice.About {
		r := about.Recipient
		one := dsn.Recipient{
			Address: r.Address, ORcpt: r.Params.ORcpt, Notify: r.Params.Notify, Action: dsn.Failed,
			Why: about.Outcome.Text, LastAttempt: about.Outcome.Start,
		}
		if about.Kind == queue.NoticeDelayed {
			one.Action = dsn.Delayed
		}
		told = append(told, one)
	}
	return &dsn.Report{
		ID: m.ID.String(), ReportingMTA: n.hostname, Postmaster: n.postmaster(), Date: m.Received,
		Sender: e.Sender, QueueID: e.ID.String(), Arrival: e.Received, EnvelopeID: e.Params.EnvID,
		Ret: e.Params.Ret, SMTPUTF8: e.Params.SMTPUTF8, Recipients: told,
	}
}
