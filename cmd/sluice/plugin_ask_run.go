package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/sluicemail/sluice/cmd/internal/mailfile"
	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/sdk"
)

// mailAsker asks one plugin about many messages. Messages are spooled in the order in which they are found, asked about by
// several workers, and reported in order; there are never more of them than spools.
type mailAsker struct {
	app      *app
	plugin   *pluginhost.Plugin
	flags    askFlags
	phase    sdk.Phase
	hostname string

	counts   map[string]int // answers by action, failures by kind
	asked    int
	failed   int
	time     time.Duration
	progress time.Time
}

// asked is one message and what came of it.
type asked struct {
	Source  string       `json:"source"`
	Phase   sdk.Phase    `json:"phase"`
	Verdict *sdk.Verdict `json:"verdict,omitempty"`
	Kind    string       `json:"failure,omitempty"` // error, timeout, crash, invalid, ...
	Error   string       `json:"error,omitempty"`
	MS      float64      `json:"ms"`
}

// maxSpools bounds how many messages are on disk and with the plugin at a time.
const maxSpools = 8

// run asks about everything below path. Who interrupts it gets the sum of what was answered by then.
func (m *mailAsker) run(outer context.Context, path string) error {
	m.counts = make(map[string]int)
	spools := make(chan *mailfile.Spool, maxSpools)
	for range maxSpools {
		s, err := mailfile.NewSpool()
		if err != nil {
			return err
		}
		defer s.Close()
		spools <- s
	}
	ctx, cancel := context.WithCancel(outer)
	defer cancel()
	answers := make(chan chan asked, maxSpools)
	walked := make(chan error, 1)
	go func() {
		defer close(answers)
		walked <- mailfile.Walk(ctx, path, &input{ctx, m.app.stdin}, func(msg mailfile.Message) error { return m.begin(ctx, msg, spools, answers) })
	}()
	var printing error
	withdrawn := false
	for answer := range answers {
		a := <-answer
		if a.Verdict == nil && outer.Err() != nil {
			withdrawn = true // by us: the plugin isn't to blame
		} else if printing == nil {
			if printing = m.report(a); printing != nil {
				cancel() // nobody reads what we print
			}
		}
	}
	m.clear()
	err := errors.Join(printing, <-walked)
	if printing == nil && (withdrawn || outer.Err() != nil && errors.Is(err, outer.Err())) {
		return errors.Join(m.summary(), fmt.Errorf("interrupted: there is more in %s", path))
	}
	if err != nil {
		return fmt.Errorf("ask about %s: %w", path, err)
	}
	if m.asked == 0 {
		err = errors.New("there was no message")
	} else if m.failed > 0 {
		err = errSilent
	}
	return errors.Join(m.summary(), err)
}

