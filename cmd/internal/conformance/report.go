package conformance

import (
	"fmt"
	"io"
	"strings"
)

// Printer writes results for a person: one line for each that is well, and what was sent, expected and seen for one that is not.
// Those that were not made, one after the other and for one reason, share a line.
type Printer struct {
	W io.Writer

	last  Result // that is not written yet, if waits is not 0
	waits int
}

// Result writes a result, or keeps it until the next.
func (p *Printer) Result(r Result) {
	if p.waits > 0 && r.Status == Untried && r.Note == p.last.Note {
		p.waits++
		return
	}
	p.Flush()
	if r.Status == Untried {
		p.last, p.waits = r, 1
		return
	}
	Print(p.W, r)
}

// Flush writes what was kept.
func (p *Printer) Flush() {
	if p.waits > 1 {
		p.last.Check = fmt.Sprintf("%d checks from %q on", p.waits, p.last.Check)
	}
	if p.waits > 0 {
		Print(p.W, p.last)
	}
	p.waits = 0
}

// Print writes one result.
func Print(w io.Writer, r Result) {
	word := map[string]string{OK: "ok", Failed: "FAILED", Skipped: "-", Untried: "?"}[r.Status]
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
	case r.Status == Skipped || r.Status == Untried:
		return ""
	case r.Milliseconds >= 1000:
		return fmt.Sprintf("%.1f s", r.Milliseconds/1000)
	}
	return fmt.Sprintf("%.0f ms", r.Milliseconds)
}

// String is the end of a report: a line, and another if questions were answered with errors.
func (s Summary) String() string {
	text := fmt.Sprintf("%s: %d ok", s.Plugin, s.OK)
	if s.Failed > 0 {
		text += fmt.Sprintf(", %d FAILED", s.Failed)
	}
	if s.Untried > 0 {
		text += fmt.Sprintf(", %d not tried", s.Untried)
	}
	if s.Skipped > 0 {
		text += fmt.Sprintf(", %d do not apply", s.Skipped)
	}
	text += fmt.Sprintf(", in %.1f s", s.Seconds)
	if s.Errors > 0 {
		text += fmt.Sprintf("\n%d of %d questions were answered with an error, which on_failure decides; the first was %s", s.Errors, s.Asked, s.Error)
	}
	return text
}
