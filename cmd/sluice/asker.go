package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
)

// process is a plugin as an asker needs it; *pluginhost.Plugin is one.
type process interface {
	Manifest() sdk.Manifest
	Ask(context.Context, *pluginhost.Question) (sdk.Verdict, time.Duration, error)
	Observe(*pluginhost.Question, func(sdk.Verdict, time.Duration, error))
}

// asker shows a plugin process to the stages: it translates their questions and
// the host's failures.
type asker struct {
	plugin process
	config pluginhost.Config
	stage  string

	// record keeps what a shadow plugin would have said about a message. It is called
	// when the answer comes, which may be after the message was committed or refused.
	record func(id storage.ID, e trace.Event)
}

func (a *asker) Name() string           { return a.config.Name }
func (a *asker) Manifest() sdk.Manifest { return a.plugin.Manifest() }
func (a *asker) Shadow() bool           { return a.config.Mode == pluginhost.Shadow }

// OnFailure implements pipeline.Asker.
func (a *asker) OnFailure(kind pipeline.FailureKind) (sdk.Action, bool) {
	return a.config.Policy(pluginhost.Kind(kind))
}

// Ask implements pipeline.Asker. A shadow plugin is asked for the record only, and
// nobody waits for it: the host keeps a bounded copy of the content.
func (a *asker) Ask(ctx context.Context, q *pipeline.Question) (sdk.Verdict, error) {
	if a.Shadow() {
		a.observe(q)
		return sdk.Verdict{}, nil
	}
	own := question(q)
	verdict, _, err := a.plugin.Ask(ctx, own)
	q.By = own.By
	return outcome(verdict, err)
}

// Begin implements pipeline.Beginner.
func (a *asker) Begin(ctx context.Context, q *pipeline.Question) func() (sdk.Verdict, time.Duration, error) {
	plugin, ok := a.plugin.(*pluginhost.Plugin)
	if !ok || a.Shadow() {
		return nil
	}
	begun := plugin.Begin(ctx, question(q))
	if begun == nil {
		return nil
	}
	return func() (sdk.Verdict, time.Duration, error) {
		verdict, took, err := begun.Wait()
		verdict, err = outcome(verdict, err)
		return verdict, took, err
	}
}

// outcome translates the host's failures.
func outcome(verdict sdk.Verdict, err error) (sdk.Verdict, error) {
	var failure *pluginhost.Failure
	if errors.As(err, &failure) {
		return sdk.Verdict{}, &pipeline.Failure{Kind: pipeline.FailureKind(failure.Kind), Err: failure.Err}
	}
	return verdict, err
}

// question translates a stage's question for the host. In the phases before the
// content there is an envelope and nothing else.
func question(q *pipeline.Question) *pluginhost.Question {
	own := &pluginhost.Question{Phase: q.Phase, Envelope: *q.Envelope(), Body: q.NewBody}
	if q.Version == nil {
		return own
	}
	m := q.Message
	content, err := q.Content()
	own.HeaderSize = q.Version.HeaderSize()
	own.Open = func() (io.Reader, error) {
		if err != nil {
			return nil, err
		}
		return content.Section(0, content.Size()), nil
	}
	if err == nil {
		own.Size = content.Size()
	} else {
		own.Size = m.Content.Size() // so that Open is called, and fails
	}
	own.Parsed = q.Parsed
	own.Key = func() [sha256.Size]byte { return contentKey(m) }
	return own
}

// observe asks a shadow plugin.
func (a *asker) observe(q *pipeline.Question) {
	own := question(q)
	own.Envelope.Tags = maps.Clone(own.Envelope.Tags)               // later stages add to the message's
	own.Body = func() (io.Writer, error) { return io.Discard, nil } // it is not obeyed
	if own.Parsed != nil && a.Manifest().Parsed {
		parsed, err := q.Parsed() // now: the message may be gone when the plugin has its turn
		own.Parsed = func() (*sdk.Parsed, error) { return parsed, err }
	}
	a.plugin.Observe(own, func(v sdk.Verdict, took time.Duration, err error) {
		manifest := a.Manifest()
		e := trace.Event{
			At: time.Now(), Stage: a.stage, Plugin: a.Name(), Version: cmp.Or(own.By, &manifest).Version, Took: took,
			Action: "shadow " + v.Action.String(), Score: v.Score, Reasons: v.Reasons, Detections: v.Detections,
			Text: shadowText(&v),
		}
		if err == nil {
			e.Changes = pipeline.Wishes(&v, cmp.Or(own.By, &manifest), q.Phase)
		}
		if err != nil {
			e.Action, e.Text = "shadow failed", err.Error()
		}
		if q.Version == nil {
			e.Text = "at " + string(q.Phase) + ": " + e.Text
			if q.Recipient != nil {
				e.Recipient = q.Recipient.Address
			}
			q.Note(e) // too late is too late: before the content there may never be a trace
			return
		}
		a.record(q.Message.ID, e)
	})
}

// shadowText says what a shadow plugin wanted for some recipients alone.
func shadowText(v *sdk.Verdict) string {
	text := "not obeyed: mode = shadow"
	for _, r := range v.Recipients {
		if len(text) > trace.MaxText {
			break
		}
		if r.Action != v.Action || r.Score != 0 {
			text += fmt.Sprintf("; %s for %s", r.Action, r.Recipient)
			if r.Score != 0 {
				text += fmt.Sprintf(", score %+g", r.Score)
			}
		}
	}
	return text
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
