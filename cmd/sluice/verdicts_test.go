package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/antispam"
	"github.com/sluicemail/sluice/pipeline/antivirus"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/blob"
)

// script is a plugin whose verdict in each phase is fixed.
type script map[sdk.Phase]sdk.Verdict

func (script) Name() string                                      { return "script" }
func (script) Shadow() bool                                      { return false }
func (script) OnFailure(pipeline.FailureKind) (sdk.Action, bool) { return 0, false }

func (s script) Manifest() sdk.Manifest {
	m := sdk.Manifest{Name: "script", Phases: []sdk.Phase{sdk.PhaseContent}}
	for phase := range s {
		if phase != sdk.PhaseContent {
			m.Phases = append(m.Phases, phase)
		}
	}
	return m
}

func (s script) Ask(_ context.Context, q *pipeline.Question) (sdk.Verdict, error) {
	return s[q.Phase], nil
}

// arrive takes a message through the anti-spam and anti-virus of the product, with one plugin in
// each, and returns what became of its recipient.
func arrive(t *testing.T, spam, virus pipeline.Asker, onInfected sdk.Action) (sdk.Action, pipeline.Result) {
	t.Helper()
	action, result, _ := arriveAs(t, spam, virus, onInfected)
	return action, result
}

// arriveAs is arrive that returns what was committed too.
func arriveAs(t *testing.T, spam, virus pipeline.Asker, onInfected sdk.Action) (sdk.Action, pipeline.Result, string) {
	t.Helper()
	blobs, err := blob.Open(vfs.NewMem(), "blob", blob.NewBudget(1<<20), 64<<10, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r := &rooms{}
	infected := antivirus.DefaultConfig()
	infected.OnInfected = onInfected
	p := pipeline.New(pipeline.Options{
		Name: "inbound", Early: []pipeline.Asker{spam}, Router: r, Queue: r, Deadline: time.Minute, MaxSize: 1 << 20,
		Logger: slog.New(slog.DiscardHandler), Blobs: blobs,
		Stages: []pipeline.Stage{
			antispam.New(antispam.DefaultConfig(), []pipeline.Asker{spam}), antivirus.New(infected, []pipeline.Asker{virus}),
		},
	})
	ctx := context.Background()
	s := &pipeline.Session{Origin: sdk.Stranger}
	m := &pipeline.Message{Session: s, Sender: "a@example.net", Peer: &pipeline.Peer{}, Origin: sdk.Stranger, Received: time.Now()}
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
	result := p.Submit(ctx, m)
	return m.Recipients[0].Opinion.Action, result, r.committed
}

// breaks is a script that fails in one phase.
type breaks struct {
	script
	at sdk.Phase
}

func (b breaks) Ask(ctx context.Context, q *pipeline.Question) (sdk.Verdict, error) {
	if q.Phase == b.at {
		return sdk.Verdict{}, &pipeline.Failure{Kind: pipeline.FailTimeout, Err: errors.New("x")}
	}
	return b.script.Ask(ctx, q)
}

// gatekeeper is a script that is asked before the content alone.
type gatekeeper struct{ script }

func (gatekeeper) Manifest() sdk.Manifest {
	return sdk.Manifest{Name: "gatekeeper", Phases: []sdk.Phase{sdk.PhaseConnect}}
}

// TestWhatThePhasesLeaveInTheMessage: the score of all phases, also where nobody was asked about the
// content, and a field for each that was let through without an opinion.
func TestWhatThePhasesLeaveInTheMessage(t *testing.T) {
	nobody := script{}
	_, _, text := arriveAs(t, gatekeeper{script{sdk.PhaseConnect: {Score: 3}}}, nobody, sdk.Reject)
	if !strings.HasPrefix(text, "X-Sluice-Score: 3\r\n") {
		t.Errorf("scored at connect alone: %q", text)
	}
	for _, phase := range []sdk.Phase{sdk.PhaseConnect, sdk.PhaseSender, sdk.PhaseRecipient} {
		spam := breaks{script{sdk.PhaseConnect: {}, sdk.PhaseSender: {}, sdk.PhaseRecipient: {}}, phase}
		_, result, text := arriveAs(t, spam, nobody, sdk.Reject)
		if !result.Committed || strings.Count(text, "X-Sluice-Unscanned: anti-spam; plugin=script; failure=timeout;") != 1 || !strings.Contains(text, "phase="+string(phase)+"\r\n") {
			t.Errorf("failed at %s: %v, %q", phase, result.Reply, text)
		}
	}
}

var points = regexp.MustCompile(`-?[0-9]+(\.[0-9]+)?`)

// TestTableOfStages holds what PROTOCOL.md says about phases and stages one after the other: the
// table that authors read is the test.
func TestTableOfStages(t *testing.T) {
	text, err := os.ReadFile("../../sdk/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "| earlier | anti-spam's sum")
	rows := 0
	for _, line := range strings.Split(rest, "\n")[2:] {
		if !strings.HasPrefix(line, "|") {
			break
		}
		rows++
		cells := strings.Split(strings.Trim(line, "| "), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		row(t, cells[0], cells[1], cells[2], cells[3])
	}
	if rows < 5 {
		t.Errorf("PROTOCOL.md has %d rows", rows)
	}
}

func row(t *testing.T, earlier, sum, virus, want string) {
	t.Helper()
	name := fmt.Sprintf("%s | %s | %s", earlier, sum, virus)
	spam := script{}
	for part := range strings.SplitSeq(earlier, "; ") {
		phase, what, some := strings.Cut(part, ": ")
		if !some {
			continue
		}
		var v sdk.Verdict
		if score, ok := strings.CutPrefix(what, "score "); ok {
			v.Score, _ = strconv.ParseFloat(score, 64)
		} else {
			v.Action = action(t, what)
		}
		spam[sdk.Phase(phase)] = v
	}
	var v sdk.Verdict
	numbers := points.FindAllString(sum, -1)
	if len(numbers) == 0 {
		t.Fatalf("PROTOCOL.md: no score in %q", sum)
	}
	v.Score, _ = strconv.ParseFloat(numbers[len(numbers)-1], 64) // "6.0 (1.0 of it in content)"
	if _, what, ok := strings.Cut(sum, "a plugin says "); ok {
		v.Action = action(t, what)
	}
	spam[sdk.PhaseContent] = v

	scanner, onInfected := sdk.Verdict{}, sdk.Reject
	if _, what, ok := strings.Cut(virus, "`on_infected = \""); ok {
		onInfected = action(t, strings.TrimRight(what, "\"`"))
		scanner.Detections = []string{"Eicar"}
	}
	verdicts := []sdk.Verdict{scanner}
	if virus == "whatever it says" {
		for a := sdk.Accept; a <= sdk.Reject; a++ {
			verdicts = append(verdicts, sdk.Verdict{Action: a})
		}
	}
	for _, s := range verdicts {
		got, result := arrive(t, spam, script{sdk.PhaseContent: s}, onInfected)
		if got.String() != want || result.Committed != (got < sdk.Defer) {
			t.Errorf("%s: %s, %v; PROTOCOL.md says %s", name, got, result.Reply, want)
		}
	}
}

func action(t *testing.T, word string) sdk.Action {
	t.Helper()
	a, err := sdk.ParseAction(word)
	if err != nil {
		t.Fatalf("PROTOCOL.md: %v", err)
	}
	return a
}

// TestNoThresholdBeforeTheContent: whatever the score at connect, the reply comes after the
// content, and what is still to come may speak for the message.
func TestNoThresholdBeforeTheContent(t *testing.T) {
	for _, c := range []struct {
		content float64
		want    sdk.Action
	}{{0, sdk.Reject}, {-95, sdk.Accept}, {-93, sdk.Junk}} {
		spam := script{sdk.PhaseConnect: {Score: 100}, sdk.PhaseContent: {Score: c.content}}
		if got, result := arrive(t, spam, script{}, sdk.Reject); got != c.want {
			t.Errorf("100 at connect, %v in content: %s, %v", c.content, got, result.Reply)
		}
	}
}
