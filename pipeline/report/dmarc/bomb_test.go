package dmarc_test

import (
	"runtime"
	"strings"
	"testing"

	"github.com/sluicemail/sluice/pipeline/report/dmarc"
)

// TestAttributes: 20 MB of attributes in one tag, which the decoder keeps before anybody can count them, are refused early,
// in whatever charset they are written.
func TestAttributes(t *testing.T) {
	for _, charset := range []string{"utf-8", "iso-8859-1"} {
		text := `<?xml version="1.0" encoding="` + charset + `"?><feedback ` + strings.Repeat(`a="" `, 4_000_000) + `/>`
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		_, err := dmarc.Read(strings.NewReader(text))
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Error("no error")
		}
		if grown := int64(after.TotalAlloc - before.TotalAlloc); grown > 150<<20 {
			t.Errorf("%s: %d MB were allocated for 20 MB: %v", charset, grown>>20, err)
		}
	}
}
