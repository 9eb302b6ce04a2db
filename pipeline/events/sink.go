package events

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemail/sluice/pipeline/pluginhost"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/storage/kv"
)

// Plugin is a plugin as this package needs it; *pluginhost.Plugin is one. Its methods may be called from any goroutine.
type Plugin interface {
	Name() string
	Manifest() sdk.Manifest // zero before its first start

	// Tell returns at once; the plugin hears of the event when its turn comes, or never.
	Tell(q *pluginhost.Question)

	// Ask returns when the plugin has answered, or has failed to: a *pluginhost.Failure.
	Ask(ctx context.Context, q *pluginhost.Question) (sdk.Verdict, time.Duration, error)
}

// SinkOptions are what a Sink is made of.
type SinkOptions struct {
	Plugins func() []Plugin // those of the moment; called for each event, returns at once
	Engine  interface {     // where the changes are that events are about
		Tail() kv.Pos
		WaitDurable(ctx context.Context, p kv.Pos) error
	}
	Logger *slog.Logger

	Gather time.Duration // how long events are gathered, so that the store's own syncs cover them; 0: 100 ms
	Most   int           // events held; 0: 10,000
}

// Sink tells plugins what becomes of messages.
type Sink struct {
	o       SinkOptions
	kick    chan struct{}
	cancel  context.CancelFunc
	done    chan struct{}
	told    [numKinds]atomic.Uint64
	dropped atomic.Uint64

	mu   sync.Mutex
	held []*pluginhost.Question
	pos  kv.Pos // covers all of held
}

const numKinds = int(sdk.EventCommand) + 1

// NewSink returns a sink; Start must be called before plugins hear anything.
func NewSink(o SinkOptions) *Sink {
	if o.Gather == 0 {
		o.Gather = 100 * time.Millisecond
	}
	if o.Most == 0 {
		o.Most = 10_000
	}
	return &Sink{o: o, kick: make(chan struct{}, 1), done: make(chan struct{})}
}

// Wants reports whether any plugin of the moment wants events of a kind.
func (s *Sink) Wants(kind sdk.EventKind) bool {
	return slices.ContainsFunc(s.o.Plugins(), func(p Plugin) bool { return wants(p, kind) })
}

func wants(p Plugin, kind sdk.EventKind) bool { return slices.Contains(p.Manifest().Events, kind) }

// Tell takes an event about something that was applied before the call. It returns at once.
func (s *Sink) Tell(envelope sdk.Envelope, event sdk.Event) {
	q := &pluginhost.Question{Phase: sdk.PhaseEvent, Envelope: envelope, Event: &event}
	s.mu.Lock()
	if len(s.held) >= s.o.Most {
		s.held[0] = nil
		s.held = s.held[1:]
		s.dropped.Add(1)
	}
	s.held = append(s.held, q)
	s.pos = s.o.Engine.Tail()
	s.mu.Unlock()
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Start begins to tell; Stop ends it.
func (s *Sink) Start(ctx context.Context) {
	ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(s.done)
		for {
			select {
			case <-s.kick:
			case <-ctx.Done():
				return
			}
			select {
			case <-time.After(s.o.Gather):
			case <-ctx.Done():
				return
			}
			s.flush(ctx)
		}
	}()
}

// Stop tells what is held as far as ctx allows.
func (s *Sink) Stop(ctx context.Context) {
	if s.cancel == nil {
		return
	}
	s.cancel()
	<-s.done
	s.flush(ctx)
}

// flush tells all that is held. If the store cannot make it durable, it is dropped: events are told at most once.
func (s *Sink) flush(ctx context.Context) {
	s.mu.Lock()
	held, pos := s.held, s.pos
	s.held = nil
	s.mu.Unlock()
	if len(held) == 0 {
		return
	}
	if err := s.o.Engine.WaitDurable(ctx, pos); err != nil {
		s.dropped.Add(uint64(len(held)))
		s.o.Logger.Warn("events not told", "events", len(held), "why", err)
		return
	}
	plugins := s.o.Plugins()
	for _, q := range held {
		for _, p := range plugins {
			if !wants(p, q.Event.Kind) {
				continue
			}
			own := *q // the host keeps what it is given
			p.Tell(&own)
			s.told[q.Event.Kind].Add(1)
		}
	}
}

// Told returns how many events were handed to plugins, by kind, and how many were dropped before.
func (s *Sink) Told() (told map[sdk.EventKind]uint64, dropped uint64) {
	told = make(map[sdk.EventKind]uint64)
	for kind := range s.told {
		if n := s.told[kind].Load(); n > 0 {
			told[sdk.EventKind(kind)] = n
		}
	}
	return told, s.dropped.Load()
}

var _ Plugin = (*pluginhost.Plugin)(nil)
