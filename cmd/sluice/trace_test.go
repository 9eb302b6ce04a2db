package main

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline/trace"
)

// TestTraceTimes: lines about the whole transaction are told from those about a part of it.
func TestTraceTimes(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	story := &trace.Story{Events: []trace.Event{
		{Stage: "receive", Action: "accept", Took: ms(1500)}, {Stage: "anti-spam", Plugin: "gtube", Action: "accept", Took: ms(2)},
		{Stage: "queue", Action: "queued", Took: ms(1510)}, {Stage: "deliver", Action: "delivered", Took: ms(3)}, {Stage: "queue", Action: "released"},
	}}
	var b strings.Builder
	printStory(&b, tracedStory{Story: story})
	var got []string
	for _, line := range strings.Split(b.String(), "\n")[3:8] {
		got = append(got, strings.Fields(line)[4])
	}
	if want := "+1500.0 2.0 +1510.0 3.0 0.0"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %s in\n%s", got, want, b.String())
	}
	if !strings.Contains(b.String(), "\n  + counted from the beginning, MAIL FROM\n") {
		t.Error(b.String())
	}
	b.Reset()
	story.Events = story.Events[1:2]
	if printStory(&b, tracedStory{Story: story}); strings.Contains(b.String(), "+") {
		t.Error(b.String())
	}
	if code, stdout, _ := sluice(t, "", "trace", "--help"); code != exitDone || !strings.Contains(stdout, "MS is how many milliseconds") || !strings.Contains(stdout, "since MAIL FROM") {
		t.Error(stdout)
	}
}
