package interop

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mutant builds the program with one line of the engine changed, so that nothing
// is ever synced: what RULES E1 calls a deliberate mutant.
func mutant(t *testing.T) string {
	t.Helper()
	const sync, noSync = "e.db.LogData(nil, pebbledb.Sync)", "e.db.LogData(nil, pebbledb.NoSync)"
	source, err := filepath.Abs("../../../storage/kv/pebble/pebble.go")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(text), sync) != 1 {
		t.Fatalf("%s does not have %q once: teach this test where the sync is now", source, sync)
	}
	changed := filepath.Join(t.TempDir(), "pebble.go")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(text), sync, noSync, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {source: changed}})
	if err != nil {
		t.Fatal(err)
	}
	overlayPath := filepath.Join(t.TempDir(), "overlay.json")
	if err := os.WriteFile(overlayPath, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := build("sluice-without-sync", "github.com/sluicemail/sluice/cmd/sluice", "-overlay", overlayPath)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// TestMutantIsCaught: a server that does not sync is found out by the proof of
// TestDurableBefore250.
func TestMutantIsCaught(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a second program")
	}
	strace := needStrace(t)
	trace, acked := traceMail(t, strace, mutant(t))
	checked, faults := checkTrace(trace)
	if checked != acked || len(faults) < acked*9/10 {
		t.Errorf("%d messages were acknowledged by the mutant, %d were found in the trace, and only %d are held against it", acked, checked, len(faults))
	}
}
