package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

// Ask asks the plugin and returns its verdict and how long that took. The error is a *Failure. The
// plugin has its `timeout`, or what ctx leaves if that is less; a suspect has all of what ctx
// leaves, for it may have to wait for its turn.
func (p *Plugin) Ask(ctx context.Context, q *Question) (sdk.Verdict, time.Duration, error) {
	start := time.Now()
	p.stats.asked.Add(1)
	p.stats.inFlight.Add(1)
	v, err := p.ask(ctx, q)
	p.stats.inFlight.Add(-1)
	took := time.Since(start)
	p.stats.done(took, kindOf(err))
	return v, took, err
}

func (p *Plugin) ask(ctx context.Context, q *Question) (sdk.Verdict, error) {
	if q.Key != nil && !p.suspects.empty() {
		key := q.Key()
		switch convictions, suspected := p.suspects.lookup(key); {
		case convictions >= 2:
			return sdk.Verdict{}, poison(convictions)
		case suspected:
			return p.cell.ask(ctx, q, key)
		}
	}
	limited, cancel := context.WithTimeout(ctx, p.config.Timeout.Std())
	defer cancel()
	for {
		proc, err := p.current(limited)
		if err != nil {
			return sdk.Verdict{}, err
		}
		v, err := proc.ask(limited, q)
		if errors.Is(err, errNotAsked) {
			p.leave(proc)
			continue
		}
		if kindOf(err) != Crash || q.Key == nil {
			return v, err
		}
		p.leave(proc)
		key, convictions := q.Key(), 0
		if proc.diedAlone() {
			convictions = 1
		}
		p.log.Warn("message is suspected", "id", q.Envelope.ID, "why", err)
		p.suspects.suspect(key, convictions)
		return p.cell.ask(ctx, q, key)
	}
}

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

// maxShadow is the largest content that is kept for a question nobody waits for, in octets.
const maxShadow = 1 << 20

// Observe asks the plugin without making anybody wait (mode = "shadow"). The content is copied, so
// the message may go; record is called with the outcome, once, from another goroutine. Questions beyond the
// plugin's lanes, or larger than 1 MiB, are dropped and recorded as busy at once.
func (p *Plugin) Observe(q *Question, record func(sdk.Verdict, time.Duration, error)) {
	select {
	case p.shadows <- struct{}{}:
	default:
		record(sdk.Verdict{}, 0, failf(Busy, "too many questions in shadow mode"))
		return
	}
	length := q.length(p.Manifest().Want)
	octets, err := copyContent(q, length)
	if err != nil {
		<-p.shadows
		record(sdk.Verdict{}, 0, &Failure{Busy, err})
		return
	}
	own := *q
	own.Key = nil // never suspected: nothing waits for its verdict
	own.Open = func() (io.Reader, error) { return bytes.NewReader(octets), nil }
	go func() {
		defer func() { <-p.shadows }()
		ctx, cancel := context.WithTimeout(context.Background(), p.config.Timeout.Std())
		defer cancel()
		record(p.Ask(ctx, &own))
	}()
}

func copyContent(q *Question, length int64) ([]byte, error) {
	if length <= 0 {
		return nil, nil
	}
	if length > maxShadow {
		return nil, fmt.Errorf("%d octets are too many to keep for shadow mode", length)
	}
	c, err := q.open(length)
	if err != nil {
		return nil, err
	}
	defer c.close()
	octets := make([]byte, length)
	_, err = io.ReadFull(c, octets)
	return octets, err
}
