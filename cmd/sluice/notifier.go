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
	m := n.message(notice.Entry.Pipeline, notice.To, time.Now())
	m.Params.TLS = notice.Entry.Params.TLS // it tells of the message: the same protection (RFC 8689 section 5)
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
	if notice.About[0].Kind == queue.NoticeKept {
		_, err := dsn.WriteKept(w, n.kept(m, notice))
		return err
	}
	report := n.report(m, notice)
	original, err := n.store.OpenContent(ctx, notice.Entry.Content, notice.About[0].Recipient.Variant, nil)
	switch {
	case err == nil:
		defer original.Close()
		report.Original, report.OriginalSize = original, original.Size()
	case ctx.Err() != nil:
		return ctx.Err()
	default: // the sender is told all the same, without what the message said: a damaged one would be tried again for ever
	}
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

// kept is what the owner of an alias is told, or postmaster.
func (n *notifier) kept(m *pipeline.Message, notice *queue.Notice) *dsn.Kept {
	e, r, o := notice.Entry, notice.About[0].Recipient, &notice.About[0].Outcome
	plugin := r.Added
	if len(r.Instead) > 0 {
		plugin = "" // the sender knows the address in whose place it is
	}
	return &dsn.Kept{
		ID: m.ID.String(), ReportingMTA: n.hostname, Postmaster: n.postmaster(), Date: m.Received,
		Owner: notice.To, Alias: r.Address, Plugin: plugin, Target: r.Hop.Address, QueueID: e.ID.String(), Sender: e.Sender, Arrival: e.Received,
		RemoteMTA: o.Remote, Diagnostic: o.Reply, Why: o.Text,
	}
}

// actionOf is what a report says of a kind of notice.
func actionOf(kind queue.NoticeKind) dsn.Action {
	switch kind {
	case queue.NoticeDelayed:
		return dsn.Delayed
	case queue.NoticeDelivered:
		return dsn.Delivered
	case queue.NoticeRelayed:
		return dsn.Relayed
	}
	return dsn.Failed
}

func (n *notifier) report(m *pipeline.Message, notice *queue.Notice) *dsn.Report {
	e := notice.Entry
	var told []dsn.Recipient
	for _, about := range notice.About {
		r := about.Recipient
		one := dsn.Recipient{
			Address: r.Address, ORcpt: r.Params.ORcpt, Notify: r.Params.Notify, Action: actionOf(about.Kind),
			Status: about.Outcome.Status, RemoteMTA: about.Outcome.Remote, Diagnostic: about.Outcome.Reply,
			LastAttempt: about.Outcome.Start, WillRetryUntil: about.Until,
		}
		if one.Diagnostic == "" {
			one.Why = about.Outcome.Text
		}
		told = append(told, one)
	}
	return &dsn.Report{
		ID: m.ID.String(), ReportingMTA: n.hostname, Postmaster: n.postmaster(), Date: m.Received,
		Sender: e.Sender, QueueID: e.ID.String(), Arrival: e.Received, EnvelopeID: e.Params.EnvID,
		Ret: returned(&e.Params), SMTPUTF8: e.Params.SMTPUTF8, Recipients: told,
	}
}

// returned is RET as it counts: of a message with REQUIRETLS the header alone comes back (RFC 8689 section 5).
func returned(p *pipeline.SenderParams) string {
	if p.TLS {
		return "HDRS"
	}
	return p.Ret
}
