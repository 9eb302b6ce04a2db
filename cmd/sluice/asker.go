package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
)

// asker shows a plugin process to the stages: it translates their questions and
// the host's failures.
type asker struct {
	plugin *pluginhost.Plugin
	config pluginhost.Config
	logger *slog.Logger
}

func (a *asker) Name() string           { return a.config.Name }
func (a *asker) Manifest() sdk.Manifest { return a.plugin.Manifest() }
func (a *asker) Shadow() bool           { return a.config.Mode == pluginhost.Shadow }

// OnFailure implements pipeline.Asker.
func (a *asker) OnFailure(kind pipeline.FailureKind) (sdk.Action, bool) {
	return a.config.Policy(pluginhost.Kind(kind))
}

// Ask implements pipeline.Asker. A shadow plugin is asked for the record only.
func (a *asker) Ask(ctx context.Context, q *pipeline.Question) (sdk.Verdict, error) {
	m := q.Message
	variant := q.Version.Variant(m.Arrived())
	question := &pluginhost.Question{
		Envelope:   q.Envelope(),
		Size:       variant.Size(m.Content.Size()),
		HeaderSize: q.Version.HeaderSize(),
		Open: func() (io.Reader, error) {
			r, err := m.Open(q.Version)
			if err != nil {
				return nil, err
			}
			return r.Section(0, r.Size()), nil
		},
		Key: func() [sha256.Size]byte { return contentKey(m) },
	}
	verdict, _, err := a.plugin.Ask(ctx, question)
	if a.Shadow() {
		a.record(m, verdict, err)
		return sdk.Verdict{}, nil
	}
	var failure *pluginhost.Failure
	if errors.As(err, &failure) {
		return sdk.Verdict{}, &pipeline.Failure{Kind: pipeline.FailureKind(failure.Kind), Err: failure.Err}
	}
	return verdict, err
}

// record writes what a shadow plugin would have said.
func (a *asker) record(m *pipeline.Message, v sdk.Verdict, err error) {
	event := trace.Event{
		At: time.Now(), Stage: "shadow", Plugin: a.Name(), Version: a.Manifest().Version,
		Action: v.Action.String(), Score: v.Score, Reasons: v.Reasons, Detections: v.Detections,
	}
	if err != nil {
		event.Action, event.Text = "failed", err.Error()
	}
	m.Trace.Add(event)
}

// contentKey recognises a message that killed a plugin when it comes again.
func contentKey(m *pipeline.Message) (key [sha256.Size]byte) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(m.Content, 0, m.Content.Size())); err != nil {
		return key
	}
	h.Sum(key[:0])
	return key
}
