package serve

import (
	"testing"
	"time"
)

// TestProcessors: a process that uses most of one processor gets all at the next look, and gives them back after a
// quiet second, not in every pause.
func TestProcessors(t *testing.T) {
	var used time.Duration
	state := "one"
	p := &processors{used: func() time.Duration { return used }, one: func() { state = "one" }, all: func() { state = "all" }}
	now := time.Unix(1_700_000_000, 0)
	looks := func(n int, share float64) {
		for range n {
			now = now.Add(patience)
			used += time.Duration(share * float64(patience))
			p.look(now)
		}
	}
	for i, step := range []struct {
		looks int
		share float64
		want  string
	}{
		{100, 0.2, "one"}, {100, 0.6, "one"}, {1, 0.9, "all"}, {49, 0.1, "all"}, {1, 0.5, "all"}, {49, 0.1, "all"}, {1, 0.1, "one"}, {1, 1.9, "all"},
	} {
		looks(step.looks, step.share)
		if state != step.want {
			t.Errorf("step %d: %s, want %s", i+1, state, step.want)
		}
	}
	now, used = now.Add(time.Hour), used+time.Hour // work of its own between questions
	p.look(now)
	looks(50, 0)
	if state != "one" {
		t.Errorf("an hour later: %s", state)
	}
	now, used = now.Add(time.Hour), used+time.Hour
	p.look(now)
	if state != "one" {
		t.Error("what was before the first question counts")
	}
	var none *processors
	none.look(now)
}
