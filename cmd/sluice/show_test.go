package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/pipeline"
)

// TestShowHeader: the header of what waits is shown so that it does no harm, bounded, once for each version; the octets are
// those that would be delivered.
func TestShowHeader(t *testing.T) {
	name := writeConfig(t, testConfig)
	run := func(want int, args string) string {
		t.Helper()
		code, stdout, stderr := sluice(t, "", append(strings.Fields(args), "--config", name)...)
		if code != want {
			t.Fatalf("%v: exit %d, %s%s", args, code, stdout, stderr)
		}
		return stdout + stderr
	}
	const hostile = "Subject: \x1b[2Jhi\u202e\xff\r\n\tfolded\r\nTo: a@one.test\r\n\r\nbody\x1b[2J\r\n"
	id := leavingText(t, name, hostile, nil, "a@one.test", "b@one.test")
	for _, group := range []string{"queue", "quarantine"} {
		got := run(exitDone, group+" show "+id+" --header")
		if !strings.Contains(got, "\n\nSubject: ?[2Jhi??\n        folded\nTo: a@one.test\n") || strings.Contains(got, "body") || strings.Contains(got, "for <") {
			t.Errorf("%s: %q", group, got)
		}
		if got := run(exitDone, group+" show "+id); strings.Contains(got, "Subject") {
			t.Errorf("%s: %q", group, got)
		}
		if got := run(exitDone, group+" show --raw "+id); got != hostile {
			t.Errorf("%s: %q", group, got)
		}
	}
	var item shownItem
	if err := json.Unmarshal([]byte(run(exitDone, "queue show --json --header "+id)), &item); err != nil || item.ID != id || len(item.Headers) != 1 || len(item.Headers[0].To) != 2 {
		t.Errorf("%v, %+v", err, item)
	}

	id = leavingText(t, name, hostile, func(m *pipeline.Message) {
		m.Recipients[1].Version = m.Recipients[1].Version.Front([]byte("X-Only: b\r\n"))
	}, "a@one.test", "b@one.test")
	got := run(exitDone, "queue show --header "+id)
	if !strings.Contains(got, "\nfor <a@one.test>:\nSubject: ") || !strings.Contains(got, "\nfor <b@one.test>:\nX-Only: b\nSubject: ") {
		t.Error(got)
	}
	if got := run(exitFailed, "queue show --raw "+id); !strings.Contains(got, "2 different versions; choose one with --to ADDRESS") {
		t.Error(got)
	}
	if got := run(exitDone, "queue show --raw --to <B@one.test> "+id); got != "X-Only: b\r\n"+hostile {
		t.Errorf("%q", got)
	}
	if got := run(exitFailed, "queue show --raw --to c@one.test "+id); !strings.Contains(got, "has no recipient c@one.test") {
		t.Error(got)
	}

	text := "X: " + strings.Repeat("Y: "+strings.Repeat("z", 70)+"\r\n ", 3000) + "\r\n\r\n" + strings.Repeat("body\r\n", 200_000)
	id = leavingText(t, name, text, nil, "a@one.test")
	if got := run(exitDone, "queue show --header "+id); len(got) > maxShown+1000 || !strings.HasSuffix(got, "and more than these 65536 octets; --raw has all of it\n") {
		t.Errorf("%d octets, %q", len(got), got[max(0, len(got)-100):])
	}
	if got := run(exitDone, "queue show --raw "+id); got != text {
		t.Errorf("%d octets of %d", len(got), len(text))
	}
	run(exitUsage, "queue show --raw --header "+id)
	run(exitUsage, "queue show --raw --json "+id)
	run(exitUsage, "queue show --to a@one.test "+id)
	run(exitFailed, "queue show --raw 06H03TY7J705RHB2")
	run(exitFailed, "queue show --header 06H03TY7J705RHB2")
	run(exitFailed, "queue show --raw nonsense")
}
