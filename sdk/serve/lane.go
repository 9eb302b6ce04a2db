package serve

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicemail/sluice/sdk"
	"github.com/sluicemail/sluice/sdk/wire"
)

// lane is one stream of questions. Two goroutines attend it: the handler, and a second one that is
// started when it is first needed. One of them is the reader. A small question, which
// has come as a whole, is asked by the reader itself, so that it costs no change of
// goroutine; if that takes longer than patience, the other one reads on, so that a Cancel is seen
// while the plugin thinks. A question whose content is still coming is asked by the one that does
// not read.
type lane struct {
	asker
	stream stream

	role   chan struct{}  // makes the other goroutine the reader
	work   chan *question // makes the other goroutine ask
	over   chan struct{}  // closed by the reader at the stream's end
	second sync.WaitGroup // the second goroutine
	err    error          // how the stream ended; read after over

	active atomic.Pointer[question] // for abort, which comes from anywhere

	sending sync.Mutex // one frame at a time: the last answer may be on its way when the next one is there

	mu      sync.Mutex
	current *question // the question whose End has not come, or the last one
	stage   stage     // of current
	since   time.Time // that current is in that stage
	ended   bool      // End came for current
	started bool      // the second goroutine
	watch   *watch
}

// stream carries the frames of a lane: of gRPC, or direct.
type stream interface {
	Context() context.Context
	Recv() (*wire.HostFrame, error)
	Send(*wire.PluginFrame) error
}

// stage says who asks the current question.
type stage int

const (
	coming   stage = iota // its content is coming; nobody asks yet
	byReader              // the reader asks it
	byOther               // the one that does not read asks, or has asked
)

// patience is how long the reader asks before the other one reads on, and how long content may take to
// come before the question is asked without the rest.
const patience = 20 * time.Millisecond

func newLane(stream stream, p sdk.Plugin, parsed bool, w *watch) *lane {
	l := &lane{
		stream: stream, ended: true, watch: w,
		role: make(chan struct{}, 1), work: make(chan *question, 1), over: make(chan struct{}),
	}
	l.asker = asker{plugin: p, parsed: parsed, send: l.send}
	return l
}

// abort wakes a reader and a plugin that wait for each other when the stream was reset.
func (l *lane) abort() {
	if q := l.active.Load(); q != nil {
		q.body.fail(context.Canceled)
	}
}

// run attends the lane until the host ends the stream and the last Ask has returned: a lane counts
// until then.
func (l *lane) run() error {
	stop := context.AfterFunc(l.stream.Context(), l.abort)
	defer stop()
	l.watch.add(l)
	defer l.watch.remove(l)
	l.attend(true)
	l.second.Wait()
	return l.err
}

// attend is what both goroutines do.
func (l *lane) attend(reading bool) {
	for {
		if reading {
			l.read()
			reading = false
		}
		select {
		case <-l.role:
			reading = true
		case q := <-l.work:
			l.answer(q)
		case <-l.over:
			return
		}
	}
}

// lookAgain is called now and then while there are questions. It reports whether this lane has one that
// nobody but the reader attends to.
func (l *lane) lookAgain(now time.Time) (busy bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == nil || l.stage == byOther {
		return false
	}
	if now.Sub(l.since) < patience {
		return true
	}
	switch {
	case l.stage == coming:
		l.askBeside()
	case l.stage == byReader:
		l.stage, l.current.handed = byOther, true // it is the other one from now on
		l.needSecond()
		l.role <- struct{}{}
	}
	return false
}

// askBeside lets the goroutine that does not read ask the current question. l.mu is held.
func (l *lane) askBeside() {
	l.stage = byOther
	l.needSecond()
	l.work <- l.current
}

func (l *lane) needSecond() {
	if !l.started {
		l.started = true
		l.second.Add(1)
		go func() {
			defer l.second.Done()
			l.attend(false)
		}()
	}
}

// read reads frames until the stream ends, or until the other goroutine does so.
func (l *lane) read() {
	for {
		f, err := l.stream.Recv()
		more := false
		if err == nil {
			more, err = l.take(f)
		}
		if err != nil {
			l.end(err)
			return
		}
		if !more {
			return
		}
	}
}

// end is the end of the stream.
func (l *lane) end(err error) {
	if !errors.Is(err, io.EOF) {
		l.err = err
	}
	l.mu.Lock()
	if q := l.current; q != nil {
		q.limit.cancel()
		q.body.fail(context.Canceled)
	}
	l.current = nil
	l.mu.Unlock()
	close(l.over)
}

// take handles a frame. more is false when the caller is not the reader any more.
func (l *lane) take(f *wire.HostFrame) (more bool, err error) {
	switch x := f.GetFrame().(type) {
	case *wire.HostFrame_Ask:
		return true, l.begin(x.Ask)
	case *wire.HostFrame_Chunk:
		if q := l.open(x.Chunk.GetId()); q != nil {
			l.feed(q, x.Chunk.GetData())
		}
	case *wire.HostFrame_Parsed:
		if q := l.open(x.Parsed.GetId()); q != nil {
			q.body.parse(x.Parsed)
		}
	case *wire.HostFrame_End:
		if q := l.open(x.End.GetId()); q != nil {
			return l.whole(q), nil
		}
	case *wire.HostFrame_Cancel:
		l.withdraw(x.Cancel.GetId())
	}
	return true, nil
}

// open returns the current question if it has that id and its End has not come.
func (l *lane) open(id uint64) *question {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == nil || l.current.id != id || l.ended {
		return nil
	}
	return l.current
}

// feed hands content on. Where there is more than one piece of it the plugin is asked meanwhile.
func (l *lane) feed(q *question, data []byte) {
	if q.body.waiting() {
		l.mu.Lock()
		if l.stage == coming {
			l.askBeside()
		}
		l.mu.Unlock()
	}
	if d, ok := l.stream.(*directStream); ok && q.body.full() {
		defer d.watch(l.abort)()
	}
	q.body.feed(data)
}

// whole is called at the End: a question that nobody has asked yet is asked here.
func (l *lane) whole(q *question) (more bool) {
	q.body.end()
	l.mu.Lock()
	l.ended = true
	here := l.stage == coming
	if here {
		l.stage = byReader
	}
	l.mu.Unlock()
	if !here {
		return true
	}
	l.answer(q)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !q.handed {
		l.stage = byOther // nothing is left to do
	}
	return !q.handed
}

// withdraw is a Cancel.
func (l *lane) withdraw(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if q := l.current; q != nil && q.id == id {
		q.limit.cancel()
		q.body.fail(context.Canceled)
		if l.stage == coming {
			l.askBeside()
		}
	}
}

// begin makes a question the current one.
func (l *lane) begin(a *wire.Ask) error {
	l.mu.Lock()
	defer l.mu.Unlock()
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
	q := l.question(l.stream.Context(), a)
	l.current, l.ended, l.stage, l.since = q, false, coming, time.Now()
	l.active.Store(q)
	if l.stream.Context().Err() != nil { // abort may have come before q
		l.abort()
	}
	l.watch.wake()
	return nil
}

func (l *lane) send(f *wire.PluginFrame) error {
	l.sending.Lock()
	defer l.sending.Unlock()
	return l.stream.Send(f)
}
