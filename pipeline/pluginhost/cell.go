package pluginhost

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicemail/sluice/sdk"
)

const (
	cellIdle     = 30 * time.Second // a cell that nobody needed for so long is stopped
	suspectLimit = time.Minute      // for a suspect whose context has no deadline
)

// cell is a second process of a plugin, in which suspects are asked about one at a time.
type cell struct {
	plugin *Plugin
	turn   chan struct{} // holds one token while a suspect is in the cell

	mu      sync.Mutex
	process *process
	idle    *time.Timer
	stopped bool
}

// ask asks about a suspect alone. A suspect that is out of time is answered like one that
// found no lane: 451 (RULES C3).
func (c *cell) ask(ctx context.Context, q *Question, key [32]byte) (sdk.Verdict, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, suspectLimit)
		defer cancel()
	}
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return sdk.Verdict{}, failf(Busy, "a suspect's turn did not come in time")
	}
	defer func() { <-c.turn }()
	defer c.rest()
	for {
		if convictions, _ := c.plugin.suspects.lookup(key); convictions >= 2 {
			return sdk.Verdict{}, poison(convictions)
		}
		proc, err := c.enter(ctx)
		if err != nil {
			return sdk.Verdict{}, err
		}
		v, err := c.askOnce(ctx, proc, q)
		switch {
		case errors.Is(err, errNotAsked): // it died between two suspects
			c.discard(proc)
		case kindOf(err) == Crash:
			c.discard(proc)
			n := c.plugin.suspects.suspect(key, 1)
			c.plugin.log.Warn("message is convicted", "id", q.Envelope.ID, "convictions", n)
		case kindOf(err) == Timeout:
			return v, err
		default:
			c.plugin.suspects.clear(key)
			return v, err
		}
		if ctx.Err() != nil {
			return sdk.Verdict{}, failf(Busy, "a suspect is out of time")
		}
	}
}

// askOnce gives the suspect the plugin's time. Where its own rest was shorter, running out of it is
// not the plugin's failure.
func (c *cell) askOnce(ctx context.Context, proc *process, q *Question) (sdk.Verdict, error) {
	limited, cancel := context.WithTimeout(ctx, c.plugin.config.Timeout.Std())
	defer cancel()
	v, err := proc.ask(limited, q)
	if kindOf(err) == Timeout && ctx.Err() != nil {
		return v, failf(Busy, "a suspect is out of time")
	}
	return v, err
}

// enter returns the cell's process; a new one has answered the control question. A plugin that dies
// on that is broken, whatever the message.
func (c *cell) enter(ctx context.Context) (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle != nil {
		c.idle.Stop()
	}
	if c.stopped {
		return nil, failf(Busy, "the plugin is being stopped")
	}
	if c.process != nil && c.process.ctx.Err() == nil {
		return c.process, nil
	}
	if c.process != nil { // it died between two suspects
		c.process.end()
		c.process = nil
	}
	proc, err := c.plugin.launch(".cell").start(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, failf(Busy, "a suspect is out of time")
		}
		return nil, failf(Crash, "start a process for a suspect: %w", err)
	}
	limited, cancel := context.WithTimeout(ctx, c.plugin.config.Timeout.Std())
	defer cancel()
	_, err = proc.ask(limited, controlQuestion(&proc.manifest))
	if kind := kindOf(err); kind == Crash || kind == Timeout || errors.Is(err, errNotAsked) {
		proc.kill("failed the control question")
		proc.runner.waitDead()
		proc.end()
		if ctx.Err() != nil {
			return nil, failf(Busy, "a suspect is out of time")
		}
		return nil, failf(Crash, "the plugin fails on a harmless message too: %w", err)
	}
	c.process = proc
	return proc, nil
}

// controlQuestion is the harmless one, in a phase that the manifest has. Plugins that learn can tell it by its origin and tag.
func controlQuestion(m *sdk.Manifest) *Question {
	phase := sdk.PhaseContent
	if !slices.Contains(m.Phases, phase) && slices.Contains(m.Phases, sdk.PhaseRoute) {
		phase = sdk.PhaseRoute
	}
	const text = "From: postmaster@localhost\r\nTo: postmaster@localhost\r\nSubject: control\r\n" +
		"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <control@localhost>\r\n\r\nThis message is a test of the filter itself.\r\n"
	return &Question{
		Phase: phase,
		Envelope: sdk.Envelope{
			ID: "control", Origin: sdk.Generated, Received: time.Now(),
			Recipients: []sdk.Recipient{{Address: "postmaster@localhost"}},
			Tags:       map[string]string{"sluice.control": "1"},
		},
		Size:       int64(len(text)),
		HeaderSize: int64(strings.Index(text, "\r\n\r\n") + 4),
		Open:       func() (io.Reader, error) { return strings.NewReader(text), nil },
	}
}

// discard ends a process and forgets it.
func (c *cell) discard(proc *process) {
	c.mu.Lock()
	if c.process == proc {
		c.process = nil
	}
	c.mu.Unlock()
	proc.kill("discarded")
	proc.runner.waitDead()
	proc.end()
}

// rest stops the cell's process when it was not needed for a while.
func (c *cell) rest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle != nil {
		c.idle.Stop()
	}
	c.idle = time.AfterFunc(cellIdle, func() {
		select {
		case c.turn <- struct{}{}:
			defer func() { <-c.turn }()
		default:
			return // in use
		}
		c.mu.Lock()
		proc := c.process
		c.mu.Unlock()
		if proc != nil {
			c.discard(proc)
		}
	})
}

// stop ends the cell for good.
func (c *cell) stop() {
	c.mu.Lock()
	c.stopped = true
	proc := c.process
	if c.idle != nil {
		c.idle.Stop()
	}
	c.mu.Unlock()
	if proc != nil {
		c.discard(proc)
	}
}
