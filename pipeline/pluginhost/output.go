package pluginhost

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Bounds on what a plugin's output may cost.
const (
	maxLine   = 2 << 10         // octets of a line that are logged; the rest is dropped
	burst     = 200             // lines at once
	perSecond = 20              // lines a second after that
	tellEvery = 5 * time.Second // how often dropped lines are reported
	keepLines = 5               // last lines kept for error messages
)

// output turns what a plugin writes into log lines that name it, at most so many
// a second. It always reads on: a plugin is never blocked by its log.
type output struct {
	log *slog.Logger

	mu      sync.Mutex
	tokens  float64
	filled  time.Time
	dropped int
	told    time.Time
	last    []string
}

func newOutput(log *slog.Logger) *output {
	return &output{log: log, tokens: burst, filled: time.Now(), told: time.Now()}
}

// copy logs r line by line until it ends.
func (o *output) copy(stream string, r io.Reader) {
	reader := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := reader.ReadSlice('\n')
		if len(line) > 0 {
			o.line(stream, string(line), errors.Is(err, bufio.ErrBufferFull))
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = reader.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}

func (o *output) line(stream, text string, cut bool) {
	text = printable(strings.TrimRight(text, "\r\n"))
	if text == "" {
		return
	}
	if cut {
		text += " ..."
	}
	o.mu.Lock()
	now := time.Now()
	o.tokens = min(burst, o.tokens+now.Sub(o.filled).Seconds()*perSecond)
	o.filled = now
	if len(o.last) == keepLines {
		o.last = append(o.last[:0], o.last[1:]...)
	}
	o.last = append(o.last, text)
	pass := o.tokens >= 1
	report := 0
	if pass {
		o.tokens--
	} else {
		o.dropped++
	}
	if o.dropped > 0 && now.Sub(o.told) >= tellEvery {
		report, o.dropped, o.told = o.dropped, 0, now
	}
	o.mu.Unlock()
	if pass {
		o.log.Info("plugin says", "stream", stream, "text", text)
	}
	if report > 0 {
		o.log.Warn("plugin says too much", "lines_dropped", report)
	}
}

// flush reports what was dropped and not told yet.
func (o *output) flush() {
	o.mu.Lock()
	report := o.dropped
	o.dropped = 0
	o.mu.Unlock()
	if report > 0 {
		o.log.Warn("plugin says too much", "lines_dropped", report)
	}
}

// lastWords returns the last lines, for an error message.
func (o *output) lastWords() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.last, " / ")
}

// printable replaces control characters and what is not UTF-8: a log is read in
// terminals.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}
