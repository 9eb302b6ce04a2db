package report

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/storage/kv/kvtest"
)

// BenchmarkObserve is what a message costs that DMARC has looked at: 100 senders of 50 domains, each with one signature.
func BenchmarkObserve(b *testing.B) {
	c := NewCollector(CollectorOptions{Engine: kvtest.NewMemory(), Logger: slog.New(slog.DiscardHandler)})
	var list []*pipeline.DMARCObservation
	for i := range 100 {
		o := observation(fmt.Sprintf("d%d.test", i%50), "mailto:d@example.net")
		o.Source = netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
		o.DKIM = []pipeline.DMARCDKIM{{Domain: o.HeaderFrom, Selector: "s", Result: "pass"}}
		list = append(list, o)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c.ObserveDMARC(list[i%len(list)])
	}
}
