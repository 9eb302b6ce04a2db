package serve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// maxErrorText bounds the text of an error answer, in octets.
const maxErrorText = 1000

// question is one Ask on its way through the plugin.
type question struct {
	id       uint64
	limit    limit
	message  sdk.Message
	body     *body
	err      error         // why the plugin can't be asked
	answered chan struct{} // closed before the answer is sent
	began    time.Time     // that it is asked; on a shared connection
	handed   bool          // who asks it was the reader, and is no more; of lane.mu
	content  *[]byte       // of shared: what the body has, to be used again
}

// asker asks the plugin, and sends what it says to where the question came from.
type asker struct {
	plugin sdk.Plugin
	parsed bool // the manifest asks for the shared parse
	send   func(*wire.PluginFrame) error
}

// question reads an Ask. ctx is that of where it came from.
func (a *asker) question(ctx context.Context, ask *wire.Ask) *question {
	q := &question{id: ask.GetId(), body: newBody(a.parsed), answered: make(chan struct{})}
	q.limit.Context = ctx
	if n := ask.GetDeadlineUnixNano(); n != 0 {
		q.limit.end = time.Unix(0, n)
	}
	q.message = sdk.Message{
		Envelope: wire.FromEnvelope(ask.GetEnvelope()), Size: ask.GetSize(), Content: q.body, Parsed: q.body.parsed,
	}
	q.err = q.kind(ask)
	return q
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

// answer asks the plugin and sends what it says.
func (a *asker) answer(q *question) {
	answer := &wire.Answer{Id: q.id}
	verdict, err := sdk.Verdict{}, q.err
	if err == nil {
		verdict, err = a.ask(q)
	}
	q.body.discard() // before a new body is sent: the host may be sending yet
	if bodyErr := a.sendBody(q, &verdict, err == nil); err == nil {
		err = bodyErr
	}
	q.limit.cancel()
	if err != nil {
		answer.Result = &wire.Answer_Error{Error: &wire.Error{Text: oneLine(err.Error())}}
	} else {
		answer.Result = &wire.Answer_Verdict{Verdict: wire.ToVerdict(&verdict)}
	}
	close(q.answered)
	frame := &wire.PluginFrame{Frame: &wire.PluginFrame_Answer{Answer: answer}}
	if err := a.send(frame); err != nil {
		// The verdict is larger than a frame can be; or the stream is gone, which the reader sees too.
		answer.Result = &wire.Answer_Error{Error: &wire.Error{Text: oneLine("send the verdict: " + err.Error())}}
		_ = a.send(frame)
	}
}

// ask calls the plugin and turns a panic into an error; see the package comment.
func (a *asker) ask(q *question) (v sdk.Verdict, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			fmt.Fprintf(os.Stderr, "panic in Ask: %v\n%s", cause, debug.Stack())
			v, err = sdk.Verdict{}, fmt.Errorf("panic in Ask: %v", cause)
		}
	}()
	return a.plugin.Ask(&q.limit, &q.message)
}

func oneLine(s string) string {
	if len(s) > maxErrorText {
		s = s[:maxErrorText]
	}
	return text(strings.NewReplacer("\r", " ", "\n", " ").Replace(s))
}

// text makes UTF-8 of what a plugin says.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
