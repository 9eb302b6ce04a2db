package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

const (
	shortestWait = time.Second     // from opening to the first probe; the next waits double
	breakerSpan  = 5 * time.Second // a row of failures has to last so long, or a plugin's timeout if that is shorter
)

// breaker keeps a plugin that fails always from slowing mail down by its time-out each time. After `limit`
// failures in a row of one phase, that lasted breakerSpan at least, it opens: questions fail at once, with the kind of the last failure, so that the
// administrator's policy for it decides. Now and then one real question is a probe; its answer closes the breaker.
//
// Only what says something about the plugin counts: busy, poison and questions whose own time was short do not. An attacker
// whose messages make a plugin fail at once can open it only while nobody else's mail comes between for as long as breakerSpan; and
// the first wait is a second, and a single answer is enough to close it.
type breaker struct {
	limit   int           // 0: never opens
	longest time.Duration // between two probes
	span    time.Duration

	mu      sync.Mutex
	row     int       // failures in a row
	since   time.Time // when the first of them was asked
	last    *Failure
	open    bool
	probing bool
	wait    time.Duration
	probe   time.Time // when the next probe may go
	skipped uint64    // questions that were not asked
}

// allow reports whether a question is to be asked, and whether it is a probe; the error is what it
// fails with if not.
func (b *breaker) allow(now time.Time) (probe bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.open:
		return false, nil
	case !b.probing && !now.Before(b.probe):
		b.probing = true
		return true, nil
	}
	b.skipped++
	return false, &Failure{b.last.Kind, fmt.Errorf("not asked: it failed %d times in a row, last: %w", b.row, b.last.Err)}
}

// closed reports whether every question is asked.
func (b *breaker) closed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.open
}

// done notes the outcome of a question that was asked. It reports whether that opened or closed the breaker.
func (b *breaker) done(asked, now time.Time, probe, counts bool, failure *Failure) (opened, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if probe {
		b.probing = false
	}
	if failure == nil {
		closed = b.open
		b.row, b.open, b.wait = 0, false, 0
		return false, closed
	}
	if !counts {
		return false, false
	}
	if b.row++; b.row == 1 || asked.Before(b.since) {
		b.since = asked
	}
	b.last = failure
	switch {
	case b.open && probe:
		b.wait = min(2*b.wait, b.longest)
		b.probe = now.Add(b.wait)
	case !b.open && b.limit > 0 && b.row >= b.limit && now.Sub(b.since) >= b.span:
		b.open, b.wait = true, min(shortestWait, b.longest)
		b.probe = now.Add(b.wait)
		return true, false
	}
	return false, false
}

// judge tells the breaker of an answer, and the administrator of the breaker.
func (p *Plugin) judge(ctx context.Context, b *breaker, probe bool, phase sdk.Phase, asked time.Time, err error) {
	if err == nil {
		if _, closed := b.done(asked, time.Time{}, probe, true, nil); closed {
			p.log.Info("plugin answers again", "phase", phase)
		}
		return
	}
	var failure *Failure
	_ = errors.As(err, &failure)
	counts := failure != nil
	if counts {
		switch failure.Kind {
		case Busy, Poison:
			counts = false
		case Timeout, Crash: // not the plugin's fault if the message's own time was shorter
			counts = ctx.Err() == nil
		}
	} else { // errMoved
		failure = &Failure{Busy, err}
	}
	if opened, _ := b.done(asked, time.Now(), probe, counts, failure); opened {
		p.log.Error("plugin is not waited for any more", "phase", phase, "failures", b.limit, "kind", failure.Kind, "why", failure.Err)
		p.host.options.Alert(p.name, sdk.Alert{
			Key:  "plugin " + p.name,
			Text: fmt.Sprintf("Plugin %s has failed %d times in a row in phase %s and is not waited for: %v", p.name, b.limit, phase, failure),
		})
	}
}

// maxPhase is one more than the last index of a phase.
const maxPhase = 5

// phaseIndex numbers the phases whose answers people wait for.
func phaseIndex(phase sdk.Phase) int {
	switch phase {
	case sdk.PhaseConnect:
		return 0
	case sdk.PhaseSender:
		return 1
	case sdk.PhaseRecipient:
		return 2
	case sdk.PhaseRoute:
		return 3
	}
	return 4
}

// phaseNames are the phases by phaseIndex.
func phaseNames() [maxPhase]sdk.Phase {
	return [...]sdk.Phase{sdk.PhaseConnect, sdk.PhaseSender, sdk.PhaseRecipient, sdk.PhaseRoute, sdk.PhaseContent}
}
