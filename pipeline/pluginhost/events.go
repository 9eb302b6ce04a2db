package pluginhost

import (
	"bytes"
	"context"
	"io"
	"slices"
	"sync"

	"github.com/sluicemail/sluice/sdk"
)

// Bounds on the events that wait for a plugin (RULES C6).
const (
	maxEvents      = 1000
	maxEventOctets = 64 << 20
)

// events are what a plugin is going to be told: at most once, the oldest dropped when there are too many.
type events struct {
	wake chan struct{} // holds a token when there may be something to tell

	mu      sync.Mutex
	list    []told
	octets  int64
	told    uint64
	failed  uint64
	dropped uint64
}

type told struct {
	question *Question
	octets   int64
}

// Tell tells the plugin of an event, some time, at most once, without making anybody wait. The content of q, if the plugin
// wants it, is copied before Tell returns. Events of kinds that the manifest does not list are ignored.
func (p *Plugin) Tell(q *Question) {
	p = p.latest()
	m := p.Manifest()
	if q.Event == nil || p.config.Mode == Off || (m.Name != "" && !slices.Contains(m.Events, q.Event.Kind)) {
		return
	}
	own := *q
	own.Phase, own.Key, own.Parsed, own.Body, own.Open = sdk.PhaseEvent, nil, q.Parsed, nil, nil
	e := told{&own, sizeOf(q)}
	if length := q.length(&m); length > 0 {
		octets, err := copyContent(q, length, maxEventOctets)
		if err != nil {
			p.events.mu.Lock()
			p.events.dropped++
			p.events.mu.Unlock()
			return
		}
		e.octets += length
		own.Open = func() (io.Reader, error) { return bytes.NewReader(octets), nil }
	}
	own.Parsed = nil // it may refer to a message that is gone by then
	p.events.add(e)
}

// sizeOf estimates what an event without its content takes in memory, in octets.
func sizeOf(q *Question) int64 {
	n := int64(1024 + len(q.Event.Text) + len(q.Event.Account) + len(q.Event.Recipient))
	for _, w := range q.Event.Words {
		n += int64(len(w)) + 16
	}
	for _, r := range q.Envelope.Recipients {
		n += int64(len(r.Address)+len(r.ORcpt)) + 128
		for _, a := range r.Accounts {
			n += int64(len(a)) + 16
		}
	}
	for k, v := range q.Envelope.Tags {
		n += int64(len(k)+len(v)) + 64
	}
	return n
}

func (e *events) add(list ...told) {
	e.mu.Lock()
	for _, one := range list {
		e.list = append(e.list, one)
		e.octets += one.octets
	}
	for len(e.list) > maxEvents || e.octets > maxEventOctets {
		e.octets -= e.list[0].octets
		e.list[0] = told{}
		e.list = e.list[1:]
		e.dropped++
	}
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// next takes the oldest.
func (e *events) next() (told, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.list) == 0 {
		e.list = nil
		return told{}, false
	}
	one := e.list[0]
	e.list[0] = told{}
	e.list = e.list[1:]
	e.octets -= one.octets
	return one, true
}

// takeAll empties the list, for a successor.
func (e *events) takeAll() []told {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := e.list
	e.list, e.octets = nil, 0
	return list
}

func (e *events) count(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		e.failed++
		return
	}
	e.told++
}

// tellEvents tells one event after the other until ctx ends. While the plugin does not run they wait.
func (p *Plugin) tellEvents(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.events.wake:
		}
		for ctx.Err() == nil {
			if !p.running(ctx) {
				return
			}
			one, ok := p.events.next()
			if !ok {
				break
			}
			p.events.count(p.tellOne(ctx, one.question))
		}
	}
}

// tellOne tells one event. It is not repeated: the plugin may have seen it (RULES C6).
func (p *Plugin) tellOne(ctx context.Context, q *Question) error {
	ctx, cancel := context.WithTimeout(ctx, p.config.Timeout.Std())
	defer cancel()
	proc, err := p.current(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(proc.manifest.Events, q.Event.Kind) {
		return nil
	}
	v, err := proc.ask(ctx, q)
	for _, a := range v.Alerts {
		p.log.Warn("alert of a plugin", "id", q.Envelope.ID, "action", "alert", "key", a.Key, "why", a.Text)
		p.host.options.Alert(p.name, a)
	}
	return err
}

// running waits until the plugin runs.
func (p *Plugin) running(ctx context.Context) bool {
	for {
		p.mu.Lock()
		state, changed := p.state, p.changed
		p.mu.Unlock()
		if state == stateReady {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// askEvent asks about an event and waits (learn events, an administrator's commands). What dies of one says nothing about the
// messages beside it, and the event is not asked again here: who waits has it on record. Content that was convicted is poison.
func (p *Plugin) askEvent(ctx context.Context, q *Question) (sdk.Verdict, error) {
	var key [32]byte
	if q.Key != nil {
		key = q.Key()
		if convictions, _ := p.suspects.lookup(key); convictions >= 2 {
			return sdk.Verdict{}, poison(convictions)
		}
	}
	for {
		proc, err := p.current(ctx)
		if err != nil {
			return sdk.Verdict{}, err
		}
		v, err := proc.ask(ctx, q)
		if isNotAsked(err) {
			p.leave(proc)
			continue
		}
		if kindOf(err) == Crash {
			p.leave(proc)
			if q.Key != nil && proc.diedAlone() {
				p.suspects.suspect(key, 1)
			}
		}
		return v, err
	}
}
