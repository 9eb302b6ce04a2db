package sdktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// grace is how long a plugin has for its answer to a Cancel (PROTOCOL.md section 3).
const grace = time.Second

// Answer is what became of a question.
type Answer struct {
	Verdict sdk.Verdict
	Err     error
}

// Ask asks one question on a lane of its own and returns the answer; an empty Phase is
// sdk.PhaseContent. The content is cut as the manifest wants it. Each Change.Body of the
// answer can be read, on its own. Ask checks what the protocol demands of
// the plugin's end: one answer, of the right id, before the deadline, only changes that the
// manifest announces, and a verdict within the limits of PROTOCOL.md. Events are held to less:
// nobody obeys their verdicts.
func (p *Plugin) Ask(m *sdk.Message) (sdk.Verdict, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), Timeout)
	defer cancel()
	return p.AskContext(ctx, m)
}

// AskContext is Ask with another end: the deadline of ctx is the question's, and when ctx ends
// the question is cancelled. A plugin that does not answer a Cancel within a second fails
// the test.
func (p *Plugin) AskContext(ctx context.Context, m *sdk.Message) (sdk.Verdict, error) {
	p.t.Helper()
	a := p.ask(ctx, m)
	if fault := new(breach); errors.As(a.Err, &fault) {
		p.t.Errorf("the plugin breaks the protocol: %v", a.Err)
	}
	return a.Verdict, a.Err
}

// AskAll asks all questions at once, as far as there are lanes, and returns the answers in
// their order.
func (p *Plugin) AskAll(questions ...*sdk.Message) []Answer {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), Timeout)
	defer cancel()
	answers := make([]Answer, len(questions))
	var all sync.WaitGroup
	for i, m := range questions {
		all.Go(func() { answers[i] = p.ask(ctx, m) })
	}
	all.Wait()
	for i, a := range answers {
		if fault := new(breach); errors.As(a.Err, &fault) {
			p.t.Errorf("question %d: the plugin breaks the protocol: %v", i+1, a.Err)
		}
	}
	return answers
}

// breach is an error that is not an opinion which could not be formed, but a fault of the
// plugin's end.
type breach struct{ error }

func (b *breach) Unwrap() error { return b.error }

func breachf(format string, args ...any) error { return &breach{fmt.Errorf(format, args...)} }

func (p *Plugin) ask(ctx context.Context, m *sdk.Message) Answer {
	slots := p.slots
	if m.Phase == sdk.PhaseEvent && len(p.Manifest.Events) > 0 {
		slots = p.events
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return Answer{Err: fmt.Errorf("every lane is taken: %w", ctx.Err())}
	}
	laneCtx, reset := context.WithCancel(p.t.Context())
	defer reset()
	stream, err := p.client.Lane(laneCtx)
	if err != nil {
		return Answer{Err: err}
	}
	lane := &lane{stream: stream, manifest: &p.Manifest, message: m, answered: make(chan struct{})}
	got := make(chan Answer, 1)
	go func() {
		defer close(lane.answered)
		got <- lane.receive()
	}()
	sent := make(chan error, 1)
	go func() { sent <- lane.ask(ctx, m) }()
	select {
	case a := <-got:
		return lane.finish(a, sent)
	case <-ctx.Done():
	}
	go func() { // it waits behind octets that the plugin does not read; if the lane is gone, receive says so
		_ = lane.send(&wire.HostFrame{Frame: &wire.HostFrame_Cancel{Cancel: &wire.Cancel{Id: 1}}})
	}()
	select {
	case a := <-got:
		return lane.finish(a, sent)
	case <-time.After(grace):
		reset()
		return Answer{Err: breachf("no answer within %s of Cancel: %w", grace, ctx.Err())}
	}
}

// lane is one question on a stream.
type lane struct {
	stream   wire.Plugin_LaneClient
	manifest *sdk.Manifest
	message  *sdk.Message
	answered chan struct{}
	mu       sync.Mutex // one sender at a time
}

func (l *lane) send(f *wire.HostFrame) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stream.Send(f)
}

// ask sends the question up to its End, or to the answer if that comes first.
func (l *lane) ask(ctx context.Context, m *sdk.Message) error {
	phase := m.Phase
	if phase == "" {
		phase = sdk.PhaseContent
	}
	number, err := wire.ToPhase(phase)
	if err != nil {
		return err
	}
	event, err := wire.ToEvent(m.Event)
	if err != nil {
		return err
	}
	ask := &wire.Ask{Id: 1, Phase: number, Envelope: wire.ToEnvelope(&m.Envelope), Size: m.Size, Event: event}
	if deadline, ok := ctx.Deadline(); ok {
		ask.DeadlineUnixNano = deadline.UnixNano()
	}
	if err := l.send(&wire.HostFrame{Frame: &wire.HostFrame_Ask{Ask: ask}}); err != nil {
		return ended(err)
	}
	withContent := phase == sdk.PhaseContent || phase == sdk.PhaseRoute || (phase == sdk.PhaseEvent && m.Size > 0)
	if withContent {
		if err := l.sendContent(m); err != nil {
			return errors.Join(err, l.end())
		}
	}
	return l.end()
}

