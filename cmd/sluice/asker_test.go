package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/kv/pebble"
)

// slowProcess is a plugin that answers when the test lets it.
type slowProcess struct {
	asked  *pluginhost.Question
	record func(sdk.Verdict, time.Duration, error)
}

func (s *slowProcess) Manifest() sdk.Manifest {
	return sdk.Manifest{Version: "1", Changes: []sdk.ChangeKind{sdk.AddField, sdk.ReplaceBody}}
}

func (s *slowProcess) Ask(context.Context, *pluginhost.Question) (sdk.Verdict, time.Duration, error) {
	return sdk.Verdict{}, 0, errors.New("somebody waits for a shadow plugin")
}

func (s *slowProcess) Observe(q *pluginhost.Question, record func(sdk.Verdict, time.Duration, error)) {
	s.asked, s.record = q, record
}

// TestShadow: a plugin in shadow mode is asked and recorded, never obeyed and never waited for.
func TestShadow(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	store, err := storage.Open(t.Context(), storage.Options{Dir: "data", FS: vfs.NewMem(), Logger: logger, Pebble: pebble.Options{MinFree: -1}})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close(context.Background())
	s := &server{store: store, logger: logger}
	plugin := &slowProcess{}
	a := &asker{plugin: plugin, config: pluginhost.Config{Name: "ghost", Mode: pluginhost.Shadow}, stage: "anti-spam", record: s.recordShadow}
	panel := &pipeline.Panel{Stage: "anti-spam", Askers: []pipeline.Asker{a}}

	spool := store.Blobs().NewSpool()
	_, _ = io.WriteString(spool, "Subject: x\r\n\r\nhello\r\n")
	draft, err := spool.Finish()
	if err != nil {
		t.Fatal(err)
	}
	m := &pipeline.Message{
		ID: store.NewID(), Trace: &trace.Trace{}, Tags: map[string]string{"spf": "pass"},
		Recipients: []*pipeline.Recipient{{Address: "alice@example.test"}},
	}
	if err := m.SetContent(draft); err != nil {
		t.Fatal(err)
	}
	if answers := panel.Ask(t.Context(), m); len(answers) != 0 {
		t.Errorf("obeyed: %+v", answers)
	}
	m.Tags["later"] = "1"
	if _, shared := plugin.asked.Envelope.Tags["later"]; shared || plugin.asked.Envelope.Tags["spf"] != "pass" {
		t.Errorf("tags of the question: %v", plugin.asked.Envelope.Tags)
	}
	draft.Discard() // the message is gone when the answer comes
	head := trace.Trace{Head: trace.Head{ID: m.ID.String()}}
	if err := keepTrace(store, m.ID, &head); err != nil {
		t.Fatal(err)
	}
	plugin.record(sdk.Verdict{Action: sdk.Reject, Score: 7}, time.Second, nil)
	plugin.record(sdk.Verdict{
		Changes: []sdk.Change{{Kind: sdk.AddField, Name: "X-A", Value: "1"}, {Kind: sdk.RemoveField, Name: "Subject"}, {Kind: sdk.AddField, Name: "X-Sluice-A"}},
		Recipients: []sdk.RecipientVerdict{
			{Recipient: "alice@example.test", Action: sdk.Junk, Score: 2.5, Changes: []sdk.Change{{Kind: sdk.ReplaceBody}}},
		},
	}, time.Second, nil)
	plugin.record(sdk.Verdict{}, time.Second, &pluginhost.Failure{Kind: pluginhost.Busy, Err: errors.New("too many")})
	story, err := trace.Get(t.Context(), store.KV(), m.ID)
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, e := range story.Events {
		words = append(words, e.Stage+" "+e.Plugin+" "+e.Action)
	}
	if got := strings.Join(words, "; "); got != "anti-spam ghost shadow reject; anti-spam ghost shadow accept; anti-spam ghost shadow failed" {
		t.Errorf("the trace says %q", got)
	}
	wanted := story.Events[1]
	if got := strings.Join(wanted.Changes, "; "); got != "not made: add field X-A; refused: remove field Subject; refused: add field X-Sluice-A; not made: replace body for alice@example.test" {
		t.Errorf("the changes are %q", got)
	}
	if wanted.Text != "not obeyed: mode = shadow; junk for alice@example.test, score +2.5" {
		t.Errorf("the text is %q", wanted.Text)
	}
}

func keepTrace(store *storage.Store, id storage.ID, tr *trace.Trace) error {
	var b kv.Batch
	trace.Put(&b, id, tr)
	_, err := store.KV().Apply(context.Background(), &b)
	return err
}
