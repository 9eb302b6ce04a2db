package main

import (
	"context"
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
	"github.com/sluicemail/sluice/storage/blob"
)

// everywhere is a plugin of all phases; it keeps what it is asked, and what it could read then.
type everywhere struct {
	asked []*pluginhost.Question
	read  []string
}

func (e *everywhere) Manifest() sdk.Manifest {
	return sdk.Manifest{Name: "everywhere", Version: "1", Parsed: true, Changes: []sdk.ChangeKind{sdk.ReplaceBody},
		Phases: []sdk.Phase{sdk.PhaseConnect, sdk.PhaseSender, sdk.PhaseRecipient, sdk.PhaseContent, sdk.PhaseRoute}}
}

func (e *everywhere) Ask(_ context.Context, q *pluginhost.Question) (v sdk.Verdict, took time.Duration, err error) {
	e.asked = append(e.asked, q)
	if q.Open == nil {
		e.read = append(e.read, "")
		return v, 0, nil
	}
	r, err := q.Open()
	if err != nil {
		return v, 0, err
	}
	text, err := io.ReadAll(r)
	e.read = append(e.read, string(text))
	if err != nil {
		return v, 0, err
	}
	w, err := q.Body()
	if err != nil {
		return v, 0, err
	}
	if _, err := io.WriteString(w, "new\r\n"); err != nil {
		return v, 0, err
	}
	v.Changes = []sdk.Change{{Kind: sdk.ReplaceBody}}
	return v, 0, nil
}

func (e *everywhere) Observe(q *pluginhost.Question, record func(sdk.Verdict, time.Duration, error)) {
	e.asked = append(e.asked, q)
	record(sdk.Verdict{Action: sdk.Reject}, time.Millisecond, nil)
}

// rooms is a queue and a router that let everything pass.
type rooms struct{ committed string }

func (r *rooms) Commit(_ context.Context, m *pipeline.Message) error {
	text, err := m.Open(m.Recipients[0].Version)
	if err != nil {
		return err
	}
	octets, err := io.ReadAll(text.Section(0, text.Size()))
	r.committed = string(octets)
	return err
}
func (*rooms) Refused(context.Context, *pipeline.Message) {}

func (*rooms) Recipient(context.Context, *pipeline.Message, *pipeline.Recipient) pipeline.Reply {
	return pipeline.Reply{}
}

func (*rooms) Target(context.Context, *pipeline.Message, *pipeline.Recipient) pipeline.Reply {
	return pipeline.Reply{}
}

// ask is a stage that asks one panel.
type ask struct{ pipeline.Panel }

func (a *ask) Name() string { return a.Stage }
func (a *ask) Process(ctx context.Context, m *pipeline.Message) error {
	a.Settle(m, a.Ask(ctx, m))
	m.Recipients[0].Hops = []pipeline.Hop{{Kind: pipeline.HopMailbox, Address: "alice@example.test"}}
	return nil
}

