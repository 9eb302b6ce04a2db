package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/cmd/internal/config"
	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/route"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
)

// quarantine puts messages for alice into quarantine, in a store that nobody has open, and returns their IDs.
func quarantine(t *testing.T, name string, n int) (ids []string) {
	t.Helper()
	return quarantineFor(t, name, n, "alice@example.test")
}

func quarantineFor(t *testing.T, name string, n int, to string) (ids []string) {
	t.Helper()
	c, err := config.Load(name, config.Options{Builtins: builtinNames()})
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	store, err := openStore(t.Context(), c, logger, func(err error) { panic(err) })
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close(context.Background())
	q := queue.New(queue.Options{Store: store, Logger: logger})
	for range n {
		spool := store.Blobs().NewSpool()
		_, _ = io.WriteString(spool, "Subject: x\r\n\r\nhello\r\n")
		draft, err := spool.Finish()
		if err != nil {
			t.Fatal(err)
		}
		m := &pipeline.Message{
			ID: store.NewID(), Origin: sdk.Stranger, Pipeline: "inbound", Received: time.Now(), Sender: "bob@example.net", Trace: &trace.Trace{},
			Recipients: []*pipeline.Recipient{{Address: to, Hops: []pipeline.Hop{{Kind: pipeline.HopQuarantine, Why: "score 7"}}}},
		}
		m.Trace.Head.ID = m.ID.String()
		if err := m.SetContent(draft); err != nil {
			t.Fatal(err)
		}
		if err := q.Commit(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, m.ID.String())
	}
	return ids
}

func TestQuarantineAndQueueByHand(t *testing.T) {
	name := writeConfig(t, testConfig)
	run := func(want int, args ...string) string {
		t.Helper()
		code, stdout, stderr := sluice(t, "secret password\n", append(args, "--config", name)...)
		if code != want {
			t.Fatalf("%v: exit %d, %s%s", args, code, stdout, stderr)
		}
		return stdout + stderr
	}
	run(0, "user", "add", "alice@example.test", "--password-stdin")
	if got := run(0, "quarantine", "list"); got != "the quarantine is empty\n" {
		t.Error(got)
	}
	ids := quarantine(t, name, 2)
	lines := strings.Split(strings.TrimSpace(run(0, "quarantine", "list", "--json")), "\n")
	var item queue.Item
	if err := json.Unmarshal([]byte(lines[0]), &item); err != nil || len(lines) != 2 || item.ID != ids[0] || item.Recipients[0].Why != "score 7" {
		t.Errorf("%v: %q", err, lines)
	}
	if got := run(0, "quarantine", "show", ids[0]); !strings.Contains(got, "quarantined") || !strings.Contains(got, "score 7") {
		t.Error(got)
	}
	run(0, "quarantine", "remove", ids[1])
	run(1, "quarantine", "remove", ids[1])
	run(1, "queue", "hold", ids[0])
	if got := run(0, "quarantine", "release", ids[0], "--json"); got != `{"id":"`+ids[0]+`","action":"released","recipients":1}`+"\n" {
		t.Error(got)
	}
	if got := run(0, "queue", "show", ids[0]); !strings.Contains(got, "queued") || !strings.Contains(got, "mailbox alice@example.test") {
		t.Error(got)
	}
	run(0, "queue", "hold", ids[0])
	if got := run(0, "queue", "list"); !strings.Contains(got, "held") {
		t.Error(got)
	}
	if got := run(1, "queue", "retry", ids[0]); !strings.Contains(got, "no recipient that is queued") {
		t.Error(got)
	}
	run(0, "queue", "release", ids[0])
	run(0, "queue", "remove", ids[0])
	if got := run(0, "queue", "list"); got != "the queue is empty\n" {
		t.Error(got)
	}
	if got := run(0, "trace", ids[0]); !strings.Contains(got, "released") || !strings.Contains(got, "removed") {
		t.Error(got)
	}
	run(1, "queue", "hold", "nonsense")
	run(2, "queue", "hold")
}

// TestReleaseAForward: what is released to an alias that leads away leaves as it would have, with a sender of ours.
func TestReleaseAForward(t *testing.T) {
	name := writeConfig(t, routeConfig)
	ids := quarantineFor(t, name, 1, "whoever@example.test")
	ids = append(ids, quarantineFor(t, name, 1, "added@elsewhere.test")...) // by a plugin
	for _, id := range ids {
		if code, _, stderr := sluice(t, "", "quarantine", "release", id, "--config", name); code != exitDone {
			t.Fatal(stderr)
		}
	}
	c, err := config.Load(name, config.Options{Builtins: builtinNames()})
	if err != nil {
		t.Fatal(err)
	}
	store, err := openStore(t.Context(), c, slog.New(slog.DiscardHandler), func(err error) { panic(err) })
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close(context.Background())
	table, err := newTable(t.Context(), c, store)
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{store: store, table: func() *route.Table { return table }}
	for i, c := range []struct{ address, want string }{{"whoever@example.test", "Rest@elsewhere.test"}, {"added@elsewhere.test", "added@elsewhere.test"}} {
		id, err := storage.ParseID(ids[i])
		if err != nil {
			t.Fatal(err)
		}
		hops, err := d.hops(t.Context(), id, c.address)
		if err != nil || len(hops) != 1 || hops[0].Address != c.want || !strings.HasPrefix(hops[0].Sender, "SRS0=") {
			t.Errorf("%+v %v", hops, err)
		}
		item, err := queue.Show(t.Context(), store.KV(), id)
		if err != nil || len(item.Recipients) != 1 || item.Recipients[0].Hop != "remote "+c.want || item.Recipients[0].State != "queued" {
			t.Errorf("%+v %v", item, err)
		}
	}
}
