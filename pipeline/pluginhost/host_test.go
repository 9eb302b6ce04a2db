package pluginhost

import (
	"math"
	"testing"

	"github.com/sluicemail/sluice/sdk"
)

// verdicts are what the test plugin answers by name.
func verdicts() map[string]sdk.Verdict {
	return map[string]sdk.Verdict{
		"nan": {Score: math.NaN()},
	}
}

func hostForKill(dir string) {}

func TestFirst(t *testing.T) {
	h := newHarness(t, "plain", nil)
	h.ready(t)
	v, kind := h.ask(t, message("Subject: x\r\n\r\nhello\r\n"))
	t.Log(v, kind)
	t.Log(h.host.States())
}
