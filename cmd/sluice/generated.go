package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/route"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
)

// author makes the messages that the server writes itself: notices to senders, alerts, reports. They enter at route
// with origin generated and the null sender, and are sealed with the key of the domain that they are from (RULES A8).
type author struct {
	store  *storage.Store
	table  func() *route.Table
	sealer func(pipeline string) pipeline.Sealer // nil: nothing is signed
}

// message is a new message to one recipient, about whom nobody is ever told.
func (a *author) message(pipelineName, to string, at time.Time) *pipeline.Message {
	return &pipeline.Message{
		ID: a.store.NewID(), Origin: sdk.Generated, Pipeline: pipelineName, Received: at, Trace: &trace.Trace{},
		Recipients: []*pipeline.Recipient{{
			Address: to,
			Params:  pipeline.RecipientParams{Notify: []string{"NEVER"}}, // never a notice about a notice
		}},
	}
}

// finish gives m the octets that write writes, routes and seals it. After why or an error nothing is left of it: why
// says that its recipient can't be reached, and that trying again would not help.
func (a *author) finish(ctx context.Context, m *pipeline.Message, write func(io.Writer) error) (why string, err error) {
	spool := a.store.Blobs().NewSpool()
	if err := write(spool); err != nil {
		spool.Discard()
		return "", err
	}
	draft, err := spool.Finish()
	if err != nil {
		return "", err
	}
	if err := m.SetContent(draft); err != nil {
		draft.Discard()
		return "", err
	}
	why, err = a.send(ctx, m)
	if why != "" || err != nil {
		m.Discard()
	}
	return why, err
}

func (a *author) send(ctx context.Context, m *pipeline.Message) (why string, err error) {
	r := m.Recipients[0]
	m.Trace.Head = trace.Head{
		ID: m.ID.String(), Received: m.Received, Origin: string(m.Origin), Pipeline: m.Pipeline,
		Recipients: []string{r.Address}, Size: m.Content.Size(),
	}
	if err := route.New(a.table(), a.store, nil).Process(ctx, m); err != nil {
		return "", err
	}
	if r.Opinion.Action == sdk.Reject || len(r.Hops) == 0 {
		return r.Address + " can't be reached: " + r.Opinion.Why, nil
	}
	if a.sealer == nil {
		return "", nil
	}
	if sealer := a.sealer(m.Pipeline); sealer != nil {
		if err := sealer.Seal(ctx, m); err != nil {
			return "", fmt.Errorf("seal %s: %w", m.ID, err)
		}
	}
	return "", nil
}
