package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemail/sluice/sdk/wire"
)

// grace is how long a plugin has for its answer to a Cancel (section 3, rule 5).
const grace = time.Second

// patience is how much longer than the protocol says we wait, for a machine that has other things to do.
const patience = 500 * time.Millisecond

// lane is one stream of questions, spoken by hand.
type lane struct {
	r       *run
	p       *process
	stream  wire.Plugin_LaneClient
	reset   context.CancelFunc
	id      uint64
	over    bool          // End was sent for id
	headers bool          // response headers have come
	ended   chan struct{} // closed when the stream has ended
	err     error         // why, after ended

	mu      sync.Mutex
	current question // what the reader checks answers against
	stray   string   // the id of an answer to nothing that came instead
	answers chan *answer
}

// question is what is known about the Ask that waits for its answer.
type question struct {
	id      uint64
	phase   wire.Phase
	to      map[string]bool // recipients
	body    newBody
	answers int
}

// answer is what came back.
type answer struct {
	id      uint64
	verdict *wire.Verdict // nil: an error
	err     string
	at      time.Time
}

// served waits for the headers.
func (l *lane) served(ctx context.Context, limit time.Duration) error {
	headers := make(chan error, 1)
	go func() {
		md, err := l.stream.Header()
		if err == nil && md == nil { // the stream ended before any
			err = errors.New("the lane ended without response headers")
		}
		headers <- err
	}()
	select {
	case err := <-headers:
		select {
		case <-l.ended:
			return fmt.Errorf("the lane ended at once: %s", printable(fmt.Sprint(l.err), 200))
		default:
			l.headers = err == nil
			return err
		}
	case <-time.After(limit):
		return errors.New("no response headers")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// read takes frames until the stream ends, and looks at each.
func (l *lane) read() {
	defer close(l.ended)
	for {
		f, err := l.stream.Recv()
		if err != nil {
			l.err = err
			if status.Code(err) == codes.ResourceExhausted {
				l.r.seen.tooLarge(err)
			}
			return
		}
		l.frame(f)
	}
}

func (l *lane) frame(f *wire.PluginFrame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := &l.current
	if b := f.GetBody(); b != nil {
		l.r.seen.body(b, q)
		return
	}
	a := f.GetAnswer()
	if a == nil {
		return
	}
	if a.GetId() != q.id || q.id == 0 {
		l.r.seen.stray(a, q)
		l.stray = fmt.Sprintf("; one came with the id %d where the question was %d", a.GetId(), q.id)
		return
	}
	if q.answers++; q.answers > 1 {
		l.r.seen.twice(a)
		return
	}
	got := &answer{id: a.GetId(), verdict: a.GetVerdict(), at: time.Now()}
	if got.verdict == nil {
		got.err = printable(a.GetError().GetText(), 200)
	}
	l.r.seen.answer(a, q)
	select {
	case l.answers <- got:
	default: // nobody took the one before: the question was given up
	}
}

// begin sends an Ask with the next id. deadline zero is none.
func (l *lane) begin(phase wire.Phase, m *message, event *wire.Event, deadline time.Time) error {
	l.id, l.over = l.id+1, false
	ask, q := l.r.question(l.id, phase, m, event, deadline)
	l.mu.Lock()
	l.current, l.stray = q, ""
	select {
	case <-l.answers:
	default:
	}
	l.mu.Unlock()
	return l.send(&wire.HostFrame{Frame: &wire.HostFrame_Ask{Ask: ask}})
}

// question makes an Ask, and what is known about it. deadline zero is none.
func (*run) question(id uint64, phase wire.Phase, m *message, event *wire.Event, deadline time.Time) (*wire.Ask, question) {
	q := question{id: id, phase: phase, to: make(map[string]bool)}
	ask := &wire.Ask{Id: id, Phase: phase, Envelope: envelope(phase, m), Event: event}
	if phase >= wire.Phase_PHASE_CONTENT {
		ask.Size = m.size
	}
	for _, to := range ask.GetEnvelope().GetRecipients() {
		q.to[to.GetAddress()] = true
	}
	if !deadline.IsZero() {
		ask.DeadlineUnixNano = deadline.UnixNano()
	}
	return ask, q
}

// envelope is what is known in a phase.
func envelope(phase wire.Phase, m *message) *wire.Envelope {
	e := &wire.Envelope{
		Session: "check", Server: "mx.example.test", Pipeline: "inbound", Listener: "mx", Origin: "stranger",
		ReceivedUnixNano: time.Now().UnixNano(), ClientAddr: "192.0.2.1", ClientPort: 40025, ClientName: "mail.example.org",
	}
	if phase == wire.Phase_PHASE_CONNECT {
		return e
	}
	e.Id, e.Helo, e.Esmtp, e.Tls, e.Cipher = "CHECK", "mail.example.org", true, "TLS 1.3", "TLS_AES_128_GCM_SHA256"
	e.Sender, e.DeclaredSize, e.Body = "ann@example.org", m.size, "8BITMIME"
	if phase == wire.Phase_PHASE_SENDER {
		return e
	}
	for i := range m.recipients {
		address := "alice@example.test"
		if i > 0 {
			address = fmt.Sprintf("user%d@example.test", i)
		}
		to := &wire.Recipient{Address: address, Accounts: []string{address}}
		if phase == wire.Phase_PHASE_ROUTE {
			to.Hops = []string{"mailbox " + address}
		}
		e.Recipients = append(e.Recipients, to)
		if phase == wire.Phase_PHASE_RECIPIENT {
			break
		}
	}
	if phase >= wire.Phase_PHASE_CONTENT {
		e.Auth = map[string]string{"spf": "pass", "spf.domain": "example.org", "dkim": "none", "dmarc": "none"}
	}
	return e
}

func (l *lane) send(f *wire.HostFrame) error {
	err := l.stream.Send(f)
	if errors.Is(err, io.EOF) { // the stream has ended: the reader knows why
		<-l.ended
		return l.broken()
	}
	return err
}

// broken says why the lane ended.
func (l *lane) broken() error {
	if errors.Is(l.err, io.EOF) {
		return errors.New("the plugin ended the lane")
	}
	if tooLarge(l.err) {
		return fmt.Errorf("a frame larger than 1 MiB (%s)", printable(status.Convert(l.err).Message(), 120))
	}
	if l.r.ctx.Err() != nil { // we did
		return errors.New("no answer when the time for all checks was over" + l.instead())
	}
	l.p.waitExit(300 * time.Millisecond)
	return fmt.Errorf("the plugin ended the lane: %s; %s", printable(status.Convert(l.err).Message(), 200), l.p.died())
}

func (l *lane) chunk(id uint64, data []byte) error {
	return l.send(&wire.HostFrame{Frame: &wire.HostFrame_Chunk{Chunk: &wire.Chunk{Id: id, Data: data}}})
}

func (l *lane) end(id uint64) error {
	l.over = l.over || id == l.id
	return l.send(&wire.HostFrame{Frame: &wire.HostFrame_End{End: &wire.End{Id: id}}})
}

func (l *lane) cancel(id uint64) error {
	return l.send(&wire.HostFrame{Frame: &wire.HostFrame_Cancel{Cancel: &wire.Cancel{Id: id}}})
}

// wait waits for the answer to the current question.
func (l *lane) wait(ctx context.Context, limit time.Duration) (*answer, error) {
	select {
	case a := <-l.answers:
		return a, nil
	case <-l.ended:
		select {
		case a := <-l.answers: // its last act
			return a, nil
		default:
			return nil, l.broken()
		}
	case <-time.After(limit):
		return nil, fmt.Errorf("no answer within %s%s", limit.Round(100*time.Millisecond), l.instead())
	case <-ctx.Done():
		return nil, fmt.Errorf("no answer when the time for this check was over%s", l.instead())
	}
}

// open reports whether the plugin has not ended the lane.
func (l *lane) open() bool {
	select {
	case <-l.ended:
		return false
	default:
		return true
	}
}

// instead says what came in place of an answer.
func (l *lane) instead() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stray
}

// answered reports whether the answer has come.
func (l *lane) answered() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current.answers > 0
}

