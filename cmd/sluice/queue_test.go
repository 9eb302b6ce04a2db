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
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
)

// leaving queues messages of alice's to other servers, in a store that nobody has open.
func leaving(t *testing.T, name string, recipients ...string) (ids []string) {
	t.Helper()
	q, store := openedQueue(t, name)
	defer store.Close(context.Background())
	for _, to := range recipients {
		ids = append(ids, enqueue(t, q, store, "Subject: x\r\n\r\nhello\r\n", nil, to))
	}
	return ids
}

// leavingText queues one message to several recipients, changed before it is committed.
func leavingText(t *testing.T, name, text string, change func(*pipeline.Message), recipients ...string) (id string) {
	t.Helper()
	q, store := openedQueue(t, name)
	defer store.Close(context.Background())
	return enqueue(t, q, store, text, change, recipients...)
}

func openedQueue(t *testing.T, name string) (*queue.Queue, *storage.Store) {
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
	return queue.New(queue.Options{Store: store, Logger: logger}), store
}

func enqueue(t *testing.T, q *queue.Queue, store *storage.Store, text string, change func(*pipeline.Message), recipients ...string) (id string) {
	t.Helper()
	spool := store.Blobs().NewSpool()
	_, _ = io.WriteString(spool, text)
	draft, err := spool.Finish()
	if err != nil {
		t.Fatal(err)
	}
	m := &pipeline.Message{
		ID: store.NewID(), Origin: sdk.Login, Pipeline: "outbound", Received: time.Now(), Sender: "alice@example.test", Trace: &trace.Trace{},
	}
	for _, to := range recipients {
		m.Recipients = append(m.Recipients, &pipeline.Recipient{Address: to, Hops: []pipeline.Hop{{Kind: pipeline.HopRemote, Address: to}}})
	}
	m.Trace.Head.ID = m.ID.String()
	if err := m.SetContent(draft); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(m)
	}
	if err := q.Commit(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return m.ID.String()
}

// TestQueueWithoutServer: the commands give the same answers in the store that they have opened (RULES D5).
func TestQueueWithoutServer(t *testing.T) {
	name := writeConfig(t, testConfig)
	run := func(want int, args ...string) string {
		t.Helper()
		code, stdout, stderr := sluice(t, "secret password\n", append(args, "--config", name)...)
		if code != want {
			t.Fatalf("%v: exit %d, %s%s", args, code, stdout, stderr)
		}
		return stdout + stderr
	}
	says := func(text string, args ...string) {
		t.Helper()
		if got := run(0, args...); !strings.Contains(got, text) {
			t.Errorf("%v: %s", args, got)
		}
	}
	run(0, "user", "add", "alice@example.test", "--password-stdin")
	ids := leaving(t, name, "a@one.test", "b@one.test", "c@two.test", "d@two.test")
	says("the queue has nothing like that", "queue", "list", "--domain", "three.test")
	says("4 messages to 4 recipients", "queue", "list", "--summary")
	says("2  one.test", "queue", "list", "--summary")
	says("2 messages (2 recipients) would be held", "queue", "hold", "--domain", "two.test", "--dry-run")
	says("2 messages (2 recipients) were held", "queue", "hold", "--domain", "two.test")
	says("0 messages (0 recipients) were held", "queue", "hold", "--domain", "two.test", "--older-than", "1d")
	says("waits for somebody's hand: it is held until somebody releases or removes it; since ", "queue", "show", ids[3])
	says("  held: <d@two.test> to remote d@two.test, 0 attempts, waits for somebody's hand", "trace", ids[3])
	says("waits for the server: the server does not run; since ", "trace", ids[0])
	says(`"waits":{"for":"server",`, "trace", ids[0], "--json")
	says("1 messages (1 recipients) were released", "queue", "release", "--to", "c@*", "--state", "held")
	says("via smtp://127.0.0.1:26", "queue", "show", func() string {
		says("3 messages (3 recipients) were rerouted", "queue", "reroute", ids[0], ids[1], ids[2], "--via", "smtp://127.0.0.1:26")
		return ids[0]
	}())
	says("1 messages (1 recipients) were rerouted", "queue", "reroute", "--to", "a@*", "--via", "default", "--pipeline", "outbound")
	if got := run(0, "queue", "show", ids[0]); strings.Contains(got, "via") {
		t.Error(got)
	}
	lines := strings.Split(strings.TrimSpace(run(0, "queue", "bounce", "--from", "ALICE@*", "--text", "closed", "--json")), "\n")
	var last handSummary
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || len(lines) != 5 || last.Messages != 4 || last.Last != ids[3] {
		t.Errorf("%v: %q", err, lines)
	}
	if got := run(0, "queue", "list", "--json"); strings.Count(got, "\n") != 4 || strings.Count(got, "mailbox alice@example.test") != 4 {
		t.Errorf("the reports: %s", got)
	}
	says("0 messages (0 recipients) were bounced", "queue", "bounce", "--origin", "login")
	says("1 messages", "queue", "remove", "--all", "--after", func() string {
		list := strings.Split(strings.TrimSpace(run(0, "queue", "list", "--json")), "\n")
		var item queue.Item
		if err := json.Unmarshal([]byte(list[2]), &item); err != nil {
			t.Fatal(err)
		}
		return item.ID
	}())
	for _, args := range [][]string{
		{"hold"}, {"remove", "--dry-run"}, {"hold", "--state", "lost"}, {"hold", "--older-than", "soon"}, {"hold", "--size-over", "big"},
		{"reroute", "--all"}, {"reroute", "--all", "--via", "nowhere"}, {"list", "--origin", "me"}, {"hold", "--attempts-over", "-1"},
	} {
		run(2, append([]string{"queue"}, args...)...)
	}
	run(1, "queue", "sites")
	run(1, "queue", "hold", ids[0], ids[1]) // they are gone
}

