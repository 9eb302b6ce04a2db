package pluginhost

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/sluicemail/sluice/pipeline/internal/lazy"
	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

const (
	// inline is the largest content that the asking goroutine sends itself, in octets:
	// less than grpc takes for a stream without waiting (64 KiB).
	inline = 32 << 10

	// grace is how long a plugin has for its answer to a Cancel (RULES C1).
	grace = time.Second

	// deathTime is how long after a stream's end it may take until the process is gone: the socket closes a little before.
	deathTime = 500 * time.Millisecond
)

// lane is a slot for questions. Small ones travel on the link of the process, the others on a stream of the lane's own, which is opened for the
// first of them. The goroutine that took it out of
// process.free owns it until it puts it back; a goroutine of its own reads the stream.
type lane struct {
	p      *process
	index  int         // in p.all
	home   *berth      // where it waits while it is free
	extra  bool        // the lane of events, which is not one of p.lanes
	result chan result // what the reader saw for the question of id `waiting`

	id     uint64 // of the last question on a stream
	count  uint32 // of small questions
	frames frames // of whoever sends, one at a time
	alarm  alarm
	stream stream
	reset  context.CancelFunc

	mu      sync.Mutex
	reading stream   // the stream
	broken  bool     // it has ended
	source  any      // whose reader may report: reading, or the link
	waiting uint64   // 0: nobody waits
	body    *newBody // of the question of id waiting
	small   *small   // that question, if nobody waits at `result`
}

type result struct {
	answer *wire.Answer // nil: the question was never sent
	err    error        // the stream ended
}

// frames are what a lane sends again and again; grpc is done with them when Send returns.
type frames struct {
	frame wire.HostFrame
	ask   wire.HostFrame_Ask
	chunk wire.HostFrame_Chunk
	end   wire.HostFrame_End
	piece wire.Chunk
	last  wire.End
}

func newLane(p *process, home *berth) *lane {
	return &lane{p: p, home: home, result: make(chan result, 1), alarm: alarm{rang: make(chan struct{}, 1)}}
}

// open makes sure that there is a stream.
func (l *lane) open() error {
	l.mu.Lock()
	ok := l.stream != nil && !l.broken
	l.mu.Unlock()
	if ok {
		return nil
	}
	l.close()
	stream, reset, err := l.p.newStream()
	if err != nil {
		return err
	}
	l.stream, l.reset = stream, reset
	l.mu.Lock()
	l.reading, l.broken, l.waiting = stream, false, 0
	l.mu.Unlock()
	l.p.gone.Add(1)
	go l.read(stream, reset)
	return nil
}

// close resets the stream, if there is one.
func (l *lane) close() {
	if l.reset != nil {
		l.reset()
	}
	l.mu.Lock()
	l.reading, l.source, l.waiting, l.small = nil, nil, 0, nil
	l.mu.Unlock()
	l.stream, l.reset = nil, nil
	select {
	case <-l.result:
	default:
	}
}

// read takes frames until the stream ends. Answers that nobody waits for (late, or given
// twice) are dropped.
func (l *lane) read(stream stream, reset context.CancelFunc) {
	defer l.p.gone.Done()
	defer reset()
	for {
		f, err := stream.Recv()
		l.p.moves.Add(1)
		if err != nil {
			l.mu.Lock()
			if l.reading == stream {
				l.broken = true
			}
			l.mu.Unlock()
			l.deliver(stream, 0, result{err: err})
			return
		}
		if b := f.GetBody(); b != nil {
			l.take(stream, b)
			continue
		}
		a := f.GetAnswer()
		if a == nil {
			continue
		}
		l.deliver(stream, a.GetId(), result{answer: a})
	}
}

// take hands a piece of a new body to who asked. It comes before the answer, from the same source.
func (l *lane) take(source any, b *wire.Body) {
	l.mu.Lock()
	var body *newBody
	if l.source == source && l.waiting != 0 && b.GetId() == l.waiting {
		body = l.body
	}
	l.mu.Unlock()
	if body != nil {
		body.write(b.GetData())
	}
}

