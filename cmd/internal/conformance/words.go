package conformance

import (
	"bytes"
	"regexp"
	"strings"
	"sync"
)

// words keeps what is worth telling of what a plugin prints: the last line, and the last one that names an exception. Those of
// Go, Node and others have a long trace behind them, whose last line says nothing.
type words struct {
	mu    sync.Mutex
	line  []byte // that has not ended yet, at most maxLine octets of it
	ended string // the last line that has
	named string // the last that names an exception
}

// maxLine bounds a line that is kept, in octets.
const maxLine = 1 << 10

var exception = regexp.MustCompile(`^(panic: |fatal error: |terminate called |thread '.*' panicked at |(Uncaught |Exception in thread )?[\w.$]*(Error|Exception)\b)`)

func (w *words) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for rest := b; len(rest) > 0; {
		piece, after, ended := bytes.Cut(rest, []byte("\n"))
		w.line = append(w.line, piece[:min(len(piece), maxLine-len(w.line))]...)
		if ended {
			w.end()
		}
		rest = after
	}
	return len(b), nil
}

// end looks at a line that is complete.
func (w *words) end() {
	if text := strings.TrimSpace(string(w.line)); text != "" {
		w.ended = text
		if exception.MatchString(text) {
			w.named = text
		}
	}
	w.line = w.line[:0]
}

// last returns the last words, fit for a terminal; empty if it said nothing.
func (w *words) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end()
	if w.named != "" && w.named != w.ended {
		return printable(w.named, 300) + " ... " + printable(w.ended, 200)
	}
	return printable(w.ended, 300)
}
