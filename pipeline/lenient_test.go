package pipeline

import (
	"strings"
	"testing"
)

func TestLenientName(t *testing.T) {
	for _, c := range []struct {
		line, lenient string
		proper        bool
	}{
		{"From: a@b.test", "From", true},
		{"From:a@b.test", "From", true},
		{"From : a@b.test", "From", false},
		{"From" + strings.Repeat(" ", 100) + ": a@b.test", "From", false},
		{"From\t\r\n : a@b.test", "From", false},
		{"Fr\x00om: a@b.test", "From", false},
		{"\x7fBcc\xc2\xa0: a@b.test", "Bcc", false},
		{" Bcc: a@b.test", "Bcc", false}, // the first line of a header, which continues nothing
		{"From alice Thu Jan  1 00:00:00 2026", "FromaliceThuJan100", false},
		{"no colon", "", false},
		{": x", "", false},
		{strings.Repeat("x", 65) + ": y", "", true}, // longer than any name that somebody looks for
	} {
		fields := newVersion([]byte(c.line + "\r\n\r\n")).Fields()
		if len(fields) != 1 {
			t.Errorf("%q: %d fields", c.line, len(fields))
			continue
		}
		if got := fields[0].LenientName(); got != c.lenient {
			t.Errorf("%q: the lenient name is %q, expected %q", c.line, got, c.lenient)
		}
		if got := fields[0].Proper(); got != c.proper {
			t.Errorf("%q: proper is %v", c.line, got)
		}
	}
}