// ask asks one question as the server does: it stops sending at the answer.
func (l *lane) ask(ctx context.Context, phase wire.Phase, m *message, event *wire.Event) (*answer, error) {
	limit := l.r.timeout
	stop := time.AfterFunc(limit+grace+patience, l.reset) // a plugin that stopped reading
	defer stop.Stop()
	deadline := time.Now().Add(limit)
	if err := l.begin(phase, m, event, deadline); err != nil {
		return nil, err
	}
	if err := l.contents(phase, m); err != nil {
		if !stop.Stop() {
			return nil, fmt.Errorf("no answer within %s, and not all of the message was read by then", limit)
		}
		return nil, err
	}
	a, err := l.wait(ctx, time.Until(deadline)+patience)
	if err == nil {
		l.r.seen.opinion(a, m)
		return a, nil
	}
	if l.open() && l.p.alive() && ctx.Err() == nil {
		_ = l.cancel(l.id)
		if _, again := l.wait(ctx, grace); again != nil {
			err = fmt.Errorf("%w (nor within a second of Cancel)", err)
		}
	}
	return a, err
}

// contents sends chunks, parse and End.
func (l *lane) contents(phase wire.Phase, m *message) error {
	d := l.r.manifest
	if phase >= wire.Phase_PHASE_CONTENT {
		if r := m.content(d); r != nil {
			if err := l.chunks(r, m.chunk); err != nil {
				return err
			}
		}
		if d.GetParsed() && !l.answered() {
			if err := l.send(&wire.HostFrame{Frame: &wire.HostFrame_Parsed{Parsed: m.parsed(l.id)}}); err != nil {
				return err
			}
		}
	}
	return l.end(l.id)
}

func (l *lane) chunks(r io.Reader, size int) error {
	if size == 0 {
		size = wire.MaxChunk
	}
	buffer := make([]byte, size)
	for !l.answered() {
		n, err := io.ReadFull(r, buffer)
		if n > 0 {
			if err := l.chunk(l.id, buffer[:n]); err != nil {
				return err
			}
		}
		if err != nil { // only the end of it: it is in memory
			return nil
		}
	}
	return nil
}
