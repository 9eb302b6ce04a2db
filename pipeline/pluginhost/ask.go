package pluginhost

import (
	"context"
	"errors"
	"time"

	"github.com/sluicemail/sluice/pipeline/internal/lazy"
	"github.com/sluicemail/sluice/sdk"
)

// Ask asks the plugin and returns its verdict and how long that took. The error is a *Failure. The
// plugin has its `timeout`, or what ctx leaves if that is less, from when there was a lane for the question; a suspect has all of what ctx
// leaves, for it may have to wait for its turn. A plugin that a reload replaced meanwhile is asked as long as
// it runs, and after that its successor is.
func (p *Plugin) Ask(ctx context.Context, q *Question) (sdk.Verdict, time.Duration, error) {
	start := time.Now()
	for {
		p = p.latest()
		p.stats.inFlight.Add(1)
		if p.successor.Load() != nil { // just now
			p.stats.inFlight.Add(-1)
			continue
		}
		p.asked.Store(start.UnixNano())
		v, err := p.askHere(ctx, q)
		if errors.Is(err, errMoved) {
			p.stats.inFlight.Add(-1)
			continue
		}
		took := time.Since(start)
		p.stats.asked.Add(1)
		p.stats.done(took, kindOf(err))
		p.stats.inFlight.Add(-1)
		return v, took, err
	}
}

// latest follows those that took a plugin's place.
func (p *Plugin) latest() *Plugin {
	for next := p.successor.Load(); next != nil; next = p.successor.Load() {
		p = next
	}
	return p
}

// errMoved says that the successor is to be asked.
var errMoved = errors.New("the plugin was replaced")

// askHere asks the canary if it is its turn, else, or if that fails, the plugin itself.
func (p *Plugin) askHere(ctx context.Context, q *Question) (sdk.Verdict, error) {
	phase := q.phase()
	if phase == sdk.PhaseEvent {
		limited, cancel := context.WithTimeout(ctx, p.config.Timeout.Std())
		defer cancel()
		return p.askEvent(limited, q)
	}
	if v, known, err := p.askSuspect(ctx, q); known {
		return v, err
	}
	if p.canary.chosen(q) {
		if v, err := p.canary.ask(ctx, q); err == nil {
			return v, nil
		}
		if ctx.Err() != nil {
			return sdk.Verdict{}, failf(Timeout, "no answer in time")
		}
	}
	b := &p.breakers[phaseIndex(phase)]
	asked := time.Now()
	probe, err := b.allow(asked)
	if err != nil {
		return sdk.Verdict{}, err
	}
	v, err := p.ask(ctx, q)
	p.judge(ctx, b, probe, phase, asked, err)
	if err == nil {
		p.canary.compare(q, &v)
	}
	return v, err
}

// askSuspect asks about a message that is known as one that was in a process when it died; no breaker and no canary has
// to do with those (RULES C3).
func (p *Plugin) askSuspect(ctx context.Context, q *Question) (v sdk.Verdict, known bool, err error) {
	if q.Key == nil || p.suspects.empty() {
		return v, false, nil
	}
	key := q.Key()
	switch convictions, suspected := p.suspects.lookup(key); {
	case convictions >= 2:
		return v, true, poison(convictions)
	case suspected:
		v, err = p.cell.ask(ctx, q, key)
		return v, true, err
	}
	return v, false, nil
}

func (p *Plugin) ask(ctx context.Context, q *Question) (sdk.Verdict, error) {
	limited := lazy.WithTimeout(ctx, p.config.Timeout.Std())
	defer limited.Stop()
	return p.askOn(limited, ctx, q)
}

// askOn asks until there is an outcome, within limited, which is part of ctx.
func (p *Plugin) askOn(limited, ctx context.Context, q *Question) (sdk.Verdict, error) {
	for {
		proc, err := p.current(limited)
		if err != nil {
			return sdk.Verdict{}, err
		}
		v, err := proc.askWithin(limited, ctx, p.config.Timeout.Std(), q)
		v, again, err := p.afterwards(ctx, proc, q, v, err)
		if !again {
			return v, err
		}
	}
}

// afterwards deals with what became of a question: a message whose process died is asked about again, alone (RULES C3). again: it
// was not asked at all.
func (p *Plugin) afterwards(ctx context.Context, proc *process, q *Question, v sdk.Verdict, err error) (_ sdk.Verdict, again bool, _ error) {
	if isNotAsked(err) {
		p.leave(proc)
		return v, true, nil
	}
	if kindOf(err) != Crash {
		return v, false, err
	}
	p.leave(proc)
	if q.Key == nil {
		return v, false, err
	}
	key, convictions := q.Key(), 0
	if proc.diedAlone() {
		convictions = 1
	}
	p.log.Warn("message is suspected", "id", q.Envelope.ID, "why", err)
	p.suspects.suspect(key, convictions)
	v, err = p.cell.ask(ctx, q, key)
	return v, false, err
}

func isNotAsked(err error) bool { return errors.Is(err, errNotAsked) }

// leave makes sure that a dead process is not taken for a running one until run notices.
func (p *Plugin) leave(proc *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process == proc && p.state == stateReady {
		p.process, p.state, p.since = nil, stateStarting, time.Now()
	}
}

func poison(convictions int) error {
	return failf(Poison, "the plugin died %d times with this message alone in it", convictions)
}
