package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/kv"
)

// WatchOptions are what a Watch is made of.
type WatchOptions struct {
	States func() []pluginhost.State // of the moment
	Raise  func(plugin string, alert sdk.Alert)
	After  time.Duration // how long a plugin may fail or not run; 0: 30 s

	Admit func() error // of the store; nil: the disk is not watched
	Free  func() int64 // octets free on the store's disk, or -1
	Low   int64        // raise an alert when less is free

	Every time.Duration // how often it looks; 0: After / 10, between 100 ms and 5 s
	Now   func() time.Time
}

// Watch raises the server's own alerts: a plugin that fails every question or does not run, a disk that fills up.
type Watch struct {
	o       WatchOptions
	plugins map[string]*watched
	disk    time.Time // when it was last looked at
}

// watched is what a Watch knows of a plugin.
type watched struct {
	answered, failed uint64    // so far
	maybe            uint64    // answered, when it was last looked at
	since            time.Time // of the first failure after the last answer; zero: none
	failures         uint64    // since then
	down             time.Time // since when it does not run; zero: it does
}

// NewWatch returns a watch.
func NewWatch(o WatchOptions) *Watch {
	if o.After == 0 {
		o.After = 30 * time.Second
	}
	if o.Every == 0 {
		o.Every = min(max(o.After/10, 100*time.Millisecond), 5*time.Second)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Watch{o: o, plugins: make(map[string]*watched)}
}

// Run looks until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	tick := time.NewTicker(w.o.Every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			w.Look()
		case <-ctx.Done():
			return
		}
	}
}

// Look looks once.
func (w *Watch) Look() {
	now := w.o.Now()
	here := make(map[string]bool)
	for _, s := range w.o.States() {
		here[s.Name] = true
		p := w.plugins[s.Name]
		if p == nil {
			p = &watched{}
			w.plugins[s.Name] = p
		}
		w.plugin(p, &s, now)
	}
	for name := range w.plugins {
		if !here[name] {
			delete(w.plugins, name)
		}
	}
	if w.o.Admit != nil && now.Sub(w.disk) >= 30*time.Second {
		w.disk = now
		w.lookAtDisk()
	}
}

// failuresThatCount is how many questions have to fail before that is said: one message may be to blame alone.
const failuresThatCount = 2

func (w *Watch) plugin(p *watched, s *pluginhost.State, now time.Time) {
	var failed uint64
	for _, n := range s.Failures {
		failed += n
	}
	// A failure is counted as asked a moment before it is counted as failed: what looks like an answer has to be there
	// twice.
	soFar := s.Asked - min(s.Asked, failed)
	answered := min(soFar, p.maybe)
	if failed < p.failed { // another plugin of that name
		*p = watched{}
		answered = 0
	}
	p.maybe = soFar
	switch {
	case answered > p.answered:
		p.answered, p.since, p.failures = answered, time.Time{}, 0
	case failed > p.failed:
		p.failures += failed - p.failed
		if p.since.IsZero() {
			p.since = now
		}
	}
	p.failed = failed
	// The key is that of the host's own alert about a breaker: one letter is enough.
	if !p.since.IsZero() && p.failures >= failuresThatCount && now.Sub(p.since) >= w.o.After {
		w.o.Raise(s.Name, sdk.Alert{Key: "plugin " + s.Name, Text: fmt.Sprintf(
			"plugin %s has failed every question for %s (%d of them)%s", s.Name, now.Sub(p.since).Round(time.Second), p.failures, because(s))})
	}
	if s.State == "ready" || s.State == "off" || s.State == "stopping" {
		p.down = time.Time{}
		return
	}
	if p.down.IsZero() {
		p.down = now
	}
	if now.Sub(p.down) >= w.o.After {
		w.o.Raise(s.Name, sdk.Alert{Key: "plugin " + s.Name + " is down", Text: fmt.Sprintf(
			"plugin %s has not run for %s%s", s.Name, now.Sub(p.down).Round(time.Second), because(s))})
	}
}

func because(s *pluginhost.State) string {
	if s.Why == "" {
		return ""
	}
	return ": " + s.Why
}

func (w *Watch) lookAtDisk() {
	free := w.o.Free()
	switch {
	case errors.Is(w.o.Admit(), kv.ErrFull):
		w.o.Raise("", sdk.Alert{Key: "disk full", Text: fmt.Sprintf("the disk is full: %d MB are free, and new mail is refused", free>>20)})
	case free >= 0 && free < w.o.Low:
		w.o.Raise("", sdk.Alert{Key: "disk", Text: fmt.Sprintf("the disk is nearly full: %d MB are free", free>>20)})
	}
}
