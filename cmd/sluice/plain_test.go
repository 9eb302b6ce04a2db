package main

import "testing"

// TestPlain (DRILLS E8.3): what strangers and plugins wrote gives a terminal nothing to obey.
func TestPlain(t *testing.T) {
	for text, want := range map[string]string{
		"a line\n  another, \u00e4\u4e2d\n": "a line\n  another, \u00e4\u4e2d\n",
		"\x1b[2J\r\x07\x00\u009b31m":        "?[2J????31m",
		"\u202egnp.exe\u2066\u2028\xff":     "?gnp.exe???",
	} {
		if got := plain(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}
