package conformance

import (
	"fmt"
	"io"
	"strings"
)

// Print writes a result for a person: one line if it is well, and what was sent, expected and seen if it is not.
func Print(w io.Writer, r Result) {
	word := map[string]string{OK: "ok", Failed: "FAILED", Skipped: "-"}[r.Status]
	note := r.Note
	if r.Status == Failed {
		note = ""
	}
	line := fmt.Sprintf("%-7s %-46s %7s  %s", word, r.Check, took(r), note)
	fmt.Fprintln(w, strings.TrimRight(line, " "))
	if r.Status != Failed {
		return
	}
	for _, part := range []struct{ word, text string }{
		{"sent", r.Sent}, {"expected", r.Expected}, {"seen", r.Seen}, {"see", "sdk/PROTOCOL.md, section " + r.Section},
	} {
		fmt.Fprintf(w, "          %-9s %s\n", part.word+":", part.text)
	}
}

func took(r Result) string {
	switch {
	case r.Status == Skipped:
		return ""
	case r.Milliseconds >= 1000:
		return fmt.Sprintf("%.1f s", r.Milliseconds/1000)
	}
	return fmt.Sprintf("%.0f ms", r.Milliseconds)
}

// String is the last line of a report.
func (s Summary) String() string {
	text := fmt.Sprintf("%s: %d ok", s.Plugin, s.OK)
	if s.Failed > 0 {
		text += fmt.Sprintf(", %d FAILED", s.Failed)
	}
	if s.Skipped > 0 {
		text += fmt.Sprintf(", %d do not apply", s.Skipped)
	}
	return fmt.Sprintf("%s, in %.1f s", text, s.Seconds)
}
