package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/dsn"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/route"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
)

// notifier makes the notices of the queue: dsn writes them, and route, where
// generated mail enters, says where they go (RULES A8).
type notifier struct {
	hostname   string
	postmaster func() string
	store      *storage.Store
	table      func() *route.Table
}

// Notice implements queue.Notifier.
func (n *notifier) Notice(ctx context.Context, notice *queue.Notice) (*pipeline.Message, string, error) {
	m := &pipeline.Message{
		ID: n.store.NewID(), Origin: sdk.Generated, Pipeline: notice.Entry.Pipeline, Received: time.Now(), Trace: &trace.Trace{},
		Recipients: []*pipeline.Recipient{{
			Address: notice.Entry.Sender,
			Params:  pipeline.RecipientParams{Notify: []string{"NEVER"}}, // never a notice about a notice
		}},
	}
	switch err := n.write(ctx, m, notice); {
	case errors.Is(err, dsn.ErrAddress), errors.Is(err, dsn.ErrNullSender), errors.Is(err, dsn.ErrNotWanted):
		return nil, err.Error(), nil // trying again would not help
	case err != nil:
		return nil, "", err
	}
	m.Trace.Head = trace.Head{
		ID: m.ID.String(), Received: m.Received, Origin: string(m.Origin), Pipeline: m.Pipeline,
		Recipients: []string{notice.Entry.Sender}, Size: m.Content.Size(),
	}
	if err := route.New(n.table(), n.store, nil).Process(ctx, m); err != nil {
		m.Content.Discard()
		return nil, "", err
	}
	r := m.Recipients[0]
	if r.Opinion.Action == sdk.Reject || len(r.Hops) == 0 {
		m.Content.Discard()
		return nil, "the sender can't be reached: " + r.Opinion.Why, nil
	}
	return m, "", nil
}

// write gives m the content of the notice.
func (n *notifier) write(ctx context.Context, m *pipeline.Message, notice *queue.Notice) error {
	report := n.report(m, notice)
	original, err := n.store.OpenContent(ctx, notice.Entry.Content, notice.About[0].Recipient.Variant, nil)
	if err != nil {
		return fmt.Errorf("open the original of %s: %w", notice.Entry.ID, err)
	}
	defer original.Close()
	report.Original, report.OriginalSize = original, original.Size()
	spool := n.store.Blobs().NewSpool()
	params, err := dsn.Write(spool, report)
	if err != nil {
		spool.Discard()
		return fmt.Errorf("write the notice about %s: %w", notice.Entry.ID, err)
	}
	draft, err := spool.Finish()
	if err != nil {
		return fmt.Errorf("write the notice about %s: %w", notice.Entry.ID, err)
	}
	m.Params.SMTPUTF8 = params.SMTPUTF8
	if params.EightBit {
		m.Params.Body = "8BITMIME"
	}
	if err := m.SetContent(draft); err != nil {
		draft.Discard()
		return err
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