// way takes a message through all phases of a pipeline with one plugin, and returns it.
func way(t *testing.T, plugin *everywhere, mode string, record func(storage.ID, trace.Event)) (*pipeline.Message, *rooms) {
	t.Helper()
	blobs, err := blob.Open(vfs.NewMem(), "blob", blob.NewBudget(1<<20), 64<<10, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	a := &asker{plugin: plugin, config: pluginhost.Config{Name: "everywhere", Mode: mode}, stage: "anti-spam", record: record}
	list := []pipeline.Asker{a}
	r := &rooms{}
	p := pipeline.New(pipeline.Options{
		Name: "inbound", Hostname: "mx.test", Early: list, Router: r, Queue: r, Deadline: time.Minute, MaxSize: 1 << 20,
		Logger: slog.New(slog.DiscardHandler), Blobs: blobs,
		Parse: func(_ io.ReaderAt, size int64) *sdk.Parsed { return &sdk.Parsed{URLs: []string{"x"}} },
		Stages: []pipeline.Stage{
			&ask{pipeline.Panel{Stage: pipeline.StageAntiSpam, Askers: list}},
			&ask{pipeline.Panel{Stage: pipeline.StageRoute, Phase: sdk.PhaseRoute, Askers: list}},
		},
	})
	ctx := context.Background()
	s := &pipeline.Session{Peer: pipeline.Peer{Session: "s-1"}, Origin: sdk.Stranger}
	m := &pipeline.Message{Session: s, Sender: "a@example.net", Peer: &pipeline.Peer{Session: "s-1"}, Origin: sdk.Stranger, Received: time.Now()}
	for _, reply := range []pipeline.Reply{p.Connect(ctx, s), p.Sender(ctx, m), p.Recipient(ctx, m, "alice@example.test", pipeline.RecipientParams{})} {
		if !reply.OK() {
			t.Fatal(reply)
		}
	}
	spool := blobs.NewSpool()
	_, _ = io.WriteString(spool, "Subject: x\r\n\r\nhello\r\n")
	draft, err := spool.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.SetContent(draft); err != nil {
		t.Fatal(err)
	}
	if result := p.Submit(ctx, m); !result.Committed {
		t.Fatal(result.Reply)
	}
	return m, r
}

// TestAskerInEveryPhase: the host is asked what the stage asks, with content where there is some,
// and the new body comes back.
func TestAskerInEveryPhase(t *testing.T) {
	plugin := &everywhere{}
	_, r := way(t, plugin, pluginhost.Enforce, nil)
	var phases []string
	for _, q := range plugin.asked {
		phases = append(phases, string(q.Phase))
		early := q.Phase != sdk.PhaseContent && q.Phase != sdk.PhaseRoute
		if (q.Open == nil) != early || (q.Parsed == nil) != early || (q.Key == nil) != early || (q.Size == 0) != early || q.Body == nil {
			t.Errorf("%s: %+v", q.Phase, q)
		}
		if q.Envelope.Session != "s-1" || q.Envelope.Server != "mx.test" || q.Envelope.Pipeline != "inbound" {
			t.Errorf("%s: envelope %+v", q.Phase, q.Envelope)
		}
	}
	if got := strings.Join(phases, " "); got != "connect sender recipient content route" {
		t.Errorf("asked in %s", got)
	}
	if plugin.read[3] != "Subject: x\r\n\r\nhello\r\n" || plugin.read[4] != "Subject: x\r\n\r\nnew\r\n" {
		t.Errorf("read %q", plugin.read)
	}
	if r.committed != "Subject: x\r\n\r\nnew\r\n" { // once: in route no body is replaced
		t.Errorf("committed %q", r.committed)
	}
}

// TestShadowInEveryPhase: obeyed in none. Before the content it is in the trace of the message that
// follows; from then on it is recorded by its ID.
func TestShadowInEveryPhase(t *testing.T) {
	plugin := &everywhere{}
	var recorded []string
	m, _ := way(t, plugin, pluginhost.Shadow, func(_ storage.ID, e trace.Event) { recorded = append(recorded, e.Action) })
	var told []string
	for _, e := range m.Trace.Events() {
		if e.Plugin == "everywhere" {
			told = append(told, e.Action+" "+e.Text)
		}
	}
	want := "shadow reject at connect: not obeyed: mode = shadow; shadow reject at sender: not obeyed: mode = shadow; shadow reject at recipient: not obeyed: mode = shadow"
	if got := strings.Join(told, "; "); got != want {
		t.Errorf("the trace says %s", got)
	}
	if got := strings.Join(recorded, "; "); got != "shadow reject; shadow reject" {
		t.Errorf("recorded %s", got)
	}
	if parsed, err := plugin.asked[3].Parsed(); err != nil || len(parsed.URLs) != 1 { // though the message has gone
		t.Errorf("parsed: %v, %v", parsed, err)
	}
}