// begin spools a message and hands it to a worker, whose answer will come on a channel that is queued now.
func (m *mailAsker) begin(ctx context.Context, msg mailfile.Message, spools chan *mailfile.Spool, answers chan<- chan asked) error {
	answer := make(chan asked, 1)
	queue := func() error {
		select {
		case answers <- answer:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if msg.Err != nil {
		answer <- asked{Source: msg.Name, Phase: m.phase, Kind: "unreadable", Error: msg.Err.Error()}
		return queue()
	}
	var s *mailfile.Spool
	select {
	case s = <-spools:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := s.Fill(msg.R, maxAsked); err != nil {
		spools <- s
		answer <- asked{Source: msg.Name, Phase: m.phase, Kind: "unreadable", Error: err.Error()}
		return queue()
	}
	go func() {
		defer func() { spools <- s }() // there is room for all
		answer <- m.ask(ctx, s, msg.Name, msg.Sender)
	}()
	return queue()
}

func (m *mailAsker) ask(ctx context.Context, s *mailfile.Spool, source, sender string) asked {
	out := asked{Source: source, Phase: m.phase}
	q, err := m.question(s, "ASK", sender)
	if err != nil {
		out.Kind, out.Error = "unreadable", err.Error()
		return out
	}
	v, took, err := m.plugin.Ask(ctx, q)
	out.MS = float64(took.Microseconds()) / 1000
	if err != nil {
		out.Kind, out.Error = "error", err.Error()
		var failure *pluginhost.Failure
		if errors.As(err, &failure) {
			out.Kind, out.Error = string(failure.Kind), failure.Err.Error()
		}
		return out
	}
	out.Verdict = &v
	return out
}

// report counts one answer and prints it.
func (m *mailAsker) report(a asked) error {
	m.asked++
	m.time += time.Duration(a.MS * float64(time.Millisecond))
	if a.Verdict != nil {
		m.counts[a.Verdict.Action.String()]++
	} else {
		m.counts[a.Kind]++
		m.failed++
	}
	m.show()
	if m.app.json {
		return json.NewEncoder(m.app.stdout).Encode(a)
	}
	// Names of files and texts of plugins are not for the terminal to obey.
	_, err := fmt.Fprintln(m.app.stdout, strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, a.line()))
	return err
}

// line is one answer for a person: what it is, the action, the score, the time, and why.
func (a *asked) line() string {
	if a.Verdict == nil {
		return fmt.Sprintf("%-40s  %-10s  %6s  %6.1f ms  %s", a.Source, "FAILED", "", a.MS, a.Kind+": "+a.Error)
	}
	why := reasonsOf(a.Verdict.Reasons, a.Verdict.Detections)
	for _, r := range a.Verdict.Recipients {
		text := r.Recipient + ": " + r.Action.String()
		if r.Route != nil {
			text += " " + routeOf(r.Route)
		}
		why = append(append(why, text), reasonsOf(r.Reasons, r.Detections)...)
	}
	if a.Verdict.Route != nil {
		why = append(why, routeOf(a.Verdict.Route))
	}
	for _, c := range a.Verdict.Changes {
		why = append(why, strings.TrimSpace(c.Kind.String()+" "+or(c.Name, c.Address)))
	}
	if r := a.Verdict.Reply; r != nil {
		why = append(why, fmt.Sprintf("reply %d %s %s", r.Code, r.Enhanced, r.Text))
	}
	line := fmt.Sprintf("%-40s  %-10s  %6.1f  %6.1f ms  %s", a.Source, a.Verdict.Action, a.Verdict.Score, a.MS, strings.Join(why, "; "))
	return strings.TrimRight(line, " ")
}

// routeOf is "to a@b, c@d via smtp://host:25", or one of the two.
func routeOf(r *sdk.Route) string {
	text := ""
	if len(r.To) > 0 {
		text = "to " + strings.Join(r.To, ", ")
	}
	if r.Via != "" {
		text = strings.TrimSpace(text + " via " + r.Via)
	}
	return text
}

func reasonsOf(reasons []sdk.Reason, detections []string) (list []string) {
	for _, d := range detections {
		list = append(list, "found "+d)
	}
	for _, r := range reasons {
		text := r.Symbol
		if r.Score != 0 {
			text += fmt.Sprintf(" %+.1f", r.Score)
		}
		if r.Text != "" {
			text += " (" + r.Text + ")"
		}
		list = append(list, text)
	}
	return list
}

// show draws the progress where standard error is a terminal and standard output is not, several times a second.
func (m *mailAsker) show() {
	if terminal(m.app.stdout) || !terminal(m.app.stderr) || time.Since(m.progress) < 200*time.Millisecond {
		return
	}
	m.progress = time.Now()
	fmt.Fprintf(m.app.stderr, "\r%d asked, %d failed ", m.asked, m.failed)
}

// clear takes the progress away.
func (m *mailAsker) clear() {
	if !m.progress.IsZero() {
		fmt.Fprint(m.app.stderr, "\r\x1b[K")
		m.progress = time.Time{}
	}
}

func terminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// askSummary is the last object of --json.
type askSummary struct {
	Plugin  string         `json:"plugin"`
	Version string         `json:"version"`
	Asked   int            `json:"asked"`
	Failed  int            `json:"failed"`
	Counts  map[string]int `json:"counts"`
	MeanMS  float64        `json:"mean_ms"`
}

func (m *mailAsker) summary() error {
	manifest := m.plugin.Manifest()
	s := askSummary{Plugin: m.plugin.Name(), Version: manifest.Version, Asked: m.asked, Failed: m.failed, Counts: m.counts}
	if m.asked > 0 {
		s.MeanMS = float64((m.time / time.Duration(m.asked)).Microseconds()) / 1000
	}
	if m.app.json {
		return json.NewEncoder(m.app.stdout).Encode(map[string]askSummary{"summary": s})
	}
	_, err := fmt.Fprintln(m.app.stdout, s)
	return err
}

// String is the last line.
func (s askSummary) String() string {
	var parts []string
	for _, word := range slices.SortedFunc(maps.Keys(s.Counts), func(a, b string) int { return cmp.Compare(s.Counts[b], s.Counts[a]) }) {
		parts = append(parts, fmt.Sprintf("%d %s", s.Counts[word], word))
	}
	return fmt.Sprintf("%s %s: %d asked, %s; %.1f ms each", s.Plugin, s.Version, s.Asked, or(strings.Join(parts, ", "), "none"), s.MeanMS)
}
