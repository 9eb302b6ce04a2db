package pluginhost

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestStdioData(t *testing.T) {
	for text, want := range map[string]string{
		"\x08\x01\x12\x02hi": "stdout:hi", "\x08\x02\x12\x02hi": "stderr:hi", "\x12\x02hi": "stdout:hi", "": "stdout:",
		"\x12\x7fhi": "stdout:", "\xff": "stdout:", "\x1a\x01x\x12\x01y": "stdout:y",
	} {
		if stream, data := stdioData([]byte(text)); stream+":"+string(data) != want {
			t.Errorf("%q: %s:%s, expected %s", text, stream, data, want)
		}
	}
}

func FuzzStdioData(f *testing.F) {
	f.Add([]byte("\x08\x02\x12\x02hi"))
	f.Fuzz(func(t *testing.T, octets []byte) {
		if _, text := stdioData(octets); len(text) > len(octets) {
			t.Fatal("more out than in")
		}
	})
}

// FuzzOutput: whatever a plugin prints, however it is cut, the log stays one of short, printable lines.
func FuzzOutput(f *testing.F) {
	f.Add([]byte("{\"@message\":1}\n\n\r\n\x1b[31mred\x00\xff\n"), true)
	f.Add(bytes.Repeat([]byte("long "), 2000), false)
	f.Fuzz(func(t *testing.T, octets []byte, slowly bool) {
		var seen lineLog
		o := newOutput(slog.New(&seen))
		var r io.Reader = bytes.NewReader(octets)
		if slowly {
			r = iotest.OneByteReader(r)
		}
		o.copy("stderr", r)
		o.flush()
		for _, line := range seen {
			if len(line) > 3*maxLine+10 || !utf8.ValidString(line) || strings.ContainsFunc(line, unicode.IsControl) {
				t.Fatalf("%d octets: %q", len(line), line)
			}
		}
		if len(o.last) > keepLines {
			t.Fatalf("%d lines kept", len(o.last))
		}
	})
}

func TestOutputRate(t *testing.T) {
	var seen lineLog
	o := newOutput(slog.New(&seen))
	o.copy("stderr", strings.NewReader(strings.Repeat("a line\n", 10000)))
	o.filled = o.filled.Add(-2 * time.Second) // two seconds later
	o.copy("stderr", strings.NewReader(strings.Repeat("a line\n", 1000)))
	o.flush()
	if n := len(seen); n < burst+2*perSecond || n > burst+3*perSecond+5 {
		t.Errorf("%d lines", n)
	}
}
