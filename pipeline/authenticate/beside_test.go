package authenticate

import (
	"fmt"
	"strings"
	"testing"
)

// TestPanicBesideIsTheSessions: one mail never ends the process (DRILLS E3.8).
func TestPanicBesideIsTheSessions(t *testing.T) {
	done := false
	defer func() {
		if v := fmt.Sprint(recover()); !strings.Contains(v, "a hostile signature") || !done {
			t.Errorf("recovered %.200s, the other one done: %v", v, done)
		}
	}()
	var b beside
	defer b.wait()
	b.run(func() { panic("a hostile signature") })
	b.run(func() { done = true })
	b.wait()
	t.Error("no panic")
}
