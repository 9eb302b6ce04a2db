package main

import (
	"fmt"
	"strings"
	"testing"
)

// TestCutIsSaid: a list that ends at the limit of its own says so, one that ends at the user's does not.
func TestCutIsSaid(t *testing.T) {
	name := writeConfig(t, testConfig)
	var many []string
	for i := range 1001 {
		many = append(many, fmt.Sprintf("u%d@one.test", i))
	}
	leaving(t, name, many...)
	for _, c := range []struct {
		args  string
		lines int // an entry has two
		note  bool
	}{
		{"queue list", 2000, true}, {"queue list --json", 1000, true}, {"queue list --limit 7", 14, false}, {"queue list --limit 2000", 2002, false},
		{"queue list --to u7@one.test", 2, false}, {"queue list --summary", 7, false},
	} {
		code, stdout, stderr := sluice(t, "", append(strings.Fields(c.args), "--config", name)...)
		if code != exitDone || strings.Count(stdout, "\n") != c.lines || c.note != strings.HasPrefix(stderr, "sluice: these are 1000, and there may be more; --limit") || !c.note && stderr != "" {
			t.Errorf("%s: %d, %d lines, %q", c.args, code, strings.Count(stdout, "\n"), stderr)
		}
	}
	if code, stdout, _ := sluice(t, "", "queue", "list", "--help"); code != exitDone || !strings.Contains(stdout, "--limit messages") || !strings.Contains(stdout, "1 or more (default 1000)") {
		t.Errorf("%d, %s", code, stdout)
	}
}