// deliver hands the answer to question id to who waits for it, or the end of the source to whoever waits.
func (l *lane) deliver(source any, id uint64, r result) {
	l.mu.Lock()
	if l.source != source || l.waiting == 0 || r.err == nil && id != l.waiting {
		l.mu.Unlock()
		return
	}
	s := l.small
	l.waiting, l.small = 0, nil
	if s == nil || !s.settle() {
		l.result <- r // empty: one result a question
		s = nil
	}
	l.mu.Unlock()
	if s != nil {
		s.arrived(r)
	}
}

// answered reports whether the result of the current question is there.
func (l *lane) answered() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting == 0
}

// ask asks one question. It returns when ctx ends, whatever the plugin does; the lane
// goes back to the free ones by itself.
func (l *lane) ask(ctx context.Context, q *Question) (sdk.Verdict, error) {
	ask, err := newAsk(ctx, q)
	if err != nil {
		l.home.put(l)
		return sdk.Verdict{}, &Failure{Error, err}
	}
	content, err := q.open(q.length(&l.p.manifest))
	if err != nil {
		l.home.put(l)
		return sdk.Verdict{}, failf(Error, "read the message: %w", err)
	}
	defer content.close()
	if q.parsed(&l.p.manifest) {
		content.parsed = q.Parsed
	}
	body := newBodyOf(q, &l.p.manifest)
	defer body.close()
	v, err := l.put(ctx, q, ask, content, body)
	if err == nil {
		if err = body.agrees(&v); err != nil {
			err = &Failure{Invalid, err}
		}
	}
	return v, err
}

// put puts a question on the link if it is a small one, else on the stream.
func (l *lane) put(ctx context.Context, q *Question, ask *wire.Ask, content *content, body *newBody) (sdk.Verdict, error) {
	var link *link
	if l.p.fits(q) {
		link = l.p.link()
	}
	if link != nil {
		v, sent, err := l.askSmall(ctx, link, ask, content, body)
		switch f := (*Failure)(nil); {
		case sent:
			return v, err
		case errors.As(err, &f):
			l.home.put(l)
			return v, err
		case !errors.Is(err, wire.ErrTooLarge) && !errors.Is(err, errOver):
			return v, l.notAsked(ctx, err)
		}
	}
	if err := l.begin(body); err != nil {
		return sdk.Verdict{}, l.notAsked(ctx, err)
	}
	ask.Id = l.id
	return l.exchange(ctx, ask, content)
}

// notAsked puts the lane back whose question could not be sent, and says why.
func (l *lane) notAsked(ctx context.Context, err error) error {
	l.home.put(l)
	if err = l.brokenLane(ctx, err); kindOf(err) == Crash {
		return errNotAsked // it was never in the process that died
	}
	return err
}

// newAsk puts a question on the wire, but for its id.
func newAsk(ctx context.Context, q *Question) (*wire.Ask, error) {
	phase, err := wire.ToPhase(q.phase())
	if err != nil {
		return nil, err
	}
	event, err := wire.ToEvent(q.Event)
	if err != nil {
		return nil, err
	}
	ask := &wire.Ask{Phase: phase, Envelope: wire.ToEnvelope(&q.Envelope), Size: q.Size, Event: event}
	if deadline, ok := ctx.Deadline(); ok {
		ask.DeadlineUnixNano = deadline.UnixNano()
	}
	return ask, nil
}

// exchange sends a question and waits for its answer.
func (l *lane) exchange(ctx context.Context, ask *wire.Ask, content *content) (sdk.Verdict, error) {
	if content.length <= inline && content.parsed == nil {
		return l.askInline(ctx, ask, content)
	}
	l.alarm.instead = nil
	l.alarm.arm(ctx, l.reset)
	sent := make(chan error, 1)
	l.p.gone.Add(1)
	go func() {
		defer l.p.gone.Done()
		sent <- l.send(ask, content)
	}()
	return l.await(ctx, content, sent)
}

