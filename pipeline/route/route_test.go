package route

import (
	"context"
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/trace"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage"
	"github.com/sluicemail/sluice/storage/account"
	"github.com/sluicemail/sluice/storage/blob"
)

// limited gives every account a quota.
type limited struct{ people }

func (l limited) Lookup(ctx context.Context, address string) (account.Account, error) {
	a, err := l.people.Lookup(ctx, address)
	a.Quota = 100
	return a, err
}

type full struct{}

func (full) Quota(context.Context, storage.AccountID) (storage.Quota, error) {
	return storage.Quota{Used: 99, Limit: 100}, nil
}

// TestQuotaIsForMailboxes: a mailbox that is full defers what would go into it, and nothing else.
func TestQuotaIsForMailboxes(t *testing.T) {
	table, err := NewTable(Options{Domains: map[string]Domain{"example.test": {}}, Accounts: limited{people{"alice@example.test"}}})
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := blob.Open(vfs.NewMem(), "blob", blob.NewBudget(1<<20), 64<<10, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for before, after := range map[sdk.Action]sdk.Action{
		sdk.Accept: sdk.Defer, sdk.Junk: sdk.Defer, sdk.Quarantine: sdk.Quarantine, sdk.Discard: sdk.Discard, sdk.Reject: sdk.Reject,
	} {
		sp := blobs.NewSpool()
		_, _ = sp.Write([]byte("Subject: x\r\n\r\n"))
		draft, err := sp.Finish()
		if err != nil {
			t.Fatal(err)
		}
		r := &pipeline.Recipient{Address: "alice@example.test"}
		r.Take(pipeline.Opinion{Action: before})
		m := &pipeline.Message{Origin: sdk.Stranger, Trace: &trace.Trace{}, Recipients: []*pipeline.Recipient{r}, Content: draft}
		if err := New(table, full{}, nil).Process(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if r.Opinion.Action != after {
			t.Errorf("%v became %v, want %v", before, r.Opinion.Action, after)
		}
		draft.Discard()
	}
}