func (l *lane) end() error {
	return ended(l.send(&wire.HostFrame{Frame: &wire.HostFrame_End{End: &wire.End{Id: 1}}}))
}

// ended leaves out that the lane is gone: receive says why.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (l *lane) sendContent(m *sdk.Message) error {
	if m.Content != nil && l.manifest.Want != sdk.WantNone {
		content, err := l.cut(m.Content)
		if err != nil {
			return err
		}
		for piece := range slices.Chunk(content, wire.MaxChunk) {
			if l.isAnswered() {
				return nil
			}
			if err := l.send(&wire.HostFrame{Frame: &wire.HostFrame_Chunk{Chunk: &wire.Chunk{Id: 1, Data: piece}}}); err != nil {
				return ended(err)
			}
		}
	}
	if !l.manifest.Parsed {
		return nil
	}
	if m.Parsed == nil {
		return errors.New("sdktest: this plugin asks for the shared parse; set Message.Parsed, see sdktest.Parsed")
	}
	parsed, err := m.Parsed()
	if err != nil {
		return fmt.Errorf("sdktest: Message.Parsed: %w", err)
	}
	return ended(l.send(&wire.HostFrame{Frame: &wire.HostFrame_Parsed{Parsed: wire.ToParsed(1, parsed)}}))
}

// cut is what the manifest wants of the content.
func (l *lane) cut(r io.Reader) ([]byte, error) {
	content, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("sdktest: Message.Content: %w", err)
	}
	if l.manifest.Want == sdk.WantHeader {
		if i := bytes.Index(content, []byte("\r\n\r\n")); i >= 0 {
			content = content[:i+4]
		}
	}
	if n := l.manifest.MaxContent; n > 0 && int64(len(content)) > n {
		content = content[:n]
	}
	return content, nil
}

func (l *lane) isAnswered() bool {
	select {
	case <-l.answered:
		return true
	default:
		return false
	}
}

// receive reads Body frames and the answer.
func (l *lane) receive() Answer {
	var body []byte
	for {
		f, err := l.stream.Recv()
		if err != nil {
			return Answer{Err: breachf("no answer: %w", err)}
		}
		switch x := f.GetFrame().(type) {
		case *wire.PluginFrame_Body:
			if x.Body.GetId() != 1 || len(x.Body.GetData()) > wire.MaxChunk {
				return Answer{Err: breachf("a piece of a new body of %d octets for question %d, expected at most %d for 1",
					len(x.Body.GetData()), x.Body.GetId(), wire.MaxChunk)}
			}
			body = append(body, x.Body.GetData()...)
		case *wire.PluginFrame_Answer:
			if x.Answer.GetId() != 1 {
				return Answer{Err: breachf("the answer has id %d, expected 1", x.Answer.GetId())}
			}
			return l.opinion(x.Answer, body)
		}
	}
}

func (l *lane) opinion(a *wire.Answer, body []byte) Answer {
	switch x := a.GetResult().(type) {
	case *wire.Answer_Error:
		return Answer{Err: errors.New(x.Error.GetText())}
	case *wire.Answer_Verdict:
		v, err := wire.FromVerdict(x.Verdict)
		if err != nil {
			return Answer{Err: &breach{err}}
		}
		if l.message.Phase != sdk.PhaseEvent {
			err = checkVerdict(&v, l.message)
		}
		err = errors.Join(err, l.changes(v.Changes, body))
		for i := range v.Recipients {
			err = errors.Join(err, l.changes(v.Recipients[i].Changes, body))
		}
		return Answer{Verdict: v, Err: err}
	}
	return Answer{Err: breachf("the answer has neither verdict nor error")}
}

// changes gives each new body its octets, and holds the changes to the manifest.
func (l *lane) changes(list []sdk.Change, body []byte) error {
	for i := range list {
		if !slices.Contains(l.manifest.Changes, list[i].Kind) {
			return breachf("it asks to %s, which its manifest does not announce: the server would refuse that", list[i].Kind)
		}
		if list[i].Kind == sdk.ReplaceBody {
			list[i].Body = bytes.NewReader(body)
		}
	}
	return nil
}

// finish waits for the question's sender, and for the end of the lane.
func (l *lane) finish(a Answer, sent chan error) Answer {
	if err := <-sent; err != nil {
		return Answer{Err: err}
	}
	if err := l.stream.CloseSend(); err != nil {
		return Answer{Err: err}
	}
	var fault *breach
	if errors.As(a.Err, &fault) {
		return a
	}
	if extra, err := l.stream.Recv(); !errors.Is(err, io.EOF) {
		return Answer{a.Verdict, breachf("after the answer came %v, %v, expected the end of the lane", extra, err)}
	}
	return a
}
