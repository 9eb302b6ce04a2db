package pluginhost

import (
	"slices"
	"testing"

	"github.com/sluicemail/sluice/sdk/wire"
)

// TestOffered (DRILLS E6.6): a host of version n lets a plugin choose n and n-1, and nothing else; today 1 alone.
func TestOffered(t *testing.T) {
	for _, versions := range [][]int{{1}, {2, 1}, {7, 6}} {
		sets := offered(versions)
		for v := range 10 {
			if _, ok := sets[v]; ok != slices.Contains(versions, v) {
				t.Errorf("%v: %d is offered: %v", versions, v, ok)
			}
		}
	}
	if got := offered(wire.Versions()); len(got) != 1 || got[1] == nil {
		t.Errorf("%v are offered", got)
	}
}
