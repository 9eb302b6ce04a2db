package conformance

import "testing"

// TestLastWords: an author is told the exception, not the end of its trace.
func TestLastWords(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "",
		"\n  \n":                           "",
		"one\ntwo\n\n":                     "two",
		"one\nno end":                      "no end",
		"a\x1b[31mb":                       "a [31mb",
		"ValueError: no\n":                 "ValueError: no",
		"Error: late\nthe licence ends":    "Error: late ... the licence ends",
		"panic: boom\n\ngoroutine 1:\nx\n": "panic: boom ... x",
		"node:internal:1\n  throw err;\n\nError: Cannot find module 'a'\n    at x\n\nNode.js v20\n": "Error: Cannot find module 'a' ... Node.js v20",
		"Traceback (most recent call last):\n  File\nmail.errors.ParseError: bad\n":                 "mail.errors.ParseError: bad",
		"thread 'main' panicked at src/main.rs:2:5:\nno\n":                                          "thread 'main' panicked at src/main.rs:2:5: ... no",
		"Errors are fine\nso is an Error\n":                                                         "so is an Error",
	} {
		var whole, pieces words
		_, _ = whole.Write([]byte(text))
		for i := range len(text) {
			_, _ = pieces.Write([]byte{text[i]})
		}
		if whole.last() != want || pieces.last() != want {
			t.Errorf("%q: %q, %q in pieces, expected %q", text, whole.last(), pieces.last(), want)
		}
	}
	var w words
	for range 1000 {
		_, _ = w.Write(make([]byte, 4096))
	}
	if len(w.line) > maxLine {
		t.Errorf("%d octets of a line are kept", len(w.line))
	}
}
