package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// maxErrorText bounds the text of an error answer, in octets.
const maxErrorText = 1000

// lane is one stream of questions. Its handler reads frames; a worker beside it
// runs the plugin's Ask and sends the answer, so that a Cancel is seen while the
// plugin thinks.
type lane struct {
	stream wire.Plugin_LaneServer
	plugin sdk.Plugin
	parsed bool // the manifest asks for the shared parse
	work   chan *question
	idle   chan struct{} // closed when the worker is gone

	active atomic.Pointer[question] // for abort, which comes from anywhere

	current *question // the handler's: the question whose End has not come, or the last one
	ended   bool      // the handler's: End came for current
}

// question is one Ask on its way through the plugin.
type question struct {
	id       uint64
	ctx      context.Context
	cancel   context.CancelFunc
	message  sdk.Message
	body     *body
	err      error         // why the plugin can't be asked
	answered chan struct{} // closed before the answer is sent
}

func newLane(stream wire.Plugin_LaneServer, p sdk.Plugin, parsed bool) *lane {
	l := &lane{stream: stream, plugin: p, parsed: parsed, work: make(chan *question, 1), idle: make(chan struct{}), ended: true}
	go l.worker()
	return l
}

// abort wakes a handler and a plugin that wait for each other when the stream was reset.
func (l *lane) abort() {
	if q := l.active.Load(); q != nil {
		q.body.fail(context.Canceled)
	}
}

// close waits for the worker: a lane counts until its Ask has returned.
func (l *lane) close() {
	if l.current != nil {
		l.current.cancel()
		l.current.body.fail(context.Canceled)
	}
	close(l.work)
	<-l.idle
}

// run reads frames until the host ends the stream.
func (l *lane) run() error {
	stop := context.AfterFunc(l.stream.Context(), l.abort)
	defer stop()
	for {
		f, err := l.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch x := f.GetFrame().(type) {
		case *wire.HostFrame_Ask:
			if err := l.begin(x.Ask); err != nil {
				return err
			}
		case *wire.HostFrame_Chunk:
			if l.current != nil && x.Chunk.GetId() == l.current.id && !l.ended {
				l.current.body.feed(x.Chunk.GetData())
			}
		case *wire.HostFrame_Parsed:
			if l.current != nil && x.Parsed.GetId() == l.current.id && !l.ended {
				l.current.body.parse(x.Parsed)
			}
		case *wire.HostFrame_End:
			if l.current != nil && x.End.GetId() == l.current.id {
				l.ended = true
				l.current.body.end()
			}
		case *wire.HostFrame_Cancel:
			if l.current != nil && x.Cancel.GetId() == l.current.id {
				l.current.cancel()
				l.current.body.fail(context.Canceled)
			}
		}
	}
}

// begin hands a question to the worker.
func (l *lane) begin(a *wire.Ask) error {
	if l.current != nil {
		select {
		case <-l.current.answered:
		default:
			return status.Error(codes.InvalidArgument, "Ask before the Answer to the one before")
		}
		if !l.ended {
			return status.Error(codes.InvalidArgument, "Ask before the End of the one before")
		}
	}
	q := &question{id: a.GetId(), body: newBody(l.parsed), answered: make(chan struct{})}
	if n := a.GetDeadlineUnixNano(); n != 0 {
		q.ctx, q.cancel = context.WithDeadline(l.stream.Context(), time.Unix(0, n))
	} else {
		q.ctx, q.cancel = context.WithCancel(l.stream.Context())
	}
	q.message = sdk.Message{
		Envelope: wire.FromEnvelope(a.GetEnvelope()), Size: a.GetSize(), Content: q.body, Parsed: q.body.parsed,
	}
	q.err = q.kind(a)
	l.current, l.ended = q, false
	l.active.Store(q)
	if l.stream.Context().Err() != nil { // abort may have come before q
		l.abort()
	}
	l.work <- q
	return nil
}

// kind fills in what sort of question it is.
func (q *question) kind(a *wire.Ask) error {
	phase, ok := wire.FromPhase(a.GetPhase())
	if !ok {
		return fmt.Errorf("the host asks in phase %d, which this plugin's kit does not know", a.GetPhase())
	}
	q.message.Phase = phase
	if phase != sdk.PhaseEvent {
		return nil
	}
	event, err := wire.FromEvent(a.GetEvent())
	if err == nil && event == nil {
		err = errors.New("the host told an event without saying which")
	}
	q.message.Event = event
	return err
}

func (l *lane) worker() {
	defer close(l.idle)
	for q := range l.work {
		answer := &wire.Answer{Id: q.id}
		verdict, err := sdk.Verdict{}, q.err
		if err == nil {
			verdict, err = l.ask(q)
		}
		q.body.discard() // before a new body is sent: the host may be sending yet
		if bodyErr := l.sendBody(q, &verdict, err == nil); err == nil {
			err = bodyErr
		}
		q.cancel()
		if err != nil {
			answer.Result = &wire.Answer_Error{Error: &wire.Error{Text: oneLine(err.Error())}}
		} else {
			answer.Result = &wire.Answer_Verdict{Verdict: wire.ToVerdict(&verdict)}
		}
		close(q.answered)
		// An error means that the stream is gone, which the handler sees too.
		_ = l.stream.Send(&wire.PluginFrame{Frame: &wire.PluginFrame_Answer{Answer: answer}})
	}
}

// ask calls the plugin and turns a panic into an error; see the package comment.
func (l *lane) ask(q *question) (v sdk.Verdict, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			fmt.Fprintf(os.Stderr, "panic in Ask: %v\n%s", cause, debug.Stack())
			v, err = sdk.Verdict{}, fmt.Errorf("panic in Ask: %v", cause)
		}
	}()
	return l.plugin.Ask(q.ctx, &q.message)
}

func oneLine(s string) string {
	if len(s) > maxErrorText {
		s = s[:maxErrorText]
	}
	return text(strings.NewReplacer("\r", " ", "\n", " ").Replace(s))
}

// text makes UTF-8 of what a plugin says.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