// begin makes the lane expect the answer to its next question. A stream that the plugin ended
// while the lane was idle is replaced.
func (l *lane) begin(body *newBody) error {
	for range 3 {
		if err := l.open(); err != nil {
			return err
		}
		l.mu.Lock()
		ok := !l.broken
		if ok {
			l.id++
			l.waiting, l.source, l.body, l.small = l.id, l.stream, body, nil
		}
		l.mu.Unlock()
		if ok {
			return nil
		}
	}
	return errors.New("every new lane ends at once")
}

// askInline sends a small question from this goroutine. Should grpc make it wait
// until the deadline, for a plugin that answers but does not read, the stream is reset.
func (l *lane) askInline(ctx context.Context, ask *wire.Ask, content *content) (sdk.Verdict, error) {
	l.alarm.instead = nil
	l.alarm.sending.Store(true)
	l.alarm.arm(ctx, l.reset)
	err := l.send(ask, content)
	if !l.alarm.sent() {
		l.alarm.disarm()
		l.drop()
		return sdk.Verdict{}, failf(Timeout, "the plugin does not read")
	}
	sent := make(chan error, 1)
	sent <- err // if the stream is gone, its reader says why
	return l.await(ctx, content, sent)
}

// send sends a question up to its End, or to the answer if that comes first.
func (l *lane) send(ask *wire.Ask, content *content) error {
	f := &l.frames
	f.ask.Ask, f.frame.Frame = ask, &f.ask
	if err := l.stream.Send(&f.frame); err != nil {
		return err
	}
	l.p.moves.Add(1)
	if content.length > 0 {
		if err := l.sendContent(content); err != nil {
			return err
		}
	}
	if content.parsed != nil && !l.answered() {
		if err := l.sendParsed(content); err != nil {
			return err
		}
	}
	f.last.Id = l.id
	f.end.End, f.frame.Frame = &f.last, &f.end
	return l.stream.Send(&f.frame)
}

func (l *lane) sendContent(content *content) error {
	buffer := l.p.buffers.get(content.length)
	defer l.p.buffers.put(buffer)
	f := &l.frames
	f.piece.Id, f.chunk.Chunk, f.frame.Frame = l.id, &f.piece, &f.chunk
	for !l.answered() {
		n, err := io.ReadFull(content, *buffer)
		if n > 0 {
			f.piece.Data = (*buffer)[:n]
			err := l.stream.Send(&f.frame)
			f.piece.Data = nil
			if err != nil {
				return err
			}
			l.p.moves.Add(1)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		default: // our own trouble, or nobody waits any more
			return l.stream.Send(&wire.HostFrame{Frame: &wire.HostFrame_Cancel{Cancel: &wire.Cancel{Id: l.id}}})
		}
	}
	return nil
}

// sendParsed sends the shared parse.
func (l *lane) sendParsed(content *content) error {
	parsed, err := content.parse()
	if err != nil { // our own trouble, or nobody waits any more
		return l.stream.Send(&wire.HostFrame{Frame: &wire.HostFrame_Cancel{Cancel: &wire.Cancel{Id: l.id}}})
	}
	l.p.moves.Add(1)
	return l.stream.Send(&wire.HostFrame{Frame: &wire.HostFrame_Parsed{Parsed: wire.ToParsed(l.id, parsed)}})
}

// await waits for the answer, and sees to it that the lane comes back.
func (l *lane) await(ctx context.Context, content *content, sent chan error) (sdk.Verdict, error) {
	select {
	case r := <-l.result:
		l.alarm.disarm()
		return l.ended(ctx, content, sent, r)
	case <-l.alarm.rang:
		l.alarm.set = false
	case <-lazy.Withdrawn(ctx):
		l.alarm.disarm()
	}
	return sdk.Verdict{}, l.giveUp(ctx, content, sent)
}
