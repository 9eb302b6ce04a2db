package pipeline

import (
	"context"
	"sync/atomic"
)

// Switch is a pipeline that can be replaced while messages go through it: each
// message ends under the pipeline that it began with (DESIGN section 6).
type Switch struct {
	current atomic.Pointer[Pipeline]
}

// NewSwitch returns a switch that leads to p.
func NewSwitch(p *Pipeline) *Switch {
	s := &Switch{}
	s.current.Store(p)
	return s
}

// Set lets messages that begin from now on go through p, which remembers the
// deferrals of the one before (RULES A3 b). One caller at a time.
func (s *Switch) Set(p *Pipeline) {
	p.deferred = s.current.Load().deferred
	s.current.Store(p)
}

// Recipient is Pipeline.Recipient; the message's first one chooses the pipeline.
func (s *Switch) Recipient(ctx context.Context, m *Message, address string, params RecipientParams) Reply {
	return s.of(m).Recipient(ctx, m, address, params)
}

// Submit is Pipeline.Submit of the pipeline with which the message began.
func (s *Switch) Submit(ctx context.Context, m *Message) Result {
	return s.of(m).Submit(ctx, m)
}

func (s *Switch) of(m *Message) *Pipeline {
	if m.via == nil {
		m.via = s.current.Load()
	}
	return m.via
}
