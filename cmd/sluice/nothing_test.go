package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCommandsMakeNoStore: what only looks at the store, or changes what is in it, answers as an empty one would where
// there is none, says so, and leaves nothing behind.
func TestCommandsMakeNoStore(t *testing.T) {
	const id = "06H03TY7J705RHB2"
	for _, c := range []struct {
		code       int
		want, args string
	}{
		{exitDone, "the queue is empty", "queue list"},
		{exitDone, "0 messages to 0 recipients", "queue list --summary"},
		{exitFailed, "not in the queue", "queue show " + id},
		{exitFailed, "only a running server", "queue sites"},
		{exitDone, "0 messages (0 recipients) would be held", "queue hold --all --dry-run"},
		{exitDone, "0 messages (0 recipients) were removed", "queue remove --all"},
		{exitDone, "the quarantine is empty", "quarantine list"},
		{exitFailed, "not in the queue", "quarantine show " + id},
		{exitDone, "there are no traces", "trace"},
		{exitFailed, "no message with the ID", "trace " + id},
		{exitDone, "there are no accounts", "user list"},
		{exitFailed, "there is no account", "user remove a@example.test"},
		{exitDone, "the suppression list is empty", "suppress list"},
		{exitFailed, "nobody", "route nobody@example.test"},
		{exitFailed, "there is no account", "report show --account a@example.test"},
	} {
		for _, half := range []bool{false, true} { // half: a data_dir without a store, as `sluice dkim new` makes one
			dir := t.TempDir()
			data := filepath.Join(dir, "data")
			name := filepath.Join(dir, "sluice.toml")
			if err := os.WriteFile(name, []byte(manualBase), 0o600); err != nil {
				t.Fatal(err)
			}
			missing := data
			if half {
				if err := os.Mkdir(data, 0o700); err != nil {
					t.Fatal(err)
				}
				missing = filepath.Join(data, "store")
			}
			code, stdout, stderr := sluice(t, "", append(strings.Fields(c.args), "--config", name)...)
			if code != c.code || !strings.Contains(stdout+stderr, c.want) || !strings.Contains(stderr, "there is no "+missing+" yet: ") || strings.Count(stderr, "\n") != 1 {
				t.Errorf("sluice %s: %d, %q, %q; want %d and %q", c.args, code, stdout, stderr, c.code, c.want)
			}
			if left, err := os.ReadDir(data); half != (err == nil) || len(left) != 0 {
				t.Errorf("sluice %s: left %v, %v", c.args, left, err)
			}
		}
	}
}
