package pipeline

import (
	"context"
	"sync/atomic"

	"github.com/sluicemail/sluice/sdk"
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

// Asks is Pipeline.Asks of the pipeline of the moment.
func (s *Switch) Asks(phase sdk.Phase) bool { return s.current.Load().Asks(phase) }

// Connect is Pipeline.Connect of the pipeline of the moment.
func (s *Switch) Connect(ctx context.Context, session *Session) Reply {
	return s.current.Load().Connect(ctx, session)
}

// Sender is Pipeline.Sender; it chooses the pipeline of the message.
func (s *Switch) Sender(ctx context.Context, m *Message) Reply {
	return s.of(m).Sender(ctx, m)
}

// Recipient is Pipeline.Recipient.
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
