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
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/pipeline/route"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/blob"
	"github.com/sluicemail/sluice/storage/kv"
	"github.com/sluicemail/sluice/storage/kv/pebble"
)

// TestNotifier: one message for a round, from the null sender, of origin generated, routed; and a reason where the sender
// can't be told, because an error would have it tried again for ever.
func TestNotifier(t *testing.T) {
	store, err := storage.Open(t.Context(), storage.Options{
		Dir: "data", FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler), Pebble: pebble.Options{MinFree: -1},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close(context.Background())
	alice, err := store.CreateAccount(t.Context(), "alice@example.test", "correct horse", storage.AccountOptions{Quota: 1}) // full
	if err != nil {
		t.Fatal(err)
	}
	table, err := route.NewTable(route.Options{Domains: map[string]route.Domain{"example.test": route.DefaultDomain()}, Accounts: store.Accounts()})
	if err != nil {
		t.Fatal(err)
	}
	n := &notifier{
		author:   author{store: store, table: func() *route.Table { return table }},
		hostname: "mx.example.test", postmaster: func() string { return "postmaster@example.test" },
	}
	original := keepContent(t, store, "Subject: lunch\r\nMessage-ID: <1@example.test>\r\n\r\nthe body\r\n")
	notice := func(sender string) *queue.Notice {
		return &queue.Notice{
			To:    sender,
			Entry: &queue.Entry{ID: store.NewID(), Pipeline: "outbound", Received: time.Now(), Sender: sender, Content: original},
			About: []queue.About{
				{Kind: queue.NoticeFailed, Recipient: &queue.Recipient{Address: "x@example.test"}, Outcome: pipeline.Outcome{Text: "550 5.7.1 no"}},
				{Kind: queue.NoticeDelayed, Recipient: &queue.Recipient{Address: "y@example.test"}, Outcome: pipeline.Outcome{Text: "not now"}},
			},
		}
	}
	m, why, err := n.Notice(t.Context(), notice("alice@example.test"))
	if err != nil || m == nil {
		t.Fatal(why, err)
	}
	defer m.Content.Discard()
	octets, err := io.ReadAll(io.NewSectionReader(m.Content, 0, m.Content.Size()))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Auto-Submitted: auto-replied", "Action: failed", "Action: delayed", "rfc822; x@example.test", "rfc822; y@example.test", "Subject: lunch",
	} {
		if !strings.Contains(string(octets), want) {
			t.Errorf("no %q in\n%s", want, octets)
		}
	}
	if strings.Contains(string(octets), "the body") {
		t.Error("the body is returned without RET=FULL")
	}
	hops := m.Recipients[0].Hops
	if m.Origin != sdk.Generated || m.Sender != "" || m.Pipeline != "outbound" || len(hops) != 1 || hops[0].Account != alice.ID {
		t.Errorf("%+v, hops %+v", m, hops)
	}
	away, why, err := n.Notice(t.Context(), notice("Carol@Elsewhere.test"))
	if err != nil || away == nil {
		t.Fatal(why, err)
	}
	defer away.Content.Discard()
	if hops := away.Recipients[0].Hops; len(hops) != 1 || hops[0].Kind != pipeline.HopRemote || hops[0].Address != "Carol@elsewhere.test" {
		t.Errorf("a sender at another server: %+v", hops)
	}
	for _, tls := range []bool{false, true} { // RFC 8689 section 5
		about := notice("alice@example.test")
		about.Entry.Params = pipeline.SenderParams{Ret: "FULL", TLS: tls}
		m, why, err := n.Notice(t.Context(), about)
		if err != nil || m == nil {
			t.Fatal(why, err)
		}
		octets, err := io.ReadAll(io.NewSectionReader(m.Content, 0, m.Content.Size()))
		m.Content.Discard()
		if full := strings.Contains(string(octets), "the body"); err != nil || full == tls || m.Params.TLS != tls {
			t.Errorf("REQUIRETLS %v: the body is returned: %v, the notice requires TLS: %v; %v", tls, full, m.Params.TLS, err)
		}
	}
	lost := notice("alice@example.test")
	lost.Entry.Content = storage.ContentID(store.NewID()) // what it said can't be read: the sender is told all the same
	if m, why, err := n.Notice(t.Context(), lost); err != nil || m == nil {
		t.Errorf("without the original: %v, %q, %v", m, why, err)
	} else {
		m.Content.Discard()
	}
	for _, sender := range []string{"nobody@example.test", "carol@[192.0.2.1]", "j\u00fcrgen@example.test", ""} {
		m, why, err := n.Notice(t.Context(), notice(sender))
		if m != nil || why == "" || err != nil {
			t.Errorf("%q: %v %q %v", sender, m, why, err)
		}
	}
}

// keepContent stores octets as the queue does.
func keepContent(t *testing.T, store *storage.Store, octets string) storage.ContentID {
	t.Helper()
	spool := store.Blobs().NewSpool()
	_, _ = io.WriteString(spool, octets)
	draft, err := spool.Finish()
	if err != nil {
		t.Fatal(err)
	}
	defer draft.Discard()
	prepared, err := store.Prepare(t.Context(), draft, []blob.Variant{{}})
	if err != nil {
		t.Fatal(err)
	}
	var b kv.Batch
	prepared.Put(&b, "queue/test")
	if _, err := store.KV().Apply(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	return prepared.Info(0).ID
}
