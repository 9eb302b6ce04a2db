package units

import (
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	good := map[string]time.Duration{
		"0": 0, "0s": 0, "15m": 15 * time.Minute, "5d": 5 * Day, "1d12h": 36 * time.Hour, "1.5d": 36 * time.Hour,
		"90s": 90 * time.Second, " 2h ": 2 * time.Hour, "50ms": 50 * time.Millisecond, "106751d": 106751 * Day,
		"2h45m0.5s": 2*time.Hour + 45*time.Minute + 500*time.Millisecond,
	}
	for text, want := range good {
		if got, err := ParseDuration(text); err != nil || got.Std() != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "5", "d", "-5d", "+5s", "5 d 3", "1h5d", "5dd", "5d-3h", "5d+3h", "106752d", "106751d24h",
		"1e3d", "infd", "0x5d", "5x", "..d", "9999999999999999999d"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q) = %v; want an error", text, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	good := map[string]Size{"0": 0, "1": 1, "50MB": 50 * MB, "64 kb": 64 * KB, "1.5GB": GB + GB/2, "7B": 7, "65536": 64 * KB, "1gb": GB}
	for text, want := range good {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MB", "-1", "+1KB", "1TB", "1e3", "inf", "NaN", "0x10", "9223372036854775808", "8589934592GB", "1MiB", "1..5MB"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %v; want an error", text, got)
		}
	}
}

func TestWrittenForms(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 15 * time.Minute: "15m", 5 * Day: "5d", 36 * time.Hour: "1d12h", 2 * time.Hour: "2h", 90 * time.Second: "1m30s",
		10 * time.Second: "10s", 50 * time.Millisecond: "50ms", time.Hour + time.Millisecond: "1h1ms",
	} {
		if got := Of(d).String(); got != want {
			t.Errorf("%v is written %q; want %q", d, got, want)
		}
	}
	for s, want := range map[Size]string{0: "0", 1: "1B", 1000: "1000B", 64 * KB: "64KB", 50 * MB: "50MB", GB + 1: "1073741825B", 1536 * MB: "1536MB"} {
		if got := s.String(); got != want {
			t.Errorf("%d is written %q; want %q", int64(s), got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"5d", "1d12h", "50MB", "1.5GB", "0", "-5d", "2h45m0.5s", "9223372036854775807"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if d, err := ParseDuration(text); err == nil {
			if again, err := ParseDuration(d.String()); err != nil || again != d || d < 0 {
				t.Fatalf("%q: %d is written %q, which reads as %d, %v", text, d, d, again, err)
			}
		}
		if s, err := ParseSize(text); err == nil {
			if again, err := ParseSize(s.String()); err != nil || again != s || s < 0 {
				t.Fatalf("%q: %d is written %q, which reads as %d, %v", text, s, s, again, err)
			}
		}
	})
}
