package authenticate

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// cpuTime is what this process has used, all threads together.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkStage is the whole stage with a warm DNS cache; the bar for an unsigned message is 40 us of CPU.
func BenchmarkStage(b *testing.B) {
	signed, err := os.ReadFile("testdata/rfc8463.eml")
	if err != nil {
		b.Fatal(err)
	}
	header := strings.Repeat("X-Header: something that a relay wrote, as long as a line is\n", 12)
	body := strings.Repeat("A line of a body, as long as lines in bodies usually are.\n", 60)
	for _, test := range []struct {
		name, sender, raw string
		origin            sdk.Origin
	}{
		{"unsigned", "alice@example.org", header + plain + body, sdk.Stranger},
		{"unsigned-no-policy", "alice@nothing.test", header + strings.Replace(plain, "example.org", "nothing.test", 1) + body, sdk.Stranger},
		{"signed-twice", "joe@football.example.com", string(signed), sdk.Stranger},
		{"trusted", "alice@example.org", header + plain + body, sdk.Trusted},
	} {
		b.Run(test.name, func(b *testing.B) {
			f := newFixture(b, "")
			m := f.message(test.sender, test.raw)
			m.Origin = test.origin
			arrived := m.Arrived()
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				m.Tags, m.Trace = nil, nil
				for _, r := range m.Recipients {
					r.Version = arrived
				}
				if err := f.stage.Process(b.Context(), m); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-before)/1e3/float64(b.N), "cpu-us/op")
		})
	}
}