func TestSuppressCommands(t *testing.T) {
	name := writeConfig(t, testConfig)
	run := func(want int, args ...string) string {
		t.Helper()
		code, stdout, stderr := sluice(t, "", append(append([]string{"suppress"}, args...), "--config", name)...)
		if code != want {
			t.Fatalf("%v: exit %d, %s%s", args, code, stdout, stderr)
		}
		return stdout + stderr
	}
	if got := run(0, "list"); !strings.HasPrefix(got, "the suppression list is empty\nsluice: there is no ") || strings.Count(got, "\n") != 2 {
		t.Error(got)
	}
	run(0, "add", "Bob@Bücher.example", "--reason", "has left\x1b[2J", "--for", "90d")
	if got := run(0, "list"); !strings.HasPrefix(got, "bob@xn--bcher-kva.example  suppressed by hand since ") || !strings.Contains(got, "has left?[2J") {
		t.Error(got)
	}
	var s queue.Suppressed
	if err := json.Unmarshal([]byte(run(0, "list", "--json")), &s); err != nil || !s.ByHand || s.State != "suppressed" || s.Until.Sub(s.Since) != 90*24*time.Hour {
		t.Errorf("%v %+v", err, s)
	}
	run(1, "add", "carol@example.test") // ours
	run(1, "add", "postmaster@example.net")
	run(2, "add", "x@example.net", "--for", "ever")
	run(2, "add")
	run(0, "remove", "BOB@bücher.example")
	run(1, "remove", "bob@bücher.example")
}

// TestWaitText: every kind of wait has words.
func TestWaitText(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.Local)
	wait := &queue.Wait{For: queue.WaitHop, Why: "its next hop can't be reached", NextHop: "mx.example.net:25", Since: at, Until: at.Add(time.Hour), Last: "time-out"}
	if got := waitText(wait); got != "waits for its next hop: its next hop can't be reached (mx.example.net:25); since 2030-01-02 03:04:05, until 2030-01-02 04:04:05; last reply: time-out" {
		t.Error(got)
	}
	for _, word := range []string{
		queue.WaitRelease, queue.WaitRetry, queue.WaitHop, queue.WaitPause, queue.WaitHours, queue.WaitRate, queue.WaitConnection, queue.WaitAddress,
		queue.WaitTurn, queue.WaitServer,
	} {
		if waitWords[word] == "" {
			t.Errorf("no words for %q", word)
		}
	}
	if got := waitText(&queue.Wait{For: queue.WaitEnd, Why: "it is being delivered"}); got != "is on its way: it is being delivered" {
		t.Error(got)
	}
}
