package antispam

import (
	"fmt"
	"log/slog"
	"math"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/storage/blob"
)

// TestScoresDoNotMakeTooManyVersions: a score for each recipient must not take a message over the bound of RULES A4, which
// would make the commit fail.
func TestScoresDoNotMakeTooManyVersions(t *testing.T) {
	blobs, err := blob.Open(vfs.NewMem(), "blob", blob.NewBudget(1<<20), 64<<10, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ recipients, versions, fields int }{{2, 2, 1}, {16, 16, 1}, {17, 1, 0}} {
		sp := blobs.NewSpool()
		fmt.Fprint(sp, "Subject: x\r\n\r\n")
		draft, err := sp.Finish()
		if err != nil {
			t.Fatal(err)
		}
		m := &pipeline.Message{}
		for i := range c.recipients {
			m.Recipients = append(m.Recipients, &pipeline.Recipient{Score: float64(i)})
		}
		if err := m.SetContent(draft); err != nil {
			t.Fatal(err)
		}
		New(DefaultConfig(), nil).stampScore(m)
		versions, _ := m.Versions()
		if len(versions) != c.versions || versions[0].Count("X-Sluice-Score") != c.fields {
			t.Errorf("%d recipients: %d versions, %d fields", c.recipients, len(versions), versions[0].Count("X-Sluice-Score"))
		}
		draft.Discard()
	}
}

func TestSumsStayFinite(t *testing.T) {
	if got := bounded(math.Inf(1)); got != maxScore {
		t.Error(got)
	}
	if got := bounded(bounded(-1e308) + 1e308); got != 0 && got != maxScore {
		t.Error(got)
	}
}
